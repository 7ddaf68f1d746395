"""V-NIAH for any model of lmms-eval: the cells of a recipe as videos with questions.

    DATA/questions/longva/v-niah/data/test-00000-of-00001.parquet     video, question, answer ...
         vniah/00200_0.4_3.mp4                                        haystack and needle

`longva niah visual` measures our own models for a fraction of the work (a haystack is read once for
all its needles) and tells where they look; this is for comparing with models that lmms-eval runs.
The videos are H.264: what is read from them is not bit for bit what `longva niah` shows.

    longva vniah-export niah_visual DATA
    lmms_eval --tasks longva_vniah --model qwen2_5_vl ...
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from longva.errors import RecipeError, needing
from longva.evaluate.benchmarks import QUESTIONS
from longva.files.writing import whole_file
from longva.media.write import write_video
from longva.niah.haystack import Pictures
from longva.niah.needles import Needle
from longva.niah.visual import VisualRecipe, ask, open_pictures
from longva.reporting.progress import Progress

DATASET, VIDEOS = "longva/v-niah", "vniah"
SIDE = 336
COLUMNS = ("question", "answer", "chance", "length", "depth", "position", "needle", "fps")


def export(
    recipe: VisualRecipe,
    data: Path,
    progress: Progress | None = None,
    *,
    haystack: Pictures | None = None,
    needles: Sequence[Needle] | None = None,
) -> Path:
    """Write every cell of a recipe as a video, and the questions as a dataset.

    Args:
        recipe: its model and output folder are not used.
        data: what `longva eval --data` will be given.
        progress: called with ("videos", written, to write).
        haystack: instead of the recipe's.
        needles: instead of the recipe's.

    Returns:
        The folder of the dataset.

    Raises:
        RecipeError: the haystack is too short, pictures of needles are missing, or more is asked in
            a cell than about its needle.
        LongVAError: pyarrow is not installed.
    """
    more = [name for name in ("circular", "absent", "blind") if getattr(recipe, name)]
    if more:
        raise RecipeError(
            f"{', '.join(more)}: lmms-eval takes the mean of all answers, and these are judged "
            "otherwise. Leave them out here, or measure with `longva niah visual`.",
            **dict.fromkeys(more, False),
        )
    with needing("the file of questions", "pip install pyarrow"):
        import pyarrow
        import pyarrow.parquet as parquet

    pictures, needles = open_pictures(recipe, haystack, needles)
    frames = torch.cat([batch for one in pictures for batch in one.batches(SIDE)])
    probes = ask(recipe, needles, num_pictures=len(pictures[0]))
    folder, videos, rows = data / QUESTIONS / DATASET, data / VIDEOS, []
    videos.mkdir(parents=True, exist_ok=True)
    for done, probe in enumerate(probes, 1):
        row, shown = probe.row, probe.frames
        assert shown is not None
        name = f"{row.length:05d}_{row.depth}_{row.trial}.mp4"
        fps = Fraction(recipe.haystack.fps).limit_denominator(1000)
        write_video(videos / name, (_image(frames[i]) for i in shown.tolist()), fps)
        rows.append({"video": name, **{column: getattr(row, column) for column in COLUMNS}})
        if progress:
            progress("videos", done, len(probes))
    path = folder / "data" / "test-00000-of-00001.parquet"
    with whole_file(path) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)
    return folder


def _image(pixels: Tensor) -> Image.Image:
    """Turn [3, S, S] uint8 into a picture."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())
