"""What is found and summarized beside the conversation, and what visitors take along."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr

from longva.demo import asking, jobs
from longva.demo.estimate import watching_of
from longva.demo.export import parts_of, write_clips
from longva.demo.view import AT_ONCE, BESIDE_OTHERS, View
from longva.demo.visitor import Job, Visitor
from longva.errors import LongVAError
from longva.media.sampling import FrameSampling
from longva.watching.answer import check_question
from longva.watching.store import Watching
from longva.watching.tasks import Outline, Search


class JobHandlers:
    """Handlers of the find box, of summaries, and of clips.

    Args:
        view: what they change.
    """

    def __init__(self, view: View):
        self.view, self.setting = view, view.setting

    def connect(self, opened: Any, page: list[Any]) -> None:
        """Add the event handlers; `opened` is the event of a page that has been drawn again."""
        view, visitor = self.view, [self.view.visitor]
        how = [view.frames, view.fps, view.start, view.end]
        multiple: Any = {"trigger_mode": "multiple"}  # a stopped one may not have ended yet
        found = gr.on(
            [view.find.click, view.query.submit],
            self.find,
            [*visitor, view.query, *how],
            page,
            **BESIDE_OTHERS,
        )
        told = [*visitor, view.start, view.end, view.max_new_tokens]
        summed = view.summarize.click(self.summarize, told, page, **BESIDE_OTHERS)
        for begun in (found, summed, opened):
            done = begun.success(self.do, visitor, page, **multiple, **BESIDE_OTHERS)
            done.failure(self.end, visitor, page, **AT_ONCE)  # if Gradio's own queue is full
        view.end_job.click(self.end, visitor, page, **AT_ONCE)
        view.found.select(self.cut_found, visitor, page, **BESIDE_OTHERS)

    async def find(self, visitor: Visitor, query: str, *how: Any) -> dict:
        """Begin to look for something."""
        self._check(visitor)
        try:
            check_question(query)
            watching = watching_of(visitor.media, *how)
        except LongVAError as error:
            raise gr.Error(error.message, print_exception=False) from None
        media = list(visitor.media)
        visitor.job = Job(watching=watching, media=media, asked=Search(query=query.strip()))
        return self.view.draw_job(visitor)

    async def summarize(self, visitor: Visitor, start: str, end: str, most: int) -> dict:
        """Begin to summarize the film."""
        self._check(visitor)
        try:
            part = FrameSampling(
                fps=1.0, start=(start or "").strip() or None, end=(end or "").strip() or None
            )
        except LongVAError as error:
            raise gr.Error(error.message, print_exception=False) from None
        media = visitor.media[:1]
        watching = Watching(digests=(media[0].digest,), sampling=part)
        outline = Outline(max_new_tokens=int(most))
        visitor.job = Job(watching=watching, media=media, asked=outline)
        return self.view.draw_job(visitor)

    @staticmethod
    def _check(visitor: Visitor) -> None:
        if not visitor.media:
            raise gr.Error("Choose a video first.", print_exception=False)
        if visitor.job is not None and visitor.job.busy:
            raise gr.Error("One search at a time: wait, or stop.", print_exception=False)

    async def do(self, visitor: Visitor) -> AsyncGenerator[dict]:
        """Do the latest job, drawing the page as it comes."""
        job = visitor.job
        if job is None or not job.busy:  # stopped before this began, or nothing to follow
            yield self.view.draw_job(visitor)
            return
        async with aclosing(jobs.do(self.setting, visitor)) as updates:
            async for _ in updates:
                yield {self.view.found: self.view.draw_job(visitor)[self.view.found]}
        if job.state == "done":
            await asyncio.to_thread(asking.keep, self.setting, visitor, job)
        yield self.view.draw_job(visitor)

    async def end(self, visitor: Visitor) -> dict:
        """End the job, or the wait for it."""
        if visitor.job is not None:
            visitor.job.stop()
            visitor.change()
        return self.view.draw_job(visitor)

    async def cut_found(self, visitor: Visitor) -> dict:
        """Cut what was found into clips."""
        if visitor.job is not None:
            await self.cut(visitor.job)
        return self.view.draw_job(visitor)

    async def cut(self, work: Any) -> None:
        """Cut the clips of a work that is done, in a thread."""
        try:
            folder = self.setting.folder
            work.clips = await asyncio.to_thread(write_clips, parts_of(work), folder)
        except LongVAError as error:
            told = asking.without_folders(error.message, work.media)
            raise gr.Error(told, print_exception=False) from None
