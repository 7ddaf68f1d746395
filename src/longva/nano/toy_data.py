"""Data for the toy recipes, from `toy/base_lm` to `toy/dpo`: small pictures of the nano world, and
text about them.

python -m longva.nano.toy_data        writes runs/toy/data
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import typer

from longva.data.text.packing import tokenizer_fingerprint, write_packed
from longva.files.writing import write_lines
from longva.model.random_model import byte_tokenizer
from longva.nano.pictures import turns_of
from longva.nano.world import QUESTIONS, Scene, draw_scene, random_scene

DATA = Path("runs/toy/data")
"""Where the toy recipes look for it."""


def write_text(folder: Path, tokenizer: Any, scenes: list[Scene], per_document: int) -> None:
    """Write packed documents of `per_document` scenes: captions, and questions with answers."""
    folder.mkdir(parents=True, exist_ok=True)
    documents = []
    for start in range(0, len(scenes), per_document):
        lines = []
        for scene in scenes[start : start + per_document]:
            lines.append(scene.caption)
            lines += [f"{scene.question(about)} {scene.answer(about)}" for about in QUESTIONS]
        documents.append(np.array(tokenizer("\n".join(lines))["input_ids"]))
    write_packed(
        folder,
        documents,
        np.zeros(len(documents), np.int16),
        separator=tokenizer.pad_token_id,
        dtype=np.dtype(np.uint16),
        about={"tokenizer": {"name": "bytes", **tokenizer_fingerprint(tokenizer)}},
    )


def write_pictures(folder: Path, scenes: list[Scene], name: str) -> None:
    """Write one picture a scene, and captions, conversations and preferences about them."""
    rng = random.Random(0)
    captions, chats, pairs = [], [], []
    for number, scene in enumerate(scenes):
        image = f"{name}_{number}.png"
        draw_scene(scene, width=64, height=48).save(folder / image)
        about = rng.choice(list(QUESTIONS))
        question, answer = "<image>\n" + scene.question(about), scene.answer(about)
        told = turns_of("<image>\nDescribe the picture.", scene.caption)
        captions.append({"image": image, "conversations": told})
        chats.append({"image": image, "conversations": turns_of(question, answer)})
        long, short = f"It is {answer}.", "I cannot tell from this picture."
        pairs.append({"image": image, "prompt": question, "chosen": long, "rejected": short})
    for kind, samples in {"captions": captions, "chats": chats, "pairs": pairs}.items():
        write_lines(folder / f"{kind}_{name}.jsonl", samples)


def write_toy_data(folder: Path = DATA) -> None:
    """Write everything that the toy recipes read; the same bytes each time."""
    rng = random.Random(0)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    scenes = [random_scene(rng) for _ in range(400)]
    write_text(folder / "text_short", tokenizer, scenes, per_document=1)
    write_text(folder / "text_long", tokenizer, scenes, per_document=8)
    write_text(folder / "text_held_out", tokenizer, [random_scene(rng) for _ in range(32)], 8)
    write_pictures(folder, scenes[:32], "train")
    write_pictures(folder, [random_scene(rng) for _ in range(8)], "held_out")


if __name__ == "__main__":
    write_toy_data()
    typer.echo(f"Wrote {DATA}. Next: longva extend toy/base_lm")
