"""The web demo: watch a video once in the browser, ask about it, see what the answers rest on.

    page.py           the page; its tabs: ask_tab.py (laid out in ask_layout.py), needle_tab.py
    visitor.py        what visitors share, and one visitor: the medium, the conversation, the answer
    asking.py         a question, and what its events change     needle_map.py   a heatmap, likewise
    parts.py          HTML of everything shown, from the macros of parts.html.jinja
    medium.py  timeline.py  speed.py                  what is shown of a video; seconds it takes
    examples.py  api_call.py                          films to try, the question as a request
    server.py         private folder, headers, launch

Only the page, its tabs and the server know Gradio. The conversation is HTML of our own, not a
`gr.Chatbot`: its evidence chips jump to their frames, and all that is shown is escaped
in one place, parts.py.
"""
