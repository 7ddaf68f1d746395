"""Other people's models under test: frames go in as images, text comes out.

`ImageTextModel` runs any image-text-to-text model of transformers through its own processor and
chat template. `ServedModel` asks an OpenAI-compatible server (vLLM, `longva serve`, a provider).
Neither tells probabilities, so rows have `generated` alone, one forward a prompt.
"""

import base64
import io
from collections.abc import Iterator, Sequence
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
from longva.niah.frames import Pictures
from longva.niah.model import Model, Prompt, Reply
from longva.niah.recipe import MeasurementRecipe
from longva.parallel.ranks import default_dtype, own_device
from longva.prompts.kv_cache import context_length

ATTEMPTS = 4
"""How often a request is sent to a server that is busy or broken."""

PATIENCE = 3600.0
"""Seconds for one answer: thousands of frames take a while."""


class ImageTextModel(Model):
    """A model and processor of transformers.

    Args:
        model: an image-text-to-text model.
        processor: with a chat template.
        recipe: how it runs.
    """

    frames_as = "images"

    def __init__(self, model: Any, processor: Any, recipe: MeasurementRecipe):
        self.model, self.processor, self.recipe = model.eval(), processor, recipe
        self.tokenizer = processor.tokenizer
        self.name = Path(recipe.model).name
        self.images: list[Image.Image] = []

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe) -> "ImageTextModel":
        """Load it from a folder or the hub."""
        device = own_device(recipe.device)
        dtype = recipe.dtype or default_dtype(device)
        with loading(f"cannot load {recipe.model!r}"):
            processor = AutoProcessor.from_pretrained(recipe.model)
            model: Any = AutoModelForImageTextToText.from_pretrained(recipe.model, dtype=dtype)
        return cls(model.to(device), processor, recipe)

    def fingerprint(self) -> dict[str, Any]:
        """Return the weights' hash and dtype, and the length they were trained at."""
        return {
            "weights": weights_fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "training_length": self.recipe.training_length or context_length(self.model.config),
        }

    def look(self, albums: Sequence[Pictures], cache: Path) -> None:
        """Keep the pictures, to be encoded anew in every prompt."""
        self.images = to_images(albums, self.frame_size)

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        """Generate a reply to each prompt, one after the other."""
        for prompt in prompts:
            content = [{"type": "image", "image": self.images[i]} for i in picture_numbers(prompt)]
            text = prompt.question or self.tokenizer.decode(torch.cat(prompt.pieces))
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self.model.device)
            length = inputs["input_ids"].shape[1]
            with torch.inference_mode():
                written = self.model.generate(
                    **inputs,
                    max_new_tokens=self.recipe.max_new_tokens,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            check_finite(torch.cat(written.logits), "its logits")
            ids = written.sequences[0, length:]
            generated = self.tokenizer.decode(ids, skip_special_tokens=True)
            yield Reply(key=prompt.key, generated=generated, prompt_tokens=length)


class ServedModel(Model):
    """A model behind `POST {address}/chat/completions`.

    Args:
        address: such as http://localhost:8000/v1.
        name: of the model, in the requests.
        recipe: how it is asked.
        tokenizer: of text prompts, which are cut by tokens.
    """

    frames_as = "images"

    def __init__(
        self, address: str, name: str, recipe: MeasurementRecipe, tokenizer: Any | None = None
    ):
        self.name, self.recipe = name, recipe
        self.endpoint = ChatEndpoint(
            address=address, model=name, attempts=ATTEMPTS, timeout=PATIENCE
        )
        self.tokenizer = tokenizer
        self.images: list[Image.Image] = []
        self.urls: dict[int, str] = {}

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe) -> "ServedModel":
        """Read the tokenizer if the recipe names one."""
        tokenizer = load_tokenizer(recipe.tokenizer) if recipe.tokenizer else None
        return cls(recipe.model, recipe.served_model, recipe, tokenizer)

    def fingerprint(self) -> dict[str, Any]:
        """Return what the server goes by; what runs behind it cannot be told."""
        return {
            "address": self.endpoint.address.rstrip("/"),
            "served_model": self.name,
            "training_length": self.recipe.training_length,
        }

    def look(self, albums: Sequence[Pictures], cache: Path) -> None:
        """Keep the pictures, to be sent with every prompt."""
        self.images = to_images(albums, self.frame_size)

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        """Ask one prompt after the other, with temperature 0."""
        for prompt in prompts:
            urls = [self._data_url(i) for i in picture_numbers(prompt)]
            text = prompt.question
            if self.tokenizer is not None and prompt.pieces:
                text = self.tokenizer.decode(torch.cat(prompt.pieces))
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            message = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
            try:
                reply = self.endpoint.complete(
                    [message], temperature=0, max_tokens=self.recipe.max_new_tokens
                )
            except EndpointError as error:
                raise LongVAError(
                    f"{error}. Cells measured so far are kept; run the same command again to go on."
                ) from error
            yield Reply(key=prompt.key, generated=reply.text, prompt_tokens=reply.prompt_tokens)

    def _data_url(self, number: int) -> str:
        if number not in self.urls:
            buffer = io.BytesIO()
            self.images[number].save(buffer, format="JPEG", quality=92)
            encoded = base64.b64encode(buffer.getvalue()).decode()
            self.urls[number] = f"data:image/jpeg;base64,{encoded}"
        return self.urls[number]


def to_images(albums: Sequence[Pictures], size: int) -> list[Image.Image]:
    """Make the pictures of all albums PIL images."""
    return [
        Image.fromarray(pixels.permute(1, 2, 0).numpy())
        for album in albums
        for batch in album.batches(size)
        for pixels in batch
    ]


def picture_numbers(prompt: Prompt) -> list[int]:
    """Return the numbers of a prompt's frames; none for a text prompt."""
    return [] if prompt.frames is None else prompt.frames.tolist()
