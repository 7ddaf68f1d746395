"""An OpenAI-compatible server.

request  ->  gate  ->  conversation  ->  media  ->  longva.watching  ->  reply
             host,     media, history    fetched,   queue, sessions,     JSON, or an
             key,      and question      checked,   events               event stream
             size                        hashed
"""
