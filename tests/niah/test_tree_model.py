import json
import os
import random
import signal
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
)

from longva.attention.rotary import forget_length, set_rope_theta
from longva.checkpoints.fingerprint import weights_fingerprint
from longva.errors import CheckpointError, LongVAError, NonFiniteError, RecipeError
from longva.model.random_model import byte_tokenizer, random_longva
from longva.niah.cells import Grid
from longva.niah.log import read_rows
from longva.niah.needle_sets import PAPER_NEEDLES
from longva.niah.needles import NeedleRecipe
from longva.niah.text import TextRecipe, run_text
from longva.niah.tree_model import TEMPLATES, TreeModel
from longva.niah.visual import VisualRecipe, ask, make_needles, run_visual
from longva.parallel import check_ring
from longva.recipes import load_recipe
from longva.watching.assistant import LongVA
from tests.distributed import run_distributed
from tests.niah.fakes import one_forward, tree_model, tree_model_of
from tests.tolerance import SAME

pytestmark = pytest.mark.usefixtures("undrawn")


HELD = 0.5e-6
"""How far the log-probability of a row is from the one measured: six digits are written."""


def visual_recipe(output_dir: Path, **settings) -> VisualRecipe:
    defaults = {
        "grid": Grid(lengths=(4, 8, 12), depths=(0.0, 0.5, 1.0)),
        "needles": NeedleRecipe(count=2),
        "max_new_tokens": 0,
        "features": output_dir.parent / "features",
    }
    return VisualRecipe(model="random", output_dir=output_dir, **defaults | settings)


def test_every_visual_cell_scores_as_by_one_forward_of_its_own(tmp_path):
    grid = Grid(lengths=(2, 3, 16, 30), depths=(0.0, 0.2, 0.6, 1.0))
    recipe = visual_recipe(tmp_path / "run", grid=grid, needles=NeedleRecipe(count=3))
    model = tree_model(recipe, hidden_size=32)
    probes = ask(recipe, make_needles(recipe.needles), num_pictures=30)
    run_visual(recipe, model=model)
    rows = read_rows(recipe.output_dir)
    assert len(rows) == 4 * 4 * 3
    for probe in probes:
        is_greedy, logprob = one_forward(model, probe)
        row = rows[probe.row.key]
        assert row.is_greedy == is_greedy
        assert row.logprob == pytest.approx(logprob, abs=HELD + SAME)


def test_right_answers_are_found_right(tmp_path):
    recipe = visual_recipe(tmp_path / "run", max_new_tokens=3)
    model = tree_model(recipe)
    words = [i for i in range(len(model.tokenizer)) if model.tokenizer.decode([i]).isalpha()]
    with torch.no_grad():  # so that what the model says can be written down as an answer
        others = torch.ones(len(model.tokenizer), dtype=torch.bool)
        others[words] = False
        model.model.lm_head.weight[others] = 0.0
    run_visual(recipe, model=model)
    asked = {}
    for probe in ask(recipe, make_needles(recipe.needles), num_pictures=12):
        said = read_rows(recipe.output_dir)[probe.row.key].generated
        asked[probe.row.key] = replace(probe, row=replace(probe.row, answer=said))
    for row in model.answer(list(asked.values())):
        assert row.is_greedy and row.predicted == row.answer == row.generated
        is_greedy, logprob = one_forward(model, asked[row.key])
        assert is_greedy and row.logprob == pytest.approx(logprob, abs=SAME)
    assert len({probe.row.answer for probe in asked.values()}) > 1


@pytest.mark.parametrize("distractors", [0, 3, 5])
def test_every_text_cell_scores_as_by_one_forward_of_its_own(tmp_path, distractors):
    recipe = TextRecipe(
        model="random",
        output_dir=tmp_path,
        grid=Grid(lengths=(600, 900), depths=(0.0, 0.5, 1.0)),
        trials=2,
        distractors=distractors,
        max_new_tokens=0,
    )
    asked = []

    class Listening(TreeModel):
        def answer(self, probes):
            asked.extend(probes)
            return super().answer(probes)

    model = tree_model(recipe, Listening)
    summary = run_text(recipe, model=model)
    rows = read_rows(tmp_path)
    assert len(asked) == len(rows) == 12
    for probe in asked:
        is_greedy, logprob = one_forward(model, probe)
        assert rows[probe.row.key].is_greedy == is_greedy
        assert rows[probe.row.key].logprob == pytest.approx(logprob, abs=HELD + SAME)
    assert summary["cost"]["flops_ratio"] > 1
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


class Pointing(TreeModel):
    """A model whose first head looks for one direction, which only needles' features have."""

    def __init__(self, model, *args, **options):
        attention = model.model.language_model.layers[0].self_attn
        with torch.no_grad():
            for projection in (attention.q_proj, attention.k_proj):
                projection.weight.zero_()
                projection.bias.zero_()
            channel = attention.head_dim // 2 - 1  # turns slowest under RoPE
            attention.q_proj.bias[channel] = 20.0
            attention.k_proj.weight[channel, 0] = 1.0
        super().__init__(model, *args, **options)

    def encode(self, pictures, cache):
        super().encode(pictures, cache)
        haystack = len(pictures[0]) * self.tokens_per_frame
        self.features = self.features.clone()
        self.features[:, 0] = 0.0
        self.features[haystack:, 0] = 100.0


@pytest.mark.parametrize("kind", ["depth", "absolute"])
def test_localisation_finds_what_attention_must_point_at(tmp_path, kind):
    grid = Grid(lengths=(10, 20, 30), depths=(0.0, 0.3, 0.7, 1.0), kind=kind)
    recipe = visual_recipe(tmp_path / "run", grid=grid)
    summary = run_visual(recipe, model=tree_model(recipe, Pointing, evidence_heads=[[0, 0]]))
    assert summary["localisation"] == {
        "hit@1": 1.0,
        "hit@5": 1.0,
        "median_abs_error_seconds": 0.0,
    }
    details = json.loads((recipe.output_dir / "details.json").read_text())
    assert details["localisation_chance"]["hit@1"] < 0.1
    assert (recipe.output_dir / "localisation.png").is_file()


def test_evidence_is_the_attention_of_the_answers_positions_by_frame(tmp_path):
    found = []

    class Noting(TreeModel):
        def per_frame(self, weights, prompt):
            found.append(super().per_frame(weights, prompt))
            return found[-1]

    recipe = visual_recipe(tmp_path / "run")
    model = tree_model(recipe, Noting)
    run_visual(recipe, model=model)
    probe = ask(recipe, make_needles(recipe.needles), num_pictures=12)[-1]
    (row,) = model.answer([probe])
    longva = model.model
    (symbols,) = model.prompts([probe])
    ids = torch.cat([*symbols.pieces, torch.tensor(symbols.answer[:-1], dtype=torch.int64)])
    x = longva.get_input_embeddings()(ids.clamp_min(0))
    x[ids < 0] = model.features[-1 - ids[ids < 0]]
    longva.set_attn_implementation({"text_config": "eager"})
    with torch.inference_mode():
        seen = longva.model.language_model(inputs_embeds=x[None], output_attentions=True).attentions
    weights = torch.stack(seen)[:, 0, :, -len(symbols.answer) :].mean((0, 1, 2))  # [L]
    first = len(symbols.pieces[0])
    per_frame = weights[first : first + 4 * len(probe.frames)].unflatten(0, (-1, 4)).sum(1)
    torch.testing.assert_close(found[-1], per_frame, rtol=0, atol=SAME)
    assert row.evidence_frames == per_frame.topk(5).indices.tolist()


def test_features_are_encoded_once_and_kept(tmp_path):
    recipe = visual_recipe(tmp_path / "a")
    first = tree_model(recipe)
    run_visual(recipe, model=first)

    class Blind(TreeModel):
        def _encode(self, pixels):
            raise AssertionError("encoded again")

    again = visual_recipe(tmp_path / "b")
    second = tree_model(again, Blind)
    run_visual(again, model=second)
    assert torch.equal(first.features, second.features)
    assert list(read_rows(tmp_path / "a").values()) == list(read_rows(tmp_path / "b").values())


def test_what_changes_answers_changes_the_fingerprint(tmp_path):
    def fingerprint(seed=0, rope_theta=1e6, evidence_heads=None, **settings):
        recipe = visual_recipe(tmp_path, **settings)
        config = {"rope_theta": rope_theta, "evidence_heads": evidence_heads}
        return tree_model(recipe, seed=seed, **config).fingerprint()

    same = fingerprint()
    assert fingerprint(chunk_tokens=7) == same
    assert fingerprint(seed=1)["weights"] != same["weights"]
    assert fingerprint(evidence_heads=[[0, 1]]) != same
    for changed in ({"rope_theta": 1e7}, {"kv": "int8"}, {"template": "vicuna"}):
        settings = {k: v for k, v in changed.items() if k != "rope_theta"}
        theta = {k: v for k, v in changed.items() if k == "rope_theta"}
        assert fingerprint(**settings, **theta) != same
    assert same["training_length"] == 32_768 and same["tokens_per_frame"] == 4


def test_a_changed_weight_far_inside_a_matrix_is_another_model():
    (a, _), (b, _) = random_longva(seed=0), random_longva(seed=0)
    assert weights_fingerprint(a) == weights_fingerprint(b)
    with torch.no_grad():
        b.lm_head.weight[-1, -1] *= 1.001
    assert weights_fingerprint(a) != weights_fingerprint(b)


def test_a_rope_base_set_after_loading_is_as_good_as_one_loaded():
    loaded, changed = (random_longva(rope_theta=b, dtype=torch.float64)[0] for b in (1e8, 1e6))
    ids = torch.randint(0, 256, (1, 200))
    with torch.inference_mode():
        want = loaded(input_ids=ids).logits
        assert not torch.allclose(changed(input_ids=ids).logits, want, atol=1e-3)
        set_rope_theta(changed, 1e8)
        torch.testing.assert_close(changed(input_ids=ids).logits, want, rtol=0, atol=SAME)


def test_the_recipes_rope_base_reaches_the_model(tmp_path):
    model = tree_model(visual_recipe(tmp_path, rope_theta=3e7))
    assert model.fingerprint()["rope_theta"] == 3e7
    assert model.model.model.language_model.config.rope_parameters["rope_theta"] == 3e7


def rows_of(folder: Path) -> list[dict]:
    return [vars(row) | {"logprob": None} for row in read_rows(folder).values()]


def check_same(folder: Path, whole: Path) -> None:
    """Same rows; log-probabilities as near as other chunks, which add up in another order, come."""
    assert rows_of(folder) == rows_of(whole)
    pairs = zip(read_rows(folder).values(), read_rows(whole).values(), strict=True)
    assert all(abs(a.logprob - b.logprob) <= 2 * HELD + SAME for a, b in pairs)


def real_run(rank: int, world_size: int, output_dir: Path) -> None:
    recipe = visual_recipe(output_dir, max_new_tokens=3, ask_time=True)
    run_visual(recipe, model=tree_model(recipe))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """What a single process measures without a break."""
    folder = tmp_path_factory.mktemp("whole")
    real_run(0, 1, folder)
    return folder


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_give_the_rows_of_a_single_process(whole, tmp_path, world_size):
    run_distributed(real_run, world_size, tmp_path / "ranks")
    assert sorted(p.name for p in (tmp_path / "ranks").glob("cells*")) == ["cells.jsonl"]
    check_same(tmp_path / "ranks", whole)


def test_a_killed_run_of_a_real_model_resumes_to_the_same_rows(whole, tmp_path):
    rng, file = random.Random(3), tmp_path / "run" / "cells.jsonl"
    torch.set_num_threads(1)  # a forked OpenMP pool would hang
    for _ in range(4):
        child = get_context("fork").Process(target=real_run, args=(0, 1, tmp_path / "run"))
        child.start()
        rows = len(read_rows(tmp_path / "run"))
        while child.is_alive() and (not file.exists() or len(read_rows(file.parent)) == rows):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    real_run(0, 1, tmp_path / "run")
    check_same(tmp_path / "run", whole)


def test_a_saved_model_measures_a_looped_video_from_a_recipe_file(tmp_path, video):
    model, processor = random_longva()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    names = [needle["path"] for needle in json.loads(PAPER_NEEDLES.read_text())]
    for name in names[:3]:
        Image.new("RGB", (30, 20), "red").save(tmp_path / name)
    (tmp_path / "recipe.yaml").write_text(
        f"""
        model: {tmp_path}/model
        output_dir: {tmp_path}/run
        grid: {{lengths: [10, 20], depths: [0.0, 0.5, 1.0]}}
        haystack: {{videos: [{video}], loop: true}}
        needles: {{source: paper, folder: {tmp_path}, names: [{", ".join(names[:3])}]}}
        """
    )
    recipe = load_recipe(VisualRecipe, tmp_path / "recipe.yaml")
    summary = run_visual(recipe)
    assert (summary["cells"], summary["trials_per_cell"]) == (6, 3)
    assert summary["chance"] == pytest.approx(0.25 / 3)
    assert run_visual(recipe) == summary  # nothing is left to do
    random_longva(seed=1)[0].save_pretrained(tmp_path / "model")
    with pytest.raises(RecipeError, match=r"model.weights: .* there, .* asked for"):
        run_visual(recipe)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("needles.name=[a]", "needles.name: unknown key.*did you mean names"),
        ("training_lenght=3", "did you mean training_length"),
        ("grid.lengths.steps=3", "grid.lengths.Span.steps: unknown key.*did you mean step"),
        ("adapter=vllm", "adapter: .*'tree', 'huggingface' or 'openai'.*got 'vllm'"),
        ("needles.count=0", "needles: needles need count of 1 or more"),
    ],
)
def test_a_mistake_in_a_visual_recipe_is_explained(tmp_path, override, message):
    (tmp_path / "recipe.yaml").write_text(
        "model: m\noutput_dir: o\ngrid: {lengths: {start: 1, stop: 2, step: 1}}"
    )
    with pytest.raises(RecipeError, match=message):
        load_recipe(VisualRecipe, tmp_path / "recipe.yaml", [override])


def test_a_text_model_shown_frames_says_so(tmp_path):
    model = tree_model(visual_recipe(tmp_path))
    model.tokens_per_frame = None
    with pytest.raises(RecipeError, match="reads text only. Measure it with `longva niah text`"):
        model.encode(["a film"], tmp_path)


def text_recipe_of(family: str, tmp_path: Path, **settings) -> TextRecipe:
    """A recipe of a tiny random language model of a family, saved where the recipe says."""
    tokenizer = byte_tokenizer()
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / family)
    tokenizer.save_pretrained(tmp_path / family)
    return TextRecipe(
        model=str(tmp_path / family),
        output_dir=tmp_path / "run",
        grid=Grid(lengths=(400, 600), depths=(0.5,)),
        trials=1,
        max_new_tokens=4,
        **settings,
    )


def test_any_causal_language_model_reads_text(tmp_path):
    summary = run_text(text_recipe_of("llama", tmp_path))
    assert summary["cells"] == 2  # one of them beyond the context of 512
    row = read_rows(tmp_path / "run")[600, 0.5, 0]
    assert len(row.answer) == len(row.predicted) and row.generated is not None


def test_a_model_without_rope_reads_text_but_has_no_base_to_set(tmp_path):
    recipe = text_recipe_of("gpt2", tmp_path)
    recipe = replace(recipe, grid=Grid(lengths=(400,), depths=(0.5,)))
    assert run_text(recipe)["cells"] == 1
    with pytest.raises(LongVAError, match="gpt2 has no single RoPE base but None"):
        run_text(replace(recipe, rope_theta=1e6))


def test_a_model_of_windows_and_two_rope_bases_is_refused(tmp_path):
    with pytest.raises(LongVAError, match="gemma3_text has layers that do not keep every token"):
        run_text(text_recipe_of("gemma3_text", tmp_path))
    with pytest.raises(LongVAError, match="gemma3_text has no single RoPE base but {'"):
        run_text(text_recipe_of("gemma3_text", tmp_path, rope_theta=1e6))


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    recipe = text_recipe_of("llama", tmp_path)
    (tmp_path / "llama" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot load '.*llama': OSError: .*safetensors"):
        run_text(recipe)
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "abacus"}')
    with pytest.raises(CheckpointError, match="cannot load '.*llama': ValueError: .*abacus"):
        run_text(recipe)


def give_dynamic_rope(longva):
    """Make a LongVA's rotary frequencies depend on the length above 64 tokens."""
    decoder = longva.get_decoder()
    decoder.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    decoder.config.max_position_embeddings = 64
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config)


def dynamic_model(recipe):
    model, processor = random_longva(dtype=torch.float64)
    give_dynamic_rope(model)
    return tree_model_of(LongVA(model, processor, name="random"), recipe)


def test_visual_cells_of_rope_that_depends_on_the_length_are_one_forward_each(tmp_path):
    settings = {"grid": Grid(lengths=(6, 9), depths=(0.5,)), "needles": NeedleRecipe(count=1)}
    recipe = visual_recipe(tmp_path / "run", max_new_tokens=1, **settings)
    reference = dynamic_model(recipe)
    summary = run_visual(recipe, model=reference)
    rows = read_rows(recipe.output_dir)
    for probe in ask(recipe, make_needles(recipe.needles), num_pictures=9):
        fed = reference.tokenizer(probe.row.answer, add_special_tokens=False)["input_ids"][:-1]
        forget_length(reference.model.get_decoder())
        logprob = forward_logprob(reference, probe, fed)
        assert rows[probe.row.key].logprob == pytest.approx(logprob, abs=1e-4)
        assert rows[probe.row.key].evidence_frame is not None
    cost = summary["cost"]
    assert cost["tokens_processed"] == cost["tokens_one_forward_per_cell"] > 0
    assert cost["flops_ratio"] == 1
    assert cost["one_forward_because"] == "dynamic RoPE depends on the prompt's length"


@torch.inference_mode()
def forward_logprob(model, probe, fed):
    """One plain forward over the prompt and all of its answer but the last token."""

    def ids(text):
        return torch.tensor(model.tokenizer(text, add_special_tokens=False)["input_ids"])

    embed, template = model.model.get_input_embeddings(), TEMPLATES["qwen2"]
    frames = model.features.unflatten(0, (-1, model.tokens_per_frame))[probe.frames]
    after = torch.cat([ids(probe.row.question), ids(template["after"]), torch.tensor(fed).long()])
    x = torch.cat([embed(ids(template["before"])), frames.flatten(0, 1), embed(after)])
    answer = ids(probe.row.answer)
    logits = model.model(inputs_embeds=x[None], logits_to_keep=len(answer)).logits[0]
    return logits.log_softmax(-1)[torch.arange(len(answer)), answer].sum().item()


@pytest.mark.parametrize("theta", [float("nan"), float("inf"), 0.0])
def test_a_rope_base_that_is_none_is_refused(theta, tmp_path):
    with pytest.raises(LongVAError, match="rope_theta must be a number above 0, got"):
        tree_model(visual_recipe(tmp_path, rope_theta=theta))


def test_a_cell_does_not_depend_on_the_other_cells_of_the_grid(tmp_path):
    def rows(name, lengths):
        grid = Grid(lengths=lengths, depths=(0.0, 1.0))
        recipe = TextRecipe(
            model="random", output_dir=tmp_path / name, grid=grid, trials=1, max_new_tokens=2
        )
        run_text(recipe, model=dynamic_model(recipe))
        return {key: vars(row) for key, row in read_rows(recipe.output_dir).items()}

    few, many = rows("few", (400,)), rows("many", (400, 500))
    assert few == {key: many[key] for key in few}


def test_what_rope_that_depends_on_the_length_rules_out_is_said(tmp_path):
    with pytest.raises(RecipeError, match="kv: int8 has no effect: with dynamic RoPE.*kv='model'"):
        dynamic_model(visual_recipe(tmp_path, kv="int8"))
    model, processor = random_longva()
    give_dynamic_rope(model)
    longva = LongVA(model, processor, name="random")
    with pytest.raises(LongVAError, match=r"longva \(dynamic\).*niah.*config.json"):
        longva.watch(tmp_path / "any.mp4")
    with pytest.raises(LongVAError, match="dynamic RoPE .* a rank of a ring sees only its share"):
        check_ring(model.get_decoder())


@pytest.mark.parametrize("kind", ["text", "visual"])
def test_a_model_that_computes_nan_is_no_measurement(kind, tmp_path):
    settings = {"grid": Grid(lengths=(300,), depths=(0.5,)), "max_new_tokens": 2}
    if kind == "text":
        recipe = TextRecipe(model="random", output_dir=tmp_path / "run", trials=1, **settings)
    else:
        recipe = visual_recipe(tmp_path / "run", grid=Grid(lengths=(3,), depths=(0.5,)))
    measure = {"text": run_text, "visual": run_visual}[kind]
    model = tree_model(recipe)
    broken = model.model.get_decoder().layers[1].mlp.down_proj.weight.data
    was = broken[0, 0].clone()
    broken[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="the model computed NaN or infinity: its logits"):
        measure(recipe, model=model)
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert not {"heatmap.png", "summary.json", "cells.jsonl"} & written
    broken[0, 0] = was  # another model by its weights, for which the folder is free
    assert measure(recipe, model=model)["cells"] == 1


def test_features_that_are_no_numbers_are_not_kept(tmp_path):
    recipe = visual_recipe(tmp_path / "run")
    model = tree_model(recipe)
    model.model.model.multi_modal_projector.linear_2.bias.data[0] = float("inf")
    with pytest.raises(NonFiniteError, match="its features of frames"):
        run_visual(recipe, model=model)
    assert not list((tmp_path / "features").glob("*"))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "bloom"])
def test_any_causal_language_model_is_measured_by_its_folder(family, tmp_path):
    tokenizer = byte_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_attention_heads": 4}
    kinds = {
        "gpt2": GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4),
        "gpt_neox": GPTNeoXConfig(**sizes, num_hidden_layers=2, intermediate_size=48),
        "bloom": BloomConfig(**sizes, n_layer=2),
    }
    config = kinds[family]
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    recipe = TextRecipe(
        model=str(tmp_path / "model"),
        output_dir=tmp_path / "run",
        grid=Grid(lengths=(300, 400), depths=(0.0, 1.0)),
        trials=1,
        max_new_tokens=1,
    )
    summary = run_text(recipe)
    assert summary["cells"] == 4
    assert summary["cost"]["flops_ratio"] > 1
    assert (tmp_path / "run" / "heatmap.png").is_file()
