"""Watch once, ask many: a model with its sessions, and one engine for everybody who asks it.

    assistant    LongVA: load a model, watch media     family    what differs between models
    features     pixels to rows for the language model, kept on disk by feature_cache
    watched      what is in the KV cache               session   questions about it
    find, summarize, batch, live                       what is done with sessions

    engine       open the media, stand in the queue, watch or find the session, answer
    worker       the model's thread, and the queue before it
    store        sessions of watched media
    events       what a question tells on its way: Progress ... Watched Text ... Finished

Nothing here knows HTTP or a web page: `serve` and `demo` are two ways to ask the same engine.
"""
