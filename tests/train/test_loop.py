"""The loop: what must not change a run, and what a run survives."""

import os
import resource
import signal
import sys
import warnings
from multiprocessing import current_process
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Starcoder2Config, Starcoder2ForCausalLM

from longva.errors import CheckpointError
from longva.train.checkpoints import latest_checkpoint
from longva.train.optim import learning_rate_factor
from longva.train.order import StepOrder
from tests.distributed import run_distributed
from tests.parallel.tiny import plain_loss
from tests.train.toys import (
    FLOAT64,
    SAME_LOSS,
    SAME_PARAMETER,
    VOCABULARY,
    RandomText,
    metrics,
    tiny_qwen2,
    toy_recipe,
    train_toy,
)


def on_ranks(world_size: int, config, **training):
    """Final parameters after training in `world_size` processes. An error of theirs is an
    AssertionError here; training in this process would leave threads that forks do not survive."""

    def body(rank, world_size):
        return train_toy(config, **training)

    return run_distributed(body, world_size, join=False)[0]


def bits(parameters):
    return {name: value.tobytes() for name, value in parameters.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process whose bits others must end with."""
    return on_ranks(1, toy_recipe(tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """The same in float64, for runs that add up in another order: parameters and losses."""
    folder = tmp_path_factory.mktemp("exact")
    return on_ranks(1, toy_recipe(folder, **FLOAT64)), metrics(folder, "loss")


def assert_same(parameters, others):
    for name, value in others.items():
        assert parameters[name].dtype == np.float64
        np.testing.assert_allclose(
            parameters[name], value, rtol=0, atol=SAME_PARAMETER, err_msg=name
        )


def test_one_process_trains_as_plain_torch_does(exact, tmp_path):
    parameters, losses = exact
    config, model, data = toy_recipe(tmp_path), tiny_qwen2().double(), RandomText()
    order = StepOrder(len(data), samples_per_step=2)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    for step, rows in enumerate(order.micro_batches(0, 6)):
        optimizer.param_groups[0]["lr"] = 3e-3 * learning_rate_factor(config.optim, step, 6)
        batch = data.collate([data[row] for row in rows])
        loss = plain_loss(model, batch["input_ids"], batch["labels"])  # transformers' is float32
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert loss.item() == pytest.approx(losses[step], rel=0, abs=SAME_LOSS)
    assert_same(parameters, {name: value.numpy() for name, value in model.state_dict().items()})


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_per_micro_batch": 2},
        {"checkpoint_activations": False},
        {"offload_activations": True, "mlp_tile": 7},
        {"offload_states": True},
        {"kernel": "math"},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_layout_and_memory_savers_do_not_change_what_is_learned(changes, exact, tmp_path):
    assert_same(on_ranks(1, toy_recipe(tmp_path, **FLOAT64, **changes)), exact[0])


def test_masters_stay_float32_under_bfloat16_computation(exact, tmp_path):
    parameters = on_ranks(1, toy_recipe(tmp_path, precision="bf16"))
    assert parameters["lm_head.weight"].dtype == np.float32
    # bfloat16 rounds by up to 0.004 what some ten steps in a row make logits of about 1 of.
    assert metrics(tmp_path, "loss") == pytest.approx(exact[1], rel=0, abs=5e-2)


class Ending(RandomText):
    """Sends its process a signal when a sample is read for the `at`-th time."""

    def __init__(self, at: int, which: int, **settings):
        super().__init__(**settings)
        self.at, self.which, self.reads = at, which, 0

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.at:
            os.kill(os.getpid(), self.which)
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("world_size", "ring"), [(1, 1), (2, 1), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_to_the_same_bits(world_size, ring, tmp_path):
    reads = 2 * ring // world_size  # samples a rank reads each step
    config = toy_recipe(tmp_path / "whole", ring=ring, save_every=2)
    whole = on_ranks(world_size, config)
    config = toy_recipe(tmp_path / "killed", ring=ring, save_every=2)
    at = int(np.random.default_rng().integers(2 * reads + 1, 6 * reads))  # in steps 3 to 6
    with pytest.raises(AssertionError, match="SIGKILL"):
        on_ranks(world_size, config, dataset=Ending(at, signal.SIGKILL))
    resumed = on_ranks(world_size, config)
    assert bits(resumed) == bits(whole), f"killed at read {at}"
    assert metrics(tmp_path / "killed", "loss") == metrics(tmp_path / "whole", "loss")


def test_a_run_goes_on_with_another_number_of_ranks(exact, tmp_path):
    config = toy_recipe(tmp_path, ring=2, save_every=3, **FLOAT64)
    with pytest.raises(AssertionError, match="SIGKILL"):
        on_ranks(4, config, dataset=Ending(4, signal.SIGKILL))  # in step 4
    assert_same(on_ranks(1, toy_recipe(tmp_path, save_every=3, **FLOAT64)), exact[0])


def test_sigterm_saves_and_leaves_and_the_same_command_goes_on(alone, tmp_path):
    config = toy_recipe(tmp_path)
    on_ranks(1, config, dataset=Ending(5, signal.SIGTERM))  # in step 3
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000003"]
    assert len(metrics(tmp_path, "loss")) == 3
    assert bits(on_ranks(1, config)) == bits(alone)


class Workers(Ending):
    """Torchrun and Slurm signal a rank's process group: the process and its workers."""

    def __getitem__(self, index):
        if index == self.at:
            os.kill(os.getpid(), self.which)
            os.kill(os.getppid(), self.which)
        return RandomText.__getitem__(self, index)


def test_sigterm_to_the_workers_too_saves_and_leaves(alone, tmp_path):
    def body(rank, world_size):
        current_process()._config["daemon"] = False  # daemons may not have workers
        return train_toy(toy_recipe(tmp_path, workers=2), dataset=Workers(5, signal.SIGTERM))

    run_distributed(body, 1, join=False)
    assert len(metrics(tmp_path, "loss")) < 6
    assert bits(on_ranks(1, toy_recipe(tmp_path))) == bits(alone)


def test_a_folder_that_cannot_be_written_is_named_by_all_ranks(tmp_path):
    """Rank 0 alone makes it; the others must not wait for it in vain."""
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(AssertionError, match="CheckpointError: could not save .*step_000002"):
        on_ranks(2, toy_recipe(tmp_path, save_every=2))


def test_a_run_that_saves_nothing_ends_where_a_checkpoint_has_no_room(alone, tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    assert bits(on_ranks(1, toy_recipe(tmp_path, save_every=0))) == bits(alone)


def test_a_full_disk_leaves_the_last_good_checkpoint(alone, tmp_path):
    config = toy_recipe(tmp_path, save_every=2)

    def disk_fills_up(rank, world_size):
        class Filling(RandomText):
            reads = 0

            def __getitem__(self, index):
                self.reads += 1
                if self.reads == 5:  # step 3, after the checkpoint of step 2
                    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
                return super().__getitem__(index)

        with pytest.raises(CheckpointError) as caught:
            train_toy(config, dataset=Filling())
        return str(caught.value)

    message = run_distributed(disk_fills_up, 1, join=False)[0]
    assert "step_000004" in message and "last good checkpoint" in message, message
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000002"]
    assert bits(on_ranks(1, config)) == bits(alone)


def test_old_checkpoints_go_and_unfinished_ones_are_not_used(tmp_path):
    on_ranks(1, toy_recipe(tmp_path, save_every=1, keep=2))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_000005", "step_000006"]
    (tmp_path / "checkpoints" / ".step_000007.partial").mkdir()
    on_ranks(1, toy_recipe(tmp_path, save_every=1, keep=2))


def test_a_copy_beside_the_checkpoints_is_neither_used_nor_deleted(tmp_path):
    config = toy_recipe(tmp_path, save_every=2)
    on_ranks(1, config, dataset=Ending(5, signal.SIGTERM))  # in step 3
    folder = tmp_path / "checkpoints"
    (folder / "step_000003_mine").mkdir()
    on_ranks(1, config)
    assert sorted(path.name for path in folder.iterdir()) == ["step_000003_mine", "step_000006"]
    (folder / "step_1000000").mkdir()
    assert latest_checkpoint(tmp_path) == folder / "step_1000000"


def test_held_out_rows_are_evaluated_by_all_ranks(tmp_path):
    held_out = RandomText(num_rows=3, length=19, seed=100)

    for ranks in (1, 2):
        config = toy_recipe(tmp_path / str(ranks), max_steps=2, eval_every=2, **FLOAT64)
        on_ranks(ranks, config, held_out=held_out)
    assert len(metrics(tmp_path / "1", "eval_loss")) == 1
    two, one = (metrics(tmp_path / name, "eval_loss") for name in "21")
    assert two == pytest.approx(one, rel=0, abs=SAME_LOSS)


def test_tied_embeddings_go_on_too(tmp_path):
    def run(folder: Path, dataset=None):
        model = tiny_qwen2(tie_word_embeddings=True)
        return on_ranks(1, toy_recipe(folder, save_every=2), model=model, dataset=dataset)

    whole = run(tmp_path / "whole")
    run(tmp_path / "stopped", Ending(5, signal.SIGTERM))
    assert bits(run(tmp_path / "stopped")) == bits(whole)


def test_a_line_of_metrics_that_a_full_disk_cut_off_is_dropped(tmp_path):
    on_ranks(1, toy_recipe(tmp_path), dataset=Ending(5, signal.SIGTERM))  # in step 3
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    on_ranks(1, toy_recipe(tmp_path))
    assert metrics(tmp_path, "step") == [1, 2, 3, 4, 5, 6]


def test_tensorboard_shows_a_run_that_went_on_as_one(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = toy_recipe(tmp_path, save_every=2, track=["tensorboard"])
    with pytest.raises(AssertionError, match="SIGKILL"):
        on_ranks(1, config, dataset=Ending(7, signal.SIGKILL))  # in step 4
    on_ranks(1, config)
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in seen] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in seen] == pytest.approx(metrics(tmp_path, "loss"))


def test_any_seed_will_do(tmp_path):
    on_ranks(1, toy_recipe(tmp_path, max_steps=1, seed=2**40))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A finished run of two steps."""
    config = toy_recipe(tmp_path_factory.mktemp("two"), save_every=2, max_steps=2)
    on_ranks(1, config)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": 0.5}, "optim.weight_decay: 0.1 there, 0.5 asked for"),
        ({"max_steps": 9}, "loop.max_steps: 2 there, 9 asked for"),
    ],
)
def test_another_recipe_does_not_go_on_with_the_run(changes, message, two_steps):
    other = toy_recipe(two_steps.output_dir, save_every=2, **{"max_steps": 2} | changes)
    with pytest.raises(AssertionError, match=f"(?s)RecipeError: .*{message}"):
        on_ranks(1, other)


def test_other_data_does_not_go_on_with_the_run(two_steps):
    with pytest.raises(
        AssertionError, match="(?s)RecipeError: .*num_samples: 12 there, 13 asked for"
    ):
        on_ranks(1, two_steps, dataset=RandomText(13))


def test_a_run_from_before_a_key_existed_goes_on_with_its_default(two_steps):
    path = two_steps.output_dir / "recipe.yaml"
    lines = path.read_text().splitlines(keepends=True)
    assert any("clip_norm: 1.0" in line for line in lines)
    path.write_text("".join(line for line in lines if "clip_norm" not in line))
    on_ranks(1, two_steps)  # finds the finished run, and does not object


@pytest.mark.parametrize(
    ("ranks", "changes", "message", "remedies"),
    [
        (
            *(2, {"samples_per_micro_batch": 2}, "Choose a multiple of 4"),
            [{"samples_per_step": 8}, {"samples_per_micro_batch": 1}, {"ring": 2}],
        ),
        (
            *(1, {"lr": {"projector": 1e-3}}, "optim.lr.projector matches no parameter of this"),
            [{"lr": {"language": 1e-3}}, {"lr": {"model.embed_tokens.weight": 1e-3}}],
        ),
        (
            *(1, {"skip": list(range(12))}, "all 12 samples of the data are skipped. Leave some"),
            [{"skip": list(range(11))}],
        ),
        (
            *(1, {"name": "adamw8bit", "masters": "bf16"}, "needs parallel.masters: fp32"),
            [{"masters": "fp32"}],
        ),
    ],
)
def test_recipes_that_do_not_fit_say_what_to_change(
    ranks, changes, message, remedies, tmp_path, request
):
    if changes.get("name"):
        # Here once, for all processes that are forked later. It prints lines wherever transformers
        # is imported, so only `make test-slow` has it, for this test.
        pytest.importorskip("torchao.optim", reason="torchao is tried by make test-slow")
        torch.compiler.set_stance("force_eager")  # in what is forked: no compiler is needed
        request.addfinalizer(lambda: torch.compiler.set_stance("default"))
    changes = {**changes, "max_steps": 1}
    with pytest.raises(AssertionError, match=f"RecipeError: .*{message}") as caught:
        on_ranks(ranks, toy_recipe(tmp_path / "refused", **changes))
    for number, remedy in enumerate(remedies):
        if "lr" in remedy:  # as it is told
            assert all(name in str(caught.value) for name in remedy["lr"])
        on_ranks(ranks, toy_recipe(tmp_path / str(number), **changes | remedy))


def test_an_mlp_that_is_not_gated_is_not_tiled(tmp_path):
    def model():
        torch.manual_seed(0)
        return Starcoder2ForCausalLM(
            Starcoder2Config(
                vocab_size=VOCABULARY,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=4,
            )
        )

    with pytest.raises(AssertionError, match="knows gated MLPs, not Starcoder2MLP. Leave it at 0"):
        on_ranks(1, toy_recipe(tmp_path, mlp_tile=7), model=model())
    on_ranks(1, toy_recipe(tmp_path, mlp_tile=0, max_steps=1), model=model())


def test_rope_that_depends_on_the_length_trains_without_a_ring(tmp_path):
    def model():
        return tiny_qwen2(
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        )

    with pytest.raises(AssertionError, match=r"Use one process a sequence \(no ring\)"):
        on_ranks(2, toy_recipe(tmp_path / "ring", ring=2, max_steps=1), model=model())
    on_ranks(2, toy_recipe(tmp_path / "alone", ring=1, max_steps=1), model=model())


def test_an_infinite_gradient_stops_before_it_does_harm(tmp_path):
    model = tiny_qwen2()
    model.model.norm.weight.data[:] = float("inf")
    message = r"NonFiniteError: .*NaN or infinity: .*grad_norm \(nan\) of step 1.*were not touched"
    with pytest.raises(AssertionError, match=message):
        on_ranks(1, toy_recipe(tmp_path), model=model)
    assert not (tmp_path / "metrics.jsonl").read_text()


class Unseen(RandomText):
    """Rows of a word that no other row has."""

    def __getitem__(self, index):
        return torch.full((self.length,), VOCABULARY)


def test_a_held_out_loss_that_is_no_number_stops_the_run(tmp_path):
    model = tiny_qwen2(vocab_size=VOCABULARY + 1)
    model.get_input_embeddings().weight.data[VOCABULARY] = float("nan")
    config = toy_recipe(tmp_path, max_steps=2, eval_every=1, save_every=1)
    with pytest.raises(AssertionError, match=r"NonFiniteError: .*NaN or infinity: eval_loss"):
        on_ranks(1, config, model=model, held_out=Unseen(2))
    assert not (tmp_path / "metrics.jsonl").read_text()
    assert not (tmp_path / "checkpoints").exists()


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AssertionError, match="LongVAError: loop.track needs wandb, .*: pip inst"):
        on_ranks(1, toy_recipe(tmp_path, track=["wandb"]))


@pytest.mark.parametrize(("steps", "told"), [(12, "each comes 2 times"), (6, None)])
def test_data_that_repeat_are_told_once_at_the_start(steps, told, tmp_path):
    def messages(rank, world_size):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train_toy(toy_recipe(tmp_path, max_steps=steps))  # of 2 rows; the data have 12
        return [text for one in caught if "data repeat" in (text := str(one.message))]

    first, second = run_distributed(messages, 2, join=False)
    assert second == [] and len(first) == (told is not None)
    assert told is None or told in first[0]
