"""The walk against one plain forward a prompt, its plan against tries built symbol by symbol."""

from itertools import combinations_with_replacement, pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from longva.errors import ContextLengthError
from longva.model.flops import Flops
from longva.prompts.kv_cache import CachedSequence
from longva.prompts.partition import partition
from longva.prompts.recomputed import RecomputedSequence
from longva.prompts.tree import Prompt, compare, plan_walk, score_alone, visits, walk
from tests.tolerance import SAME

CONFIG = Qwen2Config(
    vocab_size=12,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    initializer_range=0.5,  # random weights that attend sharply and have opinions
)
torch.manual_seed(0)
MODEL = Qwen2ForCausalLM(CONFIG).eval().double()
TABLE = torch.randn(40, 16, dtype=torch.float64)


def prompt_of(symbols, answer=(1, 2), key=None, cuts=()):
    edges = [0, *sorted(cuts), len(symbols)]
    pieces = [torch.tensor(symbols[a:b]).long() for a, b in pairwise(edges)]
    return Prompt(pieces, answer=answer, key=key)


def all_symbols(prompt):
    return tuple(torch.cat(prompt.pieces).tolist())


@torch.no_grad()
def by_forward(prompts, model=MODEL):
    """is_greedy, logprob and predicted of each prompt, from all logits of the whole model.

    One row of a batch a prompt, padded on the right: a row sees neither the others nor its padding.
    """
    rows = [torch.tensor([*all_symbols(p), *p.answer[:-1]]) for p in prompts]
    symbols = pad_sequence(rows, batch_first=True)  # [B, L]
    words = model.model.embed_tokens.weight[symbols.clamp_min(0)]
    x = torch.where((symbols < 0)[..., None], TABLE[-1 - symbols.clamp_max(-1)], words)
    all_logprobs = model(inputs_embeds=x).logits.log_softmax(-1)  # [B, L, V]
    results = []
    for prompt, logprobs in zip(prompts, all_logprobs, strict=True):
        answer = list(prompt.answer)
        logprobs = logprobs[prompt.length - 1 :][: len(answer)]  # [A, V]
        predicted = logprobs.argmax(-1).tolist()
        total = sum(logprobs[i, token].item() for i, token in enumerate(answer))
        results.append((predicted == answer, total, tuple(predicted)))
    return results


def tries(prompts):
    """Nodes of the tree of prompts, and of the trees of fed answers that hang on each prompt."""
    nodes, answer_nodes = set(), set()
    for prompt in prompts:
        symbols, fed = all_symbols(prompt), tuple(prompt.answer[:-1])
        nodes |= {symbols[: i + 1] for i in range(len(symbols))}
        answer_nodes |= {(symbols, fed[: i + 1]) for i in range(len(fed))}
    return nodes, answer_nodes


@st.composite
def forests(draw, max_size=8):
    """Prompts that share prefixes: some grow out of a prefix of an earlier one."""
    symbol = st.integers(-3, 2)
    prompts = []
    for key in range(draw(st.integers(1, max_size))):
        symbols = draw(st.lists(symbol, min_size=1, max_size=8))
        if prompts and draw(st.booleans()):
            parent = all_symbols(draw(st.sampled_from(prompts)))
            symbols = [*parent[: draw(st.integers(0, len(parent)))], *symbols]
            symbols = list(parent) if draw(st.booleans()) else symbols
        cuts = draw(st.lists(st.integers(0, len(symbols)), max_size=3))
        answer = draw(st.lists(st.integers(0, 2), max_size=3))
        prompts.append(prompt_of(symbols, answer, key, cuts))
    return prompts


@settings(max_examples=100, deadline=None, derandomize=True)
@given(forests(), st.sampled_from([1, 3, 4096]))
def test_the_walk_scores_as_one_forward_a_prompt_and_computes_every_node_once(
    prompts, chunk_tokens
):
    sequence = CachedSequence(MODEL, chunk_tokens=chunk_tokens)
    results = {scored.key: scored for scored in walk(sequence, prompts, embeddings=TABLE)}
    assert sorted(results) == list(range(len(prompts)))
    for key, (is_greedy, logprob, predicted) in enumerate(by_forward(prompts)):
        assert (results[key].is_greedy, results[key].predicted) == (is_greedy, predicted)
        assert results[key].logprob == pytest.approx(logprob, abs=SAME)
    nodes, answer_nodes = tries(prompts)
    plan = plan_walk(prompts, CONFIG)
    assert plan.tokens_processed == len(nodes) + len(answer_nodes) == sequence.tokens_processed


@settings(max_examples=200, deadline=None, derandomize=True)
@given(forests())
def test_the_plan_adds_up_what_each_node_costs(prompts):
    flops, plan = Flops.of(CONFIG), plan_walk(prompts, CONFIG)
    logits = sum(len(prompt.answer) for prompt in prompts) * flops.per_logits
    nodes, answer_nodes = tries(prompts)
    depths = [len(node) for node in nodes]
    depths += [len(symbols) + len(fed) for symbols, fed in answer_nodes]
    want = sum(flops.per_token + depth * flops.per_pair for depth in depths) + logits
    assert plan.flops_processed == want
    lengths = [prompt.length + max(0, len(prompt.answer) - 1) for prompt in prompts]
    assert plan.tokens_one_forward_per_prompt == sum(lengths)
    depths = [i + 1 for length in lengths for i in range(length)]
    want = sum(flops.per_token + depth * flops.per_pair for depth in depths) + logits
    assert plan.flops_one_forward == want
    assert plan.flops_ratio == plan.flops_one_forward / plan.flops_processed


def test_flops_of_qwen2_7b():
    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    )
    flops = Flops.of(config)
    assert flops.per_token == 2 * 6_525_288_448  # the model's parameters outside of embeddings
    assert flops.per_logits == 2 * 3584 * 152064
    grid = 30 * sum(flops.append(0, 144 * frames) for frames in range(200, 3001, 200))
    assert grid == pytest.approx(7.5e18, rel=0.01)  # the paper's V-NIAH, one forward a cell


def vniah_grid(lengths, depths, num_needles, answer=(3, 1)):
    """Frames of one token, rows 0 to 29; needles, rows 30 on; a question a needle."""
    haystack = -1 - torch.arange(30)
    prompts = []
    for length, depth, needle in product(lengths, depths, range(num_needles)):
        at = int(depth * length)
        pieces = (
            torch.tensor([11, 10]),
            haystack[:at],
            torch.tensor([-31 - needle]),
            haystack[at:length],
            torch.tensor([9, needle, 8]),
        )
        prompts.append(Prompt(pieces, answer=answer, key=(length, depth, needle)))
    return prompts


def test_the_papers_grid_of_450_cells():
    depths = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    prompts = vniah_grid(range(2, 31, 2), depths, num_needles=5)
    plan = plan_walk(prompts, CONFIG)
    assert plan.tokens_processed < 0.5 * plan.tokens_one_forward_per_prompt
    sequence = CachedSequence(MODEL, chunk_tokens=16)
    results = {scored.key: scored for scored in walk(sequence, prompts, embeddings=TABLE)}
    assert len(results) == 450
    for prompt, (is_greedy, logprob, _) in zip(prompts, by_forward(prompts), strict=True):
        assert results[prompt.key].is_greedy == is_greedy
        assert results[prompt.key].logprob == pytest.approx(logprob, abs=SAME)


def test_one_plain_forward_scores_the_same():
    for prompt in vniah_grid([4], [0.5], num_needles=2, answer=(3, 1, 4)):
        scored = next(score_alone(RecomputedSequence(MODEL), [prompt], embeddings=TABLE))
        is_greedy, logprob, predicted = by_forward([prompt])[0]
        assert (scored.key, scored.is_greedy) == (prompt.key, is_greedy)
        assert scored.predicted == predicted
        assert scored.logprob == pytest.approx(logprob, abs=SAME)


def test_the_models_own_answer_is_greedy():
    question = prompt_of([1, 2, 3])
    [scored] = walk(CachedSequence(MODEL), [question], max_new_tokens=4)
    own = prompt_of([1, 2, 3], answer=scored.generated)
    other = prompt_of([1, 2, 3], answer=[(scored.generated[0] + 1) % 12, *scored.generated[1:]])
    results = {s.predicted[0]: s for s in walk(CachedSequence(MODEL), [own])}
    assert results[scored.generated[0]].is_greedy
    assert not next(walk(CachedSequence(MODEL), [other])).is_greedy


def test_generation_is_that_of_transformers():
    prompts = vniah_grid([2, 5, 9], [0.0, 0.5], num_needles=2) + [prompt_of([4, 5], ())]
    sequence = CachedSequence(MODEL, chunk_tokens=4)
    eos = 0
    ended_early = 0
    for scored in walk(sequence, prompts, embeddings=TABLE, max_new_tokens=8, eos_ids={eos}):
        [prompt] = [prompt for prompt in prompts if prompt.key == scored.key]
        x = [
            TABLE[-1 - s] if s < 0 else MODEL.model.embed_tokens.weight[s]
            for s in all_symbols(prompt)
        ]
        want = MODEL.generate(
            inputs_embeds=torch.stack(x)[None],
            attention_mask=torch.ones(1, len(x)),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=eos,
            pad_token_id=eos,
        )[0].tolist()
        ended_early += want[-1] == eos
        assert list(scored.generated) == (want[:-1] if want[-1] == eos else want)
        is_greedy, logprob, _ = by_forward([prompt])[0]
        assert scored.is_greedy == is_greedy
        assert scored.logprob == pytest.approx(logprob, abs=SAME)
    assert 0 < ended_early < len(prompts)


def test_results_come_one_by_one_and_a_walk_resumes_with_what_is_left():
    prompts = vniah_grid([2, 4, 6], [0.0, 1.0], num_needles=2)
    whole = {
        scored.key: scored for scored in walk(CachedSequence(MODEL), prompts, embeddings=TABLE)
    }
    sequence = CachedSequence(MODEL)
    first = next(walk(sequence, prompts, embeddings=TABLE))
    assert sequence.tokens_processed < 20
    left = [prompt for prompt in prompts if prompt.key != first.key]
    rest = {scored.key: scored for scored in walk(sequence, left, embeddings=TABLE)}
    assert rest.keys() == whole.keys() - {first.key}
    for key, scored in rest.items():
        assert scored.logprob == pytest.approx(whole[key].logprob, abs=SAME)


def test_what_is_observed_does_not_depend_on_the_other_prompts():
    frames = -1 - torch.arange(8)
    questions = [[7, 6, 5, 1], [7, 6, 5, 2], [7, 6, 5]]
    prompts = [
        Prompt([frames, torch.tensor(question)], answer=[3, 4], key=tuple(question))
        for question in questions
    ]
    equal = Prompt(prompts[0].pieces, answer=[3, 5], key=(7, 6, 5, 1))
    observed = []  # what the first layer is given, by prompt

    def look(layer, args, kwargs):
        if "collector" in kwargs:
            kwargs["collector"].append(args[0][0])

    def observe(prompt):
        observed.append((prompt.key, []))
        return {"collector": observed[-1][1]}

    hook = MODEL.model.layers[0].register_forward_pre_hook(look, with_kwargs=True)
    try:
        sequence = CachedSequence(MODEL)
        walked = [*prompts, equal]
        list(walk(sequence, walked, embeddings=TABLE, observe=observe))
    finally:
        hook.remove()
    plan = plan_walk(walked, CONFIG, whole_question=True)
    assert sequence.tokens_processed == plan.tokens_processed == 8 + (3 + 1) + (4 + 1) + (4 + 1)
    assert sorted(key for key, _ in observed) == sorted(map(tuple, questions))
    for question, [states] in observed:  # the whole question and answer[:-1], in one forward
        want = MODEL.model.embed_tokens.weight[torch.tensor([*question, 3])]
        torch.testing.assert_close(states, want)


def test_pieces_are_compared_across_their_borders():
    a = prompt_of([1, 2, 3, 4, 5], cuts=[1, 4])
    assert compare(a, prompt_of([1, 2, 3, 4, 5], cuts=[2, 3])) == (5, 0)
    assert compare(a, prompt_of([1, 2, 3, 9], cuts=[3])) == (3, -1)
    assert compare(a, prompt_of([1, 2, -3, 9], cuts=[3])) == (2, 1)
    assert compare(a, prompt_of([1, 2, 3], cuts=[3])) == (3, 1)


def test_a_walk_copies_only_what_it_appends():
    haystack = -1 - torch.arange(30)
    prompt = Prompt([haystack[:20], haystack[5:9]], answer=[1])
    assert prompt.pieces[0].data_ptr() == haystack.data_ptr()
    assert prompt.symbols(18, 22).tolist() == [-19, -20, -6, -7]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([torch.zeros(2, 2).long()], "1-D int64 tensors, got 2-D torch.int64"),
        ([torch.zeros(2)], "1-D int64 tensors, got 1-D torch.float32"),
        ([torch.tensor([]).long()], "at least one token"),
    ],
)
def test_prompts_that_are_none(pieces, message):
    with pytest.raises(ValueError, match=message):
        Prompt(pieces)


def test_answers_are_text():
    with pytest.raises(ValueError, match=r"An answer consists of token ids, got \[3, -1\]"):
        prompt_of([1], answer=[3, -1])
    assert prompt_of([1], answer=torch.tensor([3, 4])).answer == (3, 4)


def test_the_context_is_guarded():
    prompt = prompt_of([1] * 64, answer=[1, 2])
    with pytest.raises(ContextLengthError, match="65 tokens long"):
        next(walk(CachedSequence(MODEL), [prompt]))
    with pytest.raises(ContextLengthError, match="65 tokens long"):
        next(score_alone(RecomputedSequence(MODEL), [prompt]))
    [beyond] = walk(CachedSequence(MODEL, allow_beyond_context=True), [prompt])
    want = next(score_alone(RecomputedSequence(MODEL, allow_beyond_context=True), [prompt]))
    assert beyond.logprob == pytest.approx(want.logprob, abs=SAME)


def test_no_prompts():
    assert list(walk(CachedSequence(MODEL), [])) == []
    assert plan_walk([], CONFIG).flops_ratio == 1
    assert partition([], 2, CONFIG) == [[], []]


def flops_of(prompts):
    return plan_walk(prompts, CONFIG).flops_processed


@settings(max_examples=40, deadline=None, derandomize=True)
@given(forests(max_size=6), st.integers(1, 4))
def test_dealt_runs_hold_every_prompt_once_and_no_contiguous_deal_is_better(prompts, world_size):
    runs = partition(prompts, world_size, CONFIG)
    assert len(runs) == world_size
    keys = [prompt.key for run in runs for prompt in run]
    assert sorted(keys) == list(range(len(prompts)))
    stops = visits(prompts)
    best = min(
        max(
            flops_of([prompt for stop in stops[start:end] for prompt in stop.prompts])
            for start, end in pairwise([0, *cuts, len(stops)])
        )
        for cuts in combinations_with_replacement(range(len(stops) + 1), world_size - 1)
    )
    assert max(flops_of(run) for run in runs) == best


def test_a_dealt_grid_is_near_the_best_of_all_deals():
    prompts = vniah_grid([4, 8, 12, 16], [0.0, 1.0], num_needles=1)
    best = min(
        max(
            flops_of([p for p, owner in zip(prompts, owners, strict=True) if owner == rank])
            for rank in range(2)
        )
        for owners in product(range(2), repeat=len(prompts))
    )
    runs = partition(prompts, 2, CONFIG)
    assert max(flops_of(run) for run in runs) <= 1.05 * best
    assert partition(prompts[::-1], 2, CONFIG) == runs


def length_dependent_model(kind):
    """A tiny model whose rotary frequencies change above 16 tokens."""
    sizes = CONFIG.to_dict()
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "initializer_range")
    common = {name: sizes[name] for name in names}
    torch.manual_seed(0)
    if kind == "dynamic":
        rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
        config = LlamaConfig(**common, max_position_embeddings=16, rope_parameters=rope)
        return LlamaForCausalLM(config).eval().double()
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [8.0, 4.0, 2.0, 1.0]}
    config = Phi3Config(**common, pad_token_id=0, max_position_embeddings=64, rope_parameters=rope)
    return Phi3ForCausalLM(config).eval().double()


@torch.no_grad()
def generated_by_forwards(kind, prompt, count):
    """Each token by a plain forward of a model that has read nothing before."""
    symbols, ids = all_symbols(prompt), []
    for _ in range(count):
        model = length_dependent_model(kind)
        words = model.get_input_embeddings().weight
        x = [TABLE[-1 - s] if s < 0 else words[s] for s in [*symbols, *ids]]
        ids.append(int(model(inputs_embeds=torch.stack(x)[None]).logits[0, -1].argmax()))
    return tuple(ids)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rope_that_depends_on_the_length_is_measured_by_one_forward_a_prompt(kind):
    haystack = [-1 - row for row in range(30)]
    prompts = [
        prompt_of([11, *haystack[:length], 9], answer=answer, key=(length, answer))
        for length in (25, 6, 14, 13, 30)  # shorter after longer; 13 and 14 reach 16 by the answer
        for answer in ((3, 1, 5), (4,))
    ]
    sequence = RecomputedSequence(length_dependent_model(kind), allow_beyond_context=True)
    scored = list(score_alone(sequence, prompts, embeddings=TABLE, max_new_tokens=3))
    for prompt, got in zip(prompts, scored, strict=True):
        [(is_greedy, logprob, predicted)] = by_forward([prompt], length_dependent_model(kind))
        assert (got.key, got.is_greedy, got.predicted) == (prompt.key, is_greedy, predicted)
        assert got.logprob == pytest.approx(logprob, abs=1e-5)
        assert got.generated == generated_by_forwards(kind, prompt, 3)


def test_what_is_alone_is_what_is_walked_where_nothing_depends_on_the_length():
    prompts = vniah_grid([4, 8], [0.0, 1.0], 2)
    alone = score_alone(CachedSequence(MODEL), prompts, embeddings=TABLE, max_new_tokens=2)
    walked = walk(CachedSequence(MODEL), prompts, embeddings=TABLE, max_new_tokens=2)
    by_key = {scored.key: scored for scored in walked}
    for scored in alone:
        want = by_key[scored.key]
        assert scored.logprob == pytest.approx(want.logprob, abs=1e-4)
        assert (scored.is_greedy, scored.generated) == (want.is_greedy, want.generated)


def test_operations_are_those_of_the_architecture():
    sizes = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 64}
    gpt2 = GPT2Config(vocab_size=12, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    assert Flops.of(gpt2).per_token == 2 * 2 * 12 * 16 * 16  # the MLP is four times as wide
    phi = PhiConfig(**sizes, **heads, intermediate_size=24)  # its MLP has no gate
    assert Flops.of(phi).per_token == 2 * 2 * (4 * 16 * 16 + 2 * 16 * 24)
    assert Flops.of(phi).per_pair == 4 * 2 * 16


def test_operations_that_are_not_known_are_left_out():
    experts = MixtralConfig(
        vocab_size=12,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
        sliding_window=None,
    )
    assert Flops.of(experts) is None
    prompts = vniah_grid([4, 8], [0.0, 1.0], 2)
    plan, known = plan_walk(prompts, experts), plan_walk(prompts, CONFIG)
    assert plan.flops_ratio is None and plan.flops_processed is None
    assert plan.tokens_processed == known.tokens_processed
    dealt = partition(prompts, 2, experts)
    assert sorted(p.key for part in dealt for p in part) == sorted(p.key for p in prompts)
    assert all(dealt)
