import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from longva.attention.evidence import EvidenceCollector
from longva.errors import ContextLengthError, LongVAError, NonFiniteError
from longva.niah.loading import prepare
from longva.prompts.excerpt import excerpt
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.kv_layers import CAPACITY_STEP, dequantise, quantise
from longva.prompts.recomputed import RecomputedSequence
from longva.prompts.symbols import common_prefix
from tests.tolerance import SAME

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # random weights that attend sharply and have opinions
}


def tiny_model(family="qwen2", **changes):
    torch.manual_seed(0)
    config, model = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[family]
    return model(config(**SIZES | changes)).eval().double()


def symbols_and_table(n=37):
    """Token ids with rows of a table of embeddings among them."""
    generator = torch.Generator().manual_seed(1)
    symbols = torch.randint(0, 40, (n,), generator=generator)
    symbols[5:17] = -1 - torch.randint(0, 9, (12,), generator=generator)
    return symbols, torch.randn(9, 32, generator=generator, dtype=torch.float64)


@torch.no_grad()
def logits_of_one_forward(model, symbols, table):
    x = model.get_input_embeddings()(symbols.clamp_min(0))
    for position, symbol in enumerate(symbols.tolist()):
        if symbol < 0:
            x[position] = table[-1 - symbol]
    return model(inputs_embeds=x[None]).logits[0]


@torch.no_grad()
def test_an_excerpt_answers_as_if_what_is_left_out_could_not_be_seen_any_more():
    model = tiny_model(attn_implementation="sdpa")
    symbols, _ = symbols_and_table()
    symbols, question = symbols[17:].abs(), torch.tensor([3, 14, 15, 9, 2, 6])
    sequence = CachedSequence(model)
    sequence.append(symbols)
    part = excerpt(sequence, [(0, 4), (9, 13)])
    states = [part.append(question[:4], keep=4), part.append(question[4:], keep=2)]

    everything = torch.cat([symbols[:13], question])  # what came later never mattered
    sees = torch.ones(19, 19, dtype=torch.bool).tril()
    sees[13:, 4:9] = False
    mask = torch.zeros(1, 1, 19, 19, dtype=torch.float64).masked_fill(~sees, -torch.inf)
    want = model(input_ids=everything[None], attention_mask=mask).logits[0, 13:]
    torch.testing.assert_close(part.logits(torch.cat(states)), want, atol=SAME, rtol=0)

    before = CachedSequence(model)
    before.append(symbols)
    again = [s.append(question[:1]) for s in (sequence, before)]  # the whole is as it was
    torch.testing.assert_close(*again, atol=SAME, rtol=0)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("chunk_tokens", [1, 5, 36, 37, 4096])
def test_chunked_appends_give_the_logits_of_one_forward(family, chunk_tokens):
    model = tiny_model(family)
    symbols, table = symbols_and_table()
    sequence = CachedSequence(model, chunk_tokens=chunk_tokens)
    hidden = torch.cat(
        [
            sequence.append(symbols[:13], embeddings=table, keep=13),
            sequence.append(symbols[13:], embeddings=table, keep=24),
        ]
    )
    want = logits_of_one_forward(model, symbols, table)
    torch.testing.assert_close(sequence.logits(hidden), want, atol=SAME, rtol=0)
    assert sequence.length == 37


@pytest.mark.parametrize("kv_dtype", ["model", "int8", "int4"])
def test_a_cropped_sequence_goes_on_as_if_the_rest_had_never_been_there(kv_dtype):
    model = tiny_model()
    symbols, table = symbols_and_table()
    fresh = CachedSequence(model, chunk_tokens=7, kv_dtype=kv_dtype)
    want = fresh.append(symbols, embeddings=table, keep=8)
    sequence = CachedSequence(model, chunk_tokens=7, kv_dtype=kv_dtype)
    sequence.append(symbols[:20], embeddings=table)
    sequence.append(torch.arange(30), keep=0)
    sequence.crop(23)
    sequence.crop(11)
    got = sequence.append(symbols[11:], embeddings=table, keep=8)
    torch.testing.assert_close(got, want, atol=SAME, rtol=0)


def test_hidden_states_are_kept_across_chunks():
    sequence = CachedSequence(tiny_model(), chunk_tokens=4)
    all_ten = sequence.append(torch.arange(10), keep=10)
    sequence.crop(0)
    seven = sequence.append(torch.arange(10), keep=7)
    torch.testing.assert_close(seven, all_ten[3:], atol=SAME, rtol=0)
    sequence.crop(0)
    assert sequence.append(torch.arange(10), keep=0).shape == (0, 32)
    with pytest.raises(ValueError, match="between 0 and the 2 appended symbols, got 3"):
        sequence.append(torch.arange(2), keep=3)


@pytest.mark.parametrize(("kv_dtype", "bound"), [("int8", 0.02), ("int4", 0.35)])
def test_quantised_caches_stay_close_to_full_precision(kv_dtype, bound):
    """Bound: mean absolute difference of the logits, in units of their standard deviation."""
    model = tiny_model()
    symbols, table = symbols_and_table()
    want = logits_of_one_forward(model, symbols, table)
    sequence = CachedSequence(model, chunk_tokens=5, kv_dtype=kv_dtype)
    got = sequence.logits(sequence.append(symbols, embeddings=table, keep=37))
    error = ((got - want).abs().mean() / want.std()).item()
    assert 0 < error < bound


def test_quantised_results_do_not_depend_on_the_chunks():
    model = tiny_model()
    symbols, table = symbols_and_table()
    whole = CachedSequence(model, kv_dtype="int8").append(symbols, embeddings=table, keep=37)
    parts = CachedSequence(model, kv_dtype="int8", chunk_tokens=3)
    got = parts.append(symbols, embeddings=table, keep=37)
    torch.testing.assert_close(got, whole, atol=SAME, rtol=0)


@pytest.mark.parametrize(("bits", "largest", "groups"), [(8, 127, 1), (4, 7, 2)])
def test_rounding_errs_by_at_most_half_a_step(bits, largest, groups):
    x = torch.randn(1, 3, 10, 64)
    x[0, 0, 0] = 0
    x[0, 0, 1, 5] = 100.0  # one large channel
    codes, scales = quantise(x, bits)
    assert codes.nbytes == x.numel() * bits // 8
    assert scales.shape == (1, 3, 10, groups)
    step = x.unflatten(-1, (groups, -1)).abs().amax(-1, keepdim=True) / largest
    error = (dequantise(codes, scales, x.dtype) - x).unflatten(-1, (groups, -1)).abs()
    scale = step * (1 + 2**-8)  # at most: it is rounded to the 8 bits of bfloat16
    assert (error <= scale / 2 + 1e-5).all()  # 1e-5: float32 of numbers up to 100
    assert dequantise(codes, scales, x.dtype)[0, 0, 0].count_nonzero() == 0


@pytest.mark.parametrize(
    ("kv_dtype", "bytes_per_head_and_token"),
    [
        ("model", 8 * 8),  # 8 channels, float64
        ("int8", 8 + 2),  # codes, one bfloat16 scale
        ("int4", 4 + 2),
    ],
)
def test_bytes_held(kv_dtype, bytes_per_head_and_token):
    sequence = CachedSequence(tiny_model(), kv_dtype=kv_dtype, chunk_tokens=8)
    assert sequence.kv_bytes == 0
    sequence.append(torch.arange(20))
    per_token = 2 * 2 * 2 * bytes_per_head_and_token  # layers, keys and values, heads
    assert sequence.kv_bytes == CAPACITY_STEP * per_token
    sequence.crop(0)
    sequence.reserve(CAPACITY_STEP + 1)
    sequence.append(torch.arange(3))
    assert sequence.kv_bytes == 2 * CAPACITY_STEP * per_token


def test_growing_keeps_what_is_held():
    model = tiny_model(max_position_embeddings=4096)
    symbols = torch.randint(0, 40, (2 * CAPACITY_STEP + 9,))
    sequence = CachedSequence(model)
    for part in symbols.split(100):
        hidden = sequence.append(part)
    want = logits_of_one_forward(model, symbols, None)[-1:]
    torch.testing.assert_close(sequence.logits(hidden), want, atol=SAME, rtol=0)


def test_the_context_is_guarded():
    sequence = CachedSequence(tiny_model())
    sequence.append(torch.arange(40))
    message = "would be 65 tokens long, but the model's context is 64 tokens. Shorten it by 1 token"
    with pytest.raises(ContextLengthError, match=message):
        sequence.append(torch.arange(25))
    assert sequence.length == 40
    sequence.append(torch.arange(24))
    beyond = CachedSequence(tiny_model(), allow_beyond_context=True)
    beyond.append(torch.arange(100) % 40)
    assert beyond.length == 100


def test_a_failed_append_adds_nothing():
    model = tiny_model()

    def interrupt(_, done, total):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append((done, total))

    seen = []
    sequence = CachedSequence(model, chunk_tokens=4)
    sequence.progress = interrupt
    sequence.append(torch.arange(6))
    with pytest.raises(KeyboardInterrupt):
        sequence.append(torch.arange(30))
    assert seen == [(4, 6), (6, 6), (4, 30), (8, 30)]
    assert sequence.length == 6
    assert sequence.tokens_processed == 18
    sequence.progress = None
    got = sequence.logits(sequence.append(torch.arange(5)))
    want = logits_of_one_forward(model, torch.tensor([*range(6), *range(5)]), None)[-1:]
    torch.testing.assert_close(got, want, atol=SAME, rtol=0)


def test_an_append_that_did_not_fit_the_memory_does_not_spoil_the_next(monkeypatch):
    sequence = CachedSequence(tiny_model(max_position_embeddings=4096))
    sequence.append(torch.arange(6))
    allocate = torch.Tensor.new_empty

    def allocate_little(like, *shape, **kwargs):
        if len(shape) == 4 and shape[2] > 2 * CAPACITY_STEP:
            raise torch.OutOfMemoryError("out of memory")
        return allocate(like, *shape, **kwargs)

    monkeypatch.setattr(torch.Tensor, "new_empty", allocate_little)
    with pytest.raises(torch.OutOfMemoryError):
        sequence.append(torch.arange(2000) % 40)
    sequence.append(torch.arange(CAPACITY_STEP) % 40)
    assert sequence.length == 6 + CAPACITY_STEP


def test_keyword_arguments_reach_the_attention_function():
    model = tiny_model()
    seen = []
    attend = model.model.layers[0].self_attn.forward

    def spy(*args, **kwargs):
        seen.append(kwargs.pop("collector"))
        return attend(*args, **kwargs)

    model.model.layers[0].self_attn.forward = spy
    CachedSequence(model, chunk_tokens=4).append(torch.arange(6), collector="here")
    assert seen == ["here", "here"]


@pytest.mark.parametrize("num_queries", [1, 3, 9])
@pytest.mark.parametrize("chunk_tokens", [1, 2, 4, 5, 100])
def test_evidence_is_that_of_the_last_queries_whatever_the_chunks(num_queries, chunk_tokens):
    model = tiny_model().double()
    model.set_attn_implementation("evidence")
    weights = []
    for chunk in (chunk_tokens, 100):
        collector = EvidenceCollector(num_queries=num_queries)
        CachedSequence(model, chunk_tokens=chunk).append(torch.arange(10), evidence=collector)
        weights.append(collector.weights())
    torch.testing.assert_close(*weights, rtol=0, atol=1e-14)


def test_symbols_outside_their_tables_are_refused():
    sequence = CachedSequence(tiny_model())
    with pytest.raises(ValueError, match="refers to row 4 of the embeddings, which have 0 rows"):
        sequence.append(torch.tensor([1, -5]))
    with pytest.raises(ValueError, match="refers to row 4 of the embeddings, which have 4 rows"):
        sequence.append(torch.tensor([1, -5]), embeddings=torch.zeros(4, 32, dtype=torch.float64))
    with pytest.raises(ValueError, match="Token id 40 of a 40 word vocabulary"):
        sequence.append(torch.tensor([40]))
    with pytest.raises(ValueError, match="Cannot crop a sequence of 0 tokens to 1"):
        sequence.crop(1)


def test_models_whose_cache_cannot_be_cropped_are_refused():
    with pytest.raises(
        LongVAError, match="qwen2 has layers that do not keep every token: .*Sliding"
    ):
        CachedSequence(tiny_model(use_sliding_window=True, sliding_window=8, max_window_layers=1))
    mistral = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8))
    with pytest.raises(LongVAError, match="mistral has layers that do not keep every token"):
        CachedSequence(mistral)
    CachedSequence(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)))


def test_models_that_change_their_logits_are_refused():
    config = Gemma2Config(**SIZES, head_dim=8, layer_types=["full_attention"] * 2)
    with pytest.raises(LongVAError, match="gemma2 changes its logits .*final_logit_softcapping=30"):
        CachedSequence(Gemma2ForCausalLM(config))


def test_common_prefix():
    x = torch.tensor([5, -1, -2, 7])
    assert common_prefix(x, torch.tensor([6, -1])) == 0
    assert common_prefix(x, x.clone()) == 4
    assert common_prefix(x[:2], x) == 2
    assert common_prefix(x, x[:0]) == 0


def test_views_of_one_memory_are_equal_without_a_look():
    huge = torch.tensor([7]).expand(10**12)  # would take minutes to compare
    assert common_prefix(huge, huge[: 10**11]) == 10**11


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("word", [0, 39])
def test_logits_that_are_no_numbers_are_refused_however_they_are_read(bad, word):
    model = tiny_model()
    model.lm_head.weight.data[word, 3] = bad
    sequence = CachedSequence(model)
    hidden = sequence.append(torch.arange(5))

    def sample(logits):
        return torch.multinomial(logits.softmax(-1), 1)[0]

    for read in (
        sequence.logits,
        sequence.next_token,
        lambda hidden: sequence.next_token(hidden, sample),
    ):
        with pytest.raises(NonFiniteError, match="NaN or infinity: its logits"):
            read(hidden)


def test_the_next_token_is_the_most_probable_or_the_chosen_one():
    sequence = CachedSequence(tiny_model())
    hidden = sequence.append(torch.arange(5))
    logits = sequence.logits(hidden)
    assert sequence.next_token(hidden) == logits.argmax()
    assert sequence.next_token(hidden, lambda logits: logits.argmin(-1)) == logits.argmin()


ROPE = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def rope_model(rope_type, **parameters):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, **parameters}
    return tiny_model("llama", rope_parameters=rope)


@pytest.mark.parametrize("rope_type", ROPE)
def test_rope_that_is_stretched_once_for_all_is_cached_rightly(rope_type):
    model = rope_model(rope_type, **ROPE[rope_type])
    symbols, table = symbols_and_table()
    sequence = CachedSequence(model, chunk_tokens=5)
    got = sequence.logits(sequence.append(symbols, embeddings=table, keep=37))
    want = logits_of_one_forward(model, symbols, table)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_rope_that_depends_on_the_length_is_not_cached():
    model = rope_model("dynamic", factor=4.0)
    with pytest.raises(LongVAError, match=r"llama \(dynamic\) changes.*niah or longva perplexity"):
        CachedSequence(model)


def test_a_recomputed_sequence_is_one_plain_forward():
    model = rope_model("dynamic", factor=4.0)
    symbols = torch.arange(100) % 40
    table = torch.randn(9, 32)
    symbols[5:14] = -1 - torch.arange(9)
    sequence = RecomputedSequence(model, allow_beyond_context=True)
    sequence.append(symbols, embeddings=table)  # frequencies of a longer one: to be forgotten
    sequence.crop(20)
    assert sequence.append(symbols[20:30], keep=0).shape == (0, 32)
    hidden = sequence.append(symbols[30:80], keep=60 - 10)
    fresh = rope_model("dynamic", factor=4.0)
    want = logits_of_one_forward(fresh, symbols[:80], table)[-50:]
    torch.testing.assert_close(sequence.logits(hidden), want, atol=1e-5, rtol=0)
    assert (sequence.length, sequence.tokens_processed) == (80, 180)
    with pytest.raises(ContextLengthError):
        RecomputedSequence(model).append(symbols, embeddings=table)


PLAIN = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
FAMILIES = {
    "gpt2": lambda: GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": lambda: GPTNeoXConfig(**PLAIN),
    "opt": lambda: OPTConfig(**PLAIN, ffn_dim=48, word_embed_proj_dim=16),
    "gptj": lambda: GPTJConfig(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4
    ),
    "falcon": lambda: FalconConfig(**PLAIN, alibi=False),
    "falcon with ALiBi": lambda: FalconConfig(**PLAIN, alibi=True),
    "bloom": lambda: BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=4),
    "mpt": lambda: MptConfig(vocab_size=40, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    "phi": lambda: PhiConfig(**PLAIN),
    "gemma3 without windows": lambda: Gemma3TextConfig(
        **SIZES, head_dim=8, layer_types=["full_attention"] * 2
    ),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4, sliding_window=None),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_any_decoder_that_keeps_every_token_is_read_as_by_one_forward(family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    symbols = torch.randint(0, 40, (37,))
    want = logits_of_one_forward(model, symbols, None)
    prepare(model)
    sequence = CachedSequence(model, chunk_tokens=8)
    sequence.append(symbols[:15])
    sequence.append(symbols[:9])
    sequence.crop(11)
    got = sequence.logits(sequence.append(symbols[11:], keep=26))
    torch.testing.assert_close(got, want[11:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gptj", "mpt"])
def test_a_table_of_positions_ends_where_it_ends(family):
    model = AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    sequence = CachedSequence(model, allow_beyond_context=True)
    sequence.append(torch.arange(64) % 40)
    with pytest.raises(ContextLengthError, match="65 tokens long, but the model's context is 64"):
        sequence.append(torch.tensor([1]))


def test_a_recurrent_state_is_refused():
    model = MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2))
    with pytest.raises(LongVAError, match="mamba has layers that do not keep .*recurrent state"):
        CachedSequence(model)


def test_an_encoder_is_refused():
    with pytest.raises(LongVAError, match="BertLMHeadModel also attends to what follows"):
        CachedSequence(BertLMHeadModel(BertConfig(**PLAIN)))
    CachedSequence(BertLMHeadModel(BertConfig(**PLAIN, is_decoder=True)))


def test_a_decoder_that_leaves_a_layer_out_of_the_cache_is_refused():
    model = tiny_model()
    attend = model.model.layers[1].self_attn.forward

    def forgetful(*args, past_key_values=None, **kwargs):
        return attend(*args, **kwargs)

    model.model.layers[1].self_attn.forward = forgetful
    sequence = CachedSequence(model)
    with pytest.raises(LongVAError, match="Qwen2ForCausalLM does not keep every token"):
        sequence.append(torch.arange(5))
    assert sequence.length == 0


def test_a_converted_model_reads_as_one_that_was_loaded_in_half_precision(tmp_path):
    model = tiny_model(max_position_embeddings=300_000)
    model.save_pretrained(tmp_path)
    loaded = Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    symbols = torch.arange(37)

    def read(model):
        sequence = CachedSequence(model)
        far = torch.arange(223_000, 223_037)[None]
        return sequence.append(symbols, keep=37, position_ids=far)

    want = read(loaded)
    converted = model.to(torch.bfloat16)
    rounded = converted.model.rotary_emb.inv_freq.clone()
    assert torch.equal(read(converted), want)
    converted.model.rotary_emb.inv_freq = rounded
    with torch.no_grad():  # what it would have been
        x = converted.get_input_embeddings()(symbols)[None]
        wrong = converted.model(inputs_embeds=x, position_ids=torch.arange(223_000, 223_037)[None])
    assert not torch.allclose(wrong.last_hidden_state[0], want, atol=0.1)
