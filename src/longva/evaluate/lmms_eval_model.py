"""LongVA as a model of lmms-eval, the field's runner of benchmarks.

    requests of all tasks --+-- answered before? --> answers.jsonl
                            +-- sorted by medium, shared out to the processes
                                  a video is watched once, all its questions are asked
                                                                  --> answers.jsonl, lmms-eval

lmms-eval gives documents to processes one by one, so that the questions about one video land on
different GPUs. Here they are partitioned anew, by whole videos, and the answers are exchanged.

    accelerate launch --num_processes 8 -m lmms_eval --model longva_hf \\
        --model_args model=lmms-lab/LongVA-7B-DPO,frames=128,cache=runs/answers --tasks videomme
"""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from PIL import Image
from tqdm import tqdm

from longva import __version__
from longva.checkpoints.fingerprint import weights_fingerprint
from longva.errors import LongVAError, NonFiniteError
from longva.evaluate.answers import AnswerLog, Job, partition
from longva.evaluate.conversations import Messages, Reader, fingerprint, media_of
from longva.finite import to_json
from longva.media.colours import to_rgb
from longva.media.sampling import FrameSampling
from longva.watching.assistant import LongVA
from longva.watching.features import FrameSettings

MAX_NEW_TOKENS = 1024
"""Of tasks that set no limit."""

DEFAULT_UNTIL = "\n\n"
"""lmms-eval's delimiter of few-shot examples, an end of answers only if a task says nothing else. A
description may have paragraphs, so this one is not obeyed, as by the other models there."""


class LongVAChat(lmms):
    """The model that lmms-eval asks, by messages.

    Args:
        model: `nano`, a folder or a hub id; LLaVA format too.
        frames: frames of a video, spread uniformly; of a shorter video, all of them.
        fps: or frames a second.
        max_frames: cap for `fps`.
        frame_fit: `crop` (as published) or `pad`.
        dtype: default: bfloat16 on a GPU, float32 on a CPU.
        device: default: the GPU of this process.
        weights: `model`, `int8` or `int4`.
        kv: precision of the KV cache: `model`, `int8` or `int4`.
        chunk_tokens: tokens prefilled at a time.
        reuse: watch a video once for all its questions.
        cache: folder in which answers are kept, so that a killed run goes on.
        batch_size: has no effect: one sequence fills the GPU.
        max_batch_size: the same.
    """

    is_simple = False

    def __init__(
        self,
        model: str = "nano",
        frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        frame_fit: str = "crop",
        dtype: str | None = None,
        device: str | None = None,
        weights: str = "model",
        kv: str = "model",
        chunk_tokens: int = 4096,
        reuse: bool = True,
        cache: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        if str(batch_size) != "1":
            text = "longva_hf asks one question at a time: batch_size has no effect."
            warnings.warn(text, stacklevel=2)
        self.accelerator = accelerator = Accelerator()
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        if int(os.environ.get("WORLD_SIZE", 1)) != self._world_size:
            raise LongVAError("several processes on CPUs need the variable ACCELERATE_USE_CPU=1.")
        if self._world_size > 1:
            device = str(accelerator.device)
        sampling = FrameSampling(num_frames=frames, fps=fps, max_frames=max_frames)
        longva = LongVA.from_pretrained(
            model,
            device=device,
            dtype=dtype,
            quantization=weights,  # pyright: ignore[reportArgumentType]
            kv=kv,  # pyright: ignore[reportArgumentType]
            chunk_tokens=chunk_tokens,
        )
        settings = FrameSettings(fit=frame_fit)  # pyright: ignore[reportArgumentType]
        self.reader = Reader(longva, sampling=sampling, settings=settings, reuse=reuse)
        self.device = longva.model.device
        self.log = AnswerLog(Path(cache) if cache else None, self._rank)
        self._about = {
            "version": __version__,
            "weights": weights_fingerprint(longva.model),
            "dtype": str(longva.model.dtype),
            "kv": kv,
            "sampling": repr(self.reader.sampling),
            "settings": repr(settings),
        }
        self._builders: dict[str, Callable[..., Any]] = {}
        self._warned = False

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer in text."""
        answers = self._answers(requests)
        return [
            GenerationResult(a["text"], TokenCounts(a["prompt_tokens"], a["answer_tokens"]))
            for a in answers
        ]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Answer round after round; a task writes the next round from the answers so far."""
        return self._answers(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of continuations (with `--force_simple`)."""
        return [tuple(answer) for answer in self._answers(requests)]

    def clean(self) -> None:
        """Free the model's memory."""
        del self.reader
        super().clean()

    def _answers(self, requests: list[Instance]) -> list[Any]:
        """Answer what is not in the log, together with the other processes."""
        jobs = [self._job(request) for request in requests]
        left = {job.key: job for job in jobs if job.key not in self.log.answers}
        everyones = [job for jobs_left in self._exchange(left) for job in jobs_left.values()]
        mine = partition(everyones, self.world_size)[self.rank]
        new, failures = {}, []
        for job in tqdm(mine, desc="longva", disable=self.rank != 0):
            try:
                new[job.key] = self._ask(job)
            except LongVAError as error:
                failures.append(f"{job.task} {job.split} {job.doc_id}: {error}")
                if isinstance(error, NonFiniteError):
                    break  # so would all the others; the other processes are told below
            else:
                self.log.append(job, new[job.key])
        everyones_answers = self._exchange((new, failures))
        for answers, _ in everyones_answers:
            self.log.answers.update(answers)
        if failures := sorted(f for _, failed in everyones_answers for f in failed):
            raise LongVAError("\n  ".join([f"{len(failures)} questions failed:", *failures]))
        return [self.log.answers[job.key] for job in jobs]

    def _exchange(self, item: Any) -> list[Any]:
        """Return what every process gives, in order of rank."""
        if self.world_size == 1:
            return [item]
        items: list[Any] = [None] * self.world_size
        dist.all_gather_object(items, item)
        return items

    def _job(self, request: Instance) -> Job:
        """Bring a request into the form that any process can work on."""
        arguments: tuple[Any, ...] = request.args
        *given, doc_id, task, split = arguments
        options = next((value for value in given if isinstance(value, dict)), {})
        builder, continuation = self._builder(request.request_type, given)
        self._builders[task] = builder
        doc = self.task_dict[task][split][doc_id]
        if callable(continuation):
            continuation = continuation(doc)
        known = {
            "kind": request.request_type,
            "task": task,
            "split": split,
            "doc_id": doc_id,
            "context": given[0] if self.is_simple else "",
            "continuation": continuation,
            "options": self._options(options),
        }
        draft = Job(key="", media=(), **known)
        conversation = self._conversation(draft, doc)
        parts = {**known, **self._about, "conversation": fingerprint(conversation)}
        key = hashlib.sha256(to_json(parts, sort_keys=True).encode()).hexdigest()
        media = tuple(medium.identity() for medium in media_of(conversation))
        return Job(key=key, media=media, **known)

    def _builder(self, kind: str, given: Sequence[Any]) -> tuple[Callable[..., Any], Any]:
        """Find the function that makes a document's prompt, and the continuation asked for."""
        functions = [value for value in given if callable(value)]
        if not self.is_simple:  # (context, doc_to_messages, options)
            return functions[0], ""
        if kind == "loglikelihood":  # (context, continuation, doc_to_visual)
            return functions[-1], given[1]
        return functions[0], ""  # (context, options, doc_to_visual, ...)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Read what a task says about generation; what has no effect is said once."""
        ignored = {"temperature": (0, None), "do_sample": (False, None), "num_beams": (1, None)}
        odd = {k: options[k] for k, usual in ignored.items() if options.get(k) not in (*usual, 0.0)}
        if odd and not self._warned:
            self._warned = True
            warnings.warn(f"answers are greedy, {odd} has no effect.", stacklevel=2)
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        limit = options.get("max_new_tokens", options.get("max_gen_toks")) or MAX_NEW_TOKENS
        return {
            "max_new_tokens": int(limit),
            "until": [end for end in until if end and end != DEFAULT_UNTIL],
        }

    def _ask(self, job: Job) -> Any:
        """Answer one job; returns what is written to the log."""
        doc = self.task_dict[job.task][job.split][job.doc_id]
        conversation = self._conversation(job, doc)
        if job.kind == "loglikelihood":
            return list(self.reader.loglikelihood(conversation, job.continuation))
        if job.kind == "generate_until":
            return vars(self.reader.generate(conversation, **job.options))
        said: list[str] = []
        state = None
        while conversation is not None:
            said.append(self.reader.generate(conversation, **job.options).text)
            conversation, state = self._next_round(job, doc, said, state)
        return said

    def _next_round(
        self, job: Job, doc: Any, said: list[str], state: Any
    ) -> tuple[Messages | None, Any]:
        """Ask the task for the next round of a dialogue; None after the last."""
        if self.is_simple:
            raise LongVAError(f"{job.task} has several rounds. Run it without --force_simple.")
        next_round = self._builders[job.task](
            doc, round_idx=len(said), previous_output=list(said), previous_round_info=state
        )
        if not isinstance(next_round, tuple) or next_round[1]:
            return None, state
        return conversation_of(next_round[0]), next_round[3]

    def _conversation(self, job: Job, doc: Any) -> Messages:
        built = self._builders[job.task](doc)
        if self.is_simple:
            shown = [{"type": "image", "url": visual} for visual in built or []]
            content = [*shown, {"type": "text", "text": job.context}]
            built = [{"role": "user", "content": content}]
        return conversation_of(built)


class LongVASimple(LongVAChat):
    """The same, by a text and a list of media: what `--force_simple` and log-likelihoods need."""

    is_simple = True


def conversation_of(messages: Sequence[dict[str, Any]]) -> Messages:
    """Read the messages of a task.

    Raises:
        LongVAError: they hold something that the model does not see.
    """
    conversation = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        conversation.append({"role": message["role"], "content": list(map(_part, parts))})
    return conversation


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] not in ("image", "video"):
        raise LongVAError(f"the task shows {part['type']}, which LongVA cannot perceive.")
    visual = part["url"]
    if isinstance(visual, Image.Image):
        content = io.BytesIO()
        to_rgb(visual).save(content, "PPM")
        visual = content.getvalue()
    elif not isinstance(visual, str):
        raise LongVAError(f"a task shows a {type(visual).__name__}: a path or a picture is needed.")
    start, end = part.get("start_time"), part.get("end_time")
    return {"type": "image", "source": visual, "start": start, "end": end}
