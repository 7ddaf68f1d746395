"""Conversations about images and videos, for both stages of alignment.

A sample is a dict of tensors, L its length with the tokens of its media:

    input_ids, labels                      int64 [L]; a label is -100 unless the assistant says it
    pixel_values, image_grid_thw           if it has images, see `media.py`
    pixel_values_videos, video_grid_thw    if it has videos

and a batch of B of them, padded at the right to the longest:

    input_ids, labels, attention_mask      int64 [B, L]
    the media of all samples, in order     as above

Labels stand at the place of their token: shift them before the loss. The files: `mixtures.py`, what
is in them and what is a target: `chat.py`.
"""

from dataclasses import dataclass

from torch import Tensor

from longva.data.chats.chat import Template, read_conversation
from longva.data.chats.media_dataset import MediaDataset
from longva.data.chats.mixtures import MixtureConfig
from longva.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class ConversationConfig(MixtureConfig):
    """Conversations to train on."""

    template: Template = "chat"
    """`chat`: the processor's template. `plain`: media and answers only (the paper's stage 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template == "plain" and self.video.time_tokens is not None:
            raise RecipeError(
                "video.time_tokens writes times into the chat; the template plain has none. Leave "
                "time_tokens out, or take the template chat."
            )


class ConversationDataset(MediaDataset):
    """The conversations of a mixture; see `MediaDataset` for arguments and errors."""

    config: ConversationConfig
    read_sample = staticmethod(read_conversation)

    def item(self, index: int) -> dict[str, Tensor]:
        """Read a conversation; see the top of this file."""
        conversation = self.read_sample(self.samples[index])
        media = self.read_media(index, conversation)
        name, template = self.samples.name(index), self.config.template
        return {**self.encode(conversation.messages, media, name, template=template), **media[0]}

    def collate(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Make a batch; see the top of this file."""
        batch = self.pad([(sample["input_ids"], sample["labels"]) for sample in samples])
        return {**batch, **self.reader.collate(samples)}
