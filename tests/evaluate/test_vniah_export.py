import sys
from dataclasses import replace

import pyarrow.parquet as parquet
import pytest

from longva.errors import LongVAError, RecipeError
from longva.evaluate.vniah_export import export
from longva.niah.cells import Grid
from longva.niah.needles import NeedleRecipe
from longva.niah.visual import VisualRecipe


@pytest.fixture
def recipe(tmp_path):
    return VisualRecipe(
        model="nano",
        output_dir=tmp_path,
        grid=Grid(lengths=(2,), depths=(0.5, 0.504)),
        needles=NeedleRecipe(count=1),
    )


def test_every_cell_has_a_video_of_its_own_however_close_its_depth(recipe, tmp_path):
    folder = export(recipe, tmp_path)
    rows = parquet.read_table(folder / "data" / "test-00000-of-00001.parquet").to_pylist()
    videos = sorted(path.name for path in (tmp_path / "vniah").iterdir())
    assert videos == ["00002_0.504_0.mp4", "00002_0.5_0.mp4"]
    assert sorted(row["video"] for row in rows) == videos


@pytest.mark.parametrize("more", [{"absent": True}, {"circular": True, "blind": True}])
def test_what_a_mean_of_all_answers_would_mix_is_refused(more, recipe, tmp_path):
    with pytest.raises(RecipeError, match="mean of all answers") as error:
        export(replace(recipe, **more), tmp_path)
    assert error.value.remedies == dict.fromkeys(more, False)
    export(replace(recipe, **more | error.value.remedies), tmp_path)


def test_without_pyarrow_it_is_said_what_to_install(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LongVAError, match="needs pyarrow.*: pip install pyarrow"):
        export(recipe, tmp_path)
