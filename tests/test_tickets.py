"""Lottery tickets: going back exactly, levels counted, networks shared, killed runs continued."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import torch
from helpers import assert_same_tables, carry_out, left_titles, untimed
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from common.base import paths
from common.base.errors import ConfigurationError
from common.pruning import kept, masks
from common.results import reference, run_folder
from common.results.collected import collect
from common.results.schema import LEVELS
from common.runs import cache, registry
from common.runs.experiment import PARAMETERS, configure
from common.runs.ticket_settings import densities, rewind_step
from common.sweep import earlier, grid, plan, report
from common.sweep.plan import Job
from common.tickets import ticket_plots
from common.tickets.levels import beside_ablations, collect_levels
from common.tickets.ticket import TicketRun
from common.tickets.trainings import Remaining
from common.training import callbacks, loop

TOTAL = 50_200  # weights of lenet_300_100 on digits
PER_EPOCH = 23
SMALL = {"model": "lenet_300_100", "epochs": 2, "levels": 2, "device": "cpu"}


def configured(folder, **parameters):
    return configure("lottery_ticket", **{**SMALL, "results_dir": folder, **parameters})


def assert_same_state(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture
def trainings(monkeypatch):
    """Every training of a run, as it is called: stage, protocol, first batch, weights before it."""
    seen = []
    train = loop.train

    def noted(model, kept_weights, train_data, test_data, hyper, epochs, precision, **more):
        seen.append(
            {
                "stage": more["stage"].name if more["stage"] else "again",
                "hyper": hyper,
                "epochs": epochs,
                "data": train_data,
                "state": cache.copy_state(model),
                "masks": dict(kept_weights),
            }
        )
        return train(model, kept_weights, train_data, test_data, hyper, epochs, precision, **more)

    monkeypatch.setattr(loop, "train", noted)
    return seen


# Levels


@given(
    st.floats(1e-6, 0.999),
    st.none() | st.integers(1, 30),
    st.integers(1000, 10**7),
)
@settings(max_examples=200)
def test_every_level_removes_the_same_share(sparsity, levels, total):
    found = densities(sparsity, levels)
    assert found[-1] == 1 - sparsity
    assert levels in (None, len(found))
    steps = [after / before for before, after in zip([1, *found[:-1]], found, strict=True)]
    if levels is None:
        assert steps[:-1] == pytest.approx([0.8] * (len(steps) - 1))
        assert len(found) == 1 or 0.71 < steps[-1] < 0.9  # rounded to whole levels
    else:
        assert steps == pytest.approx([steps[0]] * len(steps))
    counts = [round(share * total) for share in found]
    assert counts == sorted(counts, reverse=True)


def test_twenty_percent_a_level():
    assert len(densities(0.893, None)) == 10
    assert densities(0.893, None)[:9] == pytest.approx([0.8**k for k in range(1, 10)])
    # So that runs to different sparsities go the same way.
    assert densities(0.965, None)[:9] == densities(0.893, None)[:9]
    assert densities(0.75, 2) == pytest.approx([0.5, 0.25])
    assert densities(0.0, 5) == densities(0.0, None) == []


def test_levels_have_exactly_the_weights_they_should(tmp_path):
    run = carry_out(configured(tmp_path, levels=3, sparsity=0.9, epochs=1))
    wanted = [TOTAL, round(0.1 ** (1 / 3) * TOTAL), round(0.1 ** (2 / 3) * TOTAL), 5020]
    table = pd.read_csv(run.experiment.folder / "levels.csv")
    assert tuple(table.columns) == LEVELS
    assert table["level"].tolist() == [0, 1, 2, 3]
    assert table["parameters_kept"].tolist() == wanted
    assert table["sparsity"].tolist() == pytest.approx([1 - count / TOTAL for count in wanted])
    assert kept(run.masks) == 5020
    (summary,) = pd.read_csv(run.experiment.folder / "summary.csv").to_dict("records")
    last = table.iloc[-1]
    for name in ("parameters_kept", "test_accuracy", "best_test_accuracy", "test_loss"):
        assert summary[name] == last[name]


def test_masks_shrink_and_keep_the_largest(tmp_path, monkeypatch):
    seen = []
    choose = masks.select

    def noted(scores, keep, stream, candidates=None):
        chosen = choose(scores, keep, stream, candidates)
        seen.append((scores, candidates, chosen))
        return chosen

    monkeypatch.setattr(masks, "select", noted)
    run = TicketRun(configured(tmp_path, levels=3, epochs=1))
    run.prune()
    assert len(seen) == 3
    for scores, before, after in seen:
        lowest = min(scores[name][mask].min() for name, mask in after.items() if mask.any())
        gone = {name: before[name] & ~mask for name, mask in after.items()}
        assert not any((mask & ~before[name]).any() for name, mask in after.items())
        assert max(scores[n][mask].max() for n, mask in gone.items() if mask.any()) <= lowest


def test_the_uniform_variant_has_one_density_in_every_layer(tmp_path):
    run = carry_out(configured(tmp_path, variant="uniform", sparsity=0.75, epochs=1))
    assert run.layers()["density"].tolist() == pytest.approx([0.25] * 3, abs=1e-3)


def test_no_sparsity_is_the_dense_network(tmp_path, trainings):
    run = carry_out(configured(tmp_path, sparsity=0.0))
    assert [one["stage"] for one in trainings] == ["dense network"]
    assert run.save().iloc[0]["parameters_kept"] == TOTAL
    assert len(run.levels()) == 1
    assert run.epochs().equals(pd.DataFrame(run.dense.rows, columns=run.epochs().columns))


def test_without_epochs_it_prunes_and_reports(tmp_path):
    run = carry_out(configured(tmp_path, epochs=0, sparsity=0.75))
    assert run.epochs()["epoch"].tolist() == [0]
    assert run.levels()["early_stop_iteration"].tolist() == [0, 0, 0]
    # Nothing was trained: the smallest of the initial weights are gone.
    assert all(torch.equal(run.trained[name], run.initial[name]) for name in run.masks)


def test_early_stopping_is_where_the_test_loss_is_lowest(tmp_path):
    run = carry_out(configured(tmp_path, epochs=4, sparsity=0.5, levels=1, rewind_epoch="30it"))
    table = pd.read_csv(run.experiment.folder / "levels.csv").iloc[-1]
    epochs = run.epochs().iloc[1:]
    best = epochs.loc[epochs["test_loss"].idxmin()]
    assert table["early_stop_epoch"] == best["epoch"]
    assert table["early_stop_accuracy"] == best["test_accuracy"]
    # The first of its epochs has 2 * 23 - 30 = 16 iterations.
    assert table["early_stop_iteration"] == best["epoch"] * PER_EPOCH - 7


# Going back


@pytest.mark.parametrize(
    ("point", "step"), [(0, 0), (1, 23), (1.5, 34), ("30it", 30), ("0it", 0), (2.0, 46)]
)
def test_rewinding_points(tmp_path, point, step):
    run = configured(tmp_path, rewind_epoch=point, epochs=3)
    assert rewind_step(run.options["rewind_epoch"], PER_EPOCH) == step
    assert configured(tmp_path, **{**run.options, "epochs": 3}) == run


@pytest.mark.parametrize("point", [0, 1, "30it"])
def test_weights_are_those_of_that_step(tmp_path, trainings, point):
    run = carry_out(configured(tmp_path / "a", rewind_epoch=point))
    stages = [one["stage"] for one in trainings]
    assert stages == ["dense network", "level 1 of 2", "level 2 of 2"]
    step = rewind_step(run.experiment.options["rewind_epoch"], PER_EPOCH)
    # The same training by a plain loop, up to that step.
    plain = TicketRun(configured(tmp_path / "b"))
    optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader, _ = plain.network.loaders(plain.experiment.batch_size)
    done = 0
    while done < step:
        for images, labels in loader:
            if done == step:
                break
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(plain.model(images), labels).backward()
            optimizer.step()
            done += 1
    reached = cache.copy_state(plain.model)
    for one in trainings[1:3]:
        for name, value in one["state"].items():
            mask = one["masks"].get(name, torch.ones(()).bool())
            assert torch.allclose(value, reached[name] * mask, rtol=1e-4, atol=1e-6), name
            assert name not in one["masks"] or not value[~mask].any()
    if step == 0:
        assert_same_state(run.rewound, run.initial)


def test_retraining_sees_the_batches_after_the_rewinding_point(tmp_path, trainings):
    run = carry_out(configured(tmp_path, rewind_epoch="30it", epochs=3, levels=1))
    whole, _ = run.network.loaders(run.experiment.batch_size)
    batches = [labels for _ in range(3) for _, labels in whole]
    again = trainings[1]["data"]
    assert isinstance(again, Remaining)
    again.epoch = 0
    found = []
    for _ in range(trainings[1]["epochs"]):
        found += [labels for _, labels in again]
    assert len(found) == 3 * PER_EPOCH - 30
    assert all(torch.equal(a, b) for a, b in zip(found, batches[30:], strict=True))
    assert run.history.images == sum(len(labels) for labels in batches[30:])


def test_weight_rewinding_replays_the_schedule(tmp_path, trainings):
    run = carry_out(configured(tmp_path, rewind_epoch=2, epochs=8, levels=1))
    hyper = run.experiment.hyper
    dense = pd.DataFrame(run.dense.rows)["learning_rate"].tolist()
    assert dense[1:] == [hyper.learning_rate_at(epoch) for epoch in range(8)]
    assert len(set(dense[1:])) == 3
    assert run.epochs()["learning_rate"].tolist()[1:] == dense[3:]


@pytest.mark.parametrize("retrain", ["rewind_learning_rate", "fine_tune"])
def test_without_rewound_weights_the_trained_ones_are_kept(tmp_path, trainings, retrain):
    run = carry_out(configured(tmp_path, rewind_epoch=2, epochs=5, levels=1, retrain=retrain))
    for name, value in run.trained.items():
        mask = run.masks.get(name, torch.ones(()).bool())
        assert torch.equal(trainings[1]["state"][name], value * mask)
    dense = [row["learning_rate"] for row in run.dense.rows]
    assert dense[-1] < dense[1]
    rates = {"rewind_learning_rate": dense[3:], "fine_tune": dense[-1:] * 3}
    assert run.epochs()["learning_rate"].tolist()[1:] == rates[retrain]


def test_reinit_draws_anew_in_every_level_and_trains_from_the_start(tmp_path, trainings):
    run = carry_out(configured(tmp_path, retrain="reinit", init="lecun_uniform"))
    starts = [one["state"] for one in trainings]
    name, mask = next(iter(run.masks.items()))
    bound = math.sqrt(3 / mask.shape[1])
    for start in starts:
        assert bound * 0.95 < start[name].abs().max() <= bound
    first, second = (start[name][mask] for start in starts[1:])
    assert not torch.isclose(first, second).any()
    assert not torch.isclose(second, starts[0][name][mask]).any()
    assert [one["epochs"] for one in trainings] == [2, 2, 2]


# Ablations


@pytest.mark.parametrize("retrain", ["rewind_weights", "rewind_learning_rate"])
def test_a_shuffled_ticket_has_the_densities_and_not_the_places(tmp_path, trainings, retrain):
    ticket = carry_out(configured(tmp_path, retrain=retrain))
    before = len(trainings)
    other = carry_out(configured(tmp_path, retrain=retrain, ablation="shuffle"))
    assert [one["stage"] for one in trainings[before:]] == ["level 2 of 2"], "the rest is shared"
    for name, mask in ticket.masks.items():
        assert mask.sum() == other.masks[name].sum()
        assert not torch.equal(mask, other.masks[name])
        # Kept weights are weights: none of them lies where the ticket's pruning left a zero.
        start = trainings[-1]["state"][name]
        assert torch.equal(start != 0, other.masks[name])
    if retrain == "rewind_weights":
        for name, mask in other.masks.items():
            assert torch.equal(trainings[-1]["state"][name], other.initial[name] * mask)


def test_a_redrawn_ticket_has_the_mask_and_other_weights(tmp_path, trainings):
    ticket = carry_out(configured(tmp_path, rewind_epoch=1))
    before = len(trainings)
    other = carry_out(configured(tmp_path, rewind_epoch=1, ablation="reinit"))
    (last,) = trainings[before:]
    assert last["epochs"] == 2, "from the start: it has no first epoch behind it"
    for name, mask in ticket.masks.items():
        assert torch.equal(mask, other.masks[name])
        assert not torch.isclose(last["state"][name][mask], other.rewound[name][mask]).all()


def test_inverting_removes_the_largest_in_every_level(tmp_path):
    run = TicketRun(configured(tmp_path, ablation="invert", levels=1, sparsity=0.5))
    run.prune()
    trained = torch.cat([run.trained[n][m].abs() for n, m in run.masks.items()])
    pruned = torch.cat([run.trained[n][~m].abs() for n, m in run.masks.items()])
    assert trained.max() <= pruned.min()


def test_an_ablated_network_without_levels_is_the_dense_one(tmp_path, trainings):
    run = carry_out(configured(tmp_path, sparsity=0.0, ablation="shuffle"))
    assert len(trainings) == 1
    assert run.history is run.dense


# Shared networks


def test_the_dense_training_is_shared(tmp_path, trainings):
    carry_out(configured(tmp_path, retrain="fine_tune"))
    assert len(trainings) == 3
    carry_out(configured(tmp_path, retrain="rewind_learning_rate"))
    assert [one["stage"] for one in trainings[3:]] == ["level 1 of 2", "level 2 of 2"]
    # Neither another seed's nor another initialisation's.
    for other in ({"seed": 1}, {"init": "lecun_normal"}, {"epochs": 1}, {"batch_size": 32}):
        before = len(trainings)
        carry_out(configured(tmp_path, retrain="fine_tune", **other))
        assert trainings[before]["stage"] == "dense network"


def test_runs_to_other_sparsities_share_their_levels(tmp_path, trainings):
    carry_out(configured(tmp_path, levels=None, sparsity=1 - 0.8**2, epochs=1))
    assert len(trainings) == 3
    run = carry_out(configured(tmp_path, levels=None, sparsity=1 - 0.8**3, epochs=1))
    assert [one["stage"] for one in trainings[3:]] == ["level 3 of 3"]
    alone = carry_out(configured(tmp_path / "alone", levels=None, sparsity=1 - 0.8**3, epochs=1))
    assert_same_tables(untimed(run.experiment.folder), untimed(alone.experiment.folder))


def test_a_rewinding_point_that_nobody_kept_is_trained_again(tmp_path, trainings):
    carry_out(configured(tmp_path, retrain="fine_tune"))
    before = len(trainings)
    late = carry_out(configured(tmp_path, rewind_epoch="30it"))
    assert trainings[before]["stage"] == "again"
    alone = carry_out(configured(tmp_path / "alone", rewind_epoch="30it"))
    assert_same_state(late.rewound, alone.rewound)
    assert_same_tables(untimed(late.experiment.folder), untimed(alone.experiment.folder))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "cut", "one bit", "empty"])
def test_a_damaged_network_is_computed_again(tmp_path, trainings, damage):
    carry_out(configured(tmp_path, retrain="fine_tune"))
    (path,) = tmp_path.glob("shared/*/dense.pt")
    whole = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "one bit":
        whole[len(whole) // 2] ^= 4
        path.write_bytes(whole)
    else:
        path.write_bytes(b"")
    before = len(trainings)
    again = carry_out(configured(tmp_path, retrain="rewind_learning_rate"))
    assert trainings[before]["stage"] == "dense network"
    alone = carry_out(configured(tmp_path / "alone", retrain="rewind_learning_rate"))
    assert_same_tables(untimed(again.experiment.folder), untimed(alone.experiment.folder))


def test_an_earlier_sessions_networks_are_taken_over(tmp_path, trainings):
    first = carry_out(configured(tmp_path / "input" / "a" / "mine", retrain="fine_tune"))
    del trainings[:]
    run = configured(tmp_path / "mine")
    job = Job(run.method, run.run_id, run.folder, tmp_path / "any.ipynb", run.parameters())
    assert earlier.take_over([job], tmp_path / "input") == 0
    again = carry_out(run)
    assert [one["stage"] for one in trainings] == ["level 1 of 2", "level 2 of 2"]
    assert_same_state(again.trained, first.trained)


CHILD = """
import sys
from common.training import loop
from common.runs.experiment import configure
from common.tickets.ticket import TicketRun
train = loop.train
def noted(*arguments, **more):
    print(more["stage"].name, flush=True)
    return train(*arguments, **more)
loop.train = noted
run = TicketRun(configure("lottery_ticket", model="lenet_300_100", epochs=2, levels=1, device="cpu",
                          retrain=sys.argv[2], results_dir=sys.argv[1]))
run.prune(); run.train(); run.save()
"""


@pytest.mark.slow
def test_two_processes_train_the_dense_network_once(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), retrain],
            stdout=subprocess.PIPE,
            text=True,
        )
        for retrain in ("fine_tune", "rewind_learning_rate")
    ]
    told = [process.communicate(timeout=300)[0].split("\n") for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sum(lines.count("dense network") for lines in told) == 1
    assert all(lines.count("level 1 of 1") == 1 for lines in told)


# Killed and continued


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dense network", "level 1 of 2", "level 2 of 2"])
@pytest.mark.parametrize("ablation", ["none", "shuffle"])
def test_a_run_killed_in_any_level_goes_on_to_the_same_result(
    tmp_path, monkeypatch, stage, ablation
):
    given_options = {"epochs": 3, "rewind_epoch": "30it", "ablation": ablation}
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    alone = carry_out(configured(tmp_path / "alone", **given_options))
    save = callbacks.Recorder.save

    def saved_and_killed(self, model):
        save(self, model)
        if self.stage.name == stage and len(self.history.rows) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Recorder, "save", saved_and_killed)
        with pytest.raises(Killed):
            carry_out(configured(tmp_path / "killed", **given_options))
    again = carry_out(configured(tmp_path / "killed", **given_options))
    assert_same_tables(untimed(alone.experiment.folder), untimed(again.experiment.folder))
    assert_same_state(cache.copy_state(alone.model), cache.copy_state(again.model))
    assert sorted(path.name for path in again.experiment.folder.iterdir()) == [
        *("epochs.csv", "layers.csv", "levels.csv", "masks.safetensors", "run.json", "summary.csv")
    ]


def test_a_checkpoint_of_another_level_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "CHECKPOINT_SECONDS", 0.0)
    resumed = []
    resume = callbacks.Recorder.resume
    monkeypatch.setattr(
        callbacks.Recorder,
        "resume",
        lambda self, *given: resumed.append(resume(self, *given)) or resumed[-1],
    )
    carry_out(configured(tmp_path))
    assert resumed == [0, 0, 0]


def test_progress_counts_all_epochs(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(run_folder, "write_progress", lambda folder, *what: told.append(what[:3]))
    carry_out(configured(tmp_path, rewind_epoch=1))
    trained = [one for one in told if one[0] not in ("score",)]
    assert trained[:3] == [("dense network", epoch, 4) for epoch in (0, 1, 2)]
    assert trained[-1] == ("level 2 of 2", 4, 4)


# The same again, and what is refused


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"levels": 0}, "levels=0 is below 1"),
        ({"levels": 2.5}, "levels=2.5 is not a whole number"),
        ({"retrain": "rewind"}, "retrain='rewind'.*rewind_weights, rewind_learning_rate, fine_"),
        ({"init": "kaiming"}, "init='kaiming'.*kaiming_normal.*orthogonal"),
        ({"rewind_epoch": -1}, "rewind_epoch=-1 is neither a number of epochs"),
        ({"rewind_epoch": "3"}, "rewind_epoch='3' is neither"),
        ({"rewind_epoch": "-3it"}, "rewind_epoch='-3it' is neither"),
        ({"rewind_epoch": math.nan}, "rewind_epoch=nan is neither"),
        ({"rewind_epoch": True}, "rewind_epoch=True is neither"),
        ({"rewind_epoch": 2}, "rewind_epoch=2 leaves nothing to train.*end of 2 epochs"),
        ({"rewind_epoch": 1, "retrain": "reinit"}, "rewind_epoch=1: retrain='reinit' draws new"),
        ({"pretrain_epochs": 1}, "pretrain_epochs=1.*rewind_epoch says"),
        ({"variant": "layerwise"}, "lottery_ticket's variant='layerwise'.*\"\", uniform"),
    ],
)
def test_bad_input_is_one_error_that_names_it(tmp_path, given_options, message):
    with pytest.raises(ConfigurationError, match=message):
        configured(tmp_path, **given_options)


def test_too_many_iterations_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigurationError, match=r"rewind_epoch='46it' leaves nothing to train"):
        TicketRun(configured(tmp_path, rewind_epoch="46it"))
    assert not list(tmp_path.iterdir())


def test_what_will_run_in_words_and_in_run_json(tmp_path):
    run = TicketRun(configured(tmp_path, rewind_epoch="5it", init="xavier_normal"))
    told = run.describe()
    assert told["levels"] == "2: 68.38%, 90% of the weights removed"
    assert told["rewind epoch"] == "5it: after 5 iterations"
    assert told["init"] == "xavier_normal"
    assert "lenet_300_100, xavier_normal" in told["network"]
    run.begin()
    written = json.loads((run.experiment.folder / "run.json").read_text())
    assert tuple(written["parameters"]) == (
        *PARAMETERS,
        "levels",
        "rewind_epoch",
        "retrain",
        "init",
    )
    assert configure("lottery_ticket", **written["parameters"]) == run.experiment


def test_the_time_a_run_takes_goes_by_all_its_trainings(tmp_path):
    assert configured(tmp_path, levels=3, epochs=10, rewind_epoch=4).all_epochs == 10 + 3 * 6
    assert configured(tmp_path, levels=None, sparsity=0.893, epochs=10).all_epochs == 110
    assert registry.find_method("lottery_ticket").scope == "global"


# Tables of many runs


def test_collecting(tmp_path):
    for seed, retrain in ((0, "rewind_weights"), (1, "fine_tune")):
        carry_out(configured(tmp_path, seed=seed, retrain=retrain, epochs=1))
    (tmp_path / "lottery_ticket" / "begun").mkdir()
    found = collect(tmp_path)
    assert sorted(found.summary["seed"]) == [0, 1]
    assert not found.left_out
    table = collect_levels(tmp_path)
    assert len(table) == 6
    assert table["init"].unique().tolist() == ["kaiming_normal"]
    assert set(zip(table["seed"], table["retrain"], strict=True)) == {
        (0, "rewind_weights"),
        (1, "fine_tune"),
    }
    assert dict(zip(found.summary["seed"], found.summary["variant"], strict=True)) == {
        0: "levels-2",
        1: "levels-2+retrain-fine_tune",
    }
    last = table[table["final"]].set_index("run_id")["test_accuracy"]
    assert last.equals(found.summary.set_index("run_id")["test_accuracy"].loc[last.index])
    report.collect(tmp_path, Console(quiet=True))
    shutil.rmtree(tmp_path / "lottery_ticket")
    pd.testing.assert_frame_equal(collect_levels(tmp_path), table)
    with pytest.raises(ConfigurationError, match="no finished run"):
        collect_levels(tmp_path / "nowhere")
    (tmp_path / "levels.csv").unlink()
    with pytest.raises(ConfigurationError, match="no finished lottery ticket"):
        collect_levels(tmp_path)


def test_levels_are_those_of_the_runs_that_count(tmp_path):
    """Neither of a damaged run nor of one that was superseded by a second result."""
    whole, damaged = (carry_out(configured(tmp_path, seed=seed, epochs=1)) for seed in (0, 1))
    folder = whole.experiment.folder
    shutil.copytree(folder, folder.with_name(f"{folder.name}.1"))
    path = damaged.experiment.folder / "levels.csv"
    path.write_text(path.read_text()[:-9])
    found = collect(tmp_path)
    assert found.summary["seed"].tolist() == [0]
    assert found.more["levels"]["run_id"].tolist() == [whole.experiment.run_id] * 3
    reasons = dict(found.left_out)
    assert reasons[damaged.experiment.folder] == "damaged: levels.csv breaks off"
    assert "superseded" in reasons[folder.with_name(f"{folder.name}.1")]


@pytest.mark.parametrize(("model", "count"), [("lenet_300_100", 5020), ("small_vgg", 9755)])
def test_packing_keeps_every_bit(tmp_path, model, count):
    run = TicketRun(configured(tmp_path, epochs=0, levels=1, model=model))
    run.prune()
    state = cache.copy_state(run.model)
    small = cache.packed(state, run.masks)
    assert sum(value.numel() for name, value in small.items() if name in run.masks) == count
    assert_same_state(cache.unpacked(small, run.masks), state)
    hyper = dataclasses.asdict(run.experiment.hyper)
    identity = json.loads((run.trainings.cache.folder / "identity.json").read_text())
    assert identity["hyperparameters"]["init"] == hyper["init"]


# Figures


def made_up_levels(seeds=(0, 1), **changed):
    """Levels of made-up runs: of a ticket every level, of the altered ones the last as well."""
    rows = []
    for seed in seeds:
        for ablation, retrain in (
            ("none", "rewind_weights"),
            ("shuffle", "rewind_weights"),
            ("none", "fine_tune"),
        ):
            for level, left in enumerate((1.0, 0.5, 0.1, 0.02)):
                row = dict.fromkeys(LEVELS, 0)
                row |= {"level": level, "sparsity": 1 - left, "code_version": "abc"}
                row |= {"test_accuracy": 90 + seed - 5 * level * (ablation != "none")}
                row |= {"early_stop_iteration": 100 + 10 * level + seed}
                row |= {"method": "lottery_ticket", "run_id": f"{ablation}{retrain}{seed}"}
                row |= {"variant": "", "ablation": ablation, "protocol": "quick", "epochs": 8}
                row |= {"dataset": "digits", "model": "lenet_300_100", "seed": seed}
                row |= {"levels": None, "rewind_epoch": "0", "retrain": retrain}
                row |= {"init": "kaiming_normal", "batch_size": 64, "device": "cpu: made up"}
                rows.append({**row, "final": level == 3, **changed})
    return pd.DataFrame(rows)


def drawn(axes):
    """The lines of the axes that have markers, and points."""
    return [line for line in axes.lines if len(line.get_xdata()) and line.get_marker() != "None"]


def test_an_altered_ticket_counts_with_its_last_level_alone():
    table = made_up_levels()
    figure = ticket_plots.tickets_compared(table[table["retrain"] == "rewind_weights"], "ablation")
    ticket, shuffled = sorted(drawn(figure.axes[0]), key=lambda line: -len(line.get_xdata()))
    assert ticket.get_xdata() == pytest.approx([50, 90, 98])
    assert ticket.get_ydata() == pytest.approx([90.5] * 3)
    assert shuffled.get_xdata() == pytest.approx([98])
    assert shuffled.get_ydata() == pytest.approx([75.5])


def test_networks_without_ablations_or_with_one_retraining_have_no_panel():
    both, plain = made_up_levels(), made_up_levels(dataset="mnist", ablation="none")
    rewound = made_up_levels(dataset="cifar10", retrain="rewind_weights")
    found = beside_ablations(pd.concat([both, plain, both.assign(levels=1)]))
    assert found["dataset"].unique().tolist() == ["digits"]
    assert found["retrain"].unique().tolist() == ["rewind_weights"]
    assert len(found) == len(both) * 2 / 3
    published = reference.retraining().iloc[:0]
    figure = ticket_plots.retraining_compared(pd.concat([both, rewound]), published)
    assert left_titles(figure) == ["LeNet-300-100, Digits, iterative"]


def test_levels_that_runs_share_count_once():
    table = made_up_levels()
    longer = table.assign(run_id=table["run_id"] + "longer")
    both = pd.concat([table, longer])
    one = ticket_plots.tickets_table(table, "retrain")
    assert one.equals(ticket_plots.tickets_table(both, "retrain"))
    assert one.loc[98.0, "fine-tuned"] == "90.50 ± 0.71 (2)"


def test_tables_have_the_levels_that_all_have():
    table = made_up_levels(seeds=(3,))
    compared = ticket_plots.tickets_table(table[table["retrain"] == "rewind_weights"], "ablation")
    assert compared.index.tolist() == [98.0]
    assert compared.loc[98.0].tolist() == ["93.00 (1)", "78.00 (1)"]


def test_ours_beside_the_published_curves():
    figure = ticket_plots.retraining_compared(made_up_levels(), reference.retraining())
    titles = left_titles(figure)
    assert "LeNet-300-100, Digits, iterative" in titles
    assert "LeNet-300-100, Digits, one-shot" not in titles
    assert sum("ResNet" in title for title in titles) == 4
    together = ticket_plots.retraining_compared(
        made_up_levels(model="resnet20", dataset="cifar10", levels=1), reference.retraining()
    )
    place = left_titles(together).index("ResNet-20, CIFAR-10, one-shot")
    assert len(drawn(together.axes[place])) == 4 + 2
    alone = ticket_plots.retraining_compared(None, reference.retraining())
    assert len(alone.axes) == 4


def test_published_curves_are_those_of_the_table():
    rows = reference.retraining()
    one = rows[(rows["model"] == "resnet20") & (rows["how"] == "iterative")]
    one = one[(one["retrain"] == "fine_tune") & (one["sparsity"] == 0.893)]
    assert one["test_accuracy"].tolist() == [89.775]
    assert not rows["variant"].str.contains("low learning rate").any()


def test_a_runs_own_figures(tmp_path):
    run = carry_out(configured(tmp_path))
    accuracy, stopping = ticket_plots.ticket_levels(run.levels()).axes
    assert drawn(accuracy)[0].get_ydata().tolist() == run.levels()["test_accuracy"].tolist()
    assert drawn(stopping)[0].get_ydata().tolist() == run.levels()["early_stop_iteration"].tolist()
    figure = ticket_plots.kept_weights(run.initial, run.trained, run.masks)
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: ticket_plots.tickets_compared(t, "seed"), "by='seed'.*ablation"),
        (lambda t: ticket_plots.tickets_compared(t[:0], "init"), "no finished run"),
        (lambda t: ticket_plots.tickets_compared(t, "init", least=0.999), "at least 0.999"),
        (
            lambda t: ticket_plots.tickets_compared(
                pd.concat([t, t.assign(model="vgg11")]), "init"
            ),
            "model: one figure",
        ),
        (lambda t: ticket_plots.ticket_levels(t[:0]), "the table is empty"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call(made_up_levels())


# The grids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "quick"), [("lottery_ticket", 159, 6), ("initialisation", 42, 7)]
)
def test_the_shipped_grids_and_their_quick_form(tmp_path, name, number, quick):
    notebooks = plan.notebooks(paths.TRIALS)
    found = grid.find(name, paths.GRIDS, notebooks)
    assert len(plan.plan(found, tmp_path, notebooks)) == number
    assert f"{number} runs" in (paths.GRIDS / f"{name}.yaml").read_text()
    small = ("protocol=quick", "dataset=digits", "model=lenet_300_100", "epochs=1", "seed=0")
    small += ("rewind_epoch=0", "sparsity=0.9", "levels=1")
    jobs = plan.plan(found, tmp_path, notebooks, grid.overrides(small))
    assert len(jobs) == quick
    for job in jobs:
        run = carry_out(configure(job.method, **{**job.parameters, "device": "cpu"}))
        assert run.experiment.folder == job.folder
    assert len(collect(tmp_path).summary) == quick
    assert len(collect_levels(tmp_path)) == 2 * quick
