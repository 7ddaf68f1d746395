"""The assistant behind an OpenAI-compatible API.

    request -> gate -> conversation -> media on disk -> queue -> one model thread -> events -> reply
               key,    who said what   fetched,         fair,    sessions: watched   progress,
               size                    hashed           bounded  videos in an LRU    text, answer

`limits`, `conversation`, `media_fetch`, `kept_media`, `media_check`, `session_store`,
`model_worker` and `answering` know nothing of the API, so that any other front can stand on them;
`gate`, `schema`, `reply`, `metrics` and `app` are the API.
"""
