"""From a file to an answer, and a second question: ours against transformers' own `generate`."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers_timing import Rows, in_turns
from transformers import DynamicCache
from transformers.video_utils import load_video
from video_decode import GROUP, HEIGHT, NUMBERED, WIDTH, write

from longva.model.random_model import random_longva
from longva.watching.assistant import LongVA

SIZES: dict[bool, tuple[int, dict[str, Any]]] = {
    False: (
        8,
        {
            **{"grid_size": 224, "vision_width": 384, "vision_layers": 12},
            **{"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "num_key_value_heads": 4},
        },
    ),
    True: (8, {"grid_size": 112, "vision_width": 256, "vision_layers": 6, "hidden_size": 256}),
}
"""By `quick`: frames of a film of 20 seconds of 720p, and the random model."""

TOKENS = 8
FIRST, SECOND = "What is shown first?", "And what is shown last?"


def equal(ours: str, theirs: str) -> str:
    return "same answer" if ours == theirs else "another answer"


class Plain:
    """What the documentation of transformers has one write: load, process, generate."""

    def __init__(self, model: Any, processor: Any, path: str, frames: int) -> None:
        self.model, self.processor, self.path, self.frames = model, processor, path, frames
        self.media: dict[str, Any] = {}
        self.cache = DynamicCache(config=model.config.get_text_config())

    def first(self) -> str:
        """Load, process, generate."""
        indices = np.linspace(0, NUMBERED - 1, self.frames, dtype=int)
        path: Any = self.path  # it takes paths, too, which its types do not say
        pictures, _ = load_video(path, sample_indices_fn=lambda **_: indices)
        inputs = self.processor(
            text=self.prompt(FIRST),
            **{"videos": [pictures], "do_sample_frames": False, "return_tensors": "pt"},
        )
        self.media = {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw")}
        return self.generate(inputs)

    def again(self) -> str:
        """Generate again, from pixels that are kept."""
        return self.generate({**self.tokens(SECOND), **self.media})

    def cropped(self) -> str:
        """Keep the cache by hand, cropped back to the film: what an expert writes."""
        text = self.tokens(SECOND)
        shown = text["input_ids"][0] == self.model.config.video_token_id
        watched = int(shown.nonzero()[-1]) + 1
        if held := self.cache.get_seq_length():
            self.cache.crop(watched - held)
        else:
            film = {name: tokens[:, :watched] for name, tokens in text.items()}
            with torch.inference_mode():
                self.model(**film, **self.media, past_key_values=self.cache, logits_to_keep=1)
        return self.generate(text, past_key_values=self.cache)

    def prompt(self, question: str) -> str:
        """Write the chat."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        turns = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(turns, add_generation_prompt=True)

    def tokens(self, question: str) -> Any:
        """Write the chat as tokens, those of the film in their places."""
        film = self.processor.video_token * (self.frames * self.processor.tokens_per_grid())
        text = self.prompt(question).replace(self.processor.video_token, film)
        return self.processor.tokenizer(text, return_tensors="pt")

    def generate(self, inputs: Any, **kwargs: Any) -> str:
        """Answer greedily."""
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, **kwargs)
        answer = ids[0, inputs["input_ids"].shape[1] :]
        return self.processor.decode(answer, skip_special_tokens=True)


def answer(quick: bool) -> Rows:
    frames, size = SIZES[quick]
    size = {"max_position_embeddings": 32_768, **size}
    longva = LongVA(*random_longva(**size), name="random")
    model, processor = random_longva(**size)
    count = sum(weight.numel() for weight in model.parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        write(film, WIDTH, HEIGHT, NUMBERED, GROUP)
        session = longva.watch(str(film), frames=frames)
        plain = Plain(model, processor, str(film), frames)

        def ours() -> str:
            return longva.watch(str(film), frames=frames).ask(FIRST, max_new_tokens=TOKENS).text

        tokens = session.ask(FIRST, max_new_tokens=1).prompt_tokens
        of = f"{frames} frames, {tokens:,} tokens, {count:.0f} M weights"
        sides: dict[str, Callable] = {"longva": ours, "transformers, generate": plain.first}
        yield f"file to answer: {of}", in_turns(sides, rounds=2, same=equal, patience=60)
        sides = {
            "longva": lambda: session.ask(SECOND, max_new_tokens=TOKENS).text,
            "transformers, generate": plain.again,
            "transformers, its cache cropped by hand": plain.cropped,
        }
        yield f"a second question: {of}", in_turns(sides, rounds=2, same=equal, patience=60)
