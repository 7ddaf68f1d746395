import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from longva.errors import LongVAError, RecipeError
from longva.model.random_model import byte_tokenizer, random_longva
from longva.niah.cells import Grid
from longva.niah.image_text_model import ImageTextModel
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.text import TextRecipe, run_text
from longva.niah.visual import VisualRecipe, run_visual


@pytest.fixture
def server(monkeypatch, clock):
    """An OpenAI-compatible server that knows every answer; yields its address and its log."""
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    seen, failures = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers["Authorization"], body))
            status = failures.pop(0) if failures else 200
            text = body["messages"][0]["content"][-1]["text"]
            told = text.split("Singapore number is: ")
            said = told[1].split(".")[0] if len(told) > 1 else "B. I think"
            reply = {"choices": [{"message": {"content": said}}], "usage": {"prompt_tokens": 9}}
            content = json.dumps(reply if status == 200 else {"error": "busy"}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", seen, failures
    http.shutdown()
    http.server_close()


def visual(address, tmp_path, **settings) -> VisualRecipe:
    return VisualRecipe(
        model=address,
        adapter="openai",
        served_model="m",
        output_dir=tmp_path / "run",
        grid=Grid(lengths=(3, 5), depths=(0.0, 1.0)),
        needles=NeedleRecipe(count=4),
        **settings,
    )


def test_a_server_sees_every_frame_and_the_question(server, tmp_path):
    address, seen, _ = server
    summary = run_visual(visual(address, tmp_path))
    path, key, body = seen[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer key", "m")
    assert (body["temperature"], body["max_tokens"]) == (0, 16)
    *images, text = body["messages"][0]["content"]
    assert text["type"] == "text" and text["text"].startswith("\nFind the frame")
    assert len(images) == 4  # three frames and the needle, which comes first at depth 0
    data = base64.b64decode(images[0]["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(data)).size == (336, 336)
    rows = read_rows(tmp_path / "run").values()
    assert len(rows) == len(seen) == 16
    assert all(row.is_greedy is None and row.logprob is None for row in rows)
    assert {row.prompt_tokens for row in rows} == {9}
    assert summary["mean"] == sum(row.answer == "B" for row in rows) / 16
    assert summary["cost"]["flops_ratio"] is None
    assert summary["protocol"] == {"frames": "images", "scoring": "generated"}
    assert not (tmp_path / "run" / "localisation.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_busy_server_is_asked_again_and_a_run_resumes(server, tmp_path):
    address, seen, failures = server
    failures += [503, 429, 200, 503, 503, 503, 503]
    with pytest.raises(LongVAError, match=r"did not answer: 503.*Cells measured so far are kept"):
        run_visual(visual(address, tmp_path))
    assert len(seen) == 7 and len(read_rows(tmp_path / "run")) == 1
    run_visual(visual(address, tmp_path))
    assert len(seen) == 7 + 15


def test_a_refusal_is_not_repeated(server, tmp_path):
    address, seen, failures = server
    failures += [400]
    with pytest.raises(LongVAError, match="400"):
        run_visual(visual(address, tmp_path))
    assert len(seen) == 1


def test_a_server_that_is_not_there_is_named(tmp_path, clock, nobody):
    with pytest.raises(LongVAError, match=f"{nobody} did not answer"):
        run_visual(visual(nobody, tmp_path))


def text_recipe(tmp_path, **settings) -> TextRecipe:
    return TextRecipe(
        output_dir=tmp_path / "text",
        grid=Grid(lengths=(600, 900), depths=(0.5,)),
        trials=2,
        **settings,
    )


@pytest.mark.usefixtures("undrawn")
def test_a_server_reads_text_cut_by_the_tokenizer_named(server, tmp_path):
    address, seen, _ = server
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    served = {"model": address, "adapter": "openai", "served_model": "m"}
    summary = run_text(text_recipe(tmp_path, tokenizer=str(tmp_path / "tokenizer"), **served))
    assert summary["mean"] == 1.0
    assert summary["protocol"] == {"frames": None, "scoring": "generated"}
    lengths = {len(body["messages"][0]["content"][0]["text"]) for _, _, body in seen}
    assert lengths == {600, 900}  # a byte is a token here
    with pytest.raises(RecipeError, match="Set tokenizer: FOLDER or ID"):
        run_text(text_recipe(tmp_path, **served))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "openai"}, "needs model: http"),
        ({"adapter": "openai", "max_new_tokens": 0}, "only generates"),
        ({"frames_as": "images"}, "adapter: tree reads frames as one video"),
        ({"adapter": "huggingface", "rope_theta": 1e6}, "adapter: tree only"),
    ],
)
def test_settings_that_an_adapter_cannot_honour_are_refused(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        text_recipe(tmp_path, model="folder", **settings)


@pytest.mark.usefixtures("undrawn")
def test_a_transformers_model_sees_frames_as_images(tmp_path):
    model, processor = random_longva(max_grids=2)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    recipe = VisualRecipe(
        model=str(tmp_path / "model"),
        adapter="huggingface",
        output_dir=tmp_path / "run",
        grid=Grid(lengths=(2, 3), depths=(1.0,)),
        needles=NeedleRecipe(count=2),
        max_new_tokens=3,
    )
    summary = run_visual(recipe)
    rows = read_rows(tmp_path / "run")
    assert len(rows) == 4 and all(row.generated is not None for row in rows.values())
    # One more frame is one more image, of two grids (8 tokens) under UniRes, and a line break.
    assert rows[3, 1.0, 0].prompt_tokens - rows[2, 1.0, 0].prompt_tokens == 9
    assert all(row.logprob < 0 and len(row.evidence_frames) > 2 for row in rows.values())
    assert summary["protocol"] == {"frames": "images", "scoring": "teacher_forced"}


@pytest.mark.usefixtures("undrawn")
def test_the_reply_of_a_transformers_model_is_what_it_generates(tmp_path):
    model, processor = random_longva()
    recipe = text_recipe(tmp_path, model="random", adapter="huggingface", max_new_tokens=4)
    tested = ImageTextModel(model, processor, name="random", max_new_tokens=4)
    run_text(recipe, model=tested)
    row = read_rows(tmp_path / "text")[600, 0.5, 0]
    assert row.prompt_tokens > 600  # the chat template around it
    assert row.generated is not None and row.is_greedy is not None
    assert row.evidence_frames is None  # there are no frames
