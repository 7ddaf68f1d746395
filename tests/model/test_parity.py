"""Same answers as the original LongVA code, which made `data/parity.json` (see `about` in it)."""

import base64
import hashlib

import numpy as np
import pytest
import torch

from longva.checkpoints.checkpoint import convert_checkpoint, load_pretrained
from longva.checkpoints.llava_format import grid_settings
from longva.model.image_processing_longva import LongVAImageProcessor
from tests.model import llava_fixture as fixture

CASES = {case["name"]: case for case in fixture.parity()["cases"]}
GRIDS = fixture.parity()["grids"]


@pytest.fixture(scope="module", params=["loaded directly", "converted"])
def longva(request, tmp_path_factory):
    """Model and processor of the LLaVA checkpoint that `llava_fixture` writes.

    In float64, so that the rounding of the machine that runs the test is none of the difference.
    """
    folder = tmp_path_factory.mktemp("parity")
    source = fixture.write_llava_checkpoint(folder / "llava")
    if request.param == "converted":
        source = convert_checkpoint(source, folder / "ours")
    return load_pretrained(source, dtype=torch.float64)


def media_message(case: dict, folder) -> list[dict]:
    """The case as a chat; one video comes as a file, the other as an array of frames."""
    content = []
    for kind, name, *numbers in case["media"]:
        if kind == "image":
            content.append({"type": "image", "image": fixture.picture(name, *numbers)})
        elif case["name"] == "video file":
            path = fixture.write_lossless_video(
                folder / f"{name}.mkv", fixture.frames(name, *numbers[:3])
            )
            content.append({"type": "video", "path": str(path)})
        else:
            content.append({"type": "video", "video": fixture.frames(name, *numbers[:3])})
    text = case["question"].rpartition("<image>\n")[2]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def decode(text: str, dtype: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def case_inputs(processor, case: dict, folder) -> dict:
    frames = case["media"][0][-1] if case["media"][0][0] == "video" else None
    sampling = {"num_frames": frames} if frames else {}
    return fixture.model_inputs(processor, media_message(case, folder), resize="pil", **sampling)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_originals_at_every_position(longva, name, tmp_path):
    model, processor = longva
    case, columns = CASES[name], fixture.parity()["columns"]
    inputs = case_inputs(processor, case, tmp_path)
    with torch.no_grad():
        logits = model(**inputs).logits[0]  # [L, V]
    assert logits.shape == (case["positions"], case["vocab"])

    argmax = decode(case["argmax"], "<u2", case["positions"]).astype(np.int64)
    assert logits.argmax(-1).tolist() == argmax.tolist()  # the closest two are 2.3e-4 apart

    stored = decode(case["logits"], "<i2", case["positions"], 1 + columns) * case["step"]
    where = fixture.random_uint16(f"columns {name}", case["positions"] * columns)
    where = torch.from_numpy(where.reshape(-1, columns).astype(np.int64) % case["vocab"])
    ours = torch.cat([logits.logsumexp(-1, keepdim=True), logits.gather(1, where)], dim=1)
    stored_rounding = case["step"] / 2  # 1.2e-4: the file holds 16 bits of each number
    # The original ran in float32: 2**-24 of a logit of up to 7.9, some twenty times on its way.
    assert np.abs(ours.numpy() - stored).max() < stored_rounding + 1e-5


@pytest.mark.parametrize("name", CASES)
def test_prompt_ids_equal_the_originals(longva, name, tmp_path):
    _, processor = longva
    text = processor.apply_chat_template(
        media_message(CASES[name], tmp_path), add_generation_prompt=True
    )
    placeholders = {processor.image_token_id, processor.video_token_id}
    ids = [-200 if i in placeholders else i for i in processor.tokenizer(text).input_ids]
    assert ids == CASES[name]["prompt_ids"]


def test_a_greedy_answer_equals_the_originals(longva, tmp_path):
    model, processor = longva
    inputs = case_inputs(processor, CASES["video file"], tmp_path)
    expected = fixture.parity()["greedy"]["video file"]
    assert fixture.answer(model, inputs, len(expected))[0].tolist() == expected


@pytest.mark.parametrize("name", GRIDS)
def test_grids_of_12000_image_sizes_equal_the_originals(name):
    expected = GRIDS[name]
    processor = LongVAImageProcessor(336, **grid_settings(expected["pinpoints"], 336))
    sample = [(w, h, *processor.grid_of(w, h)) for w, h, _, _ in expected["sample"]]
    assert sample == [tuple(row) for row in expected["sample"]]
    grids = [processor.grid_of(*size) for size in fixture.image_sizes()]
    assert hashlib.sha256(np.array(grids, "u1").tobytes()).hexdigest() == expected["sha256"]


def test_the_tensors_are_the_originals_and_nothing_else(longva):
    model, _ = longva
    assert len(model.state_dict()) == len(fixture.parity()["tensors"])
