"""Time that passes only where somebody sleeps."""

import threading


class Clock:
    """What the clients of a server take for the time: `now` grows by what they sleep, at once."""

    def __init__(self):
        self.now, self.lock, self.slept = 1e9, threading.Lock(), []
        self.somebody_slept = threading.Event()

    def sleep(self, seconds):
        with self.lock:
            self.slept.append(seconds)
            self.now += seconds
        self.somebody_slept.set()
