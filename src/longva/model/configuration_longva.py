"""The shape of a LongVA model: a vision tower, a projector with pooling, a language model."""

import math

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from longva.errors import LongVAError
from longva.model.unires import Packing

CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
"""The tower of every published LongVA checkpoint (openai/clip-vit-large-patch14-336)."""


class LongVAConfig(PretrainedConfig):
    """Configuration of LongVA.

    Args:
        vision_config: a transformers vision config or its dict. Default: CLIP-L/336.
        text_config: a transformers causal language model config or its dict. Default: Qwen2.
        image_token_id: the token that stands for one visual token of an image.
        video_token_id: the token that stands for one visual token of a video.
        projector_hidden_act: activation between the projector's two linear layers.
        vision_feature_layer: which hidden state of the tower is used; -2 is the last but one.
        pool_stride: side of the pooling window in patches: 2 turns 24 x 24 patches into 144 tokens.
        pool_mode: `average` or `max`.
        image_packing: `unires` (the paper's method) or `anyres` (its ablation): how the grids of an
            image become a sequence. Videos are the same under both.
        vision_batch_size: grids encoded at a time. Memory of the tower grows with it; the result
            does not change.
        evidence_heads: (layer, head) pairs whose attention tells which frames an answer rests on;
            None takes the mean over all heads.
        look_up: the head whose scores tell how well frames match what an answer looks up, and words
            that stand for what they tell; see `watching/look_up.py`. None of a model without.
        confidence: what a calibration found, see `watching/confidence.py`; None of a model that
            was not calibrated.
        look_again: frames of a long film that are read again, alone, for each answer, where nothing
            else is asked for; see `watching/look_again.py`.
        tie_word_embeddings: whether input and output embeddings are one matrix.
        **kwargs: see `PretrainedConfig`.

    Raises:
        LongVAError: for an unknown pool_mode or image_packing, or a stride that does not divide the
            patches a side.
    """

    model_type = "longva"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}  # pyright: ignore
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(
        self,
        vision_config=None,
        text_config=None,
        image_token_id: int = 151646,
        video_token_id: int = 151647,
        projector_hidden_act: str = "gelu",
        vision_feature_layer: int = -2,
        pool_stride: int = 2,
        pool_mode: str = "average",
        image_packing: Packing = "unires",
        vision_batch_size: int = 16,
        evidence_heads: list[list[int]] | None = None,
        look_up: dict | None = None,
        confidence: dict | None = None,
        look_again: int = 0,
        tie_word_embeddings: bool = False,
        **kwargs,
    ):
        self.vision_config = _sub_config(vision_config or CLIP_L_336, "clip_vision_model")
        self.text_config = _sub_config(text_config or {}, "qwen2")
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.projector_hidden_act = projector_hidden_act
        self.vision_feature_layer = vision_feature_layer
        self.image_packing: Packing = image_packing
        self.vision_batch_size = vision_batch_size
        self.evidence_heads = evidence_heads
        self.look_up = look_up
        self.confidence = confidence
        self.look_again = look_again
        self.set_pooling(pool_stride, pool_mode)
        if image_packing not in ("unires", "anyres"):
            raise LongVAError(f"image_packing must be 'unires' or 'anyres', got {image_packing!r}")
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)  # pyright: ignore

    @property
    def grid_size(self) -> int:
        """Pixels along one side of a grid: 336 for CLIP-L/336, 504 for DINOv2 of 518."""
        vision = self.vision_config
        if vision.model_type == "siglip2_vision_model":  # takes any number of patches up to this
            return math.isqrt(vision.num_patches) * vision.patch_size
        if vision.model_type.startswith("dinov2"):  # of any size; 37 patches could not be pooled
            side = vision.image_size // vision.patch_size
            return (side - side % 2 or 1) * vision.patch_size
        return vision.image_size

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a grid: 24 for CLIP at 336 px."""
        return self.grid_size // self.vision_config.patch_size

    def set_pooling(self, stride: int | None = None, mode: str | None = None) -> None:
        """Change the pooling of grids; None leaves it. The processor's `pool_stride` must follow.

        Raises:
            LongVAError: for an unknown mode, or a stride that does not divide the patches a side.
        """
        side = self.patches_per_side
        if stride is not None:
            if stride < 1 or side % stride:
                sides = [n for n in range(1, side + 1) if side % n == 0]
                raise LongVAError(
                    f"pool_stride must divide the {side} patches a side, got {stride}. "
                    f"Choose one of {sides}."
                )
            self.pool_stride = stride
        if mode is not None:
            if mode not in ("average", "max"):
                raise LongVAError(f"pool_mode must be 'average' or 'max', got {mode!r}")
            self.pool_mode = mode

    def tokens_per_grid(self) -> int:
        """Tokens of one pooled grid, which is one video frame: 144 for CLIP at 336 px, stride 2."""
        return (self.patches_per_side // self.pool_stride) ** 2


def _sub_config(config, default_type: str):
    if not isinstance(config, dict):
        return config
    values = dict(config)
    return CONFIG_MAPPING[values.pop("model_type", default_type)](**values)


__all__ = ["LongVAConfig"]
