"""Documents to packed rows: `prepare-text` against `datasets`' map, tokenise and pack."""

import json
import sysconfig
import tempfile
from itertools import chain
from pathlib import Path

import datasets
from peers_timing import Rows, in_turns
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from longva.data.text.prepare import CorpusConfig, prepare_text

ROW = 4096


def write_corpus(path: Path, most: int) -> list[str]:
    """Python's standard library, a document a file, up to so many bytes, no document twice."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py"))
    texts: dict[str, None] = {}
    for file in (f for f in files if "site-packages" not in f.parts):
        text = file.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            texts[text] = None
        if sum(map(len, texts)) > most:
            break
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return list(texts)


def write_tokenizer(folder: Path, texts: list[str]) -> None:
    """A byte-level BPE of 4,096 words, as Qwen2's but smaller."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    words = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts[:100], words)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)


def text(quick: bool) -> Rows:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, words = folder / "corpus.jsonl", folder / "tokenizer"
        texts = write_corpus(corpus, 1_000_000 if quick else 5_000_000)
        write_tokenizer(words, texts)
        turn = iter(range(1000))

        def ours() -> int:
            out = folder / f"ours{next(turn)}"
            config = CorpusConfig(
                source=str(corpus), output_dir=out, tokenizer=str(words), keep_short=1, workers=1
            )
            return prepare_text(config).packed_tokens

        def mapped(processes: int | None = None) -> int:
            tokenizer = AutoTokenizer.from_pretrained(words)
            end = tokenizer.eos_token_id

            def tokenise(batch: dict) -> dict:
                ids = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
                return {"input_ids": [[end, *document] for document in ids]}

            def pack(batch: dict) -> dict:
                ids = list(chain.from_iterable(batch["input_ids"]))
                return {"input_ids": [ids[i : i + ROW] for i in range(0, len(ids), ROW)]}

            out = folder / f"theirs{next(turn)}"
            rows = datasets.load_dataset(
                "json", data_files=str(corpus), split="train", cache_dir=str(out / "cache")
            )
            options = {"batched": True, "remove_columns": rows.column_names}
            rows = rows.map(tokenise, **options).map(pack, batched=True)
            rows.save_to_disk(str(out / "packed"))
            return sum(map(len, rows["input_ids"]))

        def same(a: int, b: int) -> str:
            return "as many tokens" if a == b else f"{b - a:+,} tokens of {a:,}"

        datasets.disable_progress_bars()
        sides = {"longva prepare-text": ours, "datasets, map and map": mapped}
        size = corpus.stat().st_size / 1e6
        yield f"{len(texts):,} documents, {size:.0f} MB, one process", in_turns(sides, same=same)
