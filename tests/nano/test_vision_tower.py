import math
import random

import pytest
import torch
from torch.testing import assert_close

from longva.nano import vision_tower
from longva.nano.language_model import save_initial_language_model
from longva.nano.vision_tower import (
    GRID_SIZE,
    naming_loss,
    scene_words,
    seen_picture,
    to_pixels,
    train_vision_tower,
)
from longva.nano.words import word_tokenizer
from longva.nano.world import Layout, Scene

ANCHOR = Scene(object="anchor", number=42, color="red", companion="club")


def test_a_scenes_words_are_those_of_its_frame_shaped_telling():
    assert scene_words([ANCHOR]).tolist() == [word_tokenizer()("anchor 42 red club").input_ids]


def test_tokens_that_are_their_words_have_no_distance_and_are_named_right():
    words = torch.eye(5, dtype=torch.float64)  # in float32 the loss, 1e-6, is lost in 15
    right = torch.tensor([[0, 3, 1, 4]])
    distance, loss, named = naming_loss(words[right], words, right)
    assert distance == 0
    assert named == 1.0
    expected = math.log1p(4 * math.exp(-15))  # cosines: 1 right, 4 at 0
    assert float(loss) == pytest.approx(expected, rel=1e-8)  # 15 less 15, to 2e-15


def test_distance_is_relative_to_the_embeddings_size():
    words = 3 * torch.eye(4)
    right = torch.tensor([[0, 1, 2, 3]])
    distance, _, named = naming_loss(-words[right], words, right)
    assert_close(distance, torch.tensor(4.0))  # (2 w)^2 over w^2
    assert named == 0.0


def test_pictures_are_grids_and_pixels_are_normalised():
    picture = seen_picture(random.Random(0), ANCHOR, Layout())
    assert (picture.size, picture.mode) == ((GRID_SIZE, GRID_SIZE), "RGB")
    pixels = to_pixels([picture, picture])
    assert pixels.shape == (2, 3, GRID_SIZE, GRID_SIZE)
    assert -3 < pixels.min() < pixels.max() < 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    save_initial_language_model(folder, seed=0)
    metrics = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_tower, "BATCH", 24)
        longva, processor = train_vision_tower(
            str(folder), steps=24, seed=1, progress=lambda step, values: metrics.append(values)
        )
    return folder, longva, processor, metrics


def test_training_brings_tokens_nearer_to_their_words(trained):
    *_, metrics = trained
    assert len(metrics) == 24
    assert metrics[-1]["loss"] < 0.9 * metrics[0]["loss"]


def test_training_leaves_the_language_model_as_it_was(trained):
    from longva.nano.language_model import initial_language_model

    _, longva, processor, _ = trained
    before = initial_language_model(0).state_dict()
    after = longva.model.language_model.state_dict()
    assert all(torch.equal(before[f"model.{name}"], value) for name, value in after.items())
    assert longva.config.vision_feature_layer == -1
    assert processor.image_processor.grid_size == GRID_SIZE
