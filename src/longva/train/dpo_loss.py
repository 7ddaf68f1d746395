"""Losses of preference optimisation: DPO (Rafailov et al., 2023), IPO and SimPO."""

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

PreferenceKind = Literal["sigmoid", "ipo", "simpo"]


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
    reference_chosen: Tensor | float,
    reference_rejected: Tensor | float,
    *,
    kind: PreferenceKind = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    target_margin: float = 0.0,
    sft_weight: float = 0.0,
    chosen_tokens: Tensor | None = None,
    rejected_tokens: Tensor | None = None,
) -> PreferenceLoss:
    """Preference optimisation of log-probabilities.

    With r = log p - log p_reference of an answer of n tokens, and d of the chosen one less that of
    the rejected one:

        sigmoid   -log sigmoid(beta d), d of r          DPO, arXiv 2305.18290, equation 7
        ipo       (d - 1 / (2 beta))^2, d of r / n      IPO, arXiv 2310.12036, equation 17
        simpo     -log sigmoid(beta d - target_margin), d of log p / n: there is no reference
                                                        SimPO, arXiv 2405.14734, equation 6

    Args:
        policy_chosen: [N], the policy's log-probability of each whole chosen answer.
        policy_rejected: [N], of each rejected answer.
        reference_chosen: [N], the frozen reference's; of SimPO 0.
        reference_rejected: [N].
        kind: which of them.
        beta: how strongly the reference holds the policy back; of SimPO, the scale of the margin.
        label_smoothing: assumed share of swapped pairs, 0 to 0.5 (conservative DPO); not of IPO.
        target_margin: of SimPO, its gamma.
        sft_weight: weight of the chosen answers' next-token loss (the original's `gamma`).
        chosen_tokens: [N], targets in each chosen answer; needed but for the plain sigmoid.
        rejected_tokens: [N], the same of the rejected answers.

    Returns:
        The mean over pairs of the preference term, plus `sft_weight` times the mean over chosen
        tokens of the next-token loss. With micro batches of one size, their mean is the batch's.

    >>> import torch
    >>> equal = torch.tensor([-5.0])
    >>> round(dpo_loss(equal, equal, equal, equal).loss.item(), 4)      # ln 2: no preference yet
    0.6931
    """
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5], got {label_smoothing}")
    chosen_rewards = beta * (policy_chosen - reference_chosen)
    rejected_rewards = beta * (policy_rejected - reference_rejected)
    if kind != "sigmoid":
        if chosen_tokens is None or rejected_tokens is None:
            raise ValueError(f"{kind} needs chosen_tokens and rejected_tokens, which it divides by")
        chosen_rewards = chosen_rewards / chosen_tokens
        rejected_rewards = rejected_rewards / rejected_tokens
    margin = chosen_rewards - rejected_rewards
    if kind == "ipo":
        loss = (margin / beta - 1 / (2 * beta)).square().mean()
    else:
        above = margin - target_margin
        agree, differ = F.logsigmoid(above), F.logsigmoid(-above)
        loss = -((1 - label_smoothing) * agree + label_smoothing * differ).mean()
    if sft_weight:
        if chosen_tokens is None:
            raise ValueError("sft_weight needs chosen_tokens, the number of targets of each answer")
        loss = loss - sft_weight * policy_chosen.sum() / chosen_tokens.sum()
    return PreferenceLoss(loss, chosen_rewards.detach(), rejected_rewards.detach())
