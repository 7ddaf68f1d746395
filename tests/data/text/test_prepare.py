import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
from collections import defaultdict
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from longva.cli import app
from longva.data.text import documents, packing
from longva.data.text.packing import PackedText
from longva.data.text.prepare import CorpusConfig, prepare_text, tokenise_shard
from longva.data.text.report import CorpusReport
from longva.data.text.tokenised import open_text
from longva.data.text.upsampling import content_hash
from longva.errors import LongVAError, RecipeError
from longva.model.random_model import byte_tokenizer

LONG, KEEP = 300, 0.1
SIZES = {"arxiv": (120, 5.8), "books": (60, 6.2), "code": (400, 4.6), "web": (600, 4.8)}
"""Documents of each domain, and the mean of the logarithm of their length."""


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def texts() -> dict[str, list[str]]:
    rng = random.Random(0)
    return {
        domain: [
            "".join(rng.choices("abcdefgh ij\n", k=int(rng.lognormvariate(mean, 1)) + 1))
            for _ in range(count)
        ]
        for domain, (count, mean) in SIZES.items()
    }


def write_corpus(folder: Path, texts: dict[str, list[str]]) -> Path:
    """A folder a domain: JSON lines in two files, plain text, compressed lines, Parquet."""
    for domain in texts:
        (folder / domain).mkdir(parents=True)
    lines = [json.dumps({"text": text, "other": 1}) + "\n" for text in texts["arxiv"]]
    (folder / "arxiv" / "a.jsonl").write_text("".join(lines[:50]))
    (folder / "arxiv" / "b.jsonl").write_text("\n".join(lines[50:]))  # with empty lines
    for number, text in enumerate(texts["books"]):
        (folder / "books" / f"{number}.txt").write_text(text)
    rows = [json.dumps({"text": text}) for text in texts["web"]]
    (folder / "web" / "web.json.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"text": texts["code"]})
    parquet.write_table(table, folder / "code" / "code.parquet", row_group_size=150)
    (folder / "arxiv" / "README").write_text("no text of the corpus")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, texts) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), texts)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """A dozen parts and several shards of the little corpus."""
    monkeypatch.setattr(documents, "PART_BYTES", 12_000)
    monkeypatch.setattr(packing, "SHARD_TOKENS", 10_000)


@pytest.fixture
def config(tmp_path, corpus, tokenizer_folder) -> CorpusConfig:
    return CorpusConfig(
        source=str(corpus),
        output_dir=tmp_path / "packed",
        tokenizer=tokenizer_folder,
        long_tokens=LONG,
        keep_short=KEEP,
        workers=1,
    )


def packed_documents(folder: Path) -> list[tuple[str, str]]:
    """(domain, text) of each packed document, in order."""
    index = json.loads((folder / "index.json").read_text())
    stream = np.concatenate([load_file(folder / s["file"])["tokens"] for s in index["shards"]])
    spans = load_file(folder / "documents.safetensors")
    tokenizer = byte_tokenizer()
    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    found = []
    for tokens, domain in zip(np.split(stream, spans["starts"][1:]), spans["domains"], strict=True):
        assert tokens[0] == separator
        found.append((index["domains"][domain], tokenizer.decode(tokens[1:].tolist())))
    return found


def data_files(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }


def test_the_mixture_stays_and_long_documents_gain_the_share_that_was_computed(config, texts):
    report = prepare_text(config)
    values = json.loads((config.output_dir / "report.json").read_text())
    total = sum(len(text) for domain in texts.values() for text in domain)
    for domain, documents_ in texts.items():
        before, after = values["before"][domain], values["after"][domain]
        lengths = np.array([len(text) for text in documents_])
        long, short = lengths[lengths > LONG].sum(), lengths[lengths <= LONG].sum()
        assert before["num_tokens"] == lengths.sum()
        assert before["share"] == pytest.approx(lengths.sum() / total)
        assert after["share"] == pytest.approx(before["share"], abs=1e-4)  # asked for: 1e-2
        assert before["long_share"] == pytest.approx(long / (long + short))
        # Three standard deviations of a lot of KEEP for each short document.
        noise = 3 * np.sqrt((lengths[lengths <= LONG] ** 2).sum() * KEEP) / (long + KEEP * short)
        expected = long / (long + KEEP * short)
        assert after["long_share"] == pytest.approx(expected, abs=noise + 0.02)  # one is cut
        assert after["long_share"] > before["long_share"] or expected > 0.99
    assert report.shares(report.after) == pytest.approx(report.shares(report.before), abs=1e-4)
    assert (config.output_dir / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert not (config.output_dir / ".parts").exists()


def test_the_packed_documents_are_those_their_hashes_choose(config, texts):
    prepare_text(config)
    packed = defaultdict(list)
    order = packed_documents(config.output_dir)
    for domain, text in order:
        packed[domain].append(text)
    shares = {domain: sum(map(len, t)) for domain, t in texts.items()}
    kept = {
        domain: sorted(
            (t for t in set(ts) if len(t) > LONG or content_hash(t)[0] < KEEP * 2**64),
            key=lambda text: content_hash(text)[1],
        )
        for domain, ts in texts.items()
    }
    largest = min(sum(map(len, kept[d])) / share for d, share in shares.items())
    for domain, share in shares.items():
        want, room = [], round(share * largest)
        for text in kept[domain]:
            want.append(text[: max(0, room)])
            room -= len(text)
        want = [text for text in want if text]
        assert packed[domain] == want
    switches = sum(a[0] != b[0] for a, b in zip(order, order[1:], strict=False))
    assert switches > len(order) / 4  # domains are mixed, not one after the other


def test_workers_file_names_and_formats_do_not_change_the_set(config, texts, tmp_path):
    prepare_text(config)
    want = data_files(config.output_dir)
    assert len(want) > 3
    prepare_text(replace(config, output_dir=tmp_path / "two", workers=2))
    assert data_files(tmp_path / "two") == want
    lines = [json.dumps({"text": t, "meta": {"set": d}}) for d, ts in texts.items() for t in ts]
    random.Random(1).shuffle(lines)
    (tmp_path / "z.jsonl").write_text("\n".join(lines))
    prepare_text(
        replace(
            config,
            source=str(tmp_path / "z.jsonl"),
            domain_field="meta.set",
            output_dir=tmp_path / "three",
        )
    )
    assert data_files(tmp_path / "three") == want


@pytest.mark.parametrize(("parts", "workers"), [(1, 1), (5, 2)])
def test_a_killed_run_goes_on_to_identical_shards(config, tmp_path, parts, workers):
    def run_and_die() -> None:
        def progress(stage: str, done: int, total: int) -> None:
            if done == parts:
                os.kill(os.getpid(), signal.SIGKILL)

        prepare_text(replace(config, workers=workers), progress)

    process = get_context("fork").Process(target=run_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    work = config.output_dir / ".parts"
    done = {path: path.stat().st_mtime_ns for path in work.glob("0*.json")}
    assert len(done) >= parts and not (config.output_dir / "index.json").exists()
    (work / "packed").mkdir()
    (work / "packed" / "tokens-00009.safetensors").write_text("left by a kill while packing")

    redone = []
    first = min(done)

    def watch(stage: str, count: int, total: int) -> None:
        redone.append(first.stat().st_mtime_ns != done[first])

    prepare_text(config, watch)
    assert len(redone) > 10 and not any(redone)
    whole = replace(config, output_dir=tmp_path / "whole")
    prepare_text(whole)
    assert data_files(config.output_dir) == data_files(whole.output_dir)


def test_shards_of_any_number_of_machines_give_the_same_set(config, tmp_path):
    config = replace(config, mixture={"web": 0.7, "arxiv": 0.3}, budget=30_000)
    report = prepare_text(config)
    assert report.parts_read < report.parts
    for count in (2, 5):
        together = replace(config, output_dir=tmp_path / f"of_{count}")
        done = [tokenise_shard(together, (number, count)) for number in range(count, 0, -1)]
        assert report.parts_read <= sum(done) <= report.parts
        before = set((together.output_dir / ".parts").glob("0*.json"))
        assert len(before) == sum(done)
        assert prepare_text(together).to_json() == report.to_json()
        assert data_files(together.output_dir) == data_files(config.output_dir)
        assert tokenise_shard(together, (1, count)) == 0  # all is done
    with pytest.raises(RecipeError, match=r"shards are 1/n, 2/n ... n/n, got 3/2"):
        tokenise_shard(config, (3, 2))


def test_packing_waits_for_the_shards_at_work(config):
    def pack(*_):
        prepare_text(config)

    with pytest.raises(RecipeError, match=f"shard-1-of-3 is in use by process {os.getpid()} "):
        tokenise_shard(config, (1, 3), pack)


def test_another_seed_draws_other_documents(config, tmp_path):
    prepare_text(config)
    other = replace(config, output_dir=tmp_path / "other", seed=1)
    report = prepare_text(other)
    assert report.shares(report.after) == pytest.approx(report.shares(report.before), abs=1e-4)
    assert data_files(other.output_dir) != data_files(config.output_dir)


SLIMPAJAMA = {
    "RedPajamaCommonCrawl": 0.522,
    "RedPajamaC4": 0.267,
    "RedPajamaGithub": 0.052,
    "RedPajamaBook": 0.042,
    "RedPajamaArXiv": 0.046,
    "RedPajamaWikipedia": 0.038,
    "RedPajamaStackExchange": 0.033,
}


def test_slimpajama_is_packed_by_domain_without_its_held_out_splits(config, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    rng, root = random.Random(0), tmp_path / "SlimPajama-627B"
    for chunk in ("train/chunk1", "train/chunk2", "validation/chunk1", "test/chunk1"):
        (root / chunk).mkdir(parents=True)
        for number in range(8):
            lines = []
            for domain in rng.choices([*SLIMPAJAMA], [*SLIMPAJAMA.values()], k=60):
                text = chunk[0] * (int(rng.lognormvariate(5.2, 1)) + 1) + f" {rng.random()}"
                lines.append({"text": text, "meta": {"redpajama_set_name": domain}})
            content = "".join(json.dumps(line) + "\n" for line in lines).encode()
            file = root / chunk / f"example_train_{number}.jsonl.zst"
            file.write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    slim = replace(config, domain_field="meta.redpajama_set_name", mixture=SLIMPAJAMA, seed=3)
    slim = replace(slim, budget=20_000, keep_short=0.5)
    with pytest.raises(RecipeError, match="holds the splits test, train, validation") as refused:
        prepare_text(replace(slim, source=str(root)))
    named = str(refused.value).split("such as ")[1].removesuffix(".")  # the remedy, as it is told
    report = prepare_text(replace(slim, source=named))
    assert 0 < report.parts_read < report.parts
    total, shares = sum(SLIMPAJAMA.values()), report.shares(report.after)
    assert sum(int(s.tokens.sum()) for s in report.after.values()) == 20_000
    assert shares == pytest.approx({d: s / total for d, s in SLIMPAJAMA.items()}, abs=1e-4)
    assert {text[0] for _, text in packed_documents(config.output_dir)} == {"t"}  # of train


def test_text_for_another_tokenizer_is_prepared_again(config, tmp_path):
    prepare_text(config)
    other = byte_tokenizer()
    layout = json.loads(other.backend_tokenizer.to_str())
    tokens = layout["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    other._tokenizer = type(other.backend_tokenizer).from_str(json.dumps(layout))
    with pytest.raises(RecipeError, match="Prepare the text again with the model's tokenizer"):
        PackedText(config.output_dir, 4, tokenizer=other)
    other.save_pretrained(tmp_path / "other")
    again = replace(config, tokenizer=str(tmp_path / "other"), output_dir=tmp_path / "again")
    prepare_text(again)
    assert len(PackedText(again.output_dir, 4, tokenizer=other)) > 0


def type_command(told: str, source: Path, tokenizer: str, out: Path | None = None) -> None:
    """Type the `longva prepare-text` of a message, its words in capitals replaced."""
    words = re.search(r"longva (prepare-text SRC --out \S+ --tokenizer MODEL)", told)[1].split()
    given = {"SRC": str(source), "MODEL": tokenizer, "FOLDER": str(out)}
    typed = CliRunner().invoke(app, [given.get(word, word) for word in words])
    assert typed.exit_code == 0, typed.output


def test_text_that_is_not_there_or_not_packed_yet_is_packed_by_the_command_of_the_message(
    config, corpus, tokenizer_folder, tmp_path
):
    with pytest.raises(RecipeError, match="There is no packed text in .* Make it: ") as refused:
        PackedText(config.output_dir, 4)
    type_command(str(refused.value), corpus, tokenizer_folder)
    assert len(PackedText(config.output_dir, 4, tokenizer=byte_tokenizer())) > 0
    with pytest.raises(RecipeError, match="longva prepare-text first: ") as refused:
        open_text(corpus / "code", 4)
    type_command(str(refused.value), corpus / "code", tokenizer_folder, tmp_path / "code")
    assert len(open_text(tmp_path / "code", 4)) > 0


def test_a_damaged_set_is_deleted_and_prepared_anew(config):
    prepare_text(config)
    shard = config.output_dir / "tokens-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(RecipeError, match="is damaged.*or delete it and prepare the text anew"):
        PackedText(config.output_dir, 4)
    shutil.rmtree(config.output_dir)
    prepare_text(config)
    assert len(PackedText(config.output_dir, 4)) > 0


def test_too_short_a_set_is_made_longer(config, corpus):
    few = replace(config, source=str(corpus / "books"), output_dir=config.output_dir / "few")
    tokens = prepare_text(few).packed_tokens
    with pytest.raises(RecipeError, match="Prepare more text, or lower seq_len"):
        PackedText(few.output_dir, 2 * tokens)
    PackedText(few.output_dir, tokens // 2)
    more = replace(config, output_dir=config.output_dir / "more", keep_short=1.0)
    assert prepare_text(more).packed_tokens > 2 * tokens
    PackedText(more.output_dir, 2 * tokens)


def test_a_second_run_in_a_folder_is_refused(config):
    def second(*_):
        prepare_text(config)

    with pytest.raises(RecipeError, match=f"in use by process {os.getpid()} "):
        prepare_text(config, second)
    assert prepare_text(config).packed_tokens > 0
    assert not list(config.output_dir.glob(".*"))


def test_a_finished_set_is_kept_and_another_is_not_written_over_it(config):
    first = prepare_text(config)
    stamps = {path: path.stat().st_mtime_ns for path in config.output_dir.iterdir()}
    again = prepare_text(config)
    assert again.to_json() == first.to_json()
    assert {path: path.stat().st_mtime_ns for path in config.output_dir.iterdir()} == stamps
    with pytest.raises(
        RecipeError,
        match=r"(?s)other settings.*recipe\.keep_short: 0\..* there, 0.5 asked for.*name another",
    ):
        prepare_text(replace(config, keep_short=0.5))


def test_an_unfinished_set_of_another_source_is_not_mixed_in(config, tmp_path, texts):
    copy = write_corpus(tmp_path / "copy", texts)
    config = replace(config, source=str(copy))

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        prepare_text(config, stop)
    (copy / "books" / "0.txt").write_text("changed")
    with pytest.raises(RecipeError, match=r"(?s)its source has changed since.*parts.*version"):
        prepare_text(config)


def test_a_budget_and_a_mixture_are_met_to_the_token(config):
    mixture = {"web": 3, "arxiv": 1}
    report = prepare_text(replace(config, mixture=mixture, budget=20_000))
    tokens = {name: int(s.tokens.sum()) for name, s in report.after.items()}
    assert tokens == {"arxiv": 5_000, "books": 0, "code": 0, "web": 15_000}
    assert report.budget == 20_000


def test_reading_ends_once_a_given_mixture_is_full(config):
    few = prepare_text(replace(config, mixture={"arxiv": 1}, budget=2_000))
    assert few.parts_read < few.parts
    assert int(few.after["arxiv"].tokens.sum()) == 2_000


def test_a_text_that_occurs_twice_is_packed_once(config, tmp_path):
    (tmp_path / "twice").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "twice" / name).write_text("same " * 100)
    (tmp_path / "twice" / "c.txt").write_text("other " * 100)
    report = prepare_text(replace(config, source=str(tmp_path / "twice")))
    assert report.duplicates == 1
    assert len(packed_documents(config.output_dir)) == 2


def test_a_control_token_in_a_text_is_ordinary_text(config, tmp_path):
    (tmp_path / "one.txt").write_text("a<|im_end|>b<|endoftext|>c" * 20)
    prepare_text(replace(config, source=str(tmp_path / "one.txt")))
    tokens = load_file(config.output_dir / "tokens-00000.safetensors")["tokens"]
    specials = byte_tokenizer().convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert [int((tokens == special).sum()) for special in specials] == [0, 1]  # one separator
    assert packed_documents(config.output_dir)[0][1].startswith("a<|im_end|>b<|endoftext|>c")


def test_files_that_are_no_text_are_named(config, tmp_path):
    folder = tmp_path / "mixed"
    (folder / "web" / ".git").mkdir(parents=True)
    for name in ("a.txt", "web/b.md", "web/c.html", ".hidden", "web/.git/d.html"):
        (folder / name).write_text(f"{name} " * 20)
    with pytest.warns(UserWarning) as told:
        prepare_text(replace(config, source=str(folder), long_tokens=50))
    (said,) = {str(one.message) for one in told if "left out" in str(one.message)}
    assert said == f"{folder}: left out as no text: {Path('web', 'c.html')}"


def test_zstandard_lines_and_hub_data_sets_give_the_same_documents(config, texts, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts["arxiv"]).encode()
    (tmp_path / "zst").mkdir()
    halves = lines[:7000], lines[7000:]  # two frames, as zstd writes large files
    compressed = b"".join(pyarrow.compress(h, codec="zstd", asbytes=True) for h in halves)
    (tmp_path / "zst" / "a.jsonl.zst").write_bytes(compressed)
    prepare_text(replace(config, source=str(tmp_path / "zst"), output_dir=tmp_path / "from_zst"))
    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "one.jsonl").write_bytes(lines[: lines.index(b"\n", 5000) + 1])
    (hub / "two.jsonl").write_bytes(lines[lines.index(b"\n", 5000) + 1 :])
    hub_config = replace(config, source=f"hub:{hub}", output_dir=tmp_path / "from_hub")
    report = prepare_text(hub_config)
    assert report.parts == 2
    assert int(sum(s.documents.sum() for s in report.before.values())) == len(texts["arxiv"])
    assert data_files(tmp_path / "from_hub") == data_files(tmp_path / "from_zst")


def test_plain_text_takes_its_folder_for_the_domain_and_hidden_files_are_left_alone(
    config, tmp_path
):
    source = tmp_path / "source"
    for folder in ("books", ".cache"):
        (source / folder).mkdir(parents=True)
        (source / folder / "a.md").write_text(folder * 400)
    (source / "b.jsonl").write_text(json.dumps({"text": "x" * 400, "set": "web"}))
    report = prepare_text(replace(config, source=str(source), domain_field="set"))
    assert sorted(report.before) == ["books", "web"]


def test_half_a_surrogate_pair_becomes_the_replacement_character(config, tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": "a\ud800b" * 200}))
    prepare_text(replace(config, source=str(tmp_path / "one.jsonl")))
    assert packed_documents(config.output_dir)[0][1] == "a\ufffdb" * 200


def test_bad_sources_are_named_with_their_remedy(config, tmp_path):
    def refused(message: str, kind: type = LongVAError, **changes) -> str:
        with pytest.raises(kind, match=message) as caught:
            prepare_text(replace(config, **changes))
        shutil.rmtree(config.output_dir, ignore_errors=True)
        return str(caught.value)

    def mended(**changes) -> CorpusReport:
        """What a message names is done, and works."""
        report = prepare_text(replace(config, **changes))
        shutil.rmtree(config.output_dir)
        return report

    refused("There is no /nowhere.*file or folder of text.*hub:owner/name", source="/nowhere")
    mended()  # of a folder; files and data sets of the hub below
    refused("no tokenizer in '/nowhere'", tokenizer="/nowhere")
    said = refused("'<sep>' is no token of .*Name a separator that is one: <", separator="<sep>")
    mended(separator=said.split("that is one: ")[1].split(",")[0].removesuffix("."))
    refused("mixture names physics, the source has arxiv, books", mixture={"physics": 1.0})
    mended(mixture={"arxiv": 1.0, "books": 1.0})
    physics = tmp_path / "one.jsonl"
    physics.write_text(json.dumps({"text": "good " * 100, "set": "physics"}) + "\n")
    refused("names physics, .* or set domain_field", source=str(physics), mixture={"physics": 1.0})
    mended(source=str(physics), mixture={"physics": 1.0}, domain_field="set")
    said = refused("share of .* of the budget is .* lower budget to", budget=10**9)
    budget = int(re.search(r"lower budget to ([\d,]+)", said)[1].replace(",", ""))
    assert mended(budget=budget).packed_tokens >= budget
    said = refused("Raise keep_short, add text of that domain, or lower", budget=budget + 100)
    mended(budget=budget + 100, keep_short=0.5)
    scarce, corpus = re.search(r"domain (\w+):", said)[1], tmp_path / "more"
    shutil.copytree(config.source, corpus)
    (corpus / scarce / "more.txt").write_text("abc " * 10_000)
    mended(source=str(corpus), budget=budget + 100)
    (corpus / "rare").mkdir()
    (corpus / "rare" / "short.txt").write_text("short")
    mixture = {"arxiv": 0.5, "rare": 0.5}
    refused(
        "domain rare: .*or name a mixture without it",
        source=str(corpus),
        mixture=mixture,
        keep_short=0.0,
    )
    mended(source=str(corpus), mixture={"arxiv": 0.5}, keep_short=0.0)
    (tmp_path / "empty").mkdir()
    refused("holds no text: 0 files", source=str(tmp_path / "empty"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "good"}\n{"text": \n')
    refused(r"bad.jsonl, byte 17: not one JSON object a line.*Mend or remove", source=str(bad))
    bad.write_text(f'{{"text": "{"good " * 100}"}}\n{{"text": "mended"}}\n')
    mended(source=str(bad))
    good, broken = f'{{"text": "{"good " * 100}"}}\n', '{"text": \n'
    bad.write_text(broken + good)
    refused("Mend or remove it", source=str(bad))
    bad.write_text(good)  # it is removed
    mended(source=str(bad))
    bad.write_text(json.dumps({"content": "good " * 100}) + "\n")
    refused("no field 'text', there is content. Name the fields", source=str(bad))
    mended(source=str(bad), text_field="content")
    rows = [{"text": f"{n} " * 100, "url": str(n), "set": f"web{n % 2}"} for n in range(1001)]
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(
        "1,001 domains, such as '0' and '999', are too many.*Name a domain_field with 1000 values",
        source=str(bad),
        domain_field="url",
    )
    assert sorted(mended(source=str(bad), domain_field="set").before) == ["web0", "web1"]
    refused(
        "no field 'meta.set', .*Name the fields: .*domain_field; a.b",
        source=str(bad),
        domain_field="meta.set",
    )
    mended(source=str(bad), domain_field="set")
    bad.write_text('{"text": 5}\n')
    refused("field 'text' holds a int, not text", source=str(bad))
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9" * 100)
    said = refused("latin.txt is not UTF-8 text: byte 3 is 0xe9", source=str(latin))
    converted = subprocess.run(
        [*said.split("Convert it: ")[1].split(), latin], check=True, capture_output=True
    )
    latin.write_bytes(converted.stdout)
    mended(source=str(latin))
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b'{"text": "x"}\n' * 9999)[:-40])
    refused("torn.jsonl.gz is damaged after line", source=str(torn))
    refused("damaged after line", source=str(torn), workers=2)  # the error crosses processes
    torn.write_bytes(gzip.compress(json.dumps({"text": "x" * 400}).encode()))
    mended(source=str(torn))
    short = tmp_path / "short.txt"
    short.write_text("short")
    refused("raise keep_short, or lower long_tokens", source=str(short), keep_short=0.0)
    mended(source=str(short), keep_short=1.0)
    mended(source=str(short), keep_short=0.0, long_tokens=2)
    for wrong in ({"keep_short": 1.5}, {"budget": 0}, {"workers": 0}, {"mixture": {"web": 0}}):
        with pytest.raises(RecipeError):
            replace(config, **wrong)


def test_a_full_disk_is_named_and_finished_parts_are_kept(config, monkeypatch):
    opened = Path.open

    def full_after_five(path: Path, mode: str = "r", *args, **kwargs):
        if "w" in mode and "00005." in path.name:
            raise OSError(28, "No space left on device")
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full_after_five)
    with pytest.raises(
        LongVAError, match="cannot be written: .*No space left.*run the same command"
    ):
        prepare_text(config)
    monkeypatch.undo()
    monkeypatch.setattr(documents, "PART_BYTES", 12_000)
    kept = {int(path.stem) for path in (config.output_dir / ".parts").glob("0*.json")}
    in_order = sorted(
        range(len(documents.plan_parts(config))), key=lambda part: content_hash(str(part))
    )
    assert kept == set(in_order[: in_order.index(5)])  # those read before the fifth
    prepare_text(config)
