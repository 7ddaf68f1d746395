"""An OpenAI-compatible server.

request  ->  gate    ->  conversation  ->  request_media  ->  longva.watching  ->  reply
host,       media, history    fetched,           queue, sessions,     JSON, or an
key, size   and question      checked, hashed    events               event stream
"""
