"""The page: a header and three tabs over one model.

    Ask        ask_tab.py      watch a medium and ask about it
    Needles    needle_tab.py   a heatmap, live
    API        ask_layout.py   the latest question as a request to `longva serve`

The switch in the header turns the page dark or light; until it is touched, the system decides.
"""

import gradio as gr

from longva.demo.ask_layout import CallPanel
from longva.demo.ask_tab import AskTab
from longva.demo.needle_tab import needle_tab
from longva.demo.parts import draw
from longva.demo.view import IDLE_SECONDS
from longva.demo.visitor import Setting


def build_page(setting: Setting) -> gr.Blocks:
    """Lay the page out and add its event handlers."""
    page = gr.Blocks(
        title="LongVA",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(3600, IDLE_SECONDS),  # all uploads go when the demo ends
    )
    with page:
        gr.HTML(draw("header", longva=setting.engine.longva), elem_id="lv-header")
        with gr.Tabs(elem_id="lv-tabs"):
            with gr.Tab("Ask"):
                ask = AskTab(setting)
            with gr.Tab("Needles"):
                needle_tab(setting)
            with gr.Tab("API"):
                call = CallPanel()
        ask.connect(page, call)
    return page
