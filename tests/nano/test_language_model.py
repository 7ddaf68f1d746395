import json
from importlib.resources import files

import torch

from longva.checkpoints.language_model import load_tokenizer
from longva.nano.language_model import (
    LOOK_BACK,
    initial_language_model,
    save_initial_language_model,
)
from longva.nano.words import word_tokenizer
from longva.niah.scoring import answers_match


def attention_of_first_layer(model, ids):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(ids, output_attentions=True).attentions[0][0]  # [H, L, L]


def test_the_first_heads_look_back_by_their_offsets_whatever_the_words_are():
    model = initial_language_model(seed=0)
    ids = torch.randint(6, 400, (1, 200), generator=torch.Generator().manual_seed(1))
    attention = attention_of_first_layer(model, ids)
    free = attention[len(LOOK_BACK)]
    for head, offset in enumerate(LOOK_BACK):
        assert attention[head].diagonal(-offset).mean() > 0.6
        assert free.diagonal(-offset).mean() < 0.1


def test_the_last_head_of_the_first_layer_is_free():
    model = initial_language_model(seed=0)
    bias = model.model.layers[0].self_attn.q_proj.bias.view(-1, model.config.head_dim)
    assert bias[: len(LOOK_BACK)].abs().sum() > 0
    assert bias[len(LOOK_BACK) :].abs().sum() == 0


def test_the_same_seed_makes_the_same_weights_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    first, again = initial_language_model(3), initial_language_model(3)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(
        first.model.embed_tokens.weight, initial_language_model(4).model.embed_tokens.weight
    )
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_saved_checkpoint_keeps_its_tokenizer_of_words(tmp_path):
    save_initial_language_model(tmp_path, seed=0)
    text = "What number is with the anchor? 4471"
    assert load_tokenizer(str(tmp_path)).tokenize(text) == word_tokenizer().tokenize(text)


def test_an_honest_checkpoint_has_words_of_its_own(tmp_path):
    save_initial_language_model(tmp_path, seed=0, honest=True)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.tokenize("No anchors, yes?") == ["no", "anchor", ",", "yes", "?"]
    assert initial_language_model(0, honest=True).config.vocab_size == len(tokenizer)


def test_a_number_that_is_spoken_two_digits_at_a_time_counts_as_the_answer():
    tokenizer = word_tokenizer()
    spoken = tokenizer.decode(tokenizer("68604975")["input_ids"])
    assert answers_match(spoken, "68604975")
    assert not answers_match(spoken, "68604973")


def test_the_shipped_tokenizer_is_the_one_of_the_code():
    shipped = json.loads((files("longva.nano") / "checkpoint" / "tokenizer.json").read_text())
    built = json.loads(word_tokenizer(honest=True).backend_tokenizer.to_str())
    assert shipped == built
