"""The toy recipes, one after the other: from text to preferences."""

from pathlib import Path

from longva.recipes import load_recipe
from longva.train import align, dpo, extend
from tests.distributed import run_distributed
from tests.train.toys import FLOAT64

EXACT = [f"parallel.{name}={value}" for name, value in FLOAT64.items()]
CHAIN = {
    "base_lm": (extend, extend.ExtendConfig),
    "extend": (extend, extend.ExtendConfig),
    "stage1": (align, align.AlignConfig),
    "stage2": (align, align.AlignConfig),
    "dpo": (dpo, dpo.DPOConfig),
    "extend_aligned": (extend, extend.ExtendConfig),
}


def toy_recipe_file(name: str, *overrides: str):
    return load_recipe(CHAIN[name][1], f"toy/{name}", overrides)


def on_ranks(world_size: int, name: str, *overrides: str) -> Path:
    """Run a toy recipe in `world_size` processes."""
    stage, config = CHAIN[name][0], toy_recipe_file(name, *overrides)

    def body(rank, world_size):
        return stage.run(config)

    return run_distributed(body, world_size, join=False)[0]


BRIEF = ("loop.save_every=0", *EXACT)
TEXT = ("ladder=[]", "seq_len=97", "loop.eval_every=0", *BRIEF)
