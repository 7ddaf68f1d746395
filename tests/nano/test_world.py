import random
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest

from longva.media.write import write_video
from longva.nano.world import (
    COLOURS,
    COMPANIONS,
    NUMBERS,
    OBJECTS,
    QUESTIONS,
    Layout,
    Scene,
    draw_scene,
    haystack,
    mosaic,
    random_layout,
    random_scene,
)

ANCHOR = Scene(object="anchor", number=42, color="red", companion="club")


def test_a_seed_says_what_is_shown_and_how():
    first, again = (
        [(random_scene(rng), random_layout(rng)) for _ in range(3)]
        for rng in (random.Random(5), random.Random(5))
    )
    assert first == again
    assert first[0] != first[1]


def test_a_scene_knows_its_questions_and_answers():
    assert ANCHOR.caption == "a anchor with the number 42 on a red background next to a club."
    answers = {about: ANCHOR.answer(about) for about in QUESTIONS}
    assert answers == {
        "number": "anchor number 42",
        "color": "anchor color red",
        "companion": "anchor beside club",
    }
    assert ANCHOR.question("number") == "what number is with the anchor?"


def cell(picture, row, column):
    pixels = np.asarray(picture.convert("RGB"), dtype=int)
    half = pixels.shape[0] // 2
    return pixels[row * half : (row + 1) * half, column * half : (column + 1) * half]


@pytest.mark.parametrize(
    ("change", "row", "column"),
    [({"number": 77}, 0, 1), ({"companion": "dice"}, 1, 1)],
)
def test_number_and_companion_have_their_cells(change, row, column):
    before, after = draw_scene(ANCHOR, 48, 48), draw_scene(Scene(**(vars(ANCHOR) | change)), 48, 48)
    for place in np.ndindex(2, 2):
        differs = bool((cell(before, *place) != cell(after, *place)).any())
        assert differs == (place == (row, column))


def test_every_object_and_companion_looks_different():
    scenes = [Scene(**(vars(ANCHOR) | {"object": name})) for name in OBJECTS]
    scenes += [
        Scene(**(vars(ANCHOR) | {"companion": name})) for name in COMPANIONS if name != "club"
    ]
    pictures = np.stack([np.asarray(draw_scene(s, 48, 48), dtype=float).ravel() for s in scenes])
    distances = np.abs(pictures[:, None] - pictures[None]).mean(-1)
    np.fill_diagonal(distances, np.inf)
    assert distances.min() > 1  # of 255 levels


def test_a_wide_picture_keeps_its_signs_in_the_central_square():
    wide = np.asarray(draw_scene(ANCHOR, 80, 48))
    assert (wide[:, :16] == COLOURS["red"]).all()
    assert (wide[:, 64:] == COLOURS["red"]).all()
    assert (wide[:, 16:64] == np.asarray(draw_scene(ANCHOR, 48, 48))).all()


def test_jitter_keeps_the_whole_number_in_the_picture():
    rng = random.Random(0)
    for _ in range(50):
        layout = random_layout(rng)
        x, y = layout.number_at
        assert 0.19 <= x <= 0.81
        assert 0.1 <= y <= 0.9


def test_a_mosaic_is_filled_row_by_row():
    rng = random.Random(0)
    pictures = [draw_scene(random_scene(rng), 48, 48) for _ in range(6)]
    canvas = np.asarray(mosaic(pictures, columns=3))
    assert canvas.shape == (96, 144, 3)
    assert (canvas[48:, 96:] == np.asarray(pictures[5])).all()


def test_a_haystack_drifts_within_a_shot_and_leaves_out_what_it_is_told_to():
    frames = list(islice(haystack(random.Random(1), without=["anchor"]), 500))
    assert "anchor" not in {scene.object for scene, _ in frames}
    cuts = [i for i in range(1, 500) if frames[i][0] != frames[i - 1][0]]
    lengths = np.diff([0, *cuts])
    assert lengths.min() >= 4
    assert frames[0][1] != frames[1][1]
    assert frames[0][0] == frames[1][0]


def test_thousands_of_scenes_do_not_repeat_one():
    rng = random.Random(0)
    assert random_scene(rng) not in {random_scene(rng) for _ in range(5000)}
    assert len(OBJECTS) * len(NUMBERS) * len(COLOURS) * len(COMPANIONS) == 691_200


def test_a_video_file_shows_its_frames(tmp_path):
    path = tmp_path / "film.mp4"
    pictures = [draw_scene(ANCHOR, 64, 48, Layout()) for _ in range(5)]
    write_video(path, pictures, Fraction(1))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5
    assert np.abs(frames[0].astype(int) - np.asarray(pictures[0], dtype=int)).mean() < 8
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
