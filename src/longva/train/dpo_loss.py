"""The loss of direct preference optimisation (Rafailov et al., 2023)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PreferenceLoss(NamedTuple):
    """What `dpo_loss` returns."""

    loss: Tensor
    """Scalar, differentiable."""

    chosen_rewards: Tensor
    """[N], beta times how much likelier than the reference the policy makes the chosen answer."""

    rejected_rewards: Tensor
    """[N], the same of the rejected answer. The margin is the difference of the two."""


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
    chosen_tokens: Tensor | None = None,
) -> PreferenceLoss:
    """Direct preference optimisation (arXiv 2305.18290, equation 7) of log-probabilities.

    Args:
        policy_chosen: [N], the policy's log-probability of each whole chosen answer.
        policy_rejected: [N], of each rejected answer.
        reference_chosen: [N], the frozen reference's.
        reference_rejected: [N].
        beta: how strongly the reference holds the policy back.
        label_smoothing: assumed share of swapped pairs, 0 to 0.5 (conservative DPO).
        sft_weight: weight of the chosen answers' next-token loss (the original's `gamma`).
        chosen_tokens: [N], targets in each chosen answer; needed when `sft_weight` is not 0.

    Returns:
        The mean over pairs of the DPO term, plus `sft_weight` times the mean over chosen tokens of
        the next-token loss. With micro batches of one size, their mean is the batch's DPO term.

    >>> import torch
    >>> equal = torch.tensor([-5.0])
    >>> round(dpo_loss(equal, equal, equal, equal).loss.item(), 4)      # ln 2: no preference yet
    0.6931
    """
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5], got {label_smoothing}")
    chosen_rewards = beta * (policy_chosen - reference_chosen)
    rejected_rewards = beta * (policy_rejected - reference_rejected)
    margin = chosen_rewards - rejected_rewards
    agree, differ = F.logsigmoid(margin), F.logsigmoid(-margin)
    loss = -((1 - label_smoothing) * agree + label_smoothing * differ).mean()
    if sft_weight:
        if chosen_tokens is None:
            raise ValueError("sft_weight needs chosen_tokens, the number of targets of each answer")
        loss = loss - sft_weight * policy_chosen.sum() / chosen_tokens.sum()
    return PreferenceLoss(loss, chosen_rewards.detach(), rejected_rewards.detach())
