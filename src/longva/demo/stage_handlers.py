"""What is on the stage: films and pictures that are dropped, chosen, added, taken away."""

import asyncio
import re
import secrets
from pathlib import Path
from typing import Any

import gradio as gr

from longva.demo.medium import open_medium
from longva.demo.view import AT_ONCE, BESIDE_OTHERS, FOR_THE_PAGE, QUIET, View
from longva.demo.visitor import Visitor
from longva.errors import LongVAError

MOST_MEDIA = 8
"""On the stage together."""

KEY = re.compile("[0-9a-f]{32}")
OWN_KEYS = """(_, __, ___) => {
  const kept = (storage, name) => {
    let key = storage.getItem(name);
    if (!key) {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      key = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      storage.setItem(name, key);
    }
    return key;
  };
  return [null, kept(sessionStorage, "longva-visitor"), kept(localStorage, "longva-library")];
}"""
"""Each tab of a browser keeps a secret for as long as it is open, reloads included; and the browser
keeps one for its library."""


class StageHandlers:
    """Handlers of the stage.

    Args:
        view: what they change.
    """

    def __init__(self, view: View):
        self.view, self.setting, self.engine = view, view.setting, view.engine

    def connect(self, blocks: gr.Blocks, page: list[Any]) -> Any:
        """Add the event handlers; return the event of a page that has been drawn again."""
        view, visitor = self.view, [self.view.visitor]
        # Programs may name any key; whoever can name a visitor's is that visitor.
        keys = [*visitor, view.key, view.owner]
        opened = blocks.load(self.reopen, keys, page, js=OWN_KEYS, **BESIDE_OTHERS)
        uploaded = view.file.upload(self.show_upload, [*visitor, view.file], page, **FOR_THE_PAGE)
        uploaded.failure(lambda: None, None, [view.file], **AT_ONCE)
        view.cards.select(self.show_example, visitor, page, **QUIET)
        view.shelf.select(self.show_kept, visitor, page, **QUIET)
        view.shelf.delete(self.delete_kept, visitor, page, **QUIET)
        view.about.delete(self.take_away, visitor, page, **QUIET)
        view.add.click(self.begin_adding, visitor, page, **BESIDE_OTHERS)
        view.back.click(self.end_adding, visitor, page, **AT_ONCE)
        view.change.click(self.clear, visitor, page, **AT_ONCE)
        return opened

    async def reopen(self, visitor: Visitor, key: str, owner: str = "") -> dict:
        """Give a page that was reloaded what it showed; the key of a new one is its visitor's."""
        held = self.setting.visitors.get(key)
        if held is None:
            if not visitor.key and KEY.fullmatch(key or ""):
                visitor.key = key
            visitor.owner = owner if KEY.fullmatch(owner or "") else ""
            return {self.view.visitor: visitor, **self.view.draw_welcome(visitor)}
        held.pages += 1
        return {self.view.visitor: held, **self.view.draw_all(held)}

    async def show_upload(self, visitor: Visitor, path: str | None) -> dict:
        """Put an uploaded file on the stage.

        No other handler empties the field: a file may arrive while one of them is at work, as
        `reopen` is when a page is new, and would be gone before this is asked to show it.
        """
        if path is None:
            raise gr.Error("The file did not arrive: choose it again.", print_exception=False)
        return await self.show(visitor, Path(path)) | {self.view.file: None}

    async def show_example(self, visitor: Visitor, event: gr.EventData) -> dict:
        """Put an example on the stage, its question into the box."""
        example = self.setting.examples[int(event.example)]
        shown = await self.show(visitor, example.path)
        return shown | {self.view.question: example.question}  # whose change has the estimate drawn

    async def show_kept(self, visitor: Visitor, event: gr.EventData) -> dict:
        """Put a film of the library on the stage."""
        library = self.setting.library
        path = await asyncio.to_thread(library.path, visitor.owner, str(event.digest))
        if path is None:
            raise gr.Error("This film is not there any more.", print_exception=False)
        return await self.show(visitor, path)

    async def delete_kept(self, visitor: Visitor, event: gr.EventData) -> dict:
        """Delete a film of the library, and what is held of it."""
        digest = str(event.digest)
        await asyncio.to_thread(self.setting.library.delete, visitor.owner, digest)
        others = (o.media for o in self.setting.visitors.values() if o is not visitor)
        if not any(medium.digest == digest for media in others for medium in media):
            self.engine.store.drop_all(digest)
        if any(medium.digest == digest for medium in visitor.media):
            visitor.show(*(medium for medium in visitor.media if medium.digest != digest))
            return self.view.draw_all(visitor)
        return {self.view.visitor: visitor, **self.view.draw_welcome(visitor)}

    async def show(self, visitor: Visitor, path: Path) -> dict:
        """Put a file on the stage, beside what is there if it is added."""
        if visitor.adding and len(visitor.media) >= MOST_MEDIA:
            raise gr.Error(f"At most {MOST_MEDIA} films together.", print_exception=False)
        try:
            medium = await asyncio.to_thread(open_medium, path, self.engine.longva)
        except LongVAError as error:
            problem = error.message.replace(str(path), path.name)
            raise gr.Error(problem, print_exception=False) from None
        before = visitor.media if visitor.adding else []
        visitor.show(*(one for one in before if one.digest != medium.digest), medium)
        held = self.setting.visitors.get(visitor.key)
        if held is not None and held is not visitor:  # of a tab that was copied, key and all
            visitor.key = secrets.token_hex(16)
            held = None
        if held is None:
            self.setting.visitors[visitor.key] = visitor
            visitor.pages += 1
        return self.view.draw_all(visitor)

    async def take_away(self, visitor: Visitor, event: gr.EventData) -> dict:
        """Take one of several media off the stage."""
        gone = int(event.medium)
        visitor.show(*(one for number, one in enumerate(visitor.media) if number != gone))
        return self.view.draw_all(visitor)

    async def begin_adding(self, visitor: Visitor) -> dict:
        """Offer films to add to those on the stage."""
        visitor.adding = True
        return {self.view.visitor: visitor, **self.view.draw_welcome(visitor)}

    async def end_adding(self, visitor: Visitor) -> dict:
        """Add none."""
        visitor.adding = False
        return {self.view.visitor: visitor, **self.view.draw_welcome(visitor)}

    async def clear(self, visitor: Visitor) -> dict:
        """Take all off the stage."""
        visitor.show()
        return self.view.draw_all(visitor)
