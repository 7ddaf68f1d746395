"""The second tab: a V-NIAH heatmap of a size to choose, drawn while it is measured."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

import gradio as gr

from longva.demo.needle_map import NeedleMap, draw_map, even_grid
from longva.demo.view import AT_ONCE, BESIDE_OTHERS, IDLE_SECONDS
from longva.demo.visitor import Setting

MOST_FRAMES = 512
"""Longest film that is offered; `longva niah visual` measures longer ones."""

WORDS = """<p class="lv-words">A frame that does not belong is hidden in a film, and the model is
asked about it. Each square is one length of film and one depth of hiding: green was found, red was
not.</p>"""


def needle_tab(setting: Setting) -> None:
    """Lay the tab out and add its event handlers."""
    engine = setting.engine
    most = max(8, min(MOST_FRAMES, engine.plan(1).max_frames))
    running = gr.State(None, time_to_live=IDLE_SECONDS, delete_callback=_stop)
    with gr.Column(elem_id="lv-needles"):
        gr.HTML(WORDS)
        with gr.Row(elem_id="lv-map-settings"):
            longest = gr.Slider(
                8, most, min(64, most), step=8, label="Longest film, frames", buttons=[]
            )
            steps = gr.Slider(2, 8, 5, step=1, label="Squares a side", buttons=[])
            needles = gr.Slider(1, 6, 2, step=1, label="Needles a square", buttons=[])
        with gr.Row(elem_id="lv-map-buttons"):
            start = gr.Button("Measure", variant="primary", scale=0, min_width=120)
            stop = gr.Button("Stop", visible=False, scale=0, min_width=120, elem_id="lv-map-stop")
        picture = gr.HTML(elem_id="lv-map")

    def buttons(measuring: bool) -> tuple[gr.Button, gr.Button]:
        return gr.Button(visible=not measuring), gr.Button(visible=measuring)

    def begin(longest: int, steps: int, needles: int):
        grid, folder = even_grid(int(longest), int(steps)), setting.folder / f"map-{uuid4().hex}"
        measured = NeedleMap(engine, grid, int(needles), folder)
        return measured, draw_map(measured), *buttons(measuring=True)

    async def measure(measured: NeedleMap) -> AsyncGenerator[tuple]:
        async with aclosing(measured.updates()) as updates:
            async for _ in updates:
                # The buttons are left alone: this may reach the page after what `end` says of them.
                yield draw_map(measured), gr.skip(), gr.skip()
        if not measured.stopped:
            yield draw_map(measured), *buttons(measuring=False)

    async def end(measured: NeedleMap | None):
        _stop(measured)
        return draw_map(measured) if measured else "", *buttons(measuring=False)

    outputs = [picture, start, stop]
    begun = start.click(begin, [longest, steps, needles], [running, *outputs], **AT_ONCE)
    begun.success(measure, [running], outputs, trigger_mode="multiple", **BESIDE_OTHERS)
    stop.click(end, [running], outputs, **AT_ONCE)  # `measure` ends by itself, see ask_tab.py


def _stop(measured: NeedleMap | None) -> None:
    if measured is not None:
        measured.stop()
