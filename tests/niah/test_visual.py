import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from longva.errors import RecipeError, VideoError
from longva.niah.cells import Cell, Grid
from longva.niah.haystack import DrawnFrames, HaystackRecipe, NeedlePictures, VideoFrames
from longva.niah.log import read_rows
from longva.niah.needle_sets import make_needles
from longva.niah.needles import Needle, NeedleRecipe
from longva.niah.placing import choose_points, hide
from longva.niah.visual import VisualRecipe, ask, run_visual
from longva.recipes import load_recipe
from tests.niah.fakes import CoinModel


def recipe(tmp_path, **settings) -> VisualRecipe:
    grid = {"grid": Grid(lengths=(10, 20), depths=(0.0, 0.25, 1.0))}
    return VisualRecipe(model="coin", output_dir=tmp_path / "run", **grid | settings)


def needle(num_pictures=1, **settings) -> Needle:
    pictures = tuple(Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(num_pictures))
    fields = {"name": "n", "prompt": "\nFind the x. What?", "answer": "B", "chance": 0.25}
    return Needle(pictures=pictures, **fields | settings)


def test_the_needle_comes_on_top_of_the_haystack_at_int_depth_times_frames(tmp_path):
    for probe in ask(recipe(tmp_path), [needle()], num_pictures=20):
        row, frames = probe.row, probe.frames
        assert row.position == int(row.depth * row.length)
        assert frames.tolist() == [
            *range(row.position),
            20,  # the needle's picture comes after the haystack's
            *range(row.position, row.length),
        ]
        assert (row.frames, row.targets) == (row.length + 1, [row.position])


def test_a_short_haystack_starts_again(tmp_path):
    probe = ask(recipe(tmp_path), [needle()], num_pictures=3)[1]
    assert probe.row.position == 2
    assert probe.frames.tolist() == [0, 1, 3, 2, 0, 1, 2, 0, 1, 2, 0]


def test_each_trial_has_its_own_pictures(tmp_path):
    for probe in ask(recipe(tmp_path), [needle(2), needle(1), needle(1)], num_pictures=20):
        new = {f for f in probe.frames.tolist() if f >= 20}
        assert new == [{20, 21}, {22}, {23}][probe.row.trial]


def test_pictures_are_hidden_where_their_points_say():
    frames, positions = hide(torch.arange(4), torch.tensor([7, 8, 9]), [2, 4, 2])
    assert frames.tolist() == [0, 1, 7, 9, 2, 3, 8]
    assert positions == [2, 6, 3]
    assert [int(frames[p]) for p in positions] == [7, 8, 9]


def cell(length=100, depth=0.4, trial=0) -> Cell:
    return Cell(length=length, depth=depth, position=int(depth * length), trial=trial)


def test_further_pictures_keep_their_depth_at_every_length():
    one, two = NeedleRecipe(seed=1), NeedleRecipe(seed=2)
    short, long = (choose_points(cell(length), needle(4), one) for length in (100, 1000))
    assert (short[0], long[0]) == (40, 400)
    assert [point // 10 for point in long] == short
    assert choose_points(cell(trial=1), needle(4), one)[1:] != short[1:]
    assert choose_points(cell(), needle(4), two)[1:] != short[1:]


def test_where_order_counts_targets_appear_in_it():
    for trial in range(20):
        three = needle(4, num_targets=3, in_order=True)
        points = choose_points(cell(trial=trial), three, NeedleRecipe())
        assert points[:3] == sorted(points[:3]) and 40 in points[:3]


def test_targets_of_harder_tasks_are_all_the_frames_that_hold_the_answer(tmp_path):
    (hard,) = make_needles(NeedleRecipe(count=1, task="order", pictures=3, distractors=1))
    for probe in ask(recipe(tmp_path), [hard], num_pictures=20):
        frames, row = probe.frames, probe.row
        assert [int(frames[target]) for target in row.targets] == [20, 21, 22]  # in their order
        assert row.position == row.targets[0] and row.frames == row.length + 4
        assert [int(frames[other]) for other in row.distractors] == [23]
        assert row.question == hard.prompt


class SeeingCoin(CoinModel):
    frame_size = 16

    def encode(self, pictures, cache):
        self.pictures = torch.cat([p for one in pictures for p in one.batches(self.frame_size)])


class Oracle(SeeingCoin):
    """Knows the answer and looks at the picture that is not of the haystack."""

    def __init__(self, haystack: int):
        super().__init__()
        self.haystack = haystack

    def answer(self, probes):
        for probe in probes:
            place = int((probe.frames >= self.haystack).float().argmax())
            yield replace(
                probe.row,
                predicted=probe.row.answer,
                is_greedy=True,
                generated=probe.row.answer,
                evidence_frame=place,
                evidence_frames=[place],
                time_generated=f"{place} seconds",
            )


@pytest.mark.usefixtures("undrawn")
def test_an_oracle_is_right_everywhere_and_knows_when(tmp_path):
    settings = recipe(tmp_path, ask_time=True, needles=NeedleRecipe(count=8))
    summary = run_visual(settings, model=Oracle(20))
    assert summary["mean"] == 1.0 and summary["effective_length"] == 20
    assert summary["protocol"] == {"frames": "video", "scoring": "teacher_forced"}
    assert summary["localisation"] == {
        "hit@1": 1.0,
        "hit@5": 1.0,
        "median_abs_error_seconds": 0.0,
    }
    details = json.loads((tmp_path / "run" / "details.json").read_text())
    timed = details["time_question"]
    assert (timed["asked"], timed["answered"], timed["median_abs_error_seconds"]) == (48, 48, 0.0)
    assert [one["share"] for one in timed["within"]] == [1.0] * 3
    assert [one["recall"] for one in details["key_frames"]] == [1.0] * 3
    assert details["agreement"] == 1.0
    row = read_rows(tmp_path / "run")[20, 0.25, 1]
    assert (row.evidence_frame, row.time_seconds) == (5, 5.0)


def test_a_run_leaves_everything_behind(tmp_path):
    run_visual(recipe(tmp_path), model=SeeingCoin())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "recipe.yaml",
        "fingerprint.json",
        "cells.jsonl",
        "summary.json",
        "details.json",
        "heatmap.png",
        "all_accuracies.json",
        "avg_accuracy.txt",
        ".lock",
    }
    assert load_recipe(VisualRecipe, tmp_path / "run" / "recipe.yaml") == recipe(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_more_needles_extend_a_run_and_others_are_refused(tmp_path):
    run_visual(recipe(tmp_path, needles=NeedleRecipe(count=2)), model=SeeingCoin())
    before = read_rows(tmp_path / "run")
    run_visual(recipe(tmp_path, needles=NeedleRecipe(count=3)), model=SeeingCoin())
    after = read_rows(tmp_path / "run")
    assert len(after) == 18 and all(after[key] == row for key, row in before.items())
    for other in (
        {"needles": NeedleRecipe(count=3, seed=1)},
        {"needles": NeedleRecipe(count=3, distractors=1)},
        {"haystack": HaystackRecipe(seed=1)},
        {"ask_time": True},
        {"max_new_tokens": 4},
        {"grid": Grid(lengths=(10, 20), depths=(0.0, 0.25, 1.0), kind="absolute")},
    ):
        with pytest.raises(RecipeError, match="another measurement"):
            settings = recipe(tmp_path, **{"needles": NeedleRecipe(count=3)} | other)
            run_visual(settings, model=SeeingCoin())


@pytest.mark.usefixtures("undrawn")
def test_other_questions_about_the_same_pictures_are_another_measurement(tmp_path):
    needles = [needle()]
    run_visual(recipe(tmp_path), model=SeeingCoin(), needles=needles)
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    for prompt in ("What?", "Why?"):
        (tmp_path / "n.json").write_text(
            json.dumps([{"path": "cat.png", "prompt": prompt, "answer": "x"}])
        )
        settings = recipe(
            tmp_path,
            needles=NeedleRecipe(source="json", file=tmp_path / "n.json"),
        )
        with pytest.raises(RecipeError, match="settings.needles"):
            run_visual(settings, model=SeeingCoin())


def test_the_time_is_asked_of_a_single_needle_only():
    grid = {"model": "m", "output_dir": "x", "grid": Grid(lengths=(10,))}
    with pytest.raises(RecipeError, match="ask_time needs"):
        VisualRecipe(ask_time=True, needles=NeedleRecipe(task="count"), **grid)
    with pytest.raises(RecipeError, match="ask_time needs"):
        VisualRecipe(ask_time=True, max_new_tokens=0, **grid)


def all_pixels(album, size=16) -> torch.Tensor:
    return torch.cat(list(album.batches(size)))


def test_drawn_frames_are_seeded_and_prefixes_of_one_another():
    short, long = all_pixels(DrawnFrames(0, 40)), all_pixels(DrawnFrames(0, 90))
    assert short.shape == (40, 3, 16, 16) and short.dtype == torch.uint8
    assert torch.equal(long[:40], short)
    assert not torch.equal(all_pixels(DrawnFrames(1, 40)), short)
    assert long.float().std() > 30
    changes = (long[1:].float() - long[:-1].float()).abs().mean((1, 2, 3))
    assert (changes > 0).all()  # no two frames are the same
    assert (changes > 25).sum() in range(5, 20)  # and there are cuts


def test_a_video_gives_a_frame_a_second(video):
    frames = VideoFrames(HaystackRecipe(videos=(video,)), num_frames=6)
    assert len(frames) == 6 and all_pixels(frames).shape == (6, 3, 16, 16)
    twice = VideoFrames(HaystackRecipe(videos=(video, video), fps=2.0), num_frames=15)
    assert len(twice) == 15
    assert torch.equal(all_pixels(twice)[:3], all_pixels(twice)[12:])


def test_a_haystack_may_be_part_of_a_video(video):
    whole = VideoFrames(HaystackRecipe(videos=(video,)), num_frames=6)
    part = VideoFrames(HaystackRecipe(videos=(video,), start="0:01", end=4), num_frames=3)
    assert torch.equal(all_pixels(part), all_pixels(whole)[1:4])
    assert part.fingerprint != VideoFrames(HaystackRecipe(videos=(video,)), 3).fingerprint


def test_a_short_video_is_looped_only_on_request(video):
    with pytest.raises(RecipeError, match=r"give 6 frames at 1 per second, .* needs 10.*loop=True"):
        VideoFrames(HaystackRecipe(videos=(video,)), num_frames=10)
    looped = VideoFrames(HaystackRecipe(videos=(video,), loop=True), num_frames=10)
    assert len(looped) == 6


def test_missing_films_and_needles_are_found_before_the_model_is_looked_for(tmp_path):
    def run(**settings):
        where = {"model": str(tmp_path / "no model"), "output_dir": tmp_path / "run"}
        run_visual(VisualRecipe(**where, grid=Grid(lengths=(4,)), **settings))

    with pytest.raises(VideoError, match="absent.mp4"):
        run(haystack=HaystackRecipe(videos=(tmp_path / "absent.mp4",)))
    with pytest.raises(RecipeError, match="lacks 5 of 5 needle pictures"):
        run(needles=NeedleRecipe(source="paper", folder=tmp_path))


def test_the_fingerprint_of_a_video_is_its_content(video, tmp_path):
    (tmp_path / "copy.mp4").write_bytes(video.read_bytes())
    here, there = (
        VideoFrames(HaystackRecipe(videos=(path,)), 3).fingerprint
        for path in (video, tmp_path / "copy.mp4")
    )
    assert here == there
    assert VideoFrames(HaystackRecipe(videos=(video,), fps=2.0), 3).fingerprint != here


def test_needles_become_frames_like_the_haystacks():
    wide = Image.fromarray(np.full((10, 40, 3), 255, np.uint8))
    padded = all_pixels(NeedlePictures([wide], "pad"))
    assert padded.shape == (1, 3, 16, 16)
    assert padded[0, :, 8, 8].tolist() == [255, 255, 255]
    assert padded[0, :, 0, 0].tolist() == [122, 116, 104]  # the mean colour of CLIP
    assert all_pixels(NeedlePictures([wide], "crop")).min() == 255
