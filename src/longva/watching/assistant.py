"""Watch once, ask many: the assistant.

    longva = LongVA.from_pretrained("lmms-lab/LongVA-7B-DPO")
    session = longva.watch("film.mp4", fps=1)
    answer = session.ask("When does the train arrive?")
    answer.text, answer.evidence[0].seconds

`LongVA` opens media and chooses frames that fit; `session.py` watches them, holds them in the KV
cache and answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longva.attention.rotary import restore_frequencies
from longva.checkpoints import Precision
from longva.checkpoints.checkpoint import load_pretrained
from longva.checkpoints.names import EMBEDDED_MODEL, NOTICE
from longva.checkpoints.settings import OURS, find_checkpoint
from longva.checkpoints.video_models import load_video_model
from longva.errors import LongVAError, VideoError
from longva.errors import loading as loading_errors
from longva.media.address import Source
from longva.media.cue import Cue
from longva.media.medium import Media, open_media, with_rate
from longva.media.sampling import ONE_A_SECOND, FrameSampling, Time
from longva.media.subtitles import with_subtitles
from longva.model.chat_format import stop_at_turn_end
from longva.parallel.ranks import default_dtype, own_device
from longva.prompts.kv_cache import check_cacheable, context_length
from longva.reporting.progress import Progress
from longva.watching.features import FrameSettings
from longva.watching.policies import Policy, check_policy
from longva.watching.self_test import run_self_test
from longva.watching.session import Session
from longva.watching.summarize import Chapter, Summary, summarize, windows
from longva.watching.turns import told_tokens
from longva.watching.watcher import Watcher, refuse_settings


class LongVA(Watcher):
    """A model, ready to watch.

    Args:
        model: its language model's attention is set to `evidence`, and its rotary frequencies are
            mended if a conversion to half precision has rounded them.
        processor: of the model.
        name: of the model, for answers.
        kv: precision of the KV cache: `model`, `int8` or `int4`.
        chunk_tokens: tokens prefilled at a time; memory grows with it, results do not change.
            Default: as the plan says, by the memory that is free.
        cache_dir: keep encoded media in this folder.
        cache_bytes: of them at most; what was used least recently is deleted. None: no bound.
        look_again: frames that are read again, alone, for each answer; see `Watcher`.
        notice: something a user should know about the model before believing it; see `Watcher`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        kv: Precision = "model",
        chunk_tokens: int | None = None,
        cache_dir: Path | None = None,
        cache_bytes: int | None = None,
        look_again: int | None = None,
        notice: str | None = None,
    ):
        model.set_attn_implementation({"text_config": "evidence"})
        stop_at_turn_end(model.generation_config, processor)
        restore_frequencies(model.get_decoder())
        super().__init__(
            model.eval(),
            processor,
            name=name,
            kv=kv,
            chunk_tokens=chunk_tokens,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            look_again=look_again,
            notice=notice,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = EMBEDDED_MODEL,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        quantization: Precision = "model",
        kv: Precision = "model",
        chunk_tokens: int | None = None,
        cache_dir: Path | None = None,
        self_test: bool = True,
        cache_bytes: int | None = None,
        look_again: int | None = None,
        **loading,
    ) -> "LongVA":
        """Load LongVA, or another video-language model of transformers.

        Args:
            name: `nano` (ships with the package), `longva-7b`, a folder or a hub id: of LongVA in
                our format or LLaVA's, or of a model such as `Qwen/Qwen3-VL-8B-Instruct`.
            device: default: the GPU of this process, or the CPU where there is none; see
                `own_device`.
            dtype: default: bfloat16 on a GPU, float32 on a CPU.
            quantization: precision of the language model's weights.
            kv: precision of the KV cache.
            chunk_tokens: tokens prefilled at a time; default: as the plan says.
            cache_dir: keep encoded media in this folder.
            self_test: compare a model other than LongVA with its own plain forward, in seconds.
            cache_bytes: of them at most.
            look_again: of a film with more frames, read so many again, alone, for each answer:
                those where a first answer looks (see `look_again.py`). 0: never. Default: as the
                checkpoint says, which is 128 for `nano` and never for others.
            **loading: see `load_pretrained`: `revision`, `pool_stride`, `pool_mode` and more.

        Raises:
            CheckpointError: when the checkpoint is not what its format promises.
            LongVAError: for a device that this machine does not have; or the self-test failed.
        """
        device = own_device(device)
        placed = {"dtype": dtype or default_dtype(device), "device": device}
        revision = loading.get("revision")
        folder, values = find_checkpoint(name, revision=revision, weights=True)
        own = values.get("model_type") in OURS
        if own:
            model, processor = load_pretrained(name, **placed, quantization=quantization, **loading)
        else:
            refuse_settings(loading)
            model, processor = load_video_model(folder, **placed, quantization=quantization)
        with loading_errors(f"{name} cannot be watched with"):
            longva = cls(
                model,
                processor,
                name=str(name),
                kv=kv,
                chunk_tokens=chunk_tokens,
                cache_dir=cache_dir,
                cache_bytes=cache_bytes,
                look_again=look_again,
                notice=NOTICE if name == EMBEDDED_MODEL else None,
            )
        if self_test and not own:
            run_self_test(longva)
        return longva

    def __repr__(self) -> str:
        """Name, device, precision and context."""
        context = context_length(self.model.config) or 0
        dtype = str(self.model.dtype).removeprefix("torch.")
        where = f"{self.model.device}, {dtype}, kv={self.kv!r}"
        return f"<LongVA {self.name!r} on {where}, context of {context:,} tokens>"

    def watch(
        self,
        media: Source | Media | Any,
        *,
        sampling: FrameSampling | None = None,
        frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        keyframes: bool = False,
        start: Time | None = None,
        end: Time | None = None,
        frames_fps: float | None = None,
        allow_truncated: bool = False,
        subtitles: str | Path | Sequence[Cue] | None = None,
        settings: FrameSettings | None = None,
        policy: Policy | None = None,
        now: bool = True,
        progress: Progress | None = None,
    ) -> "Session":
        """Watch a video, an image, a folder of frames, or several of them together.

        Args:
            media: one medium or a list of several: what `open_media` takes, or gave. A list in a
                list is the frames of one medium.
            sampling: which frames of videos to take, instead of the next six.
            frames: take this many, spread uniformly.
            fps: take this many a second. With neither, 1 a second, as many as fit.
            max_frames: cap for `fps` and `keyframes`; above it frames are spread uniformly.
            keyframes: take the frames that the encoder chose as key frames.
            start: watch videos from here on: seconds, or a text such as 1:02:03.
            end: and up to here. Times in answers stay those of the whole video.
            frames_fps: how many frames of a folder or list are a second of it. A list of nothing
                but pictures is then the frames of one medium.
            allow_truncated: take what can be decoded of a broken video, or of a folder or list
                with broken pictures.
            subtitles: of the first medium: a file, `own` for its text track, or `Cue`s. They stand
                between the frames, at their times.
            settings: how frames are made.
            policy: what to do when a film that goes on (`Session.extend`) is longer than the
                context or the memory: `stop`, keep the first and the `newest` frames, or `thin`
                them out; see `policies.py`. Each answer's notes say what is not known. Without,
                more than fits is refused. With one, the default is one frame a second, and
                `max_frames` is how many are held at most, but for two of each film.
            now: watch; or else open and check, and `Session.watch` does the rest. After an
                interrupt it keeps what was watched until then, and goes on when called again.
            progress: called with "watch", frames watched and frames.

        Raises:
            VideoError: when a medium cannot be read as asked.
            ContextLengthError: when the frames exceed the model's context or the device's memory.
            NonFiniteError: when the model computes NaN or infinity.
            LongVAError: when the model's RoPE depends on the length, so that no cache serves.
        """
        check_cacheable(self.model)
        settings = settings or FrameSettings()
        asked = FrameSampling(
            num_frames=frames,
            fps=fps,
            max_frames=max_frames,
            keyframes=keyframes,
            start=start,
            end=end,
        )
        if sampling is not None and asked != FrameSampling():
            raise LongVAError("give either sampling, or frames, fps, start and what else it holds.")
        asked = sampling or asked
        sources = media if isinstance(media, list | tuple) else [media]
        opened = [
            one if isinstance(one, Media) else open_media(one, allow_truncated=allow_truncated)
            for one in sources
        ]
        if frames_fps is not None:
            opened = with_rate(opened, frames_fps)
        if opened and all(medium.kind == "image" for medium in opened):
            opened[0].choose(asked)  # refuses a part of what has no times
        if subtitles is not None and opened:
            opened[0] = with_subtitles(opened[0], subtitles)
        told = told_tokens(
            opened, settings, self.processor.tokenizer, asked.part, self.model.config
        )
        check_policy(policy)
        if policy is not None:
            rule, most = sampling or asked.or_default(1), asked.max_frames
            rule = replace(rule, max_frames=None)
            session = Session(self, opened, rule, settings, policy=policy, max_frames=most)
            if now:
                session.watch(progress)
            return session
        sampling = asked.or_default(self._frames_that_fit(opened, told))
        frames = self.num_frames(opened, sampling)
        self.plan(frames, told_tokens=told, media=opened).check()
        session = Session(self, opened, sampling, settings)
        if now:
            session.watch(progress)
        return session

    def resume(self, path: str | Path) -> "Session":
        """Go on with a session that `Session.save` wrote: nothing is watched again.

        Raises:
            LongVAError: there is no session in the file, or it is one of another model.
        """
        return Session.resume(self, Path(path))

    def summarize(
        self,
        media: Source | Media | Any,
        *,
        chapter: float | None = None,
        sampling: FrameSampling | None = None,
        settings: FrameSettings | None = None,
        subtitles: str | Path | Sequence[Cue] | None = None,
        max_new_tokens: int = 512,
        progress: Progress | None = None,
        told: Callable[[Chapter], object] | None = None,
    ) -> Summary:
        """Tell the chapters of a film, and what they come to; see `summarize.py`.

        Args:
            media: a video, an animation or frames with times.
            chapter: seconds of a chapter; default: a tenth of the film, 30 seconds at least, and no
                more than fits the model's context at a frame a second.
            sampling: which frames of each chapter to take; default: one a second.
            settings: how frames are made.
            subtitles: see `watch`.
            max_new_tokens: longest answer to each question, in tokens.
            progress: called with ("chapters", done, chapters), and while each is watched.
            told: called with each chapter as soon as it is known.

        Raises:
            VideoError: it has no times, or a frame cannot be decoded.
            LongVAError: see `summarize.py`.
        """
        film = media if isinstance(media, Media) else open_media(media)
        if subtitles is not None:
            film = with_subtitles(film, subtitles)
        rule = sampling or FrameSampling()

        def watch(start: float, end: float) -> Session:
            part = replace(rule, start=start, end=end)
            return self.watch(film, sampling=part, settings=settings, progress=progress)

        def ask(session: Session, question: str) -> str:
            return session.ask(question, max_new_tokens=max_new_tokens, look_again=False).text

        return summarize(
            self.windows(film, rule, chapter=chapter),
            film=film.name,
            watch=watch,
            talk=lambda: self.watch([]),
            ask=ask,
            fits=partial(self.fits, max_new_tokens=max_new_tokens),
            progress=progress,
            told=told,
        )

    def windows(
        self,
        film: Media,
        sampling: FrameSampling,
        *,
        chapter: float | None = None,
        max_frames: int | None = None,
    ) -> list[tuple[float, float]]:
        """Cut a film into the windows that `summarize` watches, in seconds.

        Args:
            film: opened.
            sampling: which frames of each window to take, and which part of the film.
            chapter: see `summarize`.
            max_frames: of a window, where fewer than fit are allowed.

        Raises:
            VideoError: it has no times.
        """
        if film.kind == "image" or not film.has_clock:
            raise VideoError(f"{film.name} has no times, which chapters need.", frames_fps=1)
        start, end = max(0.0, sampling.part[0]), min(film.duration, sampling.part[1])
        if chapter is None:
            most = self._frames_that_fit([film], 0)
            most = most if max_frames is None else min(most, max_frames)
            rate = len(film) / film.duration if film.chosen else sampling.fps or 1.0
            chapter = min(max(30.0, (end - start) / 10), most / rate)
        return windows(start, end, chapter)

    def fits(self, question: str, *, max_new_tokens: int) -> bool:
        """Whether a question without media, and its answer, fit the context."""
        prompt = self.family.symbols([{"role": "user", "content": question}], [])
        most = context_length(self.model.config)
        return most is None or len(prompt) + max_new_tokens <= most

    def _frames_that_fit(self, opened: list[Media], told: int) -> int:
        """Frames that each video may take when no number was asked for."""
        least = self.plan(1, told_tokens=told, media=opened)
        least.check()
        images = [medium for medium in opened if medium.kind == "image"]
        taken = self.num_frames(images, ONE_A_SECOND)
        return max(1, (least.max_frames - taken) // max(1, len(opened) - len(images)))
