"""Other people's models under test: frames go in as images, text comes out.

`ImageTextModel` runs any image-text-to-text model of transformers through its own processor and
chat template. `ServedModel` asks an OpenAI-compatible server (vLLM, `longva serve`, a provider).
Neither tells probabilities, so rows have `generated` alone, one forward a prompt.
"""

import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from longva.chat_endpoint import ChatEndpoint, EndpointError
from longva.checkpoints.fingerprint import weights_fingerprint
from longva.checkpoints.language_model import load_tokenizer
from longva.errors import LongVAError, loading
from longva.finite import check_finite
from longva.niah.cells import Row
from longva.niah.haystack import Pictures
from longva.niah.loading import load_auto
from longva.niah.model import Model, Probe
from longva.niah.recipe import MeasurementRecipe
from longva.prompts.kv_cache import context_length
from longva.reporting.page import data_uri

ATTEMPTS = 4
"""How often a request is sent to a server that is busy or broken."""

PATIENCE = 3600.0
"""Seconds for one answer: thousands of frames take a while."""


class ImageModel(Model):
    """A model that is shown frames as images and only generates, one prompt after the other.

    Args:
        name: for people.
        max_new_tokens: longest generated answer.
        training_length: tokens that the model was trained at, if known.
    """

    frames_as = "images"

    def __init__(self, name: str, *, max_new_tokens: int, training_length: int | None = None):
        self.name, self.max_new_tokens, self.training_length = name, max_new_tokens, training_length
        self.images: list[Image.Image] = []

    @abstractmethod
    def reply(self, pictures: Sequence[int], text: str) -> tuple[str, int | None]:
        """Generate from a prompt of images and then a text.

        Args:
            pictures: indices of `images`.
            text: of the prompt.

        Returns:
            The reply, and the tokens of the prompt if they are known.
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
        """Generate a reply to every question, and to those for the time."""
        for probe in probes:
            pictures = [] if probe.frames is None else probe.frames.tolist()
            text = probe.row.question or ""
            if probe.pieces:
                text = self.tokenizer.decode(torch.cat(probe.pieces))
            generated, tokens = self.reply(pictures, text)
            row = replace(probe.row, generated=generated, prompt_tokens=tokens)
            if probe.time_question:
                row = replace(row, time_generated=self.reply(pictures, probe.time_question)[0])
            yield row


class ImageTextModel(ImageModel):
    """A model and processor of transformers.

    Args:
        model: an image-text-to-text model.
        processor: with a chat template.
        options: see `ImageModel`.
    """

    def __init__(self, model: Any, processor: Any, **options: Any):
        super().__init__(**options)
        self.model, self.processor = model.eval(), processor
        self.tokenizer = processor.tokenizer

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe) -> "ImageTextModel":
        """Load it from a folder or the hub."""
        with loading(f"cannot load {recipe.model!r}"):
            processor = AutoProcessor.from_pretrained(recipe.model)
        return cls(
            load_auto(AutoModelForImageTextToText, recipe),
            processor,
            name=Path(recipe.model).name,
            max_new_tokens=recipe.max_new_tokens,
            training_length=recipe.training_length,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the weights' hash and dtype, and the length they were trained at."""
        return {
            "weights": weights_fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "training_length": self.training_length or context_length(self.model.config),
        }

    @torch.inference_mode()
    def reply(self, pictures: Sequence[int], text: str) -> tuple[str, int | None]:
        """Generate greedily."""
        content = [{"type": "image", "image": self.images[i]} for i in pictures]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        length = inputs["input_ids"].shape[1]
        written = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        check_finite(torch.cat(written.logits), "its logits")
        ids = written.sequences[0, length:]
        return self.tokenizer.decode(ids, skip_special_tokens=True), length


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
        self.urls: dict[int, str] = {}

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe) -> "ServedModel":
        """Read the tokenizer if the recipe names one."""
        return cls(
            recipe.model,
            tokenizer=load_tokenizer(recipe.tokenizer) if recipe.tokenizer else None,
            name=recipe.served_model,
            max_new_tokens=recipe.max_new_tokens,
            training_length=recipe.training_length,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what the server goes by; what runs behind it cannot be told."""
        return {
            "address": self.endpoint.address.rstrip("/"),
            "served_model": self.name,
            "training_length": self.training_length,
        }

    def reply(self, pictures: Sequence[int], text: str) -> tuple[str, int | None]:
        """Ask with temperature 0."""
        urls = [self._data_url(i) for i in pictures]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        message = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        try:
            reply = self.endpoint.complete([message], temperature=0, max_tokens=self.max_new_tokens)
        except EndpointError as error:
            raise LongVAError(
                f"{error}. Cells measured so far are kept; run the same command again to go on."
            ) from error
        return reply.text, reply.prompt_tokens

    def _data_url(self, number: int) -> str:
        if number not in self.urls:
            buffer = io.BytesIO()
            self.images[number].save(buffer, format="JPEG", quality=92)
            self.urls[number] = data_uri(buffer.getvalue(), "image/jpeg")
        return self.urls[number]
