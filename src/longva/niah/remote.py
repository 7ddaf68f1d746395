"""Other people's models under test: frames go in as images or as one video, text comes out.

    images    data:image/jpeg;base64,... data:image/jpeg;base64,... question
    video     data:video/jpeg;base64,...,...                        question

`ServedModel` asks an OpenAI-compatible server (vLLM, `longva serve`, a provider). It tells no
probabilities, so rows have `generated` alone. A video is sent as the list of its frames, as vLLM
and `longva serve` take it, so that the model sees the very frames that were chosen. One forward a
prompt; the same prompt again, such as about a needle that no cell shows, is not asked again.
"""

import base64
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from longva.chat_endpoint import ChatEndpoint, EndpointError
from longva.checkpoints.language_model import load_tokenizer
from longva.errors import LongVAError
from longva.niah.cells import Row
from longva.niah.haystack import Pictures
from longva.niah.model import Model, Probe
from longva.niah.recipe import MeasurementRecipe
from longva.niah.scoring import Frames
from longva.watching.evidence_pictures import jpeg

ATTEMPTS = 4
"""How often a request is sent to a server that is busy or broken."""

PATIENCE = 3600.0
"""Seconds for one answer: thousands of frames take a while."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model says to one prompt. What it does not tell is None."""

    generated: str | None = None
    prompt_tokens: int | None = None
    predicted: str | None = None
    is_greedy: bool | None = None
    logprob: float | None = None
    evidence_frames: list[int] | None = None
    """The best five, best first."""

    def fields(self) -> dict[str, Any]:
        """Return what a row says of it."""
        best = self.evidence_frames
        return {**vars(self), "evidence_frame": best[0] if best else None}


class ImageModel(Model):
    """A model that is shown frames in every prompt anew, one prompt after the other.

    Args:
        name: for people.
        max_new_tokens: longest generated answer.
        training_length: tokens that the model was trained at, if known.
        frames_as: how it is shown them.
    """

    def __init__(
        self,
        name: str,
        *,
        max_new_tokens: int,
        training_length: int | None = None,
        frames_as: Frames = "images",
    ):
        self.name, self.max_new_tokens, self.training_length = name, max_new_tokens, training_length
        self.frames_as = frames_as
        self.images: list[Image.Image] = []

    @abstractmethod
    def reply(self, pictures: Sequence[int], text: str, answer: str, fps: float) -> Reply:
        """Answer a prompt of frames and then a text.

        Args:
            pictures: indices of `images`; none where nothing is shown.
            text: of the prompt.
            answer: whose probability is wanted, if the model tells it; may be empty.
            fps: frames a second.
        """

    def encode(self, pictures: Sequence[Pictures], cache: Path) -> None:
        """Keep the pictures: they are shown anew in every prompt."""
        self.images = [
            Image.fromarray(pixels.permute(1, 2, 0).numpy())
            for one in pictures
            for batch in one.batches(self.frame_size)
            for pixels in batch
        ]

    def answer(self, probes: Sequence[Probe]) -> Iterator[Row]:
        """Answer every question, and those for the time."""
        asked: dict[tuple, Reply] = {}
        for probe in probes:
            row = probe.row
            pictures = () if probe.frames is None else tuple(probe.frames.tolist())
            text = row.question or ""
            if probe.pieces:
                text = self.tokenizer.decode(torch.cat(probe.pieces))
            prompt = (pictures, text, row.answer, row.fps or 1.0)
            if row.asked != "absent":
                reply = self.reply(*prompt)
            elif (reply := asked.get(prompt)) is None:
                reply = asked[prompt] = self.reply(*prompt)
            row = replace(row, **reply.fields())
            if probe.time_question:
                time = self.reply(pictures, probe.time_question, "", row.fps or 1.0)
                row = replace(row, time_generated=time.generated)
            yield row


class ServedModel(ImageModel):
    """A model behind `POST {address}/chat/completions`.

    Args:
        address: such as http://localhost:8000/v1.
        tokenizer: of text prompts, which are cut by tokens.
        options: see `ImageModel`; requests ask for the model by its name.
    """

    def __init__(self, address: str, *, tokenizer: Any | None = None, **options: Any):
        super().__init__(**options)
        self.endpoint = ChatEndpoint(
            address=address, model=self.name, attempts=ATTEMPTS, timeout=PATIENCE
        )
        self.tokenizer = tokenizer
        self.jpegs: dict[int, str] = {}

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe) -> "ServedModel":
        """Read the tokenizer if the recipe names one."""
        return cls(
            recipe.model,
            tokenizer=load_tokenizer(recipe.tokenizer) if recipe.tokenizer else None,
            name=recipe.served_model,
            max_new_tokens=recipe.max_new_tokens,
            training_length=recipe.training_length,
            frames_as=recipe.frames_as or "images",
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what the server goes by; what runs behind it cannot be told."""
        shown = {"frames_as": "video"} if self.frames_as == "video" else {}
        return {
            "address": self.endpoint.address.rstrip("/"),
            "served_model": self.name,
            "training_length": self.training_length,
            **shown,
        }

    def reply(self, pictures: Sequence[int], text: str, answer: str, fps: float) -> Reply:
        """Ask with temperature 0."""
        content, options = self._shown(pictures, fps)
        message = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        options |= {"temperature": 0, "max_tokens": self.max_new_tokens}
        try:
            reply = self.endpoint.complete([message], **options)
        except EndpointError as error:
            many = self.frames_as == "images" and len(pictures) > 1 and not error.closed
            hint = (
                " A server may limit the images of a prompt; frames_as: video sends one video."
                if many
                else ""
            )
            raise LongVAError(
                f"{error}. Cells measured so far are kept; run the same command again to go on."
                + hint
            ) from error
        return Reply(generated=reply.text, prompt_tokens=reply.prompt_tokens)

    def _shown(self, pictures: Sequence[int], fps: float) -> tuple[list[dict], dict[str, Any]]:
        """Return the parts of a message that show frames, and what is said about them."""
        if not pictures:
            return [], {}
        if self.frames_as == "images":
            urls = [f"data:image/jpeg;base64,{self._jpeg(i)}" for i in pictures]
            return [{"type": "image_url", "image_url": {"url": url}} for url in urls], {}
        url = f"data:video/jpeg;base64,{','.join(map(self._jpeg, pictures))}"
        told = {"fps": fps, "frames_indices": list(range(len(pictures)))}
        video = {"type": "video_url", "video_url": {"url": url}}
        return [video], {"media_io_kwargs": {"video": told}}

    def _jpeg(self, number: int) -> str:
        if number not in self.jpegs:
            self.jpegs[number] = base64.b64encode(jpeg(self.images[number])).decode()
        return self.jpegs[number]
