"""Models put together from parts."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from longva.evaluate.conversations import Reader
from longva.model import LongVAForConditionalGeneration
from longva.model.chat_format import chat_ids, turn_end
from longva.model.random_model import byte_tokenizer
from longva.niah.tree_model import eos_ids
from longva.train.models import assemble_longva
from longva.watching.assistant import LongVA
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


def end_of_answers(longva: LongVA, picture: Path) -> tuple[str, int, int]:
    """Ask a model that says nothing but the end of a turn: in a session, a benchmark, generate.

    Returns:
        Why the session's answer ended, the tokens of the benchmark's, and those of generate.
    """
    end = longva.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def say_the_end(module, inputs, logits):
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([end]), 1.0)

    hook = longva.model.lm_head.register_forward_hook(say_the_end)
    answer = longva.watch(picture).ask("hi", max_new_tokens=16)
    reply = Reader(longva).generate(
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], max_new_tokens=16
    )
    prompt = torch.tensor([chat_ids(longva.processor, [{"role": "user", "content": "hi"}])])
    ids = longva.model.generate(input_ids=prompt, max_new_tokens=16, do_sample=False)
    hook.remove()
    return answer.finish_reason, reply.answer_tokens, ids.shape[1] - prompt.shape[1]


def test_answers_of_a_base_model_end_with_the_templates_turn(tmp_path):
    """Its tokenizer ends texts with <|endoftext|>, the template ends turns with <|im_end|>."""
    base, aligned, picture = tmp_path / "base", tmp_path / "aligned", tmp_path / "black.png"
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    language = tiny_qwen2(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    language.generation_config.eos_token_id = tokenizer.eos_token_id
    language.save_pretrained(base)
    tokenizer.save_pretrained(base)
    model, processor = assemble_longva(str(base), dict(TOWER))
    model.save_pretrained(aligned)
    processor.save_pretrained(aligned)
    Image.new("RGB", (60, 60)).save(picture)
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    file = aligned / "generation_config.json"
    assert json.loads(file.read_text())["eos_token_id"] == stops
    assert end_of_answers(LongVA.from_pretrained(aligned), picture) == ("stop", 0, 1)
    # As it was written before, and as transformers alone reads it.
    file.write_text(json.dumps({"eos_token_id": stops[0]}))
    assert end_of_answers(LongVA.from_pretrained(aligned), picture) == ("stop", 0, 1)
    plain = LongVAForConditionalGeneration.from_pretrained(aligned)
    longva = LongVA(plain, processor, name="plain")
    assert end_of_answers(longva, picture) == ("stop", 0, 1)
    assert eos_ids(longva.model, tokenizer) == set(stops)


def test_a_tokenizer_without_the_templates_tokens_gets_them(tmp_path):
    words = {f"w{n}": n for n in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), eos_token="w1"
    )
    tokenizer.save_pretrained(tmp_path)
    tiny_qwen2().save_pretrained(tmp_path)
    model, processor = assemble_longva(str(tmp_path), dict(TOWER))
    assert turn_end(processor) == "<|im_end|>"
    assert len(model.get_input_embeddings().weight) == len(words) + 4
