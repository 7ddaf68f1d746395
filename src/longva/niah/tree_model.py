"""Our own model under test: every prompt of a grid in one walk over one KV cache.

    video  template.before . frames . question template.after . answer
    text   the prompt's pieces . answer

Frames are rows of one table of features, T rows each, so that haystacks of different lengths are
prefixes of one another and `prompt_tree` computes what they share once. The last piece of a video
prompt is observed by the `evidence` attention: where the answer's positions look, frame by frame.

    F frames of a prompt    T tokens a frame    R rows = pictures x T    D hidden size
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from longva.attention.evidence import EvidenceCollector
from longva.attention.rotary import length_dependence, rope_theta
from longva.checkpoints.fingerprint import vision_fingerprint, weights_fingerprint
from longva.errors import RecipeError
from longva.finite import check_finite, to_json
from longva.model.chat_format import template_ids, text_ids
from longva.model.unires import normalize_pixels
from longva.niah.frames import Pictures
from longva.niah.loading import is_longva, load_language_model, load_longva, prepare
from longva.niah.model import Model, Prompt, PromptKey, Reply
from longva.niah.recipe import MeasurementRecipe
from longva.prompts import tree as prompt_tree
from longva.prompts.kv_cache import CachedSequence, RecomputedSequence, context_length
from longva.prompts.partition import partition
from longva.watching.assistant import LongVA
from longva.watching.feature_cache import FeatureCache
from longva.watching.features import FEATURES, VisualFeatures

TEMPLATES = json.loads(Path(__file__).with_name("templates.json").read_text(encoding="utf-8"))
"""Chat templates around frames and question, by name (as the original's V-NIAH wrote them)."""


class TreeModel(Model):
    """A causal language model, or LongVA, asked through the prompt tree.

    Args:
        model: with an `evidence`-capable language model; its attention is set to it.
        tokenizer: of the model.
        recipe: how it runs.
        image_mean: of the pixels that the vision tower expects.
        image_std: of the same.
        frame_size: pixels a side of a frame.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        recipe: MeasurementRecipe,
        *,
        image_mean: Sequence[float] = (),
        image_std: Sequence[float] = (),
        frame_size: int = 336,
    ):
        self.model, self.tokenizer, self.recipe = prepare(model, recipe), tokenizer, recipe
        self.rope_type = length_dependence(self.model.get_decoder())
        if self.rope_type and recipe.kv != "model":
            raise RecipeError(
                f"kv: {recipe.kv} has no effect: with {self.rope_type} RoPE, which depends on the "
                "prompt's length, no cache is kept.",
                kv="model",
            )
        self.name = Path(recipe.model).name
        self.frame_size, self.image_mean, self.image_std = frame_size, image_mean, image_std
        sees = hasattr(model.config, "vision_config")
        self.tokens_per_frame = model.config.tokens_per_grid() if sees else None
        self.features: Tensor | None = None  # [R, D]
        self.rows = torch.empty(0, 0, dtype=torch.int64)  # [pictures, T], the symbols of R rows

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe, *, video: bool) -> "TreeModel":
        """Load LongVA for video, a causal language model (LongVA's included) for text."""
        if not video and not is_longva(recipe.model):
            return cls(*load_language_model(recipe), recipe)
        return cls.of(load_longva(recipe), recipe)

    @classmethod
    def of(cls, longva: LongVA, recipe: MeasurementRecipe) -> "TreeModel":
        """Take a loaded LongVA as the model under test."""
        processor = longva.processor.video_processor
        return cls(
            longva.model,
            longva.processor.tokenizer,
            recipe,
            image_mean=processor.image_mean,
            image_std=processor.image_std,
            frame_size=processor.grid_size,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return the weights' hash, what was changed about the model, and its lengths."""
        config = self.model.config.get_text_config(decoder=True)
        return {
            "weights": weights_fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "rope_theta": rope_theta(config),
            "kv": self.recipe.kv,
            "template": self.recipe.template if self.tokens_per_frame else None,
            "training_length": self.recipe.training_length or context_length(config),
            "tokens_per_frame": self.tokens_per_frame,
            "evidence_heads": getattr(self.model.config, "evidence_heads", None),
        }

    @torch.inference_mode()
    def look(self, albums: Sequence[Pictures], cache: Path) -> None:
        """Encode the pictures, or take their features from the folder `cache`."""
        if self.tokens_per_frame is None or not albums:
            return super().look(albums, cache)
        features = [self._features(album, FeatureCache(cache)) for album in albums]
        self.features = torch.cat(features).flatten(0, 1)
        self.rows = -1 - torch.arange(len(self.features)).unflatten(0, (-1, self.tokens_per_frame))

    def _features(self, album: Pictures, cache: FeatureCache) -> Tensor:
        """Encode one album: [pictures, T, D], on the CPU, where a long haystack has room."""
        about = [album.fingerprint, len(album), self.frame_size, str(self.model.dtype)]
        parts = to_json([*about, vision_fingerprint(self.model)])
        key = hashlib.sha256(parts.encode()).hexdigest()
        found = cache.load(key, "", torch.device("cpu"))
        if found is None:
            encoded = [self._encode(pixels) for pixels in album.batches(self.frame_size)]
            found = VisualFeatures(
                kind="video",
                source="haystack or needles",
                tokens=torch.cat(encoded),
                seconds=np.zeros(len(album)),
                indices=np.arange(len(album)),
            )
            cache.save(key, found)
        return found.tokens

    def _encode(self, pixels: Tensor) -> Tensor:
        """Encode [n, 3, S, S] uint8: [n, T, D]."""
        pixels = normalize_pixels(pixels.to(self.model.device), self.image_mean, self.image_std)
        return check_finite(self.model.model.encode_grids(pixels).cpu(), FEATURES)

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(text_ids(self.tokenizer, text), dtype=torch.int64)

    def symbols(self, prompts: Sequence[Prompt]) -> list[prompt_tree.Prompt]:
        """Write prompts in the symbols of `kv_cache`, sharing memory where they share frames."""
        template = self._template()
        questions: dict[str, Tensor] = {}
        result = []
        for prompt in prompts:
            pieces = list(prompt.pieces)
            if prompt.frames is not None:
                if prompt.question not in questions:
                    question = torch.cat([self._ids(prompt.question), template["after"]])
                    questions[prompt.question] = question
                frames = self._frame_symbols(prompt.frames)
                pieces = [template["before"], *frames, questions[prompt.question]]
            answer = self._ids(prompt.answer) if prompt.answer else ()
            result.append(prompt_tree.Prompt(pieces, answer=answer, key=prompt.key))
        return result

    def _frame_symbols(self, frames: Tensor) -> list[Tensor]:
        """Name the feature rows of [F] frames: a view for each run of consecutive pictures."""
        starts = [0, *((frames.diff() != 1).nonzero().flatten() + 1).tolist(), len(frames)]
        return [
            self.rows[frames[start] : frames[start] + stop - start].flatten()
            for start, stop in pairwise(starts)
        ]

    def _template(self) -> dict[str, Tensor]:
        if not self.tokens_per_frame:
            return {}
        template = TEMPLATES[self.recipe.template]
        ids = template_ids(self.tokenizer, template.values())
        return {part: torch.tensor(one) for part, one in zip(template, ids, strict=True)}

    def share(self, prompts: Sequence[Prompt], rank: int, world_size: int) -> Sequence[Prompt]:
        """Deal subtrees out so that the ranks compute about the same."""
        parts = partition(self.symbols(prompts), world_size, self.model.config)
        mine = {prompt.key for prompt in parts[rank]}
        return [prompt for prompt in prompts if prompt.key in mine]

    def cost(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Count tokens and operations of the walk and of one forward a prompt.

        `one_forward_because` is there if the second is what is computed.
        """
        cost = prompt_tree.plan_walk(
            self.symbols(prompts),
            self.model.config,
            whole_question=shows_frames(prompts),
        )
        tokens = cost.tokens_one_forward_per_prompt
        if self.rope_type:
            why = f"{self.rope_type} RoPE depends on the prompt's length"
            return one_forward_each(tokens) | {"one_forward_because": why}
        return {
            "tokens_one_forward_per_cell": tokens,
            "tokens_processed": cost.tokens_processed,
            "flops_ratio": cost.flops_ratio,
        }

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        """Walk the tree of the prompts, or read each by itself where keys cannot be shared."""
        asked = {prompt.key: prompt for prompt in prompts}
        symbols = self.symbols(prompts)
        lengths = {prompt.key: prompt.length for prompt in symbols}
        collector: EvidenceCollector | None = None

        def observe(prompt: prompt_tree.Prompt) -> dict[str, Any]:
            nonlocal collector
            heads = getattr(self.model.config, "evidence_heads", None)
            collector = EvidenceCollector(heads, num_queries=max(1, len(prompt.answer)))
            return {"evidence": collector}

        options: dict[str, Any] = {
            "embeddings": self.features,
            "max_new_tokens": self.recipe.max_new_tokens,
            "eos_ids": eos_ids(self.model, self.tokenizer),
            "observe": observe if shows_frames(prompts) else None,
        }
        if self.rope_type:
            whole = RecomputedSequence(self.model, allow_beyond_context=True)
            results = prompt_tree.score_alone(whole, symbols, **options)
        else:
            sequence = CachedSequence(
                self.model,
                chunk_tokens=self.recipe.chunk_tokens,
                kv_dtype=self.recipe.kv,
                allow_beyond_context=True,
            )
            results = prompt_tree.walk(sequence, symbols, **options)
        for scored in results:
            prompt = asked[cast(PromptKey, scored.key)]
            weights = self._per_frame(collector, prompt) if collector else None
            yield self._reply(prompt, scored, lengths[prompt.key], weights)

    def _reply(
        self,
        prompt: Prompt,
        scored: prompt_tree.Scored,
        prompt_tokens: int,
        frame_weights: Tensor | None = None,
    ) -> Reply:
        judged = bool(prompt.answer)
        return Reply(
            key=prompt.key,
            predicted=self.tokenizer.decode(scored.predicted) if judged else None,
            is_greedy=scored.is_greedy if judged else None,
            logprob=scored.logprob if judged else None,
            generated=self._text(scored.generated) if self.recipe.max_new_tokens else None,
            prompt_tokens=prompt_tokens,
            frame_weights=frame_weights,
        )

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _per_frame(self, collector: EvidenceCollector, prompt: Prompt) -> Tensor | None:
        """Add the attention on the tokens of each frame: [F]."""
        if prompt.frames is None or self.tokens_per_frame is None:
            return None
        weights = collector.weights()[self.frame_span(prompt)]
        return weights.unflatten(0, (-1, self.tokens_per_frame)).sum(1).cpu()

    def frame_span(self, prompt: Prompt) -> slice:
        """Say which tokens of a prompt are its frames."""
        if prompt.frames is None or self.tokens_per_frame is None:
            raise ValueError(f"prompt {prompt.key} shows no frames")
        first = len(self._template()["before"])
        return slice(first, first + len(prompt.frames) * self.tokens_per_frame)


def one_forward_each(tokens: int | float | None) -> dict[str, Any]:
    """Return the cost of a model that shares nothing between prompts."""
    return {
        "tokens_one_forward_per_cell": tokens,
        "tokens_processed": tokens,
        "flops_ratio": 1.0,
    }


def shows_frames(prompts: Sequence[Prompt]) -> bool:
    """Whether there are frames to look for evidence in."""
    return any(prompt.frames is not None for prompt in prompts)


def eos_ids(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Return the token ids that end an answer, by the model's generation config and tokenizer."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    ends = set(ids if isinstance(ids, list) else [ids]) | {tokenizer.eos_token_id}
    return {int(end) for end in ends if end is not None}
