"""Tiny random video models of transformers' families, with processors and tokenizers made here.

The processors are the families' own classes, over a tokenizer of bytes; without torchvision our
`FrameProcessor` stands for their video processors. The chat template is written here.
"""

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from longva.checkpoints.video_models import FrameProcessor, unchecked
from longva.model.random_model import byte_tokenizer

TOKENS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
MARKS = ["<|begin_of_video|>", "<|end_of_video|>", "<|begin_of_image|>", "<|end_of_image|>"]
SPECIAL = [*TOKENS, *MARKS, "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}"
    "{% if p.type == 'text' %}{{ p.text }}"
    "{% elif p.type == 'video' %}VIDEO{% else %}IMAGE{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VISION_MARKED = "<|vision_start|>{}<|vision_end|>"

TEXT: dict[str, Any] = {
    **{"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": None},
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
MROPE = TEXT | {"rope_parameters": ROPE}
TOWER = {
    **{"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 32},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7},
    "vision_use_head": False,
}
PATCHES = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 4}
WINDOWS = ["sliding_attention", "sliding_attention", "full_attention"]
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        "text_config": MROPE,
        "vision_config": PATCHES | {"depth": 2, "embed_dim": 32},
    },
    "qwen2_5_vl": {
        "text_config": MROPE,
        "vision_config": PATCHES
        | {"depth": 3, "window_size": 16, "out_hidden_size": 32, "fullatt_block_indexes": [1]},
    },
    "qwen3_vl": {
        "text_config": MROPE,
        "vision_config": PATCHES
        | {"depth": 3, "out_hidden_size": 32, "num_position_embeddings": 64}
        | {"deepstack_visual_indexes": [0, 1]},
    },
    "glm4v": {
        "text_config": MROPE | {"rope_parameters": ROPE | {"partial_rotary_factor": 1.0}},
        "vision_config": PATCHES | {"depth": 2, "image_size": 32, "out_hidden_size": 32},
    },
    "llava_onevision": {
        "text_config": TEXT | {"model_type": "qwen2"},
        "vision_config": TOWER,
    },
    "llava_next_video": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": TOWER | {"model_type": "clip_vision_model"},
    },
    "internvl": {
        "text_config": TEXT | {"model_type": "qwen3"},
        "vision_config": {
            **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": [16, 16], "patch_size": [4, 4]},
        },
    },
    "smolvlm": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": {
            **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "image_size": 16, "patch_size": 4},
        },
        "scale_factor": 2,
    },
    "gemma3": {
        "text_config": TEXT
        | {"sliding_window": 12, "query_pre_attn_scalar": 8, "layer_types": WINDOWS},
        "vision_config": TOWER | {"image_size": 16, "patch_size": 4},
        "mm_tokens_per_image": 4,
    },
}
CONFIGS["glm46v"] = CONFIGS["glm4v"]
PROCESSORS = {
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLImageProcessorPil", "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessorPil", "Qwen2VLVideoProcessor"),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen2VLImageProcessorPil", "Qwen3VLVideoProcessor"),
    "glm4v": ("Glm4vProcessor", "Glm4vImageProcessorPil", "Glm4vVideoProcessor"),
    "glm46v": ("Glm46VProcessor", "Glm46VImageProcessorPil", "Glm46VVideoProcessor"),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessorPil",
        "LlavaOnevisionVideoProcessor",
    ),
    "llava_next_video": (
        "LlavaNextVideoProcessor",
        "LlavaNextImageProcessorPil",
        "LlavaNextVideoVideoProcessor",
    ),
    "internvl": ("InternVLProcessor", "GotOcr2ImageProcessorPil", "InternVLVideoProcessor"),
    "smolvlm": ("SmolVLMProcessor", "SmolVLMImageProcessorPil", "SmolVLMVideoProcessor"),
    "gemma3": ("Gemma3Processor", "Gemma3ImageProcessorPil", None),
}
FAMILIES = list(PROCESSORS)
NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def tokenizer(**names: str) -> PreTrainedTokenizerFast:
    """Bytes, and the control tokens of all families by all their names."""
    own = {
        **{"image_token": TOKENS[0], "video_token": TOKENS[1], "context_image_token": TOKENS[0]},
        **{"vision_start_token": TOKENS[2], "vision_end_token": TOKENS[3]},
        **{"start_image_token": TOKENS[2], "end_image_token": TOKENS[3]},
        **{"boi_token": MARKS[2], "eoi_token": MARKS[3]},
        **{"fake_image_token": TOKENS[2], "global_image_token": TOKENS[3]},
        **{"end_of_utterance_token": "<|im_end|>"},
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer().backend_tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=own | names,
    )
    made.add_tokens(SPECIAL, special_tokens=True)
    return made


def make_processor(
    name: str,
    words: PreTrainedTokenizerFast,
    pixels: int = 16 * 16,
    patch: int = 4,
    frames: int = 24,
    image_tokens: int = 4,
):
    """The family's own class of processor.

    Args:
        name: of the family.
        words: the tokenizer.
        pixels: of a frame, at most.
        patch: pixels a side of a patch.
        frames: that share a budget of `pixels` a frame, where the family shares it.
        image_tokens: of a frame, where the processor is told.
    """
    kind, picture, film = PROCESSORS[name]
    side = 28 if name.startswith("llava") else int(pixels**0.5)
    sizes: dict[str, Any] = {"height": side, "width": side}
    if "qwen" in name or "glm" in name:
        shared = 1 if name.startswith("qwen2") else frames
        sizes = {"shortest_edge": 64, "longest_edge": pixels * shared}
        cut = {"patch_size": patch, "temporal_patch_size": 2, "merge_size": 2}
    else:
        cut = {}
    extra: dict[str, Any] = {}
    if name == "smolvlm":
        extra = {"max_image_size": {"longest_edge": 16}}
    if name == "llava_next_video":
        extra = {"do_center_crop": True, "crop_size": {"height": side, "width": side}}
    settings = {"size": sizes, **NORMAL, **cut, **extra}
    parts: dict[str, Any] = {"tokenizer": words}
    parts["image_processor"] = getattr(transformers, picture)(**NORMAL | {"size": sizes} | cut)
    if film is not None:
        parts["video_processor"] = FrameProcessor(**settings, video_processor_type=film)
    own: dict[str, Any] = {
        "llava_onevision": {"num_image_tokens": 16},
        "llava_next_video": {"patch_size": 7, "vision_feature_select_strategy": "default"},
        "internvl": {"image_seq_length": image_tokens},
        "smolvlm": {"image_seq_len": 4},
        "gemma3": {"image_seq_length": 4},
    }.get(name, {})
    if name == "llava_next_video":
        parts["image_processor"] = getattr(transformers, picture)(**NORMAL)
    processor = unchecked(getattr(transformers, kind))(**parts, **own)
    video, image = VISION_MARKED.format(TOKENS[1]), VISION_MARKED.format(TOKENS[0])
    if "glm" in name:
        video = f"{MARKS[0]}{TOKENS[1]}{MARKS[1]}"
    if name == "internvl" or name.startswith("llava"):
        video = TOKENS[1]
    if name == "gemma3":
        image = MARKS[2]
    processor.chat_template = TEMPLATE.replace("VIDEO", video).replace("IMAGE", image)
    return processor


def make(
    name: str,
    dtype: torch.dtype = torch.float64,
    *,
    seed: int = 0,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    **settings: Any,
):
    """A tiny random model of a family, and its processor.

    Args:
        name: of the family.
        dtype: of the weights.
        seed: of the weights.
        text: changes of the language model's config.
        vision: changes of the vision tower's.
        settings: see `make_processor`.
    """
    words = tokenizer(**({"video_token": "<video>"} if name == "smolvlm" else {}))
    ids = {mark: words.convert_tokens_to_ids(mark) for mark in SPECIAL}
    about = {**CONFIGS[name]}
    about["text_config"] = about["text_config"] | (text or {})
    about["vision_config"] = about["vision_config"] | (vision or {})
    about |= {"image_token_id": ids[TOKENS[0]], "video_token_id": ids[TOKENS[1]]}
    about |= {"vision_start_token_id": ids[TOKENS[2]], "vision_end_token_id": ids[TOKENS[3]]}
    for number, mark in enumerate(("video_start", "video_end", "image_start", "image_end")):
        about[f"{mark}_token_id"] = ids[MARKS[number]]
    if name in ("internvl", "smolvlm", "gemma3", "qwen2_vl") or name.startswith("llava"):
        for mark in ("video_start", "video_end", "image_start", "image_end"):
            del about[f"{mark}_token_id"]
    if name.startswith("llava"):
        about |= {"image_token_index": about["image_token_id"]}
        about |= {"video_token_index": about["video_token_id"]}
    if name == "gemma3":
        about |= {"image_token_index": about["image_token_id"]}
        about |= {"boi_token_index": ids[MARKS[2]], "eoi_token_index": ids[MARKS[3]]}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **about, tie_word_embeddings=False)
    model = AutoModelForImageTextToText.from_config(config).eval()
    for key, weight in model.named_parameters():
        if weight.ndim > 1:
            size = 1 if "embed_tokens" in key else weight[0].numel() ** -0.5
            weight.data.normal_(0, size)
    model.generation_config.eos_token_id = None
    return model.to(dtype), make_processor(name, words, **settings)
