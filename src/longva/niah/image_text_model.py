"""Any image-text-to-text model of transformers under test, through its own processor.

    images    template . picture . picture ... question . answer
    video     template . one video, as the processor writes it ... question . answer

One plain forward a prompt scores the answer fed to it, a `generate` lets the model say it. The
processor says how large frames are, what stands between them and how many tokens they take; a model
that encodes frames in pairs sees a needle beside its neighbour, as its users' films are seen. (The
tree shows each picture as a whole pair.) Both frames of a pair get its evidence: what the pair's
tokens hold cannot be told apart.

F frames of a prompt    L its tokens    A tokens of its answer    V vocabulary    P frames of a unit
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from longva.attention.evidence import EvidenceCollector
from longva.checkpoints.fingerprint import weights_fingerprint
from longva.checkpoints.names import locate_model
from longva.checkpoints.settings import find_checkpoint
from longva.checkpoints.video_models import load_processor
from longva.errors import RecipeError, loading
from longva.finite import check_finite
from longva.media.resize import resize_picture
from longva.model import LongVAConfig
from longva.model.chat_format import text_ids
from longva.niah.loading import is_longva, load_auto
from longva.niah.recipe import MeasurementRecipe
from longva.niah.remote import ImageModel, Reply
from longva.niah.tree_model import EVIDENCE_FRAMES
from longva.prompts.kv_cache import context_length
from longva.prompts.tree import Prompt, score
from longva.watching.video_prompts import VideoPrompts


class ImageTextModel(ImageModel):
    """A model and processor of transformers.

    Args:
        model: an image-text-to-text model.
        processor: with a chat template.
        options: see `ImageModel`.

    Raises:
        RecipeError: frames are to be one video, and the processor takes none.
    """

    def __init__(self, model: Any, processor: Any, **options: Any):
        super().__init__(**options)
        self.model, self.processor = model.eval(), processor
        self.tokenizer = processor.tokenizer
        marks = [getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video")]
        self.visual_ids = torch.tensor([mark for mark in marks if mark is not None])
        takes = inspect.signature(model.forward).parameters
        self.slices = "logits_to_keep" in takes
        self.types = [n for n in ("token_type_ids", "mm_token_type_ids") if n in takes]
        passes_on = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values())
        self.tells_evidence = passes_on and model._supports_attention_backend
        if self.tells_evidence:
            model.set_attn_implementation({"text_config": "evidence"})
        self.prompts, self.unit = None, 1
        if self.frames_as == "video":
            if not getattr(processor, "video_token", None):
                raise RecipeError(
                    f"{self.name} reads pictures, and no videos: its processor has no token for "
                    "them. Show it the frames as images.",
                    frames_as="images",
                )
            if not isinstance(model.config, LongVAConfig):
                self.prompts = VideoPrompts(processor, model.config)
                self.unit = self.prompts.unit

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe) -> "ImageTextModel":
        """Load it from a folder or the hub."""
        with loading(f"cannot load {recipe.model!r}"):
            if is_longva(recipe.model):
                processor = AutoProcessor.from_pretrained(locate_model(recipe.model))
            else:
                folder, values = find_checkpoint(recipe.model, weights=True)
                processor = load_processor(folder, values.get("model_type", ""))
        return cls(
            load_auto(AutoModelForImageTextToText, recipe),
            processor,
            name=Path(recipe.model).name,
            max_new_tokens=recipe.max_new_tokens,
            training_length=recipe.training_length,
            frames_as=recipe.frames_as or "images",
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the weights' hash and dtype, and the length they were trained at."""
        return {
            "weights": weights_fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "training_length": self.training_length or context_length(self.model.config),
            "frames_as": self.frames_as,
            "scoring": "teacher_forced",
        }

    @torch.inference_mode()
    def reply(self, pictures: Sequence[int], text: str, answer: str, fps: float) -> Reply:
        """Score the answer that is fed, if there is one, and generate."""
        inputs = self.inputs(pictures, text, fps)
        told: dict[str, Any] = self._scored(inputs, answer, len(pictures)) if answer else {}
        if self.max_new_tokens:
            told["generated"] = self._generated(inputs)
        return Reply(prompt_tokens=inputs["input_ids"].shape[1], **told)

    def inputs(self, pictures: Sequence[int], text: str, fps: float) -> dict[str, Any]:
        """Have the processor write a prompt: what `forward` takes, on the model's device."""
        kind = "video" if self.frames_as == "video" else "image"
        shown = [{"type": kind}] * (1 if kind == "video" else len(pictures)) if pictures else []
        talk = [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
        prompt = self.processor.apply_chat_template(talk, add_generation_prompt=True)
        media: dict[str, Any] = {}
        if pictures:
            media = self._video(pictures, fps) if kind == "video" else self._pictures(pictures)
        made = self.processor(text=[prompt], return_tensors="pt", **media)
        moved = {n: v.to(self.model.device) for n, v in made.items() if isinstance(v, Tensor)}
        dtype = self.model.dtype
        return {n: v.to(dtype) if v.is_floating_point() else v for n, v in moved.items()}

    def _pictures(self, pictures: Sequence[int]) -> dict[str, Any]:
        return {"images": [self.images[number] for number in pictures]}

    def _video(self, pictures: Sequence[int], fps: float) -> dict[str, Any]:
        """Return the frames as one video that has the size which its processor chooses."""
        frames = [np.array(self.images[number]) for number in pictures]
        count, side = len(frames), self.images[pictures[0]].width
        if self.prompts is None:  # LongVA's own processor resizes nothing that has its size
            return {"videos": [np.stack(frames)]}
        size = self.prompts.frame_size(side, side, count)
        geometry = self.prompts.geometry(size)
        pixels = torch.stack([resize_picture(f, size=geometry) for f in frames])  # squares
        about = {"fps": fps, "frames_indices": list(range(count)), "total_num_frames": count}
        about |= {"height": size[0], "width": size[1]}
        off = {"do_resize": False, "do_center_crop": False, "do_sample_frames": False}
        return {"videos": [pixels], "video_metadata": [about], **off}

    def _scored(self, inputs: Mapping[str, Any], answer: str, frames: int) -> dict[str, Any]:
        """Feed the answer and judge what the model expected in its places."""
        ids = torch.tensor(text_ids(self.tokenizer, answer), dtype=torch.int64)
        fed, length = ids[:-1].to(self.model.device)[None], inputs["input_ids"].shape[1]
        longer = dict(inputs)
        longer["input_ids"] = torch.cat([inputs["input_ids"], fed], dim=1)
        for name in ("attention_mask", *self.types):
            if name in inputs:
                value = torch.full_like(fed, name == "attention_mask")
                value = value.to(inputs[name].dtype)
                longer[name] = torch.cat([inputs[name], value], dim=1)
        if self.slices:
            longer["logits_to_keep"] = len(ids)
        collector = None
        if frames and self.tells_evidence:
            heads = getattr(self.model.config, "evidence_heads", None)
            collector = longer["evidence"] = EvidenceCollector(heads, num_queries=len(ids))
        logits = self.model(**longer, use_cache=False).logits[0, -len(ids) :]
        logits = check_finite(logits.to(torch.promote_types(logits.dtype, torch.float32)), "logits")
        scored = score(logits, Prompt([inputs["input_ids"][0, :length].cpu()], answer=ids))
        best = None
        if collector is not None and (tokens := self.frame_tokens(inputs, frames)) is not None:
            mass = collector.weights()[tokens.to(self.model.device)].sum(-1)  # [F / P]
            units = mass.topk(min(-(-EVIDENCE_FRAMES // self.unit), len(mass))).indices.tolist()
            both = [u * self.unit + n for u in units for n in range(self.unit)]
            best = [frame for frame in both if frame < frames][:EVIDENCE_FRAMES]
        return {
            "predicted": self.tokenizer.decode(scored.predicted),
            "is_greedy": scored.is_greedy,
            "logprob": scored.logprob,
            "evidence_frames": best,
        }

    def frame_tokens(self, inputs: Mapping[str, Any], frames: int) -> Tensor | None:
        """Say which tokens of a prompt are each frame's, or pair's, [F / P, T]; None without."""
        places = torch.isin(inputs["input_ids"][0].cpu(), self.visual_ids).nonzero().flatten()
        units = -(-frames // self.unit)
        each = len(places) // units  # a token that closes a video comes after all of them
        return places[: each * units].unflatten(0, (units, each)) if each else None

    def _generated(self, inputs: Mapping[str, Any]) -> str:
        """Generate greedily."""
        length = inputs["input_ids"].shape[1]
        written = self.model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        check_finite(torch.cat(written.logits), "its logits")
        return self.tokenizer.decode(written.sequences[0, length:], skip_special_tokens=True)
