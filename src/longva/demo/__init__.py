"""The web demo: watch a video once in the browser, ask about it, see what the answers rest on.

    page.py           the page; its tabs: ask_tab.py (laid out in ask_layout.py), needle_tab.py
    visitor.py        what visitors share, and one visitor: the medium, the conversation, the answer
    view.py           what is drawn of a visitor; stage_handlers.py, job_handlers.py change it
    asking.py  jobs.py  needle_map.py          a question, a search, a heatmap: what events change
    parts.py          HTML of everything shown, from the macros of parts.html.jinja
    medium.py  timeline.py  estimate.py  speed.py     what is shown of a video; seconds it takes
    examples.py  library.py  export.py  api_call.py   films to try, films kept, what to take along
    server.py  guard.py                               private folder, launch; headers, uploads, end

Only the page, its tabs, their handlers and the server know Gradio. The conversation is HTML of our
own, not a `gr.Chatbot`: its evidence chips jump to their frames, and all that is shown is escaped
in one place, parts.py.
"""
