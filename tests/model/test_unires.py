import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from longva.errors import LongVAError
from longva.model.unires import (
    CLIP_MEAN,
    CLIP_STD,
    best_grid,
    candidate_grids,
    choose_grid,
    image_to_grids,
    letterbox,
    normalize_pixels,
    paper_grid,
    split_grids,
)

sizes = st.integers(1, 8000)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (200, 200, (1, 2)),  # a single grid is not among the released sizes
        (336, 336, (1, 2)),
        (512, 512, (2, 2)),
        (640, 480, (2, 2)),
        (800, 600, (3, 2)),
        (1280, 720, (4, 3)),
        (1920, 1080, (6, 4)),
        (2550, 3300, (6, 8)),
        (4032, 3024, (8, 6)),
        (100, 4000, (1, 12)),
    ],
)
def test_released_rule_chooses_the_grids_of_the_published_weights(width, height, grid):
    assert choose_grid(width, height, rule="released") == grid


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(336, 336, (1, 1)), (800, 600, (2, 1)), (1280, 720, (3, 2)), (1920, 1080, (5, 3))],
)
def test_paper_rule_divides_and_floors(width, height, grid):
    assert choose_grid(width, height, rule="paper") == grid


@given(sizes, sizes, st.integers(1, 49))
def test_paper_rule_stays_within_max_grids(width, height, max_grids):
    columns, rows = paper_grid(width, height, grid_size=336, max_grids=max_grids)
    assert columns >= 1 and rows >= 1 and columns * rows <= max_grids


@given(sizes, sizes)
def test_released_rule_keeps_the_most_pixels(width, height):
    def kept(columns, rows):
        scale = min(columns * 336 / width, rows * 336 / height)
        return min(int(width * scale) * int(height * scale), width * height)

    grids = candidate_grids(9)
    chosen = best_grid(width, height, grid_size=336, grids=grids)
    assert kept(*chosen) == max(kept(*grid) for grid in grids)


def test_a_hand_written_list_of_grids_keeps_its_order_for_ties():
    assert choose_grid(10, 10, grids=[(2, 1), (1, 2)]) == (2, 1)
    assert choose_grid(10, 10, grids=[(1, 2), (2, 1)]) == (1, 2)


def test_wrong_settings_say_what_to_do():
    with pytest.raises(LongVAError, match="grid_rule must be 'released' or 'paper', got 'best'"):
        choose_grid(10, 10, rule="best")
    with pytest.raises(LongVAError, match="max_grids of 2 or more, got 1"):
        choose_grid(10, 10, max_grids=1)
    with pytest.raises(LongVAError, match="at least one pixel, got 0 x 5"):
        choose_grid(0, 5)


def test_letterbox_centres_on_black():
    canvas = np.asarray(letterbox(Image.new("RGB", (8, 4), "white"), 4, 4))[..., 0]
    assert canvas.tolist() == [[0] * 4, [255] * 4, [255] * 4, [0] * 4]


def test_grids_are_cut_row_by_row():
    canvas = np.zeros((4, 6, 3), np.uint8)
    canvas[:2, 2:4] = 1  # second grid of the first row
    canvas[2:, 4:] = 5  # third grid of the second row
    assert [int(grid.max()) for grid in split_grids(canvas, 2)] == [0, 1, 0, 0, 0, 5]


def test_anyres_puts_the_squashed_image_first_in_a_row_of_its_own():
    image = Image.new("RGB", (8, 4), "white")
    unires, shape = image_to_grids(image, lambda w, h: (2, 1), grid_size=4)
    anyres, same_shape_and_a_row = image_to_grids(
        image, lambda w, h: (2, 1), grid_size=4, packing="anyres"
    )
    assert (shape, same_shape_and_a_row) == ((1, 2), (2, 2))
    assert unires.shape == (2, 3, 4, 4) and anyres.shape == (4, 3, 4, 4)
    assert torch.equal(anyres[2:], unires)
    assert int(anyres[0].min()) == 255 and int(anyres[1].max()) == 0


def test_normalised_pixels_have_clips_mean_and_deviation():
    white = normalize_pixels(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    expected = [(1 - mean) / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)]
    assert white.tolist() == pytest.approx(expected, abs=1e-6)
