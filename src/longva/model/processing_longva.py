"""Prompt and media -> model inputs: each `<image>` or `<video>` becomes its number of tokens."""

from pathlib import Path
from typing import Any

from transformers.image_utils import ImageInput
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoInput

from longva.model.configuration_longva import LongVAConfig
from longva.model.image_processing_longva import LongVAImageProcessor, LongVAImageProcessorKwargs
from longva.model.standard_arguments import refuse_misspelt
from longva.model.unires import COLOURS
from longva.model.video_processing_longva import LongVAVideoProcessor, LongVAVideoProcessorKwargs


class LongVAProcessorKwargs(ProcessingKwargs, total=False):
    """What may be changed in a single call, by part or flat."""

    images_kwargs: LongVAImageProcessorKwargs
    videos_kwargs: LongVAVideoProcessorKwargs
    _defaults = {}  # pyright: ignore - transformers 5.19 and 5.20 read it of each class


class LongVAProcessor(ProcessorMixin):
    """An image processor, a tokenizer and a video processor behind one call.

    Args:
        image_processor: a `LongVAImageProcessor`.
        tokenizer: must know `image_token` and `video_token` as single tokens.
        video_processor: a `LongVAVideoProcessor`.
        chat_template: Jinja text; None takes the Qwen2 template of this package.
        patches_per_grid: patches of the vision tower a grid, 576 for CLIP at 336 px.
        pool_stride: the model's; a grid takes `patches_per_grid / pool_stride^2` tokens.
        image_token: stands for an image in a prompt.
        video_token: stands for a video in a prompt.
        **kwargs: ignored.
    """

    valid_processor_kwargs = LongVAProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer: Any = None,
        video_processor=None,
        chat_template: str | None = None,
        patches_per_grid: int = 576,
        pool_stride: int = 2,
        image_token: str = "<image>",
        video_token: str = "<video>",
        **kwargs,
    ):
        self.patches_per_grid, self.pool_stride = patches_per_grid, pool_stride
        self.image_token, self.video_token = image_token, video_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(video_token)
        if chat_template is None:
            file = Path(__file__).with_name("chat_template.jinja")
            chat_template = file.read_text(encoding="utf-8")
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | list[str] | None = None,
        videos: VideoInput | None = None,
        audio=None,
        **kwargs,
    ):
        """Make the model's inputs of prompts and their media; see `ProcessorMixin`.

        Raises:
            LongVAError: for an argument that is misspelt or refused.
        """
        parts = self.valid_processor_kwargs.__annotations__
        known = {name for part in parts.values() for name in getattr(part, "__annotations__", ())}
        refuse_misspelt(kwargs, known | parts.keys())  # pipelines pass on what generate takes
        return super().__call__(images=images, text=text, videos=videos, audio=audio, **kwargs)

    @classmethod
    def for_model(cls, config: LongVAConfig, tokenizer: Any, **images) -> "LongVAProcessor":
        """Put the processor of a model together.

        Args:
            config: of the model, which tells the size of grids, their packing and their pooling,
                and the kind of tower, by which pixels are normalised.
            tokenizer: of the model.
            **images: further arguments of `LongVAImageProcessor`, such as `max_grids`.
        """
        size = config.grid_size
        colours: dict[str, Any] = {}
        for kind, (mean, std) in COLOURS.items():
            if config.vision_config.model_type.startswith(kind):
                colours = {"image_mean": mean, "image_std": std}
        return cls(
            LongVAImageProcessor(size, packing=config.image_packing, **colours, **images),
            tokenizer,
            LongVAVideoProcessor(size, **colours),
            patches_per_grid=config.patches_per_side**2,
            pool_stride=config.pool_stride,
        )

    def check_argument_for_proper_class(self, argument_name, argument):
        """Check a part's class; without torchvision transformers cannot name the video one."""
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"video_processor must be a VideoProcessorMixin, got {type(argument)}")
        return VideoProcessorMixin

    def image_layout(self, width: int, height: int, **grids) -> tuple[int, int]:
        """Return the (rows, columns) of grids that an image of this size in pixels becomes.

        Args:
            width: of the image.
            height: of the image.
            **grids: instead of the image processor's, see its `grid_of`.
        """
        columns, rows = self.image_processor.grid_of(width, height, **grids)
        return rows + (self.image_processor.packing == "anyres"), columns

    def image_tokens(self, rows: int, columns: int) -> int:
        """Tokens of an image of `rows` x `columns` grids, see `image_layout`."""
        if self.image_processor.packing == "anyres":
            return (1 + (rows - 1) * columns) * self.patches_per_grid
        return rows * columns * self.tokens_per_grid()

    def tokens_per_grid(self) -> int:
        """Tokens of one pooled grid, which is one video frame."""
        return self.patches_per_grid // self.pool_stride**2

    def replace_image_token(self, image_inputs, image_idx: int, **kwargs) -> str:
        """Return the text that stands for image number `image_idx`."""
        _, rows, columns = (int(n) for n in image_inputs["image_grid_thw"][image_idx])
        return self.image_token * self.image_tokens(rows, columns)

    def replace_video_token(self, video_inputs, video_idx: int, **kwargs) -> str:
        """Return the text that stands for video number `video_idx`."""
        num_frames = int(video_inputs["video_grid_thw"][video_idx].prod())
        return self.video_token * (num_frames * self.tokens_per_grid())

    def _get_num_multimodal_tokens(
        self, image_sizes=None, video_sizes=None, max_grids=None, grid_rule=None, **kwargs
    ):
        """Token counts of media by size, for serving engines that plan before they process.

        Args:
            image_sizes: (height, width) of each image.
            video_sizes: (frames, height, width) of each video.
            max_grids: instead of the image processor's.
            grid_rule: instead of the image processor's.
            **kwargs: ignored; an engine passes all arguments of its calls.
        """
        counts = {}
        if image_sizes is not None:
            given = {"max_grids": max_grids, "grid_rule": grid_rule}
            layouts = [self.image_layout(width, height, **given) for height, width in image_sizes]
            counts["num_image_tokens"] = [self.image_tokens(*layout) for layout in layouts]
            counts["num_image_patches"] = [rows * columns for rows, columns in layouts]
        if video_sizes is not None:
            counts["num_video_tokens"] = [
                int(n) * self.tokens_per_grid() for n, _, _ in video_sizes
            ]
        return MultiModalData(**counts)


__all__ = ["LongVAProcessor"]
