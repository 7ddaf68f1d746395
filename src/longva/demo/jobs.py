"""A search or a summary that a visitor asked for: what its events change."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from longva.demo import asking
from longva.demo.visitor import Job, Setting, Visitor
from longva.watching.events import Event, Finished, Part, Progress, Watched
from longva.watching.summarize import Summary
from longva.watching.tasks import Ranges

PICTURES = 24
"""Ranges that are shown with a picture."""


async def do(setting: Setting, visitor: Visitor) -> AsyncGenerator[None]:
    """Do the visitor's latest job, or follow it; yield to have the page drawn."""
    job = visitor.job
    assert job is not None

    async def apply(event: Event) -> None:
        if isinstance(event, Finished):
            await _finish(job, event.result)
        elif isinstance(event, Watched):
            asking.learn(setting, event)
        elif isinstance(event, Part):
            job.chapters.append(event.part)
        elif isinstance(event, Progress) and _is_told(job, event.stage):
            job.state, job.progress = "watching", (event.stage, event.done, event.total)

    work = partial(asking.engaged, setting, visitor, job, job.asked, apply)
    async with aclosing(asking.follow(visitor, job, work)) as updates:
        async for _ in updates:
            yield


def _is_told(job: Job, stage: str) -> bool:
    return stage in (("watch", "prefill", "find") if job.is_search else ("chapters",))


async def _finish(job: Job, result: Ranges | Summary) -> None:
    """Show a result, with pictures of what was found."""
    if isinstance(result, Ranges):
        wanted = [(one.medium, one.frame) for one in result.ranges[:PICTURES]]
        job.pictures = await asking.pictures_of(job.media, wanted)
    else:
        result = replace(result, film=job.media[0].path.name)
    if job.busy:  # not stopped meanwhile
        job.result, job.state = result, "done"
