"""The web demo: watch a video once in the browser, ask about it, see what the answers rest on.

    page.py           layout and events: what is pressed, what changes
    visitor.py        one visitor: the medium, the conversation, the work in progress
    shared_model.py   one model for all visitors: one at a time, a bounded number of sessions
    jobs.py           work in a thread that shows its progress and can be stopped
    asking.py         the job behind a question      needle_map.py   the job behind a heatmap
    medium.py  timeline.py  conversation.py  estimate.py             values -> HTML
    examples.py  api_call.py  feedback.py            films to try, the same as a request, the log
    server.py         private folder, headers, launch

Components return HTML strings and know nothing of Gradio; only `page.py` and `server.py` do.
"""
