"""Our own model under test: every prompt of a grid in one walk over one KV cache.

    video  template.before . frames . question template.after . answer
    text   the prompt's pieces . answer

Frames are rows of one table of features, T rows each, so that haystacks of different lengths are
prefixes of one another and `prompts/tree.py` computes what they share once. The last piece of a
video prompt is observed by the `evidence` attention: where the answer's positions look, frame by
frame.

    F frames of a prompt    T tokens a frame    R rows = pictures x T    D hidden size
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from longva.attention.evidence import EvidenceCollector
from longva.attention.rotary import length_dependence, rope_theta
from longva.checkpoints.fingerprint import vision_fingerprint, weights_fingerprint
from longva.errors import RecipeError
from longva.files.writing import read_json
from longva.finite import check_finite, to_json
from longva.model import LongVAForConditionalGeneration
from longva.model.chat_format import template_ids, text_ids
from longva.niah.cells import Key, Row
from longva.niah.haystack import Pictures
from longva.niah.loading import is_longva, load_longva, load_measured, prepare
from longva.niah.model import Model, Probe
from longva.niah.recipe import MeasurementRecipe
from longva.niah.scoring import one_forward_each
from longva.prompts.decoding import stop_tokens
from longva.prompts.kv_cache import CachedSequence, Precision, context_length
from longva.prompts.model_reader import CLOSING
from longva.prompts.partition import partition
from longva.prompts.recomputed import RecomputedSequence
from longva.prompts.tree import Prompt, Scored, plan_walk, score_alone, walk
from longva.watching.assistant import LongVA
from longva.watching.family import Family
from longva.watching.feature_cache import FeatureCache
from longva.watching.features import FEATURES, in_steps

TEMPLATES = read_json(Path(__file__).with_name("templates.json"))
"""Chat templates around frames and question, by name (as the original's V-NIAH wrote them)."""

EVIDENCE_FRAMES = 5
"""Best frames kept in a row."""


class TreeModel(Model):
    """A causal language model, or LongVA, asked through the prompt tree.

    Args:
        model: as `prepare` of `loading.py` leaves it, its attention `evidence` where it can be.
        tokenizer: of the model.
        name: for people.
        kv: precision of the KV cache.
        chunk_tokens: tokens prefilled at a time.
        max_new_tokens: longest generated answer; 0 generates none.
        template: chat template around frames and question, one of `TEMPLATES`.
        training_length: tokens that the model was trained at. Default: its context.
        family: of the model, if it is shown frames: how they are encoded.
        frame_size: pixels a side of the pictures that it is then given.
        tokens_per_frame: T, of such a picture.

    Raises:
        RecipeError: the model keeps no cache to quantize.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        kv: Precision = "model",
        chunk_tokens: int = 4096,
        max_new_tokens: int = 16,
        template: str = "qwen2",
        training_length: int | None = None,
        family: Family | None = None,
        frame_size: int = Model.frame_size,
        tokens_per_frame: int | None = None,
    ):
        self.model, self.tokenizer, self.family = model, tokenizer, family
        self.frame_size, self.tokens_per_frame = frame_size, tokens_per_frame
        self.rope_type = length_dependence(self.model.get_decoder())
        if self.rope_type and kv != "model":
            raise RecipeError(
                f"kv: {kv} has no effect: with {self.rope_type} RoPE, which depends on the "
                "prompt's length, no cache is kept.",
                kv="model",
            )
        self.name = Path(name).name
        self.kv: Precision = kv
        self.chunk_tokens, self.max_new_tokens = chunk_tokens, max_new_tokens
        self.template, self.training_length = template, training_length
        self.features: Tensor | None = None  # [R, D]
        self.rows = torch.empty(0, 0, dtype=torch.int64)  # [pictures, T], the symbols of R rows
        self._endings: dict[str, Tensor] = {}

    @classmethod
    def from_recipe(cls, recipe: MeasurementRecipe, *, video: bool) -> "TreeModel":
        """Load LongVA for video, a causal language model (LongVA's included) for text."""
        names = ("kv", "chunk_tokens", "max_new_tokens", "template", "training_length")
        settings = {name: getattr(recipe, name) for name in names}
        if video or is_longva(recipe.model):
            return cls.of(load_longva(recipe), rope_theta=recipe.rope_theta, **settings)
        return cls(*load_measured(recipe), name=recipe.model, **settings)

    @classmethod
    def of(cls, longva: LongVA, *, rope_theta: float | None = None, **settings: Any) -> "TreeModel":
        """Take a loaded LongVA, with its own settings unless others are given.

        Args:
            longva: the model.
            rope_theta: RoPE base instead of the model's.
            settings: see `TreeModel`.

        Raises:
            RecipeError: it is another model, whose prompts only `video_tree_model.py` writes; or
                it has no single RoPE base to set.
        """
        if not isinstance(longva.model, LongVAForConditionalGeneration):
            raise RecipeError(
                f"{longva.name} is no LongVA: measure one prompt a device.", ring=False
            )
        prepare(longva.model, rope_theta)
        own: dict[str, Any] = {"name": longva.name, "kv": longva.kv}
        own["chunk_tokens"] = longva.chunk_tokens
        own |= {"family": longva.family, "frame_size": longva.family.frame_side}
        own["tokens_per_frame"] = longva.model.config.tokens_per_grid()
        return cls(longva.model, longva.processor.tokenizer, **own | settings)

    def fingerprint(self) -> dict[str, Any]:
        """Return the weights' hash, what was changed about the model, and its lengths."""
        config = self.model.config.get_text_config(decoder=True)
        return {
            "weights": weights_fingerprint(self.model),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "rope_theta": rope_theta(config),
            "kv": self.kv,
            "template": self.template if self.tokens_per_frame else None,
            "training_length": self.training_length or context_length(config),
            "tokens_per_frame": self.tokens_per_frame,
            "evidence_heads": getattr(self.model.config, "evidence_heads", None),
        }

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Pictures], cache: Path) -> None:
        """Encode the pictures, or take their features from the folder `cache`."""
        if self.tokens_per_frame is None or not pictures:
            return super().encode(pictures, cache)
        features = [self._features(one, FeatureCache(cache)) for one in pictures]
        self.features = torch.cat(features).flatten(0, 1)
        self.rows = -1 - torch.arange(len(self.features)).unflatten(0, (-1, self.tokens_per_frame))

    def _features(self, pictures: Pictures, cache: FeatureCache) -> Tensor:
        """Encode one set: [pictures, T, D], on the CPU, where a long haystack has room."""
        about = [pictures.fingerprint, len(pictures), self.frame_size, str(self.model.dtype)]
        parts = to_json([*about, self.encoder_fingerprint()])
        key = hashlib.sha256(parts.encode()).hexdigest()
        tokens = cache.load(key, torch.device("cpu"))
        if tokens is None:
            encoded = [self._encode(pixels) for pixels in pictures.batches(self.frame_size)]
            tokens = torch.cat(encoded)
            cache.save(key, tokens)
        return tokens

    def _encode(self, pixels: Tensor) -> Tensor:
        """Encode [n, 3, S, S] uint8, each picture as a whole unit: [n, T, D]."""
        assert self.family is not None
        units = pixels.repeat_interleave(self.family.unit, 0)
        return check_finite(in_steps(self.family.rows, units, self.family.unit).cpu(), FEATURES)

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(text_ids(self.tokenizer, text), dtype=torch.int64)

    def prompts(self, probes: Sequence[Probe], *, time: bool = False) -> list[Prompt]:
        """Write probes in the symbols of `kv_cache`, sharing memory where they share frames.

        Args:
            probes: in any order.
            time: ask for the time, those that do, instead of for the answer.

        Returns:
            One prompt a probe; its key is the cell's and `time`.
        """
        result = []
        for probe in probes:
            if time and not probe.time_question:
                continue
            question = probe.time_question if time else probe.row.question or ""
            pieces = probe.pieces
            if probe.frames is not None:
                pieces = self._pieces(probe.frames, question)
            answer = self._ids(probe.row.answer) if probe.row.answer and not time else ()
            result.append(Prompt(pieces, answer=answer, key=(probe.row.key, time)))
        return result

    def _pieces(self, frames: Tensor, question: str) -> Sequence[Tensor]:
        """Write a question about [F] frames."""
        if question not in self._endings:  # prompts with one question share its memory
            ids = self._ids(question)
            self._endings[question] = torch.cat([ids, self._template["after"]])
        before = self._template["before"]
        return [before, *self._frame_symbols(frames), self._endings[question]]

    def _frame_symbols(self, frames: Tensor) -> list[Tensor]:
        """Name the feature rows of [F] frames: a view for each run of consecutive pictures."""
        if not len(frames):
            return []
        starts = [0, *((frames.diff() != 1).nonzero().flatten() + 1).tolist(), len(frames)]
        return [
            self.rows[frames[start] : frames[start] + stop - start].flatten()
            for start, stop in pairwise(starts)
        ]

    @cached_property
    def _template(self) -> dict[str, Tensor]:
        template = TEMPLATES[self.template]
        ids = template_ids(self.tokenizer, template.values())
        return {part: torch.tensor(one) for part, one in zip(template, ids, strict=True)}

    def share(self, probes: Sequence[Probe], rank: int, world_size: int) -> Sequence[Probe]:
        """Partition the tree so that the ranks compute about the same."""
        parts = partition(self.prompts(probes), world_size, self.model.config)
        mine = {cast(Any, prompt.key)[0] for prompt in parts[rank]}
        return [probe for probe in probes if probe.row.key in mine]

    def cost(self, probes: Sequence[Probe]) -> dict[str, Any]:
        """Count tokens and operations of the walk and of one forward a prompt.

        `one_forward_because` is there if the second is what is computed.
        """
        cost = plan_walk(
            self.prompts(probes) + self.prompts(probes, time=True),
            self.model.config,
            whole_question=shows_frames(probes),
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

    def answer(self, probes: Sequence[Probe]) -> Iterator[Row]:
        """Walk the tree of the prompts, or read each by itself where keys cannot be shared."""
        asked = {probe.row.key: probe for probe in probes}
        begun: dict[Key, Row] = {}  # what was asked two questions, of which one is answered
        heads = getattr(self.model.config, "evidence_heads", None)
        collector: EvidenceCollector | None = None

        def observe(prompt: Prompt) -> dict[str, Any]:
            nonlocal collector
            collector = EvidenceCollector(heads, num_queries=max(1, len(prompt.answer)))
            return {"evidence": collector}

        prompts = self.prompts(probes) + self.prompts(probes, time=True)
        written = {prompt.key: prompt for prompt in prompts}
        observer = observe if shows_frames(probes) else None
        for scored in self.walk(prompts, observer, self.max_new_tokens):
            key, is_time = cast(tuple[Key, bool], scored.key)
            probe = asked[key]
            first = bool(probe.time_question) and key not in begun
            row = begun.pop(key, probe.row)
            if is_time:
                row = replace(row, time_generated=self._text(scored.generated))
            else:
                row = self._scored(row, scored, written[scored.key].length)
                if collector is not None and probe.frames is not None and len(probe.frames):
                    weights = self.per_frame(collector.weights(), written[scored.key])
                    best = weights.topk(min(EVIDENCE_FRAMES, len(weights))).indices.tolist()
                    row = replace(row, evidence_frame=best[0], evidence_frames=best)
            if first:
                begun[key] = row
            else:
                yield row

    def walk(
        self,
        prompts: Sequence[Prompt],
        observe: Callable[[Prompt], dict[str, Any]] | None,
        max_new_tokens: int = 0,
    ) -> Iterator[Scored]:
        """Score prompts, and generate from them if asked for; see `prompts.tree.walk`."""
        options: dict[str, Any] = {
            "embeddings": self.features,
            "max_new_tokens": max_new_tokens,
            "eos_ids": eos_ids(self.model, self.tokenizer),
            "observe": observe,
        }
        if self.rope_type:
            whole = RecomputedSequence(self.model, allow_beyond_context=True)
            return score_alone(whole, prompts, **options)
        return walk(self.sequence(), prompts, **options)

    def sequence(self) -> CachedSequence:
        """Return what holds the prompts of a walk, one after another."""
        return CachedSequence(
            self.model, chunk_tokens=self.chunk_tokens, kv_dtype=self.kv, allow_beyond_context=True
        )

    def encoder_fingerprint(self) -> str:
        """Hash what the features of pictures depend on."""
        return vision_fingerprint(self.model)

    def _scored(self, row: Row, scored: Scored, prompt_tokens: int) -> Row:
        """Write into a row what the model made of its prompt."""
        if row.answer:
            row = replace(
                row,
                predicted=self.tokenizer.decode(scored.predicted),
                is_greedy=scored.is_greedy,
                logprob=scored.logprob,
            )
        generated = self._text(scored.generated) if self.max_new_tokens else None
        return replace(row, generated=generated, prompt_tokens=prompt_tokens)

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def per_frame(self, weights: Tensor, prompt: Prompt) -> Tensor:
        """Add the attention on the tokens of each frame of a prompt: [..., L] -> [..., F]."""
        symbols = torch.cat([*prompt.pieces])
        rows = ((symbols < 0) & (symbols > CLOSING)).nonzero().flatten().to(weights.device)
        assert self.tokens_per_frame is not None
        return weights[..., rows].unflatten(-1, (-1, self.tokens_per_frame)).sum(-1).cpu()


def shows_frames(probes: Sequence[Probe]) -> bool:
    """Whether there are frames to look for evidence in."""
    return any(probe.frames is not None for probe in probes)


def eos_ids(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Return the token ids that end an answer, by the model's generation config and tokenizer."""
    return (stop_tokens(model.generation_config) | {tokenizer.eos_token_id}) - {None}
