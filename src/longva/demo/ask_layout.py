"""Layout of the first tab.

    wide                                   phone
    +----------------+-----------+         stage
    | stage          | talk      |         timeline
    | timeline       | question  |         names, find, found
    | names, add     | frames    |         talk
    | find, found    |           |         question
    +----------------+-----------+         frames, settings

Until a medium is chosen, the drop zone, the examples and what was watched before stand in place of
the stage; while one is added, above it.
"""

from typing import Any

import gradio as gr

from longva.demo.parts import draw
from longva.demo.visitor import Setting

CARD_CLICK = """element.addEventListener('click', event => {
  const card = event.target.closest('[data-example]');
  if (card) trigger('select', {example: Number(card.dataset.example)});
});"""
ACT_CLICK = """element.addEventListener('click', event => {
  const vote = event.target.closest('[data-like]');
  if (vote) trigger('like', {turn: Number(vote.dataset.turn), liked: vote.dataset.like === 'True'});
  const button = event.target.closest('[data-act]');
  if (button) trigger('select', {act: button.dataset.act, turn: Number(button.dataset.turn)});
});"""
SHELF_CLICK = """element.addEventListener('click', event => {
  const open = event.target.closest('[data-open]');
  if (open) trigger('select', {digest: open.dataset.open});
  const gone = event.target.closest('[data-delete]');
  if (gone) trigger('delete', {digest: gone.dataset.delete});
});"""
FILM_CLICK = """element.addEventListener('click', event => {
  const gone = event.target.closest('[data-remove]');
  if (gone) trigger('delete', {medium: Number(gone.dataset.remove)});
});"""


class AskLayout:
    """The components of the tab, laid out where this is made."""

    def __init__(self, setting: Setting):
        self.key = gr.Textbox(visible=False)
        """The page's secret, by which a reloaded one finds its conversation."""

        self.owner = gr.Textbox(visible=False)
        """The browser's secret, by which it finds its library."""

        with gr.Row(elem_id="lv-ask"):
            with gr.Column(scale=7, min_width=320, elem_id="lv-left"):
                self._lay_out_stage(setting)
            with gr.Column(scale=5, min_width=320, elem_id="lv-right"):
                self._lay_out_talk()

    def _lay_out_stage(self, setting: Setting) -> None:
        with gr.Column(elem_id="lv-welcome") as self.welcome:
            self.file = gr.File(
                label="Video or image", file_types=["video", "image"], height=190, elem_id="lv-drop"
            )
            self.cards = gr.HTML(
                draw("cards", examples=setting.examples, notice=setting.engine.longva.notice),
                js_on_load=CARD_CLICK,
                elem_id="lv-examples",
            )
            self.shelf = gr.HTML(js_on_load=SHELF_CLICK, elem_id="lv-shelf")
            self.back = gr.Button("Back", size="sm", visible=False, elem_id="lv-back")
        with gr.Column(visible=False, elem_id="lv-watch") as self.watch:
            self.stage = gr.HTML(elem_id="lv-stage")
            self.timeline = gr.HTML(elem_id="lv-strip")
            with gr.Row(elem_id="lv-bar"):
                self.about = gr.HTML(js_on_load=FILM_CLICK, elem_id="lv-about")
                self.add = gr.Button("Add a film", size="sm", min_width=80, elem_id="lv-add")
                self.change = gr.Button("Change", size="sm", min_width=80, elem_id="lv-change")
            with gr.Row(elem_id="lv-tasks"):
                self.query = gr.Textbox(
                    placeholder="Find when this is shown: the red car",
                    label="Find",
                    show_label=False,
                    container=False,
                    max_lines=1,
                    scale=1,
                    min_width=160,
                    elem_id="lv-query",
                )
                small: Any = {"scale": 0, "size": "md", "min_width": 76}
                self.find = gr.Button("Find", elem_id="lv-find", **small)
                small["min_width"] = 116
                self.summarize = gr.Button("Summarize", elem_id="lv-summarize", **small)
                self.end_job = gr.Button("Stop", visible=False, elem_id="lv-end-job", **small)
            self.found = gr.HTML(js_on_load=ACT_CLICK, elem_id="lv-found")

    def _lay_out_talk(self) -> None:
        self.talk = gr.HTML(draw("nothing_asked"), js_on_load=ACT_CLICK, elem_id="lv-talk")
        with gr.Row(elem_id="lv-composer"):
            self.question = gr.Textbox(
                placeholder="Ask about what is shown",
                show_label=False,
                container=False,
                label="Question",
                max_lines=6,
                scale=1,
                min_width=160,
                elem_id="lv-question",
            )
            self.ask = gr.Button("Ask", variant="primary", scale=0, min_width=76, elem_id="lv-go")
            self.stop = gr.Button("Stop", visible=False, scale=0, min_width=76, elem_id="lv-stop")
        with gr.Column(visible=False, elem_id="lv-plan") as self.planned:
            self.frames = gr.Slider(
                1, 2, 1, step=1, label="Frames to watch", elem_id="lv-frames", buttons=[]
            )
            with gr.Row(elem_id="lv-part"):
                few: Any = {"scale": 1, "min_width": 88}
                self.start = gr.Textbox(label="From", placeholder="0:00", max_lines=1, **few)
                self.end = gr.Textbox(label="To", placeholder="the end", max_lines=1, **few)
                self.fps = gr.Number(
                    None, label="Frames a second", minimum=0, placeholder="by number", **few
                )
            self.estimate = gr.HTML(elem_id="lv-estimate")
        with gr.Accordion("Settings", open=False, elem_id="lv-settings"):
            self.remember = gr.Checkbox(True, label="Follow up: remember earlier questions")
            self.evidence = gr.Slider(0, 10, 3, step=1, label="Evidence frames")
            self.max_new_tokens = gr.Slider(16, 1024, 256, step=16, label="Longest answer, tokens")
            self.temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature (0: most probable)")
            self.top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top p")
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            self.forget = gr.Button("New conversation", size="sm", elem_id="lv-forget")


class CallPanel:
    """The components that show the latest question as an API request."""

    def __init__(self):
        gr.HTML(
            '<p class="lv-words">The latest question, as a program would put it to '
            "<code>longva serve</code>. The file's address is yours to fill in.</p>"
        )
        with gr.Row(elem_id="lv-call"):
            with gr.Column(min_width=320):
                self.body = gr.Code("{}", language="json", label="POST /v1/chat/completions")
            with gr.Column(min_width=320):
                self.code = gr.Code("", language="python", label="With OpenAI's client")
                self.answer = gr.Code(
                    "{}", language="json", label="Answer, as in longva ask --json"
                )
