"""The web demo: watch a video once in the browser, ask about it, see what the answers rest on.

    page.py           the page; its tabs: ask_tab.py (laid out in ask_layout.py), needle_tab.py
    visitor.py        what visitors share, and one visitor: the medium, the conversation, the answer
    asking.py         a question, and what its events change     needle_map.py   a heatmap, likewise
    medium.py  timeline.py  conversation.py  estimate.py          values -> HTML
    examples.py  api_call.py                          films to try, the question as a request
    server.py         private folder, headers, launch

Only the page, its tabs and the server know Gradio; the other modules return HTML as strings.
"""
