import pytest
import torch
import torch.distributed as dist
from torch import nn

from longva.prompts.ring_logits import ring_logits
from longva.prompts.symbols import embed_symbols
from tests.distributed import run_distributed
from tests.parallel.tiny import tiny_qwen2

# A prompt of 29 symbols: text, two runs of visual tokens (one row used twice), an answer of 3.
TABLE = torch.randn(11, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PROMPT = torch.tensor([5, 9, *range(-1, -12, -1), 7, -3, -4, 80, *range(30, 39), 41, 42, 43])
ASKED = torch.tensor([25, 26, 27, 0, 12, 26])


def plain_logits(model) -> torch.Tensor:
    """One forward of one process over the merged embeddings, [N, V]."""
    merged = [TABLE[-1 - s] if s < 0 else model.get_input_embeddings().weight[s] for s in PROMPT]
    return model(inputs_embeds=torch.stack(merged)[None], use_cache=False).logits[0, ASKED]


def logits_of_a_rank(rank, world_size):
    group = dist.group.WORLD if world_size > 1 else None
    model = tiny_qwen2("zigzag_ring", torch.float64).eval()
    return ring_logits(model, PROMPT, ASKED, embeddings=TABLE, group=group).numpy()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_gets_the_logits_of_one_process(world_size):
    with torch.inference_mode():
        want = plain_logits(tiny_qwen2("sdpa", torch.float64).eval())
    for logits in run_distributed(logits_of_a_rank, world_size):
        got = torch.from_numpy(logits)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
        assert torch.equal(got.argmax(-1), want.argmax(-1))


def test_symbols_embed_with_gradients_to_both_tables():
    words, table = nn.Embedding(10, 4), torch.randn(3, 4, requires_grad=True)
    embedded = embed_symbols(torch.tensor([[2, -1, -3, -1]]), words, table)
    assert torch.equal(embedded[0, 0], words.weight[2])
    assert torch.equal(embedded[0, 1:], table[[0, 2, 0]])
    embedded.sum().backward()
    assert words.weight.grad is not None and table.grad is not None
    assert table.grad[:, 0].tolist() == [2, 0, 1]
    assert words.weight.grad[:, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_rows_and_positions_that_do_not_exist_are_refused():
    model = tiny_qwen2("zigzag_ring")
    with pytest.raises(ValueError, match="refers to row 10 of the embeddings, which have 9 rows"):
        ring_logits(model, PROMPT, ASKED, embeddings=TABLE[:9])
    with pytest.raises(
        ValueError, match=r"positions must lie in \[0, 29\), the prompt's, got \[29"
    ):
        ring_logits(model, PROMPT, torch.tensor([29]), embeddings=TABLE)
    with pytest.raises(ValueError, match="Qwen2Model has no output layer"):
        ring_logits(model.get_decoder(), PROMPT, ASKED, embeddings=TABLE)


def test_a_model_that_attends_otherwise_is_refused():
    with pytest.raises(ValueError, match="attends by 'sdpa'"):
        ring_logits(tiny_qwen2("sdpa"), PROMPT, ASKED, embeddings=TABLE)
