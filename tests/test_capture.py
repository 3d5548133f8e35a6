"""A captured training step against the plain loop, with a stand-in for the CUDA graph on CPUs."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import re
import warnings

import pytest
import test_training
import torch
from rich.console import Console
from test_training import (
    EPOCH_COUNT,
    HYPER,
    LINEAR,
    Interrupted,
    assert_same_state,
    plain_training,
    values,
)
from torch import nn
from torchbearer.callbacks import Callback

from common.results import run_folder
from common.sweep import report
from common.sweep.plan import Job
from common.training import callbacks, cuda_graphs, steps
from common.training.loop import train

digits, loaders, pruned = test_training.digits, test_training.loaders, test_training.pruned

FULL_BATCHES = 4 * EPOCH_COUNT  # of 64 images; an odd one of 44 ends every epoch


class StandIn:
    """Captures as a CUDA graph does: recording computes nothing; a replay runs with the numbers of
    Python's that were, reads its inputs where they were and writes its results where they were."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.SGD) -> None:
        self.model, self.optimizer = model, optimizer
        self.warmed = self.recorded = self.replayed = 0

    def warm_up(self, function):
        self.warmed += 1
        return function()

    def record(self, function):
        self.recorded += 1
        group = self.optimizer.param_groups[0]
        rate, momenta = group["lr"], [s["momentum_buffer"] for s in self.optimizer.state.values()]
        before = copy.deepcopy((self.model.state_dict(), momenta))
        with torch.random.fork_rng([]):
            results = function()
        self.model.load_state_dict(before[0])
        for momentum, value in zip(momenta, before[1], strict=True):
            momentum.copy_(value)
        for result in results:
            result.fill_(torch.nan)

        def replay():
            self.replayed += 1
            now, group["lr"] = group["lr"], rate
            for held, value in zip(results, function(), strict=True):
                held.copy_(value)
            group["lr"] = now
            self.spoil(results)

        return replay, results

    def spoil(self, results) -> None:
        """Makes a replay a wrong one."""


@pytest.fixture
def stand_in(monkeypatch):
    """Trainings capture their steps with a stand-in; returns the list of those made."""

    def install(kind=StandIn):
        made = []

        def captured_step(step, model, optimizer, graphs):
            made.append(kind(model, optimizer))
            return original(step, model, optimizer, made[-1])

        original = steps.captured_step
        monkeypatch.setattr(steps, "graphs_for", lambda device: "there are some")
        monkeypatch.setattr(steps, "captured_step", captured_step)
        monkeypatch.setattr(cuda_graphs, "FEWEST_STEPS", 1)
        return made

    return install


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("schedule", [HYPER, LINEAR], ids=["steps", "linear"])
def test_replays_are_the_plain_loop_bit_for_bit(loaders, pruned, stand_in, nesterov, schedule):
    made = stand_in()
    model, masks = pruned()
    other = copy.deepcopy(model)
    hyper = dataclasses.replace(schedule, nesterov=nesterov)
    history = train(model, masks, *loaders(), hyper, EPOCH_COUNT, "float32")
    expected = plain_training(other, masks, *loaders(), hyper)
    assert_same_state(model, other)
    for found, row in zip(values(history.rows), expected, strict=True):
        numbers = zip(found, row, strict=True)
        assert all(a == pytest.approx(b, rel=1e-5) for a, b in numbers if b is not None)
    (graphs,) = made
    assert (graphs.warmed, graphs.recorded) == (cuda_graphs.WARM_UP, 1)
    # The batch of a capture is the step's own; a replay tries the capture beforehand.
    assert graphs.replayed == FULL_BATCHES - cuda_graphs.WARM_UP


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replays_change_nothing(loaders, pruned, stand_in, precision, tmp_path):
    expected, masks = pruned()
    rows = train(expected, masks, *loaders(), HYPER, EPOCH_COUNT, precision).rows
    made = stand_in()
    model, masks = pruned()
    run_folder.write_json(tmp_path / "run.json", {"run_id": "a run"})
    found = train(model, masks, *loaders(), HYPER, EPOCH_COUNT, precision, folder=tmp_path).rows
    assert json.loads((tmp_path / "run.json").read_text())["captured"] is True
    assert_same_state(model, expected)
    assert values(found) == values(rows)
    assert made[0].replayed > 0
    train(model, masks, *loaders(), HYPER, EPOCH_COUNT, precision, captured=False)
    assert len(made) == 1


@pytest.mark.usefixtures("no_warning")
def test_random_numbers_of_a_step_are_drawn_once(loaders, stand_in):
    def trained():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(), nn.Linear(32, 10))
        train(model, {}, *loaders(), HYPER, EPOCH_COUNT, "float32")
        return model

    expected, made = trained(), stand_in()
    assert_same_state(trained(), expected)
    assert made[0].replayed > 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("hyper", [HYPER, LINEAR], ids=["steps", "linear"])
@pytest.mark.parametrize("breaks_at", [(1, 0), (2, 4), (3, 2)])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    loaders, pruned, stand_in, monkeypatch, tmp_path, breaks_at, hyper
):
    straight, masks = pruned()
    expected = train(straight, masks, *loaders(), hyper, EPOCH_COUNT, "float32")
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    made = stand_in()
    model, masks = pruned()
    train_data, test_data = loaders()
    train_data.breaks_at = breaks_at
    with pytest.raises(Interrupted):
        train(model, masks, train_data, test_data, hyper, EPOCH_COUNT, "float32", folder=tmp_path)
    model, masks = pruned()
    arguments = (hyper, EPOCH_COUNT, "float32")
    history = train(model, masks, *loaders(), *arguments, folder=tmp_path)
    assert_same_state(model, straight)
    assert values(history.rows) == values(expected.rows)
    assert [graphs.replayed > 0 for graphs in made] == [True, True]


def test_callbacks_see_every_step(loaders, pruned, stand_in):
    model, masks = pruned()
    seen = []

    class Watch(Callback):
        def on_step_training(self, state):
            revived = [model.get_parameter(name)[~mask].any() for name, mask in masks.items()]
            seen.append(not any(revived))

    made = stand_in()
    train(model, masks, *loaders(), HYPER, EPOCH_COUNT, "float32", more=[Watch()])
    assert seen == [True] * 5 * EPOCH_COUNT
    assert made[0].replayed > 0


class Refuses(StandIn):
    def record(self, function):
        super().record(function)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


class Breaks(StandIn):
    def spoil(self, results):
        raise RuntimeError("an illegal instruction")


class DoesNothing(StandIn):
    def record(self, function):
        return lambda: None, super().record(function)[1]


class Revives(StandIn):
    def spoil(self, results):
        for weight, state in self.optimizer.state.items():
            weight.data.sub_((weight == 0) * 0.1 * state["momentum_buffer"])


class LosesStatistics(StandIn):
    def spoil(self, results):
        self.model.norm1_1.running_mean.zero_()


class LosesMomentum(StandIn):
    def spoil(self, results):
        for state in self.optimizer.state.values():
            state["momentum_buffer"].zero_()


class OtherLogits(StandIn):
    def spoil(self, results):
        results[1].copy_(results[1].roll(1, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Refuses, "RuntimeError: operation not permitted$"),
        (Breaks, "an illegal instruction"),
        (DoesNothing, "replay's weights are off by 1 of"),
        (Revives, "replay's weights"),
        (LosesStatistics, "replay's statistics"),
        (LosesMomentum, "replay's momentum"),
        (OtherLogits, "replay's results"),
    ],
)
def test_a_capture_that_fails_is_left_alone_and_told(
    loaders, pruned, stand_in, kind, says, tmp_path
):
    expected, masks = pruned()
    train(expected, masks, *loaders(), HYPER, EPOCH_COUNT, "float32")
    made = stand_in(kind)
    model, masks = pruned()
    run_folder.write_json(tmp_path / "run.json", {"run_id": "a run"})
    with pytest.warns(UserWarning, match=says) as said:
        train(model, masks, *loaders(), HYPER, EPOCH_COUNT, "float32", folder=tmp_path)
    assert len(said) == 1
    assert re.search(says, run_folder.why_not_captured(tmp_path))
    # A later training of the run that tries none does not hide it.
    run_folder.note_captured(tmp_path, False)
    assert re.search(says, run_folder.why_not_captured(tmp_path))
    assert_same_state(model, expected)
    assert made[0].recorded == 1
    assert made[0].replayed <= 1


@pytest.mark.usefixtures("no_warning")
def test_a_training_that_has_diverged_goes_on(loaders, pruned, stand_in):
    made = stand_in()
    hyper = dataclasses.replace(HYPER, learning_rate=1e30)
    history = train(*pruned(), *loaders(), hyper, EPOCH_COUNT, "float32")
    assert not history.rows[-1]["train_loss"] < 1e9
    assert made[0].recorded == 1


def test_where_steps_are_captured(loaders, pruned, stand_in, monkeypatch):
    assert steps.graphs_for(torch.device("cpu")) is None
    made = stand_in()
    monkeypatch.setattr(cuda_graphs, "FEWEST_STEPS", 11)
    train(*pruned(), *loaders(), HYPER, 2, "float32")
    assert made == []
    train(*pruned(), *loaders(), HYPER, 3, "float32")
    assert len(made) == 1


def test_status_counts_the_runs_that_went_on_without_a_graph(tmp_path):
    told = ["out of memory", "out of memory", True, False]
    jobs = [Job("SNIP", f"run{n}", tmp_path / f"run{n}", tmp_path, {}, (), 1, 1) for n in range(4)]
    for job, captured in zip(jobs, told, strict=True):
        job.folder.mkdir()
        run_folder.write_json(job.folder / "run.json", {"captured": captured})
        (job.folder / "summary.csv").write_text("")
    shown = io.StringIO()
    report.show_status(jobs, Console(file=shown, width=200))
    assert "2 runs without a CUDA graph, only slower: out of memory" in shown.getvalue()
    assert shown.getvalue().count("CUDA graph") == 1
