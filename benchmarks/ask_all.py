"""What do sixteen questions cost together, against one by one?

    python benchmarks/ask_all.py

For the embedded model after 1,000 frames, with its own short answers and with answers of 32 tokens,
and for random ones of 100 million parameters after 1,000 frames, with answers of 32 and 64: in
`random` a token is a byte, in `words` a word. Both ways are run in turn; the answers are compared.
Prints Markdown rows for benchmarks/results/. A number belongs to the device in its row.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

FRAMES = 1000
THINGS = [
    *("anchor", "key", "star", "moon", "house", "tree", "boat", "fish"),
    *("car", "cup", "bell", "leaf", "sun", "crown", "heart", "flag"),
]
QUESTIONS = [
    ("What number is with the {}?", "What color is behind the {}?")[n % 2].format(thing)
    for n, thing in enumerate(THINGS)
]
RANDOM: dict[str, Any] = {
    "hidden_size": 768,
    "num_layers": 20,
    "num_heads": 12,
    "num_key_value_heads": 2,
}
WORDS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 20,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}


def nano_session(folder: Path):
    """Watch a film of the drawn world."""
    from longva.nano.film import write_film
    from longva.watching.assistant import LongVA

    write_film(folder / "film.mp4", seconds=FRAMES)
    return LongVA.from_pretrained("nano").watch(folder / "film.mp4", fps=1)


def random_session(_: Path):
    """Watch noise, 4 tokens a frame."""
    import numpy as np

    from longva.media.medium import open_media
    from longva.model.random_model import random_longva
    from longva.watching.assistant import LongVA

    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 30, 30, 3), dtype=np.uint8)
    media = open_media(list(frames), seconds=np.arange(float(FRAMES)))
    return LongVA(*random_longva(**RANDOM), name="random").watch(media, fps=1)


def words_session(folder: Path):
    """Watch a drawn film with a random model of a word a token, as those of today nearly have."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from longva.nano.film import write_film
    from longva.nano.vision_tower import VISION
    from longva.nano.words import word_tokenizer
    from longva.train.models import assemble_longva
    from longva.watching.assistant import LongVA

    tokenizer = word_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **WORDS,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    model, processor = assemble_longva(
        str(folder / "language"), dict(VISION), vision_feature_layer=-1, seed=0
    )
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    write_film(folder / "film.mp4", seconds=FRAMES)
    return LongVA.from_pretrained(str(folder / "model")).watch(folder / "film.mp4", fps=1)


def one_by_one(session, options: dict) -> list:
    """Ask as many times as there are questions."""
    return [session.ask(question, **options) for question in QUESTIONS]


def together(session, options: dict) -> list:
    """Ask once."""
    return session.ask_all(QUESTIONS, **options)


def timed(work: Callable[..., list], *arguments) -> tuple[float, float, list]:
    """CPU seconds, seconds, and what came out."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work(*arguments)
    return time.process_time() - cpu, time.perf_counter() - wall, result


def main() -> None:
    """Measure every setting and print the table."""
    import torch

    from longva.prompts.decoding import Sampling

    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["nano", "random"])
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    print(f"Device: {platform.machine()} CPU, {os.cpu_count()} threads, date: {date.today()},")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s) of it.\n")
    print("| model | tokens watched | answer tokens | one by one CPU s | together CPU s | ratio |")
    print("|---|---|---|---|---|---|")
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            session = {"nano": nano_session, "random": random_session, "words": words_session}[
                name
            ](Path(folder))
        for length in {"nano": (None, 32)}.get(name, (32, 64)):
            options = {"max_new_tokens": length or 1024}
            options["sampling"] = Sampling(ignore_eos=length is not None)
            session.ask_all(QUESTIONS[:2], **options)
            for _ in range(args.repeats):
                alone, alone_wall, one = timed(one_by_one, session, options)
                both, both_wall, all_of_them = timed(together, session, options)
                assert [a.text for a in one] == [a.text for a in all_of_them]
                tokens = sum(answer.answer_tokens for answer in one)
                print(
                    f"| {name} | {one[0].prompt_tokens:,} | {tokens} | {alone:.2f} | {both:.2f} | "
                    f"{alone / both:.1f}x (wall {alone_wall:.1f} s, {both_wall:.1f} s: "
                    f"{alone_wall / both_wall:.1f}x) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
