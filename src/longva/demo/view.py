"""The Ask tab as a visitor sees it: what is drawn of what is known of them.

Handlers change the `Visitor` and return what these methods draw, whole, each time.
"""

from dataclasses import asdict
from functools import partial
from typing import Any

import gradio as gr

from longva.demo import asking
from longva.demo.ask_layout import AskLayout, CallPanel
from longva.demo.estimate import estimate, suggested, watching_of
from longva.demo.export import files_of
from longva.demo.parts import draw
from longva.demo.timeline import timeline
from longva.demo.visitor import Setting, Turn, Visitor
from longva.errors import LongVAError
from longva.media.sampling import ONE_A_SECOND

IDLE_SECONDS = 24 * 3600
"""So long after the last question a visitor is dropped, with any work in progress, and the upload
deleted. Gradio drops a visitor an hour after the page was closed."""

FOR_THE_PAGE: Any = {"api_visibility": "private"}
QUIET: Any = {"show_progress": "hidden", **FOR_THE_PAGE}
AT_ONCE: Any = {"queue": False, **QUIET}
BESIDE_OTHERS: Any = {"concurrency_limit": None, **QUIET}
"""How events run. Messages (`gr.Error`, `gr.Warning`) reach the page from queued events only.
Programs have `longva serve`, so no event is offered to them."""


class View(AskLayout):
    """The tab's components, and what they show of a visitor.

    Args:
        setting: of the demo.
    """

    def __init__(self, setting: Setting):
        self.setting, self.engine = setting, setting.engine
        self.visitor = gr.State(
            Visitor(),
            time_to_live=IDLE_SECONDS,
            delete_callback=lambda visitor: asking.leave(setting, visitor),
        )
        super().__init__(setting)

    def page(self, call: CallPanel) -> list[Any]:
        """Return all that handlers may change; they return a part, and the rest is left alone."""
        return [
            *(self.visitor, self.welcome, self.watch, self.file, self.stage, self.timeline),
            *(self.about, self.planned, self.frames, self.estimate, self.talk, self.question),
            *(self.start, self.end, self.fps, self.shelf, self.back, self.found, self.query),
            *(self.find, self.summarize, self.end_job, self.ask, self.stop),
            *(call.body, call.code, call.answer),
        ]

    @property
    def options(self) -> list[Any]:
        """The controls that say how a question is asked."""
        return [
            *(self.frames, self.fps, self.start, self.end, self.remember, self.evidence),
            *(self.max_new_tokens, self.temperature, self.top_p, self.seed),
        ]

    def draw_welcome(self, visitor: Visitor) -> dict:
        """Draw what films can be chosen from; above the stage while one is added."""
        return {
            self.welcome: gr.Column(visible=not visitor.media or visitor.adding),
            self.back: gr.Button(visible=bool(visitor.media) and visitor.adding),
            self.shelf: self.draw_shelf(visitor),
        }

    def draw_shelf(self, visitor: Visitor) -> str:
        """Draw the browser's library."""
        held, kept = self.engine.store.bytes_of, self.setting.library.of(visitor.owner)
        films = [asdict(film) | {"held": held(film.digest)} for film in kept]
        return draw("library", films=films)

    def draw_all(self, visitor: Visitor) -> dict:
        """Draw the page of a visitor, whatever it showed before."""
        if not visitor.media:
            return {
                **self.draw_welcome(visitor),
                self.watch: gr.Column(visible=False),
                self.planned: gr.Column(visible=False),
                self.stage: "",
                self.timeline: "",
                **self.draw_talk(visitor),
                **self.draw_job(visitor),
            }
        media = visitor.media
        films = [medium for medium in media if not medium.is_image]
        most = self.engine.plan(suggested(media)).max_frames
        number, rule = max(1, min(suggested(media), most)), ONE_A_SECOND
        for turn in visitor.turns[-1:]:
            rule = turn.watching.sampling
            number = rule.num_frames or number
        longest = max(medium.frames for medium in media)
        frames = gr.Slider(
            maximum=max(2, min(longest, 2 * most)),
            value=number,
            visible=bool(films) and longest > 1,
        )
        fps = None if rule.fps == ONE_A_SECOND.fps else rule.fps
        part = {
            self.start: "" if rule.start is None else f"{rule.start:g}",
            self.end: "" if rule.end is None else f"{rule.end:g}",
        }
        timed = any(medium.media.has_clock for medium in films)
        return {
            **self.draw_welcome(visitor),
            self.watch: gr.Column(visible=True),
            self.stage: draw("stage", media=media),
            self.timeline: self.draw_timelines(visitor),
            self.about: draw("about", media=media),
            self.planned: gr.Column(visible=True),
            self.frames: frames,
            self.fps: gr.Number(fps, visible=bool(films)),
            **{box: gr.Textbox(value, visible=timed) for box, value in part.items()},
            self.estimate: self.plan(visitor, "", True, number, fps, *part.values()),
            **self.draw_talk(visitor),
            **self.draw_job(visitor),
        }

    def plan(self, visitor: Visitor, question: str, remember: bool, *how: Any) -> str:
        """Say what a question takes, as far as it is typed."""
        if not visitor.media:
            return ""
        try:
            watching = watching_of(visitor.media, *how)
            return estimate(self.setting, visitor, watching, question, remember)
        except LongVAError as error:
            return draw("cannot", problem=error.message)

    def draw_timelines(self, visitor: Visitor) -> str:
        """Draw the timeline of each medium, what the latest answer looked at lit up."""
        lit = next((turn.answer for turn in visitor.turns[-1:]), None)
        drawn = []
        for number, medium in enumerate(visitor.media):
            own = partial(filter, lambda item, number=number: item.medium == number)
            pictures = {frame: uri for (m, frame), uri in visitor.pictures.items() if m == number}
            attention = [*own(visitor.attention)] if lit else []
            evidence = [*own(lit.shown_evidence)] if lit else []
            drawn.append(timeline(medium, attention, evidence, pictures, number))
        return "".join(drawn)

    def draw_talk(self, visitor: Visitor) -> dict:
        """Keep the visitor; draw the conversation and the one button that applies: ask, or stop."""
        return {
            self.visitor: visitor,
            self.talk: self.draw_turns(visitor),
            self.ask: gr.Button(visible=not visitor.busy),
            self.stop: gr.Button(visible=visitor.busy),
        }

    def draw_turns(self, visitor: Visitor) -> str:
        """Draw the conversation."""
        if not visitor.turns:
            return draw("nothing_asked")
        durations = [None if m.is_image else m.media.duration for m in visitor.media]
        return draw(
            "conversation",
            turns=visitor.turns,
            durations=durations,
            files=files_of,
            notice=self.engine.longva.notice,
            refused=self.is_refused,
        )

    def is_refused(self, turn: Turn) -> bool:
        """Whether an answer is a guess about a film that the model was not made for.

        The examples are drawn for it, whatever its doubts.
        """
        if turn.answer is None or not turn.answer.is_guess:
            return False
        examples = {example.path for example in self.setting.examples}
        seen = [turn.media[item.medium].path for item in turn.answer.evidence[:1]]
        return not seen or seen[0] not in examples

    def draw_job(self, visitor: Visitor) -> dict:
        """Keep the visitor; draw the latest search or summary, and the buttons that apply."""
        job = visitor.job
        busy = job is not None and job.busy
        films = sum(not medium.is_image for medium in visitor.media)
        return {
            self.visitor: visitor,
            self.found: draw("job", job=job, files=files_of),
            self.query: gr.Textbox(visible=films > 0),
            self.find: gr.Button(visible=films > 0 and not busy),
            self.summarize: gr.Button(visible=films == len(visitor.media) == 1 and not busy),
            self.end_job: gr.Button(visible=busy),
        }
