"""A prompt as one vector of integers: token ids, and rows of a table of visual features.

    symbol s >= 0    token id s                    system . user . -1 -2 -3 ... -432000 . question
    symbol s < 0     row -1 - s of the table                       [ visual tokens     ]

Text, frames and needles are then compared, shared and cut as plain integers, and their embeddings
are looked up where they are needed, a chunk at a time.

Shapes: L symbols, R rows of the table, D width of the model.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from longva.model import LongVAProcessor
from longva.model.chat_format import chat_ids


def common_prefix(x: Tensor, y: Tensor) -> int:
    """Count the equal symbols at the start of two 1-D tensors.

    >>> common_prefix(torch.tensor([5, -1, -2, 7]), torch.tensor([5, -1, 8]))
    2
    """
    n = min(len(x), len(y))
    if x.data_ptr() == y.data_ptr() and x.stride() == y.stride():  # views of one memory
        return n
    differs = torch.ne(x[:n], y[:n])
    return int(differs.byte().argmax()) if differs.any() else n


def insert_rows(ids: Tensor, media_ids: Collection[int], sizes: Sequence[int]) -> Tensor:
    """Put rows of the table, from row 0 on, where media stand in a prompt.

    Args:
        ids: int64 [N], token ids with one token for each medium.
        media_ids: the ids that stand for media.
        sizes: rows of each medium, in order.

    Returns:
        int64 [L], symbols.

    Raises:
        ValueError: when other media stand in the prompt than `sizes` names.

    >>> insert_rows(torch.tensor([5, 9, 6, 9]), {9}, [2, 1]).tolist()
    [5, -1, -2, 6, -3]
    """
    where = torch.isin(ids, torch.tensor(list(media_ids))).nonzero().flatten().tolist()
    pieces, after, row = [], 0, 0
    for position, size in zip(where, sizes, strict=True):
        pieces += [ids[after:position], -1 - torch.arange(row, row + size)]
        after, row = position + 1, row + size
    return torch.cat([*pieces, ids[after:]])


def chat_symbols(
    processor: LongVAProcessor, messages: Sequence[Mapping[str, Any]], sizes: Sequence[int]
) -> Tensor:
    """Write a conversation as symbols, int64 [L]: rows, from row 0 on, where its media stand.

    Args:
        processor: its template and tokenizer are used.
        messages: see `chat_ids`.
        sizes: rows of each medium, in order.
    """
    ids = torch.tensor(chat_ids(processor, messages))
    return insert_rows(ids, {processor.image_token_id, processor.video_token_id}, sizes)


def embed_symbols(
    symbols: Tensor, input_embeddings: nn.Module, embeddings: Tensor | None = None
) -> Tensor:
    """Embed token ids and rows of a table; differentiable in both.

    Args:
        symbols: int64 [..., L]; >= 0 a token id, -(1 + r) row r of the table.
        input_embeddings: the model's, int64 [...] -> [..., D].
        embeddings: [R, D], on any device; its rows are moved as they are needed.

    Returns:
        [..., L, D].

    Raises:
        ValueError: when a symbol asks for a row that the table does not have.

    >>> words = nn.Embedding.from_pretrained(torch.tensor([[0.0], [10.0]]))
    >>> embed_symbols(torch.tensor([1, -1, -2]), words, torch.tensor([[7.0], [8.0]])).flatten()
    tensor([10.,  7.,  8.])
    """
    embedded = input_embeddings(symbols.clamp(min=0))
    rows_needed = -int(symbols.min()) if symbols.numel() else 0
    rows = 0 if embeddings is None else len(embeddings)
    if rows_needed > rows:
        raise ValueError(
            f"the prompt refers to row {rows_needed - 1} of the embeddings, which have {rows} "
            "rows. Pass the visual tokens that the prompt was built with."
        )
    if embeddings is None:
        return embedded
    visual = symbols < 0
    chosen = (-1 - symbols[visual]).to(embeddings.device)
    return embedded.index_put((visual,), embeddings[chosen].to(embedded))
