"""How much memory does the chunked vocabulary loss save, and at what cost in time?

    python benchmarks/chunked_loss.py --out benchmarks/results/chunked_loss_cpu_2026-11-20.md

Forward and backward of the output layer and its cross-entropy, plain and chunked, each in a process
of its own: the peak is the process's largest resident memory (VmHWM) less what it held before the
loss, when hidden states and weights were there already. Linux only. The two gradients, which either
side must hold in the end, are part of the peak; "working memory" leaves them out. A number belongs
to the device in its row.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from process_memory import memory, reset_peak

from longva.losses import CHUNK_TOKENS, IGNORE_INDEX, chunked_log_probs


def plain_loss(hidden, weight, labels, num_targets):
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum") / num_targets


def chunked_loss(hidden, weight, labels, num_targets, chunk_tokens=CHUNK_TOKENS):
    """This rank's part of the loss: 0, with gradients of zeros, where it has no target."""
    return -chunked_log_probs(hidden, weight, labels, chunk_tokens).sum() / num_targets


LOSSES = {"plain": plain_loss, "chunked": chunked_loss}


def run_side(side: str, tokens: int, words: int, width: int, dtype: str, gradients: Path) -> dict:
    """Run one side in this process and save its gradients."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    hidden = torch.randn(tokens, width).to(kind).requires_grad_()
    weight = (torch.randn(words, width) / width**0.5).to(kind).requires_grad_()
    labels = torch.randint(0, words, (tokens,))
    labels[::10] = IGNORE_INDEX
    num_targets = int((labels != IGNORE_INDEX).sum())
    LOSSES[side](hidden[:2], weight[:64], labels[:2] % 64, 2).backward()  # libraries and threads
    hidden.grad = weight.grad = None

    reset_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    loss = LOSSES[side](hidden, weight, labels, num_targets)
    loss.backward()
    seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
    torch.save([hidden.grad, weight.grad], gradients)
    outputs = sum(t.nbytes for t in (hidden, weight))
    return {"loss": loss.item(), "seconds": seconds, "peak": peak, "working": peak - outputs}


def compare(tokens: int, words: int, width: int, dtype: str) -> str:
    """Run both sides, each in a child, and return the Markdown table and the comparison."""
    rows, gradients = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for side in LOSSES:
            path = Path(folder) / side
            sizes = ["--tokens", tokens, "--words", words, "--width", width, "--dtype", dtype]
            command = [sys.executable, __file__, "--side", side, "--gradients", path, *sizes]
            output = subprocess.check_output([str(part) for part in command])
            rows[side] = json.loads(output.splitlines()[-1])
            gradients[side] = torch.load(path)
    errors = [
        ((a - b).float().norm() / b.float().norm()).item()
        for a, b in zip(gradients["chunked"], gradients["plain"], strict=True)
    ]
    lines = [
        f"## {tokens:,} tokens x {words:,} words, width {width}, {dtype}\n",
        "| loss | peak MiB | working MiB | seconds | value |",
        "|---|---|---|---|---|",
    ]
    for side, row in rows.items():
        mib = [f"{row[key] / 2**20:,.0f}" for key in ("peak", "working")]
        lines.append(f"| {side} | {' | '.join(mib)} | {row['seconds']:.1f} | {row['loss']:.6f} |")
    plain, chunked = rows["plain"], rows["chunked"]
    lines.append(
        f"\nPeak {plain['peak'] / chunked['peak']:.1f}x lower, working memory "
        f"{plain['working'] / chunked['working']:.1f}x lower, time "
        f"{chunked['seconds'] / plain['seconds']:.2f}x. Difference of the gradients, relative to "
        f"their norm: hidden states {errors[0]:.1e}, weight {errors[1]:.1e}.\n"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--words", type=int, default=152_064)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, help="Markdown file to write as well")
    parser.add_argument("--side", choices=LOSSES, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = (args.tokens, args.words, args.width, args.dtype)
    if args.side:
        print(json.dumps(run_side(args.side, *sizes, args.gradients)))
        return
    device = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    report = (
        f"# Chunked vocabulary loss\n\n`python benchmarks/chunked_loss.py` on {device}, "
        f"torch {torch.__version__}, {date.today()}.\n\n{compare(*sizes)}"
    )
    print(report)
    if args.out:
        args.out.write_text(report)


if __name__ == "__main__":
    main()
