"""What a second question costs a video model of transformers, against its own `generate`.

    python benchmarks/watch_once_video_model.py --frames 1000

A random Qwen2.5-VL of 31 million weights watches a generated film; both sides are given the same
frames, already resized, and answer greedily. transformers encodes and reads them for each question.
Prints a Markdown row for benchmarks/results/. A number belongs to the device in its row.
"""

import argparse
import platform
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch
import transformers

from longva.media.medium import open_media
from longva.watching.answer import Answer
from longva.watching.assistant import LongVA
from longva.watching.session import Session

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.watching import families

SIDE, PATCH, TOKENS = 112, 14, 8
QUESTIONS = ("What happens in this film?", "When does the train arrive?")


def plain(model, processor, frames: torch.Tensor, question: str) -> tuple[float, str]:
    """Seconds and text of transformers' own answer, the processor's work left out."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    count = len(frames)
    about = {"fps": 1.0, "frames_indices": list(range(count)), "total_num_frames": count}
    told = {"video_metadata": [about], "do_resize": False, "do_sample_frames": False}
    inputs = processor(text=[text], videos=[frames], **told, return_tensors="pt")
    inputs = {n: v for n, v in inputs.items() if isinstance(v, torch.Tensor)}
    started = time.perf_counter()
    out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    seconds = time.perf_counter() - started
    tokens = out[0, inputs["input_ids"].shape[1] :]
    return seconds, processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def ask_second(session: Session) -> tuple[Answer, float]:
    """Answer the second of two questions, and tell its seconds: the median of five."""
    seconds = []
    for _ in range(5):
        session.ask(QUESTIONS[0], max_new_tokens=TOKENS)
        started = time.perf_counter()
        answer = session.ask(QUESTIONS[1], max_new_tokens=TOKENS)
        seconds.append(time.perf_counter() - started)
    return answer, statistics.median(seconds)


def main() -> None:
    """Watch once, ask twice; and ask transformers the second question."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=1000)
    count = parser.parse_args().frames
    width = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "head_dim": 64}
    width |= {"num_attention_heads": 8, "max_position_embeddings": 100_000}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 8, 8]}
    model, processor = families.make(
        "qwen2_5_vl",
        torch.float32,
        text=width | {"rope_parameters": rope},
        vision={"patch_size": PATCH, "window_size": SIDE, "out_hidden_size": 512},
        pixels=SIDE * SIDE,
        patch=PATCH,
    )
    longva = LongVA(model, processor, name="random Qwen2.5-VL")
    film = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8)
    frames = open_media(film).frames_at(range(count), size=(SIDE, SIDE)).pixels
    started = time.perf_counter()
    session = longva.watch(film, frames=count)
    watched = time.perf_counter() - started
    answer, second = ask_second(session)
    session.close()
    seconds, text = plain(model, processor, frames, QUESTIONS[1])
    size = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {date.today()}")
    print("| device | M weights | frames | prompt tokens | watch | second question | generate |")
    print("| - | - | - | - | - | - | - |")
    where = f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(
        f"| {where} | {size:.0f} | {count} | {answer.prompt_tokens} | {watched:.1f} s | "
        f"{second:.2f} s | {seconds:.1f} s |"
    )
    same = "the same tokens" if answer.text == text else "OTHER TOKENS"
    print(f"\n{second / seconds:.1%} of the time of `generate`, {same}.")


if __name__ == "__main__":
    main()
