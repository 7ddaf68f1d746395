"""A video model of transformers on the demo's stage."""

from dataclasses import replace

import torch
from PIL import Image

from longva.watching.assistant import LongVA
from longva.watching.engine import Engine
from tests.demo.conftest import a_visitor, ask
from tests.watching import families


def test_a_film_and_a_picture_are_asked_about(setting, video, tmp_path):
    longva = LongVA(*families.make("internvl", torch.float32), name="random")
    engine = Engine(longva, max_bytes=2**30, max_waiting=4, max_waiting_per_client=4)
    engine.worker.start()
    path = tmp_path / "picture.png"
    Image.effect_noise((60, 40), 60).convert("RGB").save(path)
    try:
        for medium in (video, path):
            visitor = a_visitor(replace(setting, engine=engine), medium)
            turn = ask(replace(setting, engine=engine), visitor, "What is shown?")
            own = longva.watch(medium).ask("What is shown?", max_new_tokens=4)
            assert turn.answer is not None and turn.answer.text == own.text
    finally:
        engine.worker.stop()
