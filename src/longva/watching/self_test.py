"""Does a model answer from our cache as it does by itself? A few random frames tell, in seconds.

    its own forward    frames and question 1, all at once        frames and question 2
    here               frames, in small chunks . question 1      . question 2

It stands in place of a list of models that are known to work.
"""

import torch

from longva.errors import LongVAError, reason
from longva.media.medium import open_media
from longva.media.sampling import FrameSampling
from longva.watching.video_family import VideoFamily
from longva.watching.watcher import Watcher

FRAMES = 8
PICTURE = 96, 128
CHUNK_TOKENS = 64
QUESTIONS = ("What is shown?", "When does it change, and how?")
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference of two logits, as a share of the largest logit; in half precision 0.05, and
with quantised weights, which int8 multiplies with rounded activations."""


@torch.inference_mode()
def run_self_test(watcher: Watcher) -> None:
    """Compare the logits of two questions about random frames with those of the plain forward.

    Raises:
        LongVAError: they differ, or the model cannot be asked in either way.
    """
    try:
        shares = differences(watcher)
    except Exception as error:
        raise LongVAError(
            f"{watcher.name} cannot be watched with: its self-test ended in {reason(error)}.",
            self_test=False,
        ) from error
    quantised = getattr(watcher.model, "is_quantized", False)
    most = 0.05 if quantised else TOLERANCE.get(watcher.model.dtype, 0.05)
    if not max(shares) <= most:
        found = " and ".join(f"{share:.2g}" for share in shares)
        raise LongVAError(
            f"{watcher.name} cannot be watched with: after {FRAMES} random frames its logits from "
            f"the cache differ from those of its own forward, by {found} of the largest for two "
            f"questions, where at most {most:g} is rounding.",
            self_test=False,
        )


def differences(watcher: Watcher) -> list[float]:
    """How far logits from the cache are from those of the plain forward, for each question."""
    family = watcher.family
    assert isinstance(family, VideoFamily)
    pixels = torch.randint(
        0, 256, (FRAMES, 3, *PICTURE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    media = open_media(pixels)
    frames = watcher.describe(media, FrameSampling(num_frames=FRAMES))
    size = family.prompts.geometry(frames.size)
    resized = media.frames_at(range(FRAMES), size=size).pixels
    reader = family.reader(lambda: [frames], chunk_tokens=CHUNK_TOKENS, kv_dtype=watcher.kv)
    reader.rows, found = family.rows(resized).flatten(0, 1), []
    for question in QUESTIONS:
        content = [{"type": "video"}, {"type": "text", "text": question}]
        prompt = family.symbols([{"role": "user", "content": content}], [frames])
        ours = reader.logits(reader.read(prompt))
        plain = family.plain_logits(prompt, resized, frames)
        found.append(float((ours - plain).abs().max() / plain.abs().max()))
    return found
