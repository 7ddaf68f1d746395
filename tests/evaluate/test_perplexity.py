import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from longva.errors import NonFiniteError, RecipeError
from longva.evaluate.perplexity import (
    PerplexityRecipe,
    full_losses,
    plot_perplexity,
    read_csv,
    run_perplexity,
    sliding_losses,
    token_losses,
)
from longva.model.random_model import random_longva
from tests.tolerance import SAME


@pytest.fixture(scope="module")
def model():
    return random_longva(dtype=torch.float64)[0]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    random_longva()[1].save_pretrained(path)
    return path


def plain_losses(model, ids):
    with torch.inference_mode():
        logits = model(input_ids=ids[None]).logits[0]
    return F.cross_entropy(logits[:-1], ids[1:], reduction="none")


@pytest.mark.parametrize("chunk_tokens", [5, 64, 1000])
def test_losses_are_those_of_one_plain_forward(model, chunk_tokens):
    ids = torch.randint(0, 256, (100,))
    got = token_losses(model, ids, chunk_tokens)
    torch.testing.assert_close(got, plain_losses(model, ids), rtol=0, atol=SAME)


def test_sliding_windows_score_every_token_once_with_their_context(model):
    ids = torch.randint(0, 256, (23,))
    got = sliding_losses(model, ids, length=10, stride=4, chunk_tokens=64)
    want = [plain_losses(model, ids[:10])]
    for stop, scored in ((14, 4), (18, 4), (22, 4), (23, 1)):
        want.append(plain_losses(model, ids[stop - 10 : stop])[-scored:])
    assert len(got) == 22
    torch.testing.assert_close(got, torch.cat(want), rtol=0, atol=SAME)


@pytest.mark.parametrize("mode", ["full", "sliding"])
def test_rope_that_depends_on_the_length_reads_every_length_by_itself(mode, tmp_path):
    def fresh():
        torch.manual_seed(0)
        rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
        config = LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            initializer_range=0.3,
            rope_parameters=rope,
        )
        return LlamaForCausalLM(config).eval()

    ids, model = torch.randint(0, 40, (60,)), fresh()
    if mode == "full":
        settings = PerplexityRecipe(
            model="random", output_dir=tmp_path, lengths=(10, 30, 60), chunk_tokens=7
        )
        got = full_losses(model, ids, [10, 30, 60], settings.chunk_tokens)
        want = [plain_losses(fresh(), ids[:length]) for length in (10, 30, 60)]
        one_pass = plain_losses(fresh(), ids)
        assert not torch.allclose(got[1], one_pass[:29], atol=0.01)
    else:
        got = [sliding_losses(model, ids, length=30, stride=20, chunk_tokens=7)]
        windows = (ids[:30], 29), (ids[20:50], 20), (ids[30:], 10)
        want = [torch.cat([plain_losses(fresh(), w)[-n:] for w, n in windows])]
    for ours, plain in zip(got, want, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_losses_that_are_no_numbers_leave_nothing_behind(folder, tmp_path):
    model, processor = random_longva()
    model.lm_head.weight.data[5] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    with pytest.raises(NonFiniteError, match="its logits"):
        run_perplexity(recipe(tmp_path / "broken", tmp_path, lengths=(20,), documents=1))
    assert not (tmp_path / "run").exists()
    model.lm_head.weight.data[:] = 0.0
    model.lm_head.weight.data[5] = 1e4  # finite logits and losses, and a perplexity of e to them
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(NonFiniteError, match="its perplexity"):
        run_perplexity(recipe(tmp_path / "broken", tmp_path, lengths=(20,), documents=1))
    assert not (tmp_path / "run").exists()


def recipe(folder, tmp_path, **settings) -> PerplexityRecipe:
    return PerplexityRecipe(model=str(folder), output_dir=tmp_path / "run", **settings)


def test_perplexity_by_length_is_over_the_start_of_each_document(model, folder, tmp_path):
    (tmp_path / "text.txt").write_text("abcdefghij" * 9)
    points = run_perplexity(
        recipe(folder, tmp_path, text=tmp_path / "text.txt", lengths=(10, 40), documents=2)
    )
    vocabulary = random_longva()[1].tokenizer
    documents = torch.tensor(vocabulary("abcdefghij" * 9)["input_ids"])[:80].unflatten(0, (2, 40))
    losses = torch.stack([plain_losses(model, document) for document in documents])
    for point, length in zip(points, (10, 40), strict=True):
        want = math.exp(losses[:, : length - 1].mean())
        # It ran in float32: logits of up to 10 are off by some 1e-6, and so is a mean loss.
        assert point.perplexity == pytest.approx(want, rel=1e-5)
        assert (point.tokens, point.scored_tokens) == (length, 2 * (length - 1))
    written = [p.perplexity for p in read_csv(tmp_path / "run" / "perplexity.csv")]
    assert written == pytest.approx([p.perplexity for p in points], rel=1e-5)
    picture = Image.open(tmp_path / "run" / "perplexity.png").convert("L")
    assert picture.getextrema()[0] < 100  # something is drawn
    assert (tmp_path / "run" / "recipe.yaml").is_file()


def test_sliding_mode_scores_whole_documents_at_every_length(folder, tmp_path):
    points = run_perplexity(
        recipe(folder, tmp_path, lengths=(20, 60), mode="sliding", stride=16, documents=1)
    )
    assert [point.scored_tokens for point in points] == [59, 59]


def test_a_text_that_is_too_short_says_so(folder, tmp_path):
    (tmp_path / "text.txt").write_text("short")
    with pytest.raises(RecipeError, match="has 5 tokens, the longest length is 10"):
        run_perplexity(recipe(folder, tmp_path, text=tmp_path / "text.txt", lengths=(10,)))


def test_a_missing_text_is_found_before_the_model_is_looked_for(tmp_path):
    missing = recipe(tmp_path / "no model", tmp_path, text=tmp_path / "absent", lengths=(10,))
    with pytest.raises(RecipeError, match="text: .*absent is neither .* Try text=None"):
        run_perplexity(missing)


def test_runs_without_a_measurement_are_named(tmp_path):
    with pytest.raises(RecipeError, match="holds no perplexity.csv"):
        plot_perplexity([tmp_path], tmp_path / "x.png")


def test_lengths_without_a_target_are_refused(folder, tmp_path):
    with pytest.raises(RecipeError, match="2 tokens or more"):
        recipe(folder, tmp_path, lengths=(1,))


@pytest.mark.parametrize("stride", [10, 256])
def test_windows_that_would_leave_tokens_out_are_refused(folder, tmp_path, stride):
    with pytest.raises(RecipeError, match="Try stride=5"):
        recipe(folder, tmp_path, lengths=(10, 400), mode="sliding", stride=stride)
    recipe(folder, tmp_path, lengths=(10, 400), stride=stride)  # of no matter to `full`
