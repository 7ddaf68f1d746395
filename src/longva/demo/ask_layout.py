"""Layout of the first tab.

    wide                                   phone
    +----------------+-----------+         stage
    | stage          | talk      |         timeline
    | timeline       | question  |         talk
    | name, change   | frames    |         question
    +----------------+-----------+         frames, settings

Until a medium is chosen, the drop zone and the examples stand in place of the stage.
"""

from typing import Any

import gradio as gr

from longva.demo.parts import draw
from longva.demo.visitor import Setting

CARD_CLICK = """element.addEventListener('click', event => {
  const card = event.target.closest('[data-example]');
  if (card) trigger('select', {example: Number(card.dataset.example)});
});"""
VOTE_CLICK = """element.addEventListener('click', event => {
  const vote = event.target.closest('[data-like]');
  if (vote) trigger('like', {turn: Number(vote.dataset.turn), liked: vote.dataset.like === 'True'});
});"""


class AskLayout:
    """The components of the tab, laid out where this is made."""

    def __init__(self, setting: Setting):
        self.key = gr.Textbox(visible=False)
        """The page's secret, by which a reloaded one finds its conversation."""

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
                draw("cards", examples=setting.examples),
                js_on_load=CARD_CLICK,
                elem_id="lv-examples",
            )
        with gr.Column(visible=False, elem_id="lv-watch") as self.watch:
            self.stage = gr.HTML(elem_id="lv-stage")
            self.timeline = gr.HTML(elem_id="lv-strip")
            with gr.Row(elem_id="lv-bar"):
                self.about = gr.HTML(elem_id="lv-about")
                self.change = gr.Button("Change", size="sm", min_width=80, elem_id="lv-change")

    def _lay_out_talk(self) -> None:
        self.talk = gr.HTML(draw("nothing_asked"), js_on_load=VOTE_CLICK, elem_id="lv-talk")
        with gr.Row(elem_id="lv-composer"):
            self.question = gr.Textbox(
                placeholder="Ask about what is shown",
                show_label=False,
                container=False,
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
