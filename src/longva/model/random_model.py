"""A LongVA of any size with random weights and a tokenizer of single bytes.

It answers nonsense, through exactly the code that a trained checkpoint runs: for tests, benchmarks,
and for trying the plumbing where no weights are at hand.
"""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from longva.model.configuration_longva import LongVAConfig
from longva.model.modeling_longva import LongVAForConditionalGeneration
from longva.model.processing_longva import LongVAProcessor

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer whose tokens are the 256 bytes and the special tokens of LongVA."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS,
        padding_side="left",
    )


def random_longva(
    *,
    seed: int = 0,
    grid_size: int = 56,
    vision_width: int = 32,
    vision_layers: int = 3,
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    num_key_value_heads: int = 2,
    max_position_embeddings: int = 32_768,
    rope_theta: float = 1e6,
    max_grids: int = 49,
    dtype: torch.dtype = torch.float32,
    vision_config: dict | None = None,
    **config,
) -> tuple[LongVAForConditionalGeneration, LongVAProcessor]:
    """Build a random model on the CPU, and its processor.

    Args:
        seed: of the weights.
        grid_size: pixels a side of a grid (56 px in patches of 14: 4 tokens a frame).
        vision_width: width of the vision tower.
        vision_layers: layers of the vision tower.
        hidden_size: width of the language model.
        num_layers: layers of the language model.
        num_heads: query heads of the language model.
        num_key_value_heads: key-value heads of the language model.
        max_position_embeddings: context length in tokens.
        rope_theta: RoPE base.
        max_grids: largest number of grids an image takes.
        dtype: of the weights. They are drawn in float32 and converted: in float64, what is equal in
            mathematics is equal to about 1e-12, whatever adds up the sums in whatever order.
        vision_config: of another tower, instead of a CLIP of this size.
        **config: further arguments of `LongVAConfig`.
    """
    tokenizer = byte_tokenizer()
    im_end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = {token: tokenizer.get_vocab()[token] for token in SPECIAL_TOKENS}
    vision_config = vision_config or {
        "model_type": "clip_vision_model",
        "hidden_size": vision_width,
        "intermediate_size": 2 * vision_width,
        "num_hidden_layers": vision_layers,
        "num_attention_heads": 2,
        "image_size": grid_size,
        "patch_size": 14,
    }
    longva_config = LongVAConfig(
        vision_config=vision_config,
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_key_value_heads,
            "max_position_embeddings": max_position_embeddings,
            "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
            "bos_token_id": None,
            "eos_token_id": im_end,
            "pad_token_id": pad,
        },
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
        **config,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LongVAForConditionalGeneration(longva_config).eval()
        # The default scale of 0.02 makes every layer nearly the identity and all logits alike.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.data.normal_(0, 1 if "embed" in name else fan_in**-0.5)
    model.generation_config.eos_token_id = [im_end, pad]
    model.generation_config.pad_token_id = pad
    model.generation_config.suppress_tokens = [ids["<image>"], ids["<video>"]]
    processor = LongVAProcessor.for_model(longva_config, tokenizer, max_grids=max_grids)
    return model.to(dtype), processor  # pyright: ignore[reportArgumentType]
