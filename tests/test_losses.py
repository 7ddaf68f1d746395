import math

import pytest
import torch
import torch.nn.functional as F
from chunked_loss import chunked_loss

from longva.losses import chunked_log_probs
from longva.train.dpo_loss import dpo_loss

TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-5}
"""Float64 shows that it is the same sum, float32 that it is made in float32 too: logits up to 13,
of 8 products each, 31 words, 13 targets, all added up in any order: 52 x 13 x 2**-24."""


def random_head(dtype: torch.dtype, num_tokens: int = 23):
    """Hidden states [T, 8], output layer [31, 8], labels [T] of which the first ten are ignored."""
    torch.manual_seed(0)
    hidden = torch.randn(num_tokens, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(31, 8, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 31, (num_tokens,))
    labels[:10] = -100
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 64])  # 7 leaves a short last chunk
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_chunked_loss_and_gradients_are_those_of_torch(dtype, chunk_tokens):
    hidden, weight, labels = random_head(dtype)
    want = F.cross_entropy(hidden @ weight.T, labels)
    got = chunked_loss(hidden, weight, labels, 13, chunk_tokens)
    want_grads = torch.autograd.grad(want, (hidden, weight))
    got_grads = torch.autograd.grad(3 * got, (hidden, weight))
    tolerance = dict(rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(got, want, **tolerance)
    torch.testing.assert_close(got_grads, tuple(3 * g for g in want_grads), **tolerance)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_log_probs_and_their_weighted_gradients_are_those_of_torch(chunk_tokens):
    hidden, weight, labels = random_head(torch.float64, num_tokens=24)
    want = -F.cross_entropy(hidden @ weight.T, labels, reduction="none").view(2, 12)
    got = chunked_log_probs(hidden.view(2, 12, 8), weight, labels.view(2, 12), chunk_tokens)
    grad = torch.randn(2, 12, dtype=torch.float64)
    want_grads = torch.autograd.grad(want, (hidden, weight), grad)
    got_grads = torch.autograd.grad(got, (hidden, weight), grad)
    assert (got[0, :10] == 0).all()
    torch.testing.assert_close((got, *got_grads), (want, *want_grads), rtol=0, atol=1e-12)


def test_parts_sum_to_the_loss_of_the_whole_however_targets_are_spread():
    hidden, weight, labels = random_head(torch.float64)
    want = F.cross_entropy(hidden @ weight.T, labels)
    parts = [
        chunked_loss(hidden[part], weight, labels[part], num_targets=13)
        for part in (slice(0, 9), slice(9, 20), slice(20, 23))  # 0, 10 and 3 targets
    ]
    torch.testing.assert_close(sum(parts), want, rtol=0, atol=1e-12)


def test_no_target_at_all_gives_a_zero_loss_and_zero_gradients():
    hidden, weight, labels = random_head(torch.float32)
    loss = chunked_loss(hidden, weight, torch.full_like(labels, -100), num_targets=5)
    loss.backward()
    assert loss == 0
    assert (hidden.grad == 0).all() and (weight.grad == 0).all()


def test_a_frozen_output_layer_gets_no_gradient():
    hidden, weight, labels = random_head(torch.float32)
    chunked_loss(hidden, weight.detach().requires_grad_(False), labels, 13).backward()
    assert hidden.grad is not None and weight.grad is None


def test_bfloat16_loss_is_accumulated_in_float32():
    """4,096 tokens of loss near 7: a bfloat16 running sum would stop counting at about 1,000."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(4096, 16).bfloat16(), torch.randn(997, 16).bfloat16()
    labels = torch.randint(0, 997, (4096,))
    loss = chunked_loss(hidden, weight, labels, 4096, chunk_tokens=64)
    want = F.cross_entropy(hidden.float() @ weight.float().T, labels)
    assert loss.dtype == torch.float32
    # Logits of up to 25 are rounded to 8 bits, by 0.02 on the average: 0.0003 in the mean of 4,096
    # losses of about 14.
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=0)


def bfloat16_weight_grad_error(chunk_tokens: int) -> float:
    """Relative error of the output layer's gradient against float64."""
    hidden, weight, labels = random_head(torch.bfloat16, num_tokens=2048)
    chunked_loss(hidden, weight, labels, 2038, chunk_tokens).backward()
    exact = weight.detach().double().requires_grad_()
    F.cross_entropy(hidden.detach().double() @ exact.T, labels).backward()
    return float((weight.grad.double() - exact.grad).norm() / exact.grad.norm())


def test_many_chunks_do_not_cost_bfloat16_gradients_their_precision():
    assert bfloat16_weight_grad_error(chunk_tokens=8) < 1.5 * bfloat16_weight_grad_error(2048)


def test_dpo_loss_of_numbers_worked_by_hand():
    loss, chosen, rejected = dpo_loss(
        *torch.tensor(
            [[-10.0, -20.0], [-12.0, -15.0], [-11.0, -18.0], [-11.0, -16.0]], dtype=torch.float64
        ),
        beta=0.5,
    )
    assert chosen.tolist() == [0.5, -1.0]
    assert rejected.tolist() == [-0.5, 0.5]
    want = (math.log(1 + math.exp(-1.0)) + math.log(1 + math.exp(1.5))) / 2
    assert loss.item() == pytest.approx(want, abs=1e-12)


def random_pairs():
    torch.manual_seed(0)
    policy = [(-20 * torch.rand(4, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    reference = [-20 * torch.rand(4, dtype=torch.float64) for _ in range(2)]
    return (*policy, *reference)


def test_label_smoothing_mixes_in_the_loss_of_swapped_pairs():
    chosen, rejected, ref_chosen, ref_rejected = random_pairs()
    right = dpo_loss(chosen, rejected, ref_chosen, ref_rejected).loss
    swapped = dpo_loss(rejected, chosen, ref_rejected, ref_chosen).loss
    mixed = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, label_smoothing=0.2).loss
    torch.testing.assert_close(mixed, 0.8 * right + 0.2 * swapped)


def test_sft_term_is_the_mean_over_chosen_tokens():
    pairs, tokens = random_pairs(), torch.tensor([3, 1, 5, 2])
    plain = dpo_loss(*pairs).loss
    with_sft = dpo_loss(*pairs, sft_weight=0.5, chosen_tokens=tokens).loss
    torch.testing.assert_close(with_sft - plain, -0.5 * pairs[0].sum() / 11)


def test_dpo_gradient_raises_the_chosen_answer_and_lowers_the_rejected():
    pairs = random_pairs()
    dpo_loss(*pairs, beta=0.1).loss.backward()
    margin = 0.1 * (pairs[0] - pairs[1] - pairs[2] + pairs[3]).detach()
    torch.testing.assert_close(pairs[0].grad, -0.1 * torch.sigmoid(-margin) / 4)
    torch.testing.assert_close(pairs[1].grad, 0.1 * torch.sigmoid(-margin) / 4)


TRL_PAIRS = torch.tensor(
    [[-12.5, -40.0, -7.25], [-14.0, -33.5, -9.0], [-13.0, -41.0, -7.0], [-13.5, -34.0, -8.0]],
    dtype=torch.float64,
)
"""Log-probabilities of policy and reference, chosen and rejected."""

TRL_TOKENS = {
    "chosen_tokens": torch.tensor([5, 16, 3]),
    "rejected_tokens": torch.tensor([7, 12, 4]),
}


@pytest.mark.parametrize(
    ("settings", "loss", "chosen", "rejected"),
    [
        (
            {"kind": "simpo", "beta": 2.0, "target_margin": 0.5},
            1.1826599152139545,
            [-0.10900993015915247, -0.01996577977613571, -0.1549020631034238],
            [0.07786423582796606, 0.02662103970151428, 0.11617654732756785],
        ),
        (
            {"kind": "simpo", "beta": 2.0, "target_margin": 0.5, "label_smoothing": 0.1},
            1.1076599152139546,
            [-0.09567659682581915, -0.015799113109469045, -0.13267984088120158],
            [0.06834042630415653, 0.021065484145958727, 0.09950988066090119],
        ),
        (
            {"kind": "ipo", "beta": 0.3},
            2.3981681075207866,
            [-0.19936507936507936, -0.0685763888888889, -0.3333333333333333],
            [0.14240362811791382, 0.09143518518518519, 0.25],
        ),
    ],
)
def test_ipo_and_simpo_have_the_loss_and_gradients_of_trl(settings, loss, chosen, rejected):
    """TRL 1.16.0 on these numbers: `CPOTrainer.cpo_loss`, and the `ipo` of `DPOTrainer`."""
    pairs = [row.clone().requires_grad_() for row in TRL_PAIRS]
    if settings["kind"] == "simpo":
        pairs[2:] = [0.0, 0.0]
    result = dpo_loss(*pairs, **settings, **TRL_TOKENS)
    assert result.loss.item() == pytest.approx(loss, rel=1e-12)
    gradients = torch.autograd.grad(result.loss, pairs[:2])
    assert gradients[0].tolist() == pytest.approx(chosen, rel=1e-12)
    assert gradients[1].tolist() == pytest.approx(rejected, rel=1e-12)


def test_wrong_dpo_settings_are_refused():
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 0.5\], got 0.7"):
        dpo_loss(*random_pairs(), label_smoothing=0.7)
    with pytest.raises(ValueError, match="sft_weight needs chosen_tokens"):
        dpo_loss(*random_pairs(), sft_weight=1.0)
    with pytest.raises(ValueError, match="ipo needs chosen_tokens and rejected_tokens"):
        dpo_loss(*random_pairs(), kind="ipo")
