import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from longva.errors import RecipeError
from longva.niah.cells import Cell, Grid
from longva.niah.haystack import DrawnFrames
from longva.niah.needle_sets import make_needles
from longva.niah.needles import Every, Needle, NeedleRecipe
from longva.niah.onto_frames import OntoFrames, write_subtitle
from longva.niah.placing import choose_points, own_frames, pictures_at
from longva.niah.visual import VisualRecipe, ask, open_pictures, picture_numbers


def recipe(**needles) -> VisualRecipe:
    return VisualRecipe(
        model="m",
        output_dir="x",
        grid=Grid(lengths=(6, 12), depths=(0.0, 0.5, 1.0)),
        needles=NeedleRecipe(**{"count": 2} | needles),
    )


def asked(settings: VisualRecipe, **key):
    probes = ask(settings, make_needles(settings.needles), num_pictures=12)
    return [p for p in probes if all(getattr(p.row, k) == v for k, v in key.items())]


def test_distractors_at_a_period_stand_every_so_many_haystack_frames():
    settings = recipe(distractors=Every(every=5, pictures=2))
    (probe,) = asked(settings, length=12, depth=0.5, trial=0)
    #          0  1  2  3  4  D  5  N  6  7  8  9  D 10 11   needle before frame 6
    assert probe.row.targets == [7] and probe.row.distractors == [5, 12]
    numbers = picture_numbers(settings, make_needles(settings.needles), 12)
    assert [int(probe.frames[n]) for n in (7, 5, 12)] == [numbers[-1, 0, n] for n in range(3)]
    haystack = [n for n in probe.frames.tolist() if n < 12]
    assert haystack == list(range(12))


def test_distractors_at_a_period_take_turns_and_a_short_haystack_has_none():
    needle = Needle(name="n", prompt="", answer="", chance=0.0, pictures=(None,) * 4)
    settings = NeedleRecipe(distractors=Every(every=10, pictures=3))
    cell = Cell(length=50, depth=0.0, position=0, trial=0)
    points = choose_points(cell, needle, settings)
    assert points == [0, 10, 20, 30, 40, 50]
    assert pictures_at(needle, len(points)) == [0, 1, 2, 3, 1, 2]
    short = Cell(length=9, depth=0.0, position=0, trial=0)
    assert choose_points(short, needle, settings) == [0]


def test_distractors_at_a_period_look_like_the_needle_and_answer_nothing():
    settings = NeedleRecipe(count=40, distractors=Every(every=5, pictures=14))
    for needle in make_needles(settings):
        (colour, shape, label), *others = [
            caption.removeprefix("The ").removesuffix(".").replace(" says ", " ").split()
            for caption in needle.captions
        ]
        assert len(others) == 14 == len(set(map(tuple, others)))
        assert all((one[0] == colour) != (one[1] == shape) for one in others)
        assert label not in {one[2] for one in others}
    with pytest.raises(RecipeError, match="only 14 look like .* needles.distractors.pictures=14"):
        make_needles(NeedleRecipe(count=1, distractors=Every(every=5, pictures=15)))


@pytest.mark.parametrize("every", [Every(every=1), {"every": 0}])
def test_a_period_is_a_number_of_frames(every):
    if isinstance(every, Every):
        assert every.pictures == 4
    else:
        with pytest.raises(RecipeError, match="every and pictures must be 1 or more, got 0"):
            Every(**every)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(0, 3))
def test_every_picture_drawn_onto_a_frame_has_one_to_itself(points, ordered):
    frames = own_frames(points, 12, min(ordered, len(points)))
    assert len(set(frames)) == len(frames) == len(points)
    assert all(0 <= frame < 12 for frame in frames)
    assert min(points[0], 11) in frames
    ahead = frames[: min(ordered, len(points))]
    assert ahead == sorted(ahead)


def test_more_pictures_than_frames_to_draw_them_onto_are_refused():
    with pytest.raises(RecipeError, match="2 frames cannot hold more needles"):
        own_frames([0, 1, 1], 2)


@pytest.mark.parametrize("shown", ["inset", "subtitle"])
def test_what_is_drawn_onto_frames_adds_none_and_changes_no_other(shown):
    settings = recipe(shown=shown, distractors=1)
    pictures, needles = open_pictures(settings)
    album = torch.cat([batch for one in pictures for batch in one.batches(64)])
    haystack = torch.cat(list(DrawnFrames(0, 12).batches(64)))
    assert torch.equal(album[:12], haystack)
    probes = ask(settings, needles, num_pictures=12)
    for probe in probes:
        row, frames = probe.row, probe.frames
        assert row.frames == row.length == len(frames)
        assert row.targets == [min(row.position, row.length - 1)]
        changed = (album[frames] != haystack[: row.length]).flatten(1).any(1)
        assert changed.nonzero().flatten().tolist() == sorted(row.targets + row.distractors)
        share = (album[frames] != haystack[: row.length])[row.targets[0]].any(0).float().mean()
        assert 0.05 < share < 0.35


def test_an_inset_is_the_needle_in_a_corner_and_a_subtitle_is_below():
    red = Needle(
        name="n",
        prompt="",
        answer="",
        chance=0.0,
        pictures=(Image.new("RGB", (8, 8), (255, 0, 0)),) * 2,
        captions=("It says 417.", "It says something much longer, which has to be written small."),
    )
    haystack = DrawnFrames(0, 4)
    spots = [(1, 0, 0), (2, 0, 1)]
    inset, other = torch.cat(list(OntoFrames(haystack, [red], spots, "inset", "pad").batches(100)))
    assert (inset[:, 3:48, 52:97] == torch.tensor([255, 0, 0])[:, None, None]).all()
    assert (other[:, 52:97, 52:97] == torch.tensor([255, 0, 0])[:, None, None]).all()
    plain = torch.cat(list(haystack.batches(100)))
    assert torch.equal(inset[:, :, :52], plain[1][:, :, :52])
    for words in torch.cat(
        list(OntoFrames(haystack, [red], spots, "subtitle", "pad").batches(200))
    ):
        strip = words[:, 185:].float()
        assert strip.min() == 0 and strip.max() > 200  # white letters on black


def test_a_subtitle_is_as_wide_as_the_frame_at_most():
    image = Image.new("RGB", (120, 120), (90, 90, 90))
    write_subtitle(image, "The purple hexagon says umbrella.")
    strip = image.crop((0, 100, 120, 120)).convert("L").point(lambda value: 255 * (value > 128))
    left, _, right, _ = strip.getbbox()
    assert left >= 2 and right <= 118 and right - left > 90


def test_drawn_frames_depend_on_what_is_drawn_where():
    settings = [recipe(shown="inset"), recipe(shown="subtitle"), recipe(shown="inset", seed=1)]
    prints = [open_pictures(one)[0][1].fingerprint for one in settings]
    assert len({str(one) for one in prints}) == 3
    assert prints[0] == open_pictures(recipe(shown="inset"))[0][1].fingerprint


def test_subtitles_need_words():
    with pytest.raises(RecipeError, match=r"needs needles that can be said.*Try needles.shown"):
        NeedleRecipe(source="hub", shown="subtitle")
    NeedleRecipe(source="hub", shown="inset")
