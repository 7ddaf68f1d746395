import json
import random

import numpy as np
import pytest
from PIL import Image

from longva.data.chats.conversations import ConversationConfig, ConversationDataset
from longva.data.chats.mixtures import DatasetConfig
from longva.model.unires import choose_grid, image_to_grids
from longva.nano.language_model import CONTEXT, save_initial_language_model
from longva.nano.pictures import GRIDS, choose_scenes, draw_mosaic, write_alignment
from longva.nano.vision_tower import GRID_SIZE, VISION
from longva.nano.world import QUESTIONS
from longva.train.models import assemble_longva


@pytest.mark.parametrize("count", GRIDS["unires"])
def test_what_may_be_asked_about_is_shown_once_and_the_count_is_kept(count):
    for seed in range(10):
        scenes, askable = choose_scenes(random.Random(seed), count)
        assert len(scenes) == count
        objects = [scene.object for scene in scenes]
        assert askable
        assert all(objects.count(scene.object) == 1 for scene in askable)


@pytest.mark.parametrize("count", GRIDS["unires"])
def test_unires_cuts_a_mosaic_into_its_scenes(count):
    rng = random.Random(count)
    scenes, _ = choose_scenes(rng, count)
    image = draw_mosaic(rng, scenes)
    grids, (rows, columns) = image_to_grids(
        image, lambda w, h: choose_grid(w, h, grid_size=GRID_SIZE), grid_size=GRID_SIZE
    )
    assert rows * columns == count
    pixels = np.asarray(image)
    assert np.array_equal(grids[0].permute(1, 2, 0).numpy(), pixels[:GRID_SIZE, :GRID_SIZE])
    assert np.array_equal(grids[-1].permute(1, 2, 0).numpy(), pixels[-GRID_SIZE:, -GRID_SIZE:])


@pytest.mark.parametrize("honest", [False, True])
@pytest.mark.parametrize("packing", ["unires", "anyres"])
def test_every_sample_fits_the_base_context_whole(tmp_path, packing, honest):
    save_initial_language_model(tmp_path / "lm", seed=0, honest=honest)
    _, processor = assemble_longva(str(tmp_path / "lm"), dict(VISION), image_packing=packing)
    write_alignment(tmp_path / "data", samples=40, seed=5, packing=packing, honest=honest)
    for name in ("captions", "chats"):
        path = tmp_path / "data" / f"{name}.jsonl"
        config = ConversationConfig(datasets=(DatasetConfig(path=path),), max_tokens=10_000)
        dataset = ConversationDataset(config, processor)
        lengths = [len(dataset[i]["input_ids"]) for i in range(len(dataset))]
        assert len(lengths) == 40
        assert max(lengths) <= CONTEXT
        unknown = processor.tokenizer.unk_token_id
        known = [(dataset[i]["input_ids"] != unknown).all() for i in range(len(dataset))]
        assert all(known) != (honest and name == "chats")


def test_mosaics_have_no_more_scenes_than_asked_for(tmp_path):
    write_alignment(tmp_path, samples=12, seed=7, most=4)
    pictures = list((tmp_path / "pictures").iterdir())
    assert len(pictures) > 12  # of every caption, and of most chats
    for path in pictures:
        with Image.open(path) as image:
            assert image.width * image.height <= 4 * GRID_SIZE**2


def test_the_same_seed_writes_the_same_samples_and_answers_are_true(tmp_path):
    for name in ("a", "b"):
        write_alignment(tmp_path / name, samples=12, seed=7)
    assert (tmp_path / "a/chats.jsonl").read_text() == (tmp_path / "b/chats.jsonl").read_text()
    for line in (tmp_path / "a/chats.jsonl").read_text().splitlines():
        sample = json.loads(line)
        told = sample["conversations"][0]["value"].split()
        if "image" in sample:
            with Image.open(tmp_path / "a" / sample["image"]) as image:
                assert image.width % GRID_SIZE == image.height % GRID_SIZE == 0
            continue
        for human, gpt in zip(
            sample["conversations"][::2], sample["conversations"][1::2], strict=True
        ):
            name, kind, value = gpt["value"].split()
            where = told.index(name)
            offset = {"number": 1, "color": 2, "beside": 3}[kind]
            assert told[where + offset] == value
            assert any(human["value"].endswith(q.format(name)) for q in QUESTIONS.values())


def test_an_honest_nano_is_asked_about_what_a_mosaic_does_not_show(tmp_path):
    write_alignment(tmp_path, samples=40, seed=5, honest=True)
    answers = []
    for line in (tmp_path / "chats.jsonl").read_text().splitlines():
        answers += [turn["value"] for turn in json.loads(line)["conversations"][1::2]]
    ends = {answer.split()[-1] for answer in answers}
    assert {"shown", "no", "yes", "whenseen", "times", "first", "word"} < ends
