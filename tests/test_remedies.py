"""What messages of data, training and checkpoints tell people to do: each is done by a test.

`REMEDIES` lists these messages, by words of them, with the test that does what they say and sees it
work. A message that asks for something and is not there fails here.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

import longva
from longva.nano.toy_data import write_toy_data
from tests.train.test_loop import on_ranks
from tests.train.toys import RandomText, metrics, toy_recipe

SOURCE = Path(longva.__file__).parent
PACKAGES = ("data", "train", "losses.py", "parallel", "checkpoints")

VERBS = (
    "Add|Call|Check|Choose|Convert|Copy|Correct|Cut|Fetch|Give|Install|Keep|Leave|Lower|Make|Mend|"
    "Name|Pad|Pass|Prepare|Raise|Restore|Set|Start|Take|Turn|Use|Write|Ask"
)
ASKS = re.compile(
    rf"(?:^|[.:;]\s+)(?:{VERBS})\b|Or set|pip install|install|set \w+\.|set rope_theta|give |"
    r"leave out|leave it |be left out|raise \w|needs parallel|needs loop|call the model with|"
    r"prepare-text first|as the model to|[Tt]o go on|same command|convert into|by longva|"
    r"longva [a-z-]+ RECIPE",
    re.MULTILINE,
)

CHAT = "tests/data/chats/test_chat.py::test_"
TALKS = "tests/data/chats/test_conversations.py::test_"
PAIRS = "tests/data/chats/test_preferences.py::test_"
MIXTURES = "tests/data/chats/test_mixtures.py::test_"
PREPARE = "tests/data/text/test_prepare.py::test_"
PACKING = "tests/data/text/test_packing.py::test_"
STAGES = "tests/train/test_stages.py::test_"
MISTAKES = "tests/train/test_recipe_mistakes.py::test_"
LOOP = "tests/train/test_loop.py::test_"
RESUME = "tests/train/test_resume.py::test_"
GUARDS = "tests/parallel/test_guards.py::test_"
CHECKPOINT = "tests/checkpoints/test_checkpoint.py::test_"
CHECK = "tests/train/test_data_check.py::test_"
FAULTS = "tests/faults/test_damaged.py::test_"
HERE = "tests/test_remedies.py::test_"

REMEDIES = {
    "Give conversations: [": CHAT + "what_is_no_conversation_says_why",
    "are two names of one field": CHAT + "a_field_that_would_be_dropped_is_refused",
    "is not read here": CHAT + "a_field_that_would_be_dropped_is_refused",
    "looks like its media": CHAT + "a_field_that_would_be_dropped_is_refused",
    "Raise max_tokens": CHAT + "long_text_is_cut_but_never_media_nor_the_whole_answer",
    "and again as turns": PAIRS + "pairs_that_would_lose_something_are_refused",
    "Write them into times.txt": TALKS + "times_that_cannot_be_told_are_refused_with_what_to_do",
    "Leave time_tokens out": TALKS + "times_that_cannot_be_told_are_refused_with_what_to_do",
    "Give both, or video.num_frames": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "Mend it; or leave it out": (
        CHECK + "a_run_that_met_a_broken_sample_goes_on_once_it_is_mended",
        CHECK + "a_run_that_met_a_broken_sample_goes_on_as_if_it_had_been_left_out",
    ),
    "Mend them; or leave them out": CHECK + "samples_whose_media_are_missing_are_left_out_or",
    "To go on: delete": FAULTS + "a_part_of_a_corpus_whose_note_is_damaged_is_read_again",
    "Without it the same command": FAULTS + "a_training_checkpoint_that_is_damaged_is_named",
    "Make it: longva check-data": CHECK + "what_is_to_be_skipped_is_made_by_a_check",
    "There is no mixture": MIXTURES + "a_file_that_is_not_there_is_given",
    "give datasets, a list": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "Set the variable XDG_CACHE_HOME": MIXTURES
    + "a_cache_that_cannot_be_written_is_named_with_its_remedy",
    "There is no data set": MIXTURES + "a_file_that_is_not_there_is_given",
    "is a folder. Name its files": "tests/data/chats/test_parquet.py::test_what_cannot_be_read_is_",
    "longva check-data RECIPE names them": "tests/train/test_text_check.py::test_ids_of_another",
    "Give a file or folder of text": PREPARE + "bad_sources_are_named_with_their_remedy",
    "holds the splits": PREPARE + "slimpajama_is_packed_by_domain_without_its_held_out_splits",
    "Fetch the file again": PREPARE + "bad_sources_are_named_with_their_remedy",
    "Convert it: iconv": (
        PREPARE + "bad_sources_are_named_with_their_remedy",
        MIXTURES + "a_list_that_is_not_utf_8_is_converted",
    ),
    "Name the fields: text_field": PREPARE + "bad_sources_are_named_with_their_remedy",
    "Mend or remove it": PREPARE + "bad_sources_are_named_with_their_remedy",
    "Name a domain_field": PREPARE + "bad_sources_are_named_with_their_remedy",
    "Correct the names, or set": PREPARE + "bad_sources_are_named_with_their_remedy",
    "raise keep_short": PREPARE + "bad_sources_are_named_with_their_remedy",
    "Raise keep_short": PREPARE + "bad_sources_are_named_with_their_remedy",
    "Name a separator": PREPARE + "bad_sources_are_named_with_their_remedy",
    "Prepare the text again": PREPARE + "text_for_another_tokenizer_is_prepared_again",
    "Make it: longva prepare-text": PREPARE + "text_that_is_not_there_or_not_packed_yet",
    "prepare-text first": PREPARE + "text_that_is_not_there_or_not_packed_yet",
    "Copy the folder again": (
        PACKING + "a_file_that_is_cut_off_or_missing_is_named_before_the_first_row",
        PREPARE + "a_damaged_set_is_deleted_and_prepared_anew",
    ),
    "Prepare more text, or lower seq_len": PREPARE + "too_short_a_set_is_made_longer",
    "give model, or language_model": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "leave out language_model, vision": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "Leave it out of": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "set rope_theta to null": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "give exactly one of max_steps": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "set parallel.precision to": "tests/train/test_adapters.py::test_quantised_weights_are_whole",
    "could not write the model": STAGES + "a_model_that_could_not_be_written_costs_no_training",
    "as the model to start from": STAGES
    + "a_finished_run_is_lengthened_where_it_kept_a_checkpoint",
    "lacks a pair of the data": "tests/train/test_preferences.py::test_a_pair_that_changed_after",
    "could not save": LOOP + "a_full_disk_leaves_the_last_good_checkpoint",
    "has nothing to learn": HERE + "data_without_answers_train_nothing_until_they_have_some",
    "Choose a multiple of": LOOP + "recipes_that_do_not_fit_say_what_to_change",
    "data are skipped. Leave some in": LOOP + "recipes_that_do_not_fit_say_what_to_change",
    "matches no parameter": LOOP + "recipes_that_do_not_fit_say_what_to_change",
    "needs parallel.masters": LOOP + "recipes_that_do_not_fit_say_what_to_change",
    "knows gated MLPs": LOOP + "an_mlp_that_is_not_gated_is_not_tiled",
    "loop.trackpip install": HERE + "what_is_missing_is_installed_by_the_command",
    "Or set WANDB_MODE=offline": HERE + "a_tracker_works_without_a_network",
    "optim.loratrain": HERE + "what_is_missing_is_installed_by_the_command",
    "optim.name adamw8bitlowbit": HERE + "what_is_missing_is_installed_by_the_command",
    "the precision quant": HERE + "what_is_missing_is_installed_by_the_command",
    "optim.lora.weights quant": HERE + "what_is_missing_is_installed_by_the_command",
    "reading this sourcetrain": HERE + "what_is_missing_is_installed_by_the_command",
    "Use the model's own processor": "tests/train/test_visual_tokens.py::test_media_of_another_len",
    "cannot be dealt into rings": "tests/parallel/test_mesh.py::test_a_ring_must_divide",
    "set LOCAL_RANK=0": "tests/parallel/test_mesh.py::test_more_processes_than_gpus_are_refused",
    "zigzag_ring is causal": GUARDS + "a_vision_tower_is_refused",
    "was not told how the sequence lies": (
        GUARDS + "the_decoder_is_switched_by_one_call",
        GUARDS + "a_model_that_shares_its_config_with_a_ring_model",
    ),
    "within the shard of each rank": GUARDS + "a_decoder_that_attends_otherwise_is_refused",
    "call the model with use_cache": GUARDS + "caches_are_refused",
    "Turn it off in the model's": GUARDS + "sliding_windows_and_dropout_are_refused",
    "Cut its inputs with ring.shard": GUARDS + "positions_that_transformers_counts_by_itself",
    "Pass position_ids": GUARDS + "positions_that_transformers_counts_by_itself",
    "cannot honour a padding mask": GUARDS + "padding_masks_are_refused_and_full_ones_are_not",
    "RoPE chooses its frequencies": (
        LOOP + "rope_that_depends_on_the_length_trains_without_a_ring",
        GUARDS + "rope_that_depends_on_the_length_is_refused_and",
    ),
    "give RingSequence their": "tests/parallel/test_ring_attention.py::test_qwen2_loss_and",
    "would not learn to stop": CHAT + "a_template_that_ends_no_answer_is_refused_until",
    "give its path instead": "tests/checkpoints/test_names.py::test_a_model_is_brought_here_by_the",
    "give the folder that holds": CHECKPOINT + "folders_that_are_no_checkpoint_are_refused",
    "exists. Name another folder": CHECKPOINT + "an_existing_folder_is_replaced_only_when_asked",
    "To go on without: loop.skip": (
        RESUME + "a_row_that_gives_nan_is_named_and_left_out",
        RESUME + "the_rates_may_be_lowered_and_what_was_in_force_is_kept",
    ),
    "to go on without: loop.skip": "tests/train/test_preferences.py::test_a_pair_of_which_the",
    "To go on without evaluations": RESUME + "a_held_out_row_that_gives_nan_does_not_block",
    "The same command goes on": LOOP + "a_killed_run_goes_on_to_the_same_bits",
    "To freeze a part, leave it out": STAGES + "stage_1_trains_the_projector_alone",
    "or be left out": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "needs loop.samples_per_micro_batch": MISTAKES + "what_a_message_says_of_a_recipe_mends_it",
    "or install torch 2.13": "tests/train/test_host_memory.py::test_torch_2_13_is_asked_for",
    "is not at hand": "tests/parallel/test_mesh.py::test_a_process_takes_the_gpu_of_its_rank",
    "leave it away": CHECKPOINT + "the_models_code_goes_with_our_format_alone",
    "convert into another folder": CHECKPOINT + "a_checkpoint_is_not_converted_into_itself",
    "no architecture for the vision": CHECKPOINT + "a_vision_tower_without_an_architecture_is",
    "becomes a LongVA by longva align": STAGES + "a_language_model_becomes_a_longva_by",
    "Copy them again": CHECKPOINT + "a_broken_file_of_ours_is_copied_again",
    "Write that of its family into": "tests/watching/test_video_commands.py::test_a_processor_that",
    "Give a folder or a Hub id": CHECKPOINT + "a_model_of_ours_that_never_was_llava_becomes_llava",
}


def words_of(node: ast.AST) -> str:
    texts = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return "".join(n.value for n in sorted(texts, key=lambda n: (n.lineno, n.col_offset)))


def messages() -> dict[str, str]:
    """The texts of errors that ask for something, by the place where they are written."""
    found = {}
    for package in PACKAGES:
        root = SOURCE / package
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name.endswith("Error") or name in ("check_finite", "loading", "needing", "warn"):
                    text = "".join(words_of(argument) for argument in node.args)
                    settings = {keyword.arg for keyword in node.keywords} - {"stacklevel"}
                    if ASKS.search(text) or settings or "install_command" in ast.unparse(node):
                        found[f"{path.relative_to(SOURCE)}:{node.lineno}"] = text
    return found


def test_every_message_that_asks_for_something_has_a_test_that_does_it():
    told = messages()
    listed = [words for words in REMEDIES if any(words in text for text in told.values())]
    assert [words for words in REMEDIES if words not in listed] == []
    alone = {place: text for place, text in told.items() if not any(w in text for w in listed)}
    assert alone == {}
    for tests in REMEDIES.values():
        for test in [tests] if isinstance(tests, str) else tests:
            path, _, name = test.partition("::")
            found = (Path(__file__).parents[1] / path).read_text(encoding="utf-8")
            assert f"def {name}" in found, test


def environment_without(missing: str, folder: Path) -> Path:
    """The Python of a new environment that sees the packages of this one, less one of them."""
    venv.create(folder)  # pip is among the others
    try:
        hidden = {Path(file).parts[0] for file in distribution(missing).files or ()}
    except PackageNotFoundError:  # it is not here either
        hidden = set()
    others = folder / "others"
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in hidden:
            (others / path.name).symlink_to(path)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "others.pth").write_text(f"{others}\n{SOURCE.parent}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Skips where no registry of packages answers."""
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "packaging"]
    if subprocess.run(asked, cwd=tmp_path_factory.mktemp("asked"), capture_output=True).returncode:
        pytest.skip("no registry of packages answers pip download packaging")


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_toy_data()
    rows = pyarrow.table({"input_ids": [[1, 2, 3, 4] * 300] * 8})
    (folder / "set").mkdir()
    pyarrow.parquet.write_table(rows, folder / "set" / "rows.parquet")
    return folder


TRAIN = "extend toy/base_lm --set loop.max_steps=1 --set loop.eval_every=0 --set "
PICTURE = "ask picture.png What? --weights int8"


@pytest.mark.whole
@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "command", "told"),
    [
        ("peft", TRAIN + "'optim.lora={rank: 4}'", "optim.lora needs peft, which is missing: "),
        ("bitsandbytes", TRAIN + "'optim.lora={rank: 4, weights: int4}'", "needs bitsandbytes"),
        ("bitsandbytes", PICTURE, "int8 needs bitsandbytes, which is missing: "),
        ("torchao", TRAIN + "optim.name=adamw8bit", "adamw8bit needs torchao, which is missing: "),
        (
            "tensorboard",
            TRAIN + "loop.track=[tensorboard]",
            "loop.track needs tensorboard, which is missing: ",
        ),
        ("wandb", TRAIN + "loop.track=[wandb]", "loop.track needs wandb, which is missing: "),
        ("datasets", TRAIN + "tokens=set", "this source needs datasets, which is missing: "),
    ],
)
def test_what_is_missing_is_installed_by_the_command_of_the_message(
    package, command, told, toy_data, registry, tmp_path
):
    python = environment_without(package, tmp_path / "venv")
    folder = shutil.copytree(toy_data, tmp_path / "run")
    Image.new("RGB", (64, 48)).save(folder / "picture.png")
    # No compiler is asked for, and nobody's account.
    settings = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "WANDB_MODE": "offline"}

    def typed(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [python, "-m", *words], cwd=folder, env=settings, capture_output=True, text=True
        )

    refused = typed("longva", *shlex.split(command))
    assert refused.returncode == 2 and told in refused.stderr, refused.stderr
    remedy = shlex.split(re.search("pip install .*", refused.stderr)[0])
    installed = typed(*remedy)
    assert installed.returncode == 0, installed.stderr
    done = typed("longva", *shlex.split(command))
    assert done.returncode == 0, done.stderr


class Unanswered(RandomText):
    """Rows without a target."""

    def collate(self, samples):
        ids = torch.stack(samples)
        return {"input_ids": ids, "labels": torch.full_like(ids, -100)}


def test_data_without_answers_train_nothing_until_they_have_some(tmp_path):
    config = toy_recipe(tmp_path, max_steps=1)
    with pytest.raises(AssertionError, match="step 1 has nothing to learn.*Check the data's answ"):
        on_ranks(1, config, dataset=Unanswered())
    on_ranks(1, config, dataset=RandomText())
    assert metrics(tmp_path, "step") == [1]


def test_a_tracker_works_without_a_network(tmp_path, monkeypatch):
    config = toy_recipe(tmp_path / "run", track=["wandb"], max_steps=1)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):  # nobody's account is used
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(AssertionError, match=r"loop.track names wandb: .*Or set WANDB_MODE=offl"):
        on_ranks(1, config)
    monkeypatch.setenv("WANDB_MODE", "offline")
    on_ranks(1, config)
    assert metrics(tmp_path / "run", "step") == [1]
