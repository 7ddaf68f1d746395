"""Extension: YaRN, and what is measured on the way."""

import json

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from longva.data.text.packing import tokenizer_fingerprint, write_packed
from longva.errors import RecipeError
from longva.niah.cells import Grid
from longva.niah.text import TextRecipe, run_text
from tests.train.chain import EXACT, on_ranks, toy_recipe_file
from tests.train.toys import metrics


def test_yarn_stretches_the_positions_up_a_ladder(chain):
    changes = ["ladder=[{seq_len: 256, rope_theta: null, max_steps: 2}]", "rope_theta=null"]
    changes += ["yarn=true", "loop.max_steps=4", "output_dir=runs/toy/yarn"]
    config = AutoModelForCausalLM.from_pretrained(on_ranks(1, "extend", *changes)).config
    assert config.rope_parameters["rope_type"] == "yarn"
    assert config.rope_parameters["original_max_position_embeddings"] == 128
    assert config.rope_parameters["factor"] == 4 and config.max_position_embeddings == 512
    losses = metrics(chain / "runs/toy/yarn", "eval_loss")
    assert losses[-1] < losses[0] or len(losses) == 1
    with pytest.raises(RecipeError, match="set rope_theta to null"):
        toy_recipe_file("extend", "yarn=true")


NEEDLES = "niah={every: 2, grid: {lengths: [300, 400], depths: [0.0, 0.5]}}"


@pytest.mark.parametrize(("ranks", "ring"), [(1, 1), (2, 2), (2, 1)])
def test_needles_on_the_way_are_those_of_the_exported_model(ranks, ring, chain):
    """Over a ring, over two rings of one, and after going on."""
    out = chain / f"runs/toy/needles_{ranks}_{ring}"
    changes = ["ladder=[]", "seq_len=64", "loop.eval_every=0", "loop.save_every=1", NEEDLES, *EXACT]
    changes += [f"output_dir={out}", f"parallel.ring={ring}"]
    on_ranks(ranks, "extend", *changes, "loop.max_steps=3")
    other = "niah={every: 3, grid: {lengths: [300, 400], depths: [0.0, 0.5]}}"
    model = on_ranks(ranks, "extend", *changes, other, "loop.max_steps=4")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "niah" in row] == [2, 3, 4]
    recipe = TextRecipe(
        model=str(model),
        output_dir=out / "niah",
        grid=Grid(lengths=(300, 400), depths=(0.0, 0.5)),
        trials=1,
        max_new_tokens=0,
    )
    run_text(recipe)
    cells = [json.loads(line) for line in (out / "niah/cells.jsonl").read_text().splitlines()]
    # A number is eight tokens, of each of which float32 loses 1e-6 or so.
    logprob = np.mean([cell["logprob"] for cell in cells])
    assert rows[-1]["niah_logprob"] == pytest.approx(logprob, rel=0, abs=1e-4)
    right = np.mean([cell["is_greedy"] for cell in cells])
    assert rows[-1]["niah"] == right == (rows[-1]["niah_300"] + rows[-1]["niah_400"]) / 2


def test_needles_do_not_change_what_is_learned(chain):
    changes = ["ladder=[]", "seq_len=64", "loop.eval_every=0", "loop.max_steps=3"]
    models = [
        on_ranks(1, "extend", *changes, f"output_dir=runs/toy/{name}", niah)
        for name, niah in (("with", NEEDLES), ("without", "niah=null"))
    ]
    one, two = ((model / "model.safetensors").read_bytes() for model in models)
    assert one == two


@pytest.mark.parametrize(("ranks", "ring"), [(1, 1), (2, 2), (2, 1)])
def test_the_loss_of_each_domain_is_told(ranks, ring, chain):
    """Books are documents of one letter, which is soon learned; the rest is random."""
    folder = chain / "domains"
    if not folder.exists():
        folder.mkdir()
        tokenizer = AutoTokenizer.from_pretrained("runs/toy/base_lm/model")
        rng, numbers = np.random.default_rng(0), np.array([0, 1] * 8, np.int16)
        documents = [rng.integers(0, 256, 39) if n else np.full(19, 65) for n in numbers]
        about = {"tokenizer": {"name": "bytes", **tokenizer_fingerprint(tokenizer)}}
        write_packed(
            *(folder, documents, numbers),
            separator=tokenizer.pad_token_id,
            dtype=np.dtype(np.uint16),
            about={**about, "domains": ["books", "noise"]},
        )
    out = chain / f"runs/toy/domains_{ranks}_{ring}"
    changes = ["ladder=[]", "seq_len=60", "tokens=domains", "held_out_tokens=domains", *EXACT]
    changes += [f"parallel.ring={ring}", f"output_dir={out}", "loop.max_steps=4"]
    on_ranks(ranks, "extend", *changes, "loop.eval_every=4")
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval_loss_books"] < last["eval_loss_noise"]
    # A row is 20 tokens of a book and 40 of noise; the first of all is no target.
    mean = (19 * last["eval_loss_books"] + 40 * last["eval_loss_noise"]) / 59
    assert last["eval_loss"] == pytest.approx(mean, rel=1e-12)
    assert last["loss"] == pytest.approx(
        (19 * last["loss_books"] + 40 * last["loss_noise"]) / 59, rel=1e-12
    )
    one = metrics(chain / "runs/toy/domains_1_1", "eval_loss_books")
    assert [last["eval_loss_books"]] == pytest.approx(one, rel=1e-11)
