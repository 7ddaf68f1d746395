import http.server
import json
import threading

import pytest

from longva.chat_endpoint import ChatEndpoint, EndpointError
from longva.errors import LongVAError


@pytest.fixture
def server():
    """Answers every request with `server.answer`, and notes the keys that it was sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            self.rfile.read(int(self.headers["Content-Length"]))
            self.server.keys.append(self.headers["Authorization"])
            content = json.dumps(self.server.answer).encode()
            self.send_response(302 if self.server.elsewhere else 200)
            self.send_header("Location", self.server.elsewhere)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.answer = {"choices": [{"message": {"content": "Yes."}}]}
        httpd.elsewhere = ""
        httpd.keys, httpd.url = [], f"http://127.0.0.1:{httpd.server_port}/v1"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


def test_a_line_break_after_the_key_is_not_part_of_it(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret\n")
    assert ChatEndpoint(address=server.url, model="m").complete([]).text == "Yes."
    assert server.keys == ["Bearer s3cret"]


def test_a_key_that_cannot_be_sent_is_refused_and_not_shown():
    for key in ("s3\ncret", "s3crét"):
        with pytest.raises(LongVAError, match="printable ASCII") as caught:
            ChatEndpoint(address="http://127.0.0.1/v1", model="m", key=key)
        assert "s3" not in str(caught.value)


def test_an_error_that_came_after_the_200_is_told(server):
    server.answer = {"error": {"message": "out of memory"}}
    with pytest.raises(EndpointError, match="out of memory"):
        ChatEndpoint(address=server.url, model="m", attempts=1).complete([])


def test_a_key_goes_to_no_other_address(server):
    server.elsewhere = f"{server.url}/elsewhere"
    with pytest.raises(EndpointError, match="302"):
        ChatEndpoint(address=server.url, model="m", key="s3cret").complete([])
    assert server.keys == ["Bearer s3cret"]
