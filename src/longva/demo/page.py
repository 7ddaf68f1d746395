"""The page: a header and three tabs over one model.

    Ask        ask_tab.py      watch a medium and ask about it
    Needles    needle_tab.py   a heatmap, live
    API        here            the latest question as a request to `longva serve`

The switch in the header turns the page dark or light; until it is touched, the system decides.
"""

from html import escape

import gradio as gr

from longva.demo.ask_tab import IDLE_SECONDS, AskTab, CallPanel
from longva.demo.needle_tab import needle_tab
from longva.demo.setting import Setting


def build_page(setting: Setting) -> gr.Blocks:
    """Lay the page out and add its event handlers."""
    page = gr.Blocks(
        title="LongVA",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(3600, IDLE_SECONDS),  # all uploads go when the demo ends
    )
    with page:
        gr.HTML(header(setting), elem_id="lv-header")
        with gr.Tabs(elem_id="lv-tabs"):
            with gr.Tab("Ask"):
                ask = AskTab(setting)
            with gr.Tab("Needles"):
                needle_tab(setting)
            with gr.Tab("API"):
                call = call_panel()
        ask.connect(call)
    return page


def header(setting: Setting) -> str:
    """Name, model and the switch between dark and light."""
    longva = setting.engine.longva
    dtype = str(longva.model.dtype).removeprefix("torch.")
    model = escape(f"{longva.name} · {longva.model.device} · {dtype}")
    warning = longva.notice or ""
    notice = f'<p class="lv-notice">{escape(warning[:1].upper() + warning[1:])}.</p>'
    notice = notice if warning else ""
    return (
        '<header class="lv-header"><h1>LongVA</h1><p>Watch once, ask many.</p>'
        f'<span class="lv-model" title="Model, device and precision">{model}</span>'
        '<button type="button" id="lv-theme" aria-label="Dark or light"></button></header>'
        f"{notice}"
    )


def call_panel() -> CallPanel:
    """Lay out the tab that shows the latest question as an API request."""
    gr.HTML(
        '<p class="lv-words">The latest question, as a program would put it to '
        "<code>longva serve</code>. The file's address is yours to fill in.</p>"
    )
    with gr.Row(elem_id="lv-call"):
        with gr.Column(min_width=320):
            body = gr.Code("{}", language="json", label="POST /v1/chat/completions")
        with gr.Column(min_width=320):
            code = gr.Code("", language="python", label="With OpenAI's client")
            answer = gr.Code("{}", language="json", label="Answer, as in longva ask --json")
    return CallPanel(body=body, code=code, answer=answer)
