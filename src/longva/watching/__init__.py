"""One loaded model for everybody who asks: its queue, its sessions and the events of its answers.

    engine    Engine.answer: open the media, stand in the queue, watch or find the session, answer
    worker    the model's thread, and the queue before it
    store     sessions of watched media
    events    what a question tells on its way: Progress ... Watched Text ... Finished

Nothing here knows HTTP or a web page: `serve` and `demo` are two ways to ask the same engine.
"""
