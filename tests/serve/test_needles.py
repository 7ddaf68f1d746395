"""`longva niah visual` against `longva serve`: a haystack is one video of the request."""

import pytest

from longva.errors import LongVAError
from longva.niah import measure
from longva.niah.cells import Grid
from longva.niah.log import read_rows
from longva.niah.needles import NeedleRecipe
from longva.niah.visual import VisualRecipe, run_visual


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr(measure, "draw", lambda panels, out, **_: out.touch())


def recipe(server, folder, **settings) -> VisualRecipe:
    return VisualRecipe(
        model=f"{server.url}/v1",
        adapter="openai",
        served_model="random",
        output_dir=folder,
        grid=Grid(lengths=(20, 30), depths=(0.5,)),
        needles=NeedleRecipe(count=1),
        max_new_tokens=3,
        **settings,
    )


def test_more_frames_than_media_are_one_video(server, longva, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    run_visual(recipe(server, tmp_path / "run", frames_as="video", absent=True, blind=True))
    rows = read_rows(tmp_path / "run")
    assert len(rows) == 2 + 2 + 1 and all(row.generated is not None for row in rows.values())
    per_frame = longva.model.config.tokens_per_grid()
    shown = {key: row for key, row in rows.items() if row.asked is None}
    short, long = shown.values()
    assert (short.frames, long.frames) == (21, 31)
    assert long.prompt_tokens - short.prompt_tokens == 10 * per_frame
    gone = rows[30, 0.5, 0, "absent", 0]
    assert gone.frames == 30 and long.prompt_tokens - gone.prompt_tokens == per_frame
    assert rows[0, 0.0, 0, "blind", 0].prompt_tokens < short.prompt_tokens - 20 * per_frame


def test_as_images_they_are_too_many_and_the_way_out_is_said(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with pytest.raises(LongVAError, match=r"may have 16 media, got 21.*frames_as: video") as error:
        run_visual(recipe(server, tmp_path / "run", frames_as="images"))
    assert "Cells measured so far are kept" in str(error.value)
