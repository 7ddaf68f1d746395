"""Losses of language models: next-token and preference, for vocabularies too large for full logits.

224,000 tokens x 152,064 words are 136 GB of float32 logits, held several times over by a plain
cross-entropy and its backward; that, and not the model, bounds the paper's context length on its
hardware. Here the output layer and the softmax run on a part of the logits at a time, forward and
backward, on any device.

Every loss is a sum over local targets divided by the number of targets over all ranks and micro
batches, so that no sharding, packing or accumulation changes it: the mean of per-rank means is
something else as soon as ranks hold different numbers of targets.

    T tokens   D width of the model   V words   N preference pairs
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100
"""Label of a token that is no target."""

CHUNK_TOKENS = 1024
"""Tokens whose logits exist at one time: 0.6 GB in float32 for 152,064 words, for any length."""


class _ChunkedLogProbs(torch.autograd.Function):
    """Log-probability of each target: forward by chunks of tokens, backward by slices of words.

    The backward makes the logits again. A slice of words holds as many of them as a chunk of tokens
    and yields its rows of the weight's gradient whole, so that no second, float32 copy of that
    gradient (2.2 GB for a 7B model) is needed to sum it over chunks.
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels, chunk_tokens):
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        target, lse = torch.empty(2, len(labels), dtype=dtype, device=hidden.device)
        for start in range(0, len(labels), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            logits = F.linear(hidden[rows], weight).to(dtype)  # [chunk, V]
            target[rows] = logits.gather(1, labels[rows].clamp(min=0)[:, None]).squeeze(1)
            largest = logits.amax(-1, keepdim=True)
            lse[rows] = logits.sub_(largest).exp_().sum(-1).log_() + largest.squeeze(1)
            del logits  # before the next chunk makes its own
        ctx.save_for_backward(hidden, weight, labels, lse)
        ctx.chunk_tokens = chunk_tokens
        return (target - lse).masked_fill_(labels == IGNORE_INDEX, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, labels, lse = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad = grad.masked_fill(labels == IGNORE_INDEX, 0)
        grad_hidden = torch.zeros_like(hidden, dtype=grad.dtype) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        num_words = max(1, ctx.chunk_tokens * len(weight) // max(1, len(labels)))
        for start in range(0, len(weight), num_words):
            words = slice(start, min(start + num_words, len(weight)))
            # d log p(y) / d logits = onehot(y) - softmax, in the memory of the logits [T, words]
            x = F.linear(hidden, weight[words]).to(grad.dtype)
            x.sub_(lse[:, None]).exp_().mul_(-grad[:, None])
            column = labels - start
            inside = (column >= 0) & (column < x.shape[1])
            column = column.clamp(0, x.shape[1] - 1)[:, None]
            x.scatter_add_(1, column, (grad * inside)[:, None])
            x = x.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden += x @ weight[words]
            if grad_weight is not None:
                torch.mm(x.T, hidden, out=grad_weight[words])
            del x
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, None, None


def chunked_log_probs(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """Log-probability of each label, without the full logits.

    Args:
        hidden: [..., D], final hidden states.
        weight: [V, D], the output layer.
        labels: int64 [...], the word that should follow each state (already shifted), or
            IGNORE_INDEX. Any number of tokens; the last chunk may be short.
        chunk_tokens: tokens whose logits exist at one time.

    Returns:
        [...], float32 (float64 for float64 states), 0 where the label is IGNORE_INDEX. Gradients
        are exact, and summed in float32.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    log_probs = _ChunkedLogProbs.apply(flat, weight, labels.reshape(-1), chunk_tokens)
    return log_probs.view(labels.shape)
