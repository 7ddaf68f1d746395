"""Prompts of video models as their own processors write them, without any pixels.

    chat template   <user> <video> What happens?
    processor       <user> <0.5 seconds> P P P P <2.5 seconds> P P P P  What happens?
    symbols         ...    ...           -1 -2 -3 -4 ...     -5 -6 ...

A processor writes frames, times and placeholders by the shape of what it has processed; it is
handed that shape alone. So a prompt about hours of film costs its text.

F frames, T tokens of a unit: of a frame, or of the pair that a model encodes together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import BatchFeature
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize
from transformers.video_utils import VideoMetadata

from longva.errors import LongVAError
from longva.media.resize import Size
from longva.model.chat_format import MARK, apply_template, template_ids
from longva.prompts.model_reader import CLOSING, Placed
from longva.prompts.symbols import insert_rows
from longva.watching.features import WatchedFrames
from longva.watching.turns import with_media

SHARED_BUDGETS = {f"{name}VideoProcessor" for name in ("Qwen3VL", "Glm4v", "Glm46V", "VideoLlama3")}
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
        self.kind = "video" if self.as_video else "image"
        self.frames = processor.video_processor if self.as_video else processor.image_processor
        if getattr(self.frames, "use_token_compression", False):
            self.frames.use_token_compression = False  # a frame's tokens would depend on others
        self.unit = getattr(self.frames, "temporal_patch_size", None) or 1
        name = getattr(self.frames, "video_processor_type", "") or type(self.frames).__name__
        self.shares_budget = name in SHARED_BUDGETS
        """Whether the processor would make frames smaller the more there are of them."""

        self.unit_tokens = cache(self._tokens_of_a_unit)
        self._empty = cache(lambda size: dict(self.processed(torch.zeros(self.unit, 3, *size))))
        text = self._text([0.0] * self.unit, self.frame_size(64, 64, self.unit))
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
            share = frames if self.shares_budget else 1
            long = max(height, width) // 199 + 1  # a side has it: longer strips are refused
            about = {"temporal_factor": 1, "factor": patch * merge}
            about |= {"min_pixels": sizes["shortest_edge"], "max_pixels": sizes["longest_edge"]}
            return smart_resize(share, max(height, long), max(width, long), **about)
        if getattr(self.frames, "do_center_crop", None) and self.frames.crop_size:
            sizes = self.frames.crop_size
        sizes = getattr(self.frames, "max_image_size", None) or sizes
        side = sizes.get("shortest_edge") or sizes.get("longest_edge")
        return sizes.get("height") or side, sizes.get("width") or side

    def geometry(self, size: Any) -> Size:
        """How frames of that size are made: the centre of the picture, or all of it, stretched."""
        crop = getattr(self.frames, "do_center_crop", None) and size[0] == size[1]
        return size[0] if crop else size

    def processed(self, pixels: Tensor) -> BatchFeature:
        """Have the processor normalise and arrange frames [F, 3, H, W] that have their size."""
        off = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
        if self.as_video:
            return self.frames([pixels], do_sample_frames=False, **off)
        return self.frames(list(pixels.byte().numpy()), input_data_format="channels_first", **off)

    def grid(self, size: Any, units: int) -> Tensor | None:
        """Patches of a film, [1, 3]: its units, rows and columns; None where there are none."""
        grid = self._empty(size).get("video_grid_thw")
        return None if grid is None else torch.tensor([[units, *grid[0, 1:]]])

    def symbols(
        self, messages: Sequence[Mapping[str, Any]], media: Sequence[WatchedFrames]
    ) -> Tensor:
        """Write a conversation as symbols, int64 [L]: rows, from row 0 on, where its media stand.

        Raises:
            LongVAError: the processor writes another number of tokens than the frames have.
        """
        messages, _ = with_media(messages, media)
        films = films_of(media)
        ahead = iter(films)
        said = [{**m, "content": self._parts(m["content"], ahead)} for m in messages]
        text = apply_template(self.processor, said, add_generation_prompt=True)
        shown = iter([self._text(times(m), m.size) for m in films for _ in self._each(m)])
        mark = re.escape(getattr(self.processor, f"{self.kind}_token"))
        text = re.sub(f"(?<!{MARK}){mark}", lambda _: next(shown), text)
        tokens = self.processor.tokenizer.convert_ids_to_tokens(list(self.visual_ids))
        runs = re.compile(rf"(?<!{MARK})({'|'.join(map(re.escape, tokens))})\1*")
        sizes = [len(run[0]) // len(run[1]) for run in runs.finditer(text)]
        text = runs.sub(r"\1", text)  # cheap to tokenise
        ids = torch.tensor(template_ids(self.processor.tokenizer, [text])[0])
        symbols = insert_rows(ids, self.visual_ids, sizes)
        more = sum(sizes) - sum(medium.rows for medium in media)
        if more == len(media) == 1:  # further frames may come before the row that ends a film
            return torch.where(symbols == symbols.min(), CLOSING, symbols)
        if more and more == len(films):
            raise LongVAError(
                "this model ends every film with a row of its own, and watches one film at a time: "
                "nothing can stand between its frames. Give one medium, without subtitles or "
                "time_tokens."
            )
        if more:
            raise LongVAError(
                f"the processor writes {more:+,} tokens more than the {sum(map(len, media))} "
                "frames have, so they cannot be told apart."
            )
        return symbols

    def place(self, symbols: Tensor, media: Sequence[WatchedFrames], find: Any) -> Placed:
        """Say where symbols that begin a prompt stand for the model.

        Args:
            symbols: [L]
            media: that stand in the prompt, or will.
            find: the model's own rule of M-RoPE; None for positions 0, 1, 2 ...
        """
        if find is None:
            return Placed(symbols, torch.arange(len(symbols))[None])
        left, grids, steps = int(((symbols < 0) & (symbols > CLOSING)).sum()), [], []
        for film in films_of(media):
            units = min(film.units, -(-left // film.tokens_per_frame))
            left -= units * film.tokens_per_frame
            if units > 0:
                grids.append(self.grid(film.size, units))
                steps.append(film.step * film.unit)
        tokens = symbols.masked_fill(symbols < 0, self.placeholder)
        tokens = pad(tokens, (0, max(0, -left)), value=self.placeholder)  # a unit that was cut
        has = {"video_grid_thw": torch.cat(grids), "second_per_grid_ts": steps} if grids else {}
        types = self.types(tokens)
        positions, _ = find(input_ids=tokens[None], mm_token_type_ids=types[None], **has)
        return Placed(symbols, positions[:, 0, : len(symbols)])

    def types(self, tokens: Tensor) -> Tensor:
        """Kinds of token ids, [L] -> [L] int32, as the processor numbers them: text is 0."""
        (made,) = self.processor.create_mm_token_type_ids([tokens.tolist()])
        return torch.tensor(made, dtype=torch.int32)

    def _parts(self, content: Any, films: Iterator[WatchedFrames]) -> list[dict[str, Any]]:
        """Parts of a message as the template has them; see `_each`."""
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        parts: list[dict[str, Any]] = []
        for part in content:
            text = part["type"] == "text"
            parts += [part] if text else [{"type": self.kind} for _ in self._each(next(films))]
        return parts

    def _each(self, film: WatchedFrames) -> range:
        """Once for a film, or once for every frame where frames are pictures."""
        return range(1 if self.as_video else len(film))

    def _text(self, seconds: list[float], size: Any) -> str:
        """What stands for a film in a prompt, by the times of its frames; or for one frame."""
        made = {**self._empty(size), "num_crops": [0], "image_sizes": [list(size)]}
        if not self.as_video:
            return self.processor.replace_image_token(made, image_idx=0)
        frames, units = len(seconds), -(-len(seconds) // self.unit)
        for name, tensor in made.items():
            if name.startswith("pixel") and tensor.ndim > 3:
                made[name] = tensor[:, :1].expand(1, frames, *tensor.shape[2:])
        made["video_grid_thw"] = self.grid(size, units)
        if "video_compression_mask" in made:
            made["video_compression_mask"] = made["video_compression_mask"].repeat(units)
        about = {"fps": 1.0, "height": size[0], "width": size[1], "frames_indices": seconds}
        made["video_metadata"] = [VideoMetadata(total_num_frames=frames, **about)]
        return self.processor.replace_video_token(made, video_idx=0)

    def _tokens_of_a_unit(self, size: tuple[int, int]) -> tuple[int, int]:
        """T, and the tokens of all that is written for a unit: times and marks, too."""
        texts = [self._text([0.0] * n, size) for n in (self.unit, 2 * self.unit)]
        one, two = (template_ids(self.processor.tokenizer, [text])[0] for text in texts)
        one = one if self.as_video else []  # where frames are pictures, each text is of one
        rows = [sum(token in self.visual_ids for token in ids) for ids in (one, two)]
        return rows[1] - rows[0], len(two) - len(one)


def films_of(media: Sequence[WatchedFrames]) -> list[WatchedFrames]:
    """Cut media where texts stand between their frames: to the model each part is a film."""
    films = []
    for medium in media:
        cuts = [n for n, text in enumerate(medium.texts) if text and n]
        films += [medium.part(*cut) for cut in pairwise([0, *cuts, len(medium)])]
    return films


def times(medium: WatchedFrames) -> list[float]:
    """Seconds of the frames; at the film's step where they have no clock."""
    if medium.seconds is None:
        return [number * medium.step for number in range(len(medium))]
    return medium.seconds.tolist()
