"""Models put together from parts."""

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from longva.train.models import assemble_longva
from tests.train.toys import VOCABULARY, tiny_qwen2

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


@pytest.mark.parametrize("tied", [True, False])
def test_the_words_of_media_are_drawn_by_the_seed(tied, tmp_path):
    """A tokenizer that fills its model has no room for them: new rows, which may stay frozen."""
    words = {"<|im_end|>": 0, "<|im_start|>": 1, **{f"w{n}": n for n in range(2, VOCABULARY)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "w2")), eos_token="<|im_end|>"
    )
    tokenizer.save_pretrained(tmp_path)
    language = tiny_qwen2(tie_word_embeddings=tied)
    language.save_pretrained(tmp_path)

    def assembled(seed: int) -> dict[str, torch.Tensor]:
        model, _ = assemble_longva(str(tmp_path), dict(TOWER), seed=seed)
        return model.state_dict()

    first, again, other = assembled(0), assembled(0), assembled(1)
    assert len(first["lm_head.weight"]) == len(words) + 2
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert not torch.equal(other["lm_head.weight"], first["lm_head.weight"])
