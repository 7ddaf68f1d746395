"""Prompts of video models as their own processors write them, without any pixels.

    chat template   <user> <video> What happens?
    processor       <user> <0.5 seconds> P P P P <2.5 seconds> P P P P  What happens?
    symbols         ...    ...           -1 -2 -3 -4 ...     -5 -6 ...

A processor writes frames, times and placeholders by the shape of what it has processed; it is
handed that shape alone. So a prompt about hours of film costs its text.

F frames, T tokens of a unit: of a frame, or of the pair that a model encodes together.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.video_utils import VideoMetadata

from longva.errors import LongVAError
from longva.media.resize import Size
from longva.model.chat_format import MARK, apply_template, template_ids
from longva.prompts.model_reader import CLOSING, Placed
from longva.prompts.symbols import insert_rows
from longva.watching.features import WatchedFrames
from longva.watching.turns import with_media

SHARED_BUDGETS = {
    *("Qwen3VLVideoProcessor", "Glm4vVideoProcessor", "Glm46VVideoProcessor"),
    "VideoLlama3VideoProcessor",
}
"""Video processors of transformers 5.23 that share out their pixels over all frames of a film."""


class VideoPrompts:
    """What a processor makes of films, but for their pixels.

    Args:
        processor: of the model.
        config: of the model.
    """

    def __init__(self, processor: Any, config: Any):
        self.processor = processor
        marks = [getattr(config, f"{kind}_token_id", None) for kind in ("image", "video")]
        self.visual_ids = {mark for mark in marks if mark is not None}
        self.as_video = getattr(processor, "video_token", None) and processor.video_processor
        self.frames = processor.video_processor if self.as_video else processor.image_processor
        if getattr(self.frames, "use_token_compression", False):
            self.frames.use_token_compression = False  # a frame's tokens would depend on others
        self.unit = getattr(self.frames, "temporal_patch_size", None) or 1
        self.unit_tokens = cache(self._tokens_of_a_unit)
        self._empty = cache(lambda size: dict(self.processed(torch.zeros(self.unit, 3, *size))))
        text = self._text(self.unit, [0.0] * self.unit, self.frame_size(64, 64, self.unit))
        ids = template_ids(processor.tokenizer, [text])[0]
        self.placeholder = next(token for token in ids if token in self.visual_ids)

    def tokens(self, size: tuple[int, int]) -> int:
        """T, of frames of a height and width."""
        return self.unit_tokens(size)[0]

    def frame_size(self, height: int, width: int, frames: int) -> tuple[int, int]:
        """Height and width to which a film's frames are resized: what its processor would choose.

        Args:
            height: of the film's pictures.
            width: of the film's pictures.
            frames: taken of it; some processors share a budget of pixels over them.
        """
        sizes: Any = self.frames.size or {}
        patch, merge = (getattr(self.frames, f"{n}_size", None) for n in ("patch", "merge"))
        if patch and merge and sizes.get("longest_edge"):
            least, most = sizes["shortest_edge"], sizes["longest_edge"]
            share = frames if self.shares_budget else 1
            return fitted(height, width, patch * merge, least / share, most / share)
        if getattr(self.frames, "do_center_crop", None) and self.frames.crop_size:
            sizes = self.frames.crop_size
        if getattr(self.frames, "max_image_size", None):
            sizes = self.frames.max_image_size
        side = sizes.get("shortest_edge") or sizes.get("longest_edge")
        return sizes.get("height") or side, sizes.get("width") or side

    @property
    def shares_budget(self) -> bool:
        """Whether the processor would make frames smaller the more there are of them."""
        kind = getattr(self.frames, "kind", None) or type(self.frames).__name__
        return kind in SHARED_BUDGETS

    def budget_note(self, size: tuple[int, int]) -> str:
        """Say how large frames are that share a budget; nothing of others."""
        height, width = size
        pixels = f"every frame is {width} x {height} pixels, chosen once for the film"
        return pixels if self.shares_budget else ""

    def geometry(self, size: tuple[int, int]) -> Size:
        """How frames of that size are made: the centre of the picture, or all of it, stretched."""
        crop = getattr(self.frames, "do_center_crop", None) and size[0] == size[1]
        return size[0] if crop else size

    def processed(self, pixels: Tensor) -> Mapping[str, Any]:
        """Have the processor normalise and arrange frames [F, 3, H, W] that have their size."""
        off = dict.fromkeys(("do_resize", "do_center_crop", "do_sample_frames"), False)
        if self.as_video:
            return self.frames([pixels], **off, return_tensors="pt")
        del off["do_sample_frames"]
        pictures = [picture.numpy() for picture in pixels.byte()]
        channels = {"input_data_format": "channels_first", "return_tensors": "pt"}
        return self.frames(pictures, **off, **channels)

    def grid(self, size: tuple[int, int], units: int) -> Tensor | None:
        """Patches of a film, [1, 3]: its units, rows and columns; None where there are none."""
        grid = self._empty(size).get("video_grid_thw")
        if grid is None:
            return None
        grid = grid.clone()
        grid[0, 0] = units
        return grid

    def symbols(
        self, messages: Sequence[Mapping[str, Any]], media: Sequence[WatchedFrames]
    ) -> Tensor:
        """Write a conversation as symbols, int64 [L]: rows, from row 0 on, where its media stand.

        Raises:
            LongVAError: the processor writes another number of tokens than the frames have.
        """
        told = [by_unit(medium) for medium in media]
        messages, _ = with_media(messages, told)
        shown = films_of(told)
        ahead = iter(shown)
        said = [{**m, "content": self._parts(m["content"], ahead)} for m in messages]
        text = apply_template(self.processor, said, add_generation_prompt=True)
        films = iter([self._text(len(m), times(m), m.size) for m in shown for _ in self._each(m)])
        name = "video_token" if self.as_video else "image_token"
        mark = re.escape(getattr(self.processor, name))
        text = re.sub(f"(?<!{MARK}){mark}", lambda _: next(films), text)
        sizes: list[int] = []

        def once(run: re.Match) -> str:
            sizes.append(len(run[0]) // len(run[1]))
            return run[1]

        tokens = self.processor.tokenizer.convert_ids_to_tokens(list(self.visual_ids))
        spelt = "|".join(map(re.escape, tokens))
        text = re.sub(rf"(?<!{MARK})({spelt})\1*", once, text)  # cheap to tokenise
        ids = torch.tensor(template_ids(self.processor.tokenizer, [text])[0])
        symbols = insert_rows(ids, self.visual_ids, sizes)
        return self._closed(symbols, sum(sizes) - sum(m.rows for m in media), media)

    def place(self, symbols: Tensor, media: Sequence[WatchedFrames], find: Any) -> Placed:
        """Say how the model reads symbols that begin a prompt.

        Args:
            symbols: [L]
            media: that stand in the prompt, or will.
            find: the model's own rule of M-RoPE; None for positions 0, 1, 2 ...
        """
        visual = symbols < 0
        tokens = torch.where(visual, self.placeholder, symbols)
        left, grids, steps, whole = int((visual & (symbols > CLOSING)).sum()), [], [], 0
        for medium in films_of([by_unit(medium) for medium in media]):
            units = min(len(medium) // medium.unit or 1, -(-left // medium.tokens_per_frame))
            left -= units * medium.tokens_per_frame
            if units > 0 and medium.size is not None:
                grids.append(self.grid(medium.size, units))
                steps.append(medium.step * medium.unit)
        whole = max(0, -left)  # of a unit that was cut, the rest
        padded = torch.cat([tokens, torch.full((whole,), self.placeholder)])
        types = self._types(padded)
        positions = torch.arange(len(tokens))[None]
        if find is not None:
            has = {"video_grid_thw": torch.cat(grids), "second_per_grid_ts": steps} if grids else {}
            positions, _ = find(input_ids=padded[None], mm_token_type_ids=types[None], **has)
            positions = positions[:, 0, : len(tokens)]
        return Placed(symbols, tokens, positions, types[: len(tokens)])

    def _parts(self, content: Any, ahead: Any) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        parts: list[dict[str, Any]] = []
        for part in content:
            if part["type"] == "text":
                parts.append(part)
            else:
                kind = "video" if self.as_video else "image"
                parts += [{"type": kind} for _ in self._each(next(ahead))]
        return parts

    def _each(self, medium: WatchedFrames) -> range:
        """Once for a film, or once for every frame where frames are pictures."""
        return range(1 if self.as_video else len(medium))

    def _text(self, frames: int, seconds: Sequence[float], size: Any) -> str:
        """What stands for a film in a prompt; or for one of its frames."""
        height, width = size
        made = dict(self._empty(size))
        if not self.as_video:
            about = {"num_crops": [0], "image_sizes": [list(size)]}
            return self.processor.replace_image_token({**made, **about}, image_idx=0)
        for name, tensor in made.items():
            if name.startswith("pixel") and tensor.ndim > 3:
                made[name] = tensor[:, :1].expand(1, frames, *tensor.shape[2:])
        units = -(-frames // self.unit)
        if (grid := self.grid(size, units)) is not None:
            made["video_grid_thw"] = grid
        if "video_compression_mask" in made:
            made["video_compression_mask"] = made["video_compression_mask"].repeat(units)
        facts = {"fps": 1.0, "frames_indices": list(seconds), "width": width, "height": height}
        made["video_metadata"] = [VideoMetadata(total_num_frames=frames, **facts)]
        return self.processor.replace_video_token(made, video_idx=0)

    def _tokens_of_a_unit(self, size: tuple[int, int]) -> tuple[int, int]:
        """T, and the tokens of all that is written for a unit: times and marks, too."""
        texts = [self._text(n, [0.0] * n, size) for n in (self.unit, 2 * self.unit)]
        ids = [template_ids(self.processor.tokenizer, [text])[0] for text in texts]
        rows, all_of_them = [sum(id_ in self.visual_ids for id_ in of) for of in ids], map(len, ids)
        one, two = zip(rows, all_of_them, strict=True)
        return (two[0] - one[0], two[1] - one[1]) if self.as_video else one

    def _types(self, tokens: Tensor) -> Tensor:
        make = self.processor.create_mm_token_type_ids
        return torch.tensor(make([tokens.tolist()])[0], dtype=torch.int32)

    def _closed(self, symbols: Tensor, more: int, media: Sequence[WatchedFrames]) -> Tensor:
        """Give the row that ends a film a symbol of its own, as further frames may come before."""
        if more == 0:
            return symbols
        if more == 1 and len(media) == 1:
            return torch.where(symbols == symbols.min(), CLOSING, symbols)
        if more == len(films_of(media)):
            raise LongVAError(
                "this model ends every film with a row of its own, and watches one film at a time: "
                "nothing can stand between its frames. Give one medium, without subtitles or "
                "time_tokens."
            )
        raise LongVAError(
            f"the processor writes {more:+,} tokens more than the {sum(len(m) for m in media)} "
            "frames have, so they cannot be told apart."
        )


def by_unit(medium: WatchedFrames) -> WatchedFrames:
    """Have texts that stand before a frame of a pair stand before the pair."""
    before, unit = medium.before, medium.unit
    pairs = [before[n : n + unit] for n in range(0, len(before), unit)]
    told = [("\n".join(filter(None, pair)), *[""] * (len(pair) - 1)) for pair in pairs]
    return replace(medium, before=tuple(text for pair in told for text in pair))


def films_of(media: Sequence[WatchedFrames]) -> list[WatchedFrames]:
    """Cut media where texts stand between their frames: to the model each part is a film."""
    films = []
    for medium in media:
        cuts = [n for n, text in enumerate(medium.before) if text and n]
        films += [medium.part(*cut) for cut in pairwise([0, *cuts, len(medium)])]
    return films


def times(medium: WatchedFrames) -> list[float]:
    """Seconds of the frames; at the film's step where they have no clock."""
    if medium.seconds is None:
        return [number * medium.step for number in range(len(medium))]
    return medium.seconds.tolist()


def fitted(height: int, width: int, factor: int, least: float, most: float) -> tuple[int, int]:
    """Round a size to multiples, and keep its pixels in a range, as the Qwen models do.

    Args:
        height: of the picture.
        width: of the picture.
        factor: sides are multiples of it.
        least: pixels.
        most: pixels.

    >>> fitted(720, 1280, 28, 3_136, 602_112), fitted(10, 20, 28, 3_136, 602_112)
    ((560, 1008), (56, 84))
    """
    if min(height, width) < factor:
        scale = factor / min(height, width)
        height, width = int(height * scale), int(width * scale)
    sides = [round(side / factor) * factor for side in (height, width)]
    if math.prod(sides) > most:
        scale, to = math.sqrt(height * width / most), math.floor
    elif math.prod(sides) < least:
        scale, to = math.sqrt(height * width / least), math.ceil
    else:
        return sides[0], sides[1]
    sides = [max(factor, to(side / scale / factor) * factor) for side in (height, width)]
    return sides[0], sides[1]
