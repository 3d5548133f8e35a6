"""Trials with parameters of their own: read, named, planned, refused; methods without stay."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.base.errors import ConfigurationError
from common.pruning import METHODS
from common.results import run_folder, schema
from common.results.collected import collect, write_collected
from common.results.schema import Table
from common.runs import registry
from common.runs.experiment import PARAMETERS, configure, from_notebook
from common.runs.options import number_in, one_of, whole_from
from common.runs.registry import Option, Trial
from common.runs.run import Run
from common.sweep import grid, plan
from common.training import callbacks

ROOT = Path(__file__).resolve().parent.parent
OWN = (
    Option("steps", 3, whole_from(1)),
    Option("strength", 0.5, number_in(0, 1)),
    Option("order", "first", one_of(("first", "last"))),
    Option("weight_decay", None, number_in(0)),
)


def refuse(experiment) -> None:
    if experiment.options["steps"] > experiment.epochs:
        raise ConfigurationError("steps: more than epochs")


@pytest.fixture
def trial(monkeypatch):
    made = Trial(OWN, check=refuse, epochs=lambda e: e.epochs * e.options["steps"])
    monkeypatch.setitem(registry.TRIALS, "made_up", made)


PLAIN = "quick_digits_small_vgg_sparsity0.9_none_seed0_epochs8"


@pytest.mark.usefixtures("trial")
def test_options_stand_in_the_name_where_they_are_not_the_default():
    assert configure("made_up").run_id == PLAIN
    assert configure("made_up", steps=3, order="first", strength="").run_id == PLAIN
    run = configure("made_up", steps=2.0, strength=0.25, order="last", weight_decay=0.01)
    assert run.run_id == f"{PLAIN}_steps-2_strength-0.25_order-last_weight_decay-0.01"
    assert run.options == {"steps": 2, "strength": 0.25, "order": "last", "weight_decay": 0.01}
    assert run.all_epochs == 16
    told = "steps-2+strength-0.25+order-last+weight_decay-0.01"
    assert run.variant_label == told
    read = {"steps": "2", "strength": "0.25", "order": "last", "weight_decay": "0.01"}
    assert registry.read_label("made_up", told) == ("", read)
    assert registry.read_label("made_up", "uniform+steps-2") == ("uniform", {"steps": "2"})
    assert registry.read_label("made_up", "") == ("", {})
    assert configure("made_up", variant="uniform").variant_label == "uniform"
    assert configure("made_up").variant_label == configure("SNIP").variant_label == ""


@pytest.mark.usefixtures("trial")
def test_an_option_called_like_a_hyperparameter_replaces_it():
    assert configure("made_up").hyper.weight_decay == 1e-4
    assert configure("made_up", weight_decay=0.01).hyper.weight_decay == 0.01
    assert configure("made_up", weight_decay=1e-4) == configure("made_up")


values = st.fixed_dictionaries(
    {
        "steps": st.none() | st.integers(1, 8),
        "strength": st.none() | st.floats(0, 1).map(abs),
        "order": st.sampled_from(["", "first", "last"]),
        "weight_decay": st.none() | st.floats(0, 1).map(abs),
    }
)


@settings(max_examples=50)
@given(values, values)
def test_a_run_comes_back_from_its_parameters_and_names_tell_runs_apart(one, other):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.TRIALS, "made_up", Trial(OWN))
        a, b = configure("made_up", **one), configure("made_up", **other)
        assert (a.run_id == b.run_id) == (a.options == b.options)
        assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,200}", a.run_id)
        told = a.parameters()
        assert tuple(told) == (*PARAMETERS, *(option.name for option in OWN))
        assert configure("made_up", **told) == a
        assert from_notebook("made_up", {**told, "torch": None}) == a


@pytest.mark.usefixtures("trial")
@pytest.mark.parametrize(
    ("method", "given_options", "message"),
    [
        ("made_up", {"order": "frist"}, "order='frist'.*did you mean 'first'.*first, last"),
        ("made_up", {"steps": 0}, "steps=0 is below 1"),
        ("made_up", {"steps": "3"}, "steps='3' is not a whole number"),
        ("made_up", {"strength": 2}, "strength=2 is not a number from 0 to 1"),
        ("made_up", {"strength": float("nan")}, "strength=nan is not a number"),
        ("made_up", {"weight_decay": "1"}, "weight_decay='1' is not a number from 0 on"),
        ("made_up", {"steps": 9}, "steps: more than epochs"),
        ("made_up", {"stepps": 2}, "made_up has no parameter 'stepps'.*own are: steps, strength"),
        ("made_up", {"variant": "l2"}, "made_up's variant='l2'.*\"\", uniform"),
        ("SNIP", {"steps": 2}, "SNIP has no parameter 'steps'; it is one of made_up"),
        ("SNIP", {"sparcity": 0.5}, "SNIP has no parameter 'sparcity'"),
        ("mad_up", {}, "method='mad_up'.*did you mean 'made_up'"),
        ("made_up", {"strength": 10**5000}, "strength=a number of thousands of digits is not a"),
        ("lottery_ticket", {"rewind_epoch": "9" * 5000 + "it"}, "^rewind_epoch='9+… .* is neither"),
        ("lottery_ticket", {"rewind_epoch": 10**400}, "rewind_epoch=10+… .* is neither"),
        ("filter_lasso", {"penalty": 10**400}, "penalty=10+… .* is not a number from 0 on"),
    ],
)
def test_bad_input_is_one_error_that_names_it(method, given_options, message):
    with pytest.raises(ConfigurationError, match=message):
        configure(method, **given_options)


@pytest.mark.usefixtures("trial")
def test_grids_and_the_command_line_take_options(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("runs:\n- {method: made_up, steps: [1, 2]}\n- {method: SNIP}\n")
    notebooks = dict.fromkeys(("made_up", "SNIP"), tmp_path / "any.ipynb")

    def planned(*settings):
        found = grid.load(path, notebooks)
        return plan.plan(found, tmp_path / "out", notebooks, grid.overrides(settings))

    jobs = planned()
    assert [job.parameters.get("steps") for job in jobs] == [1, 2, None]
    assert jobs[1].kind != jobs[0].kind
    assert jobs[1].cost > jobs[0].cost
    changed = planned("method=made_up", "steps=[2, 3]", "order=last")
    assert [job.run_id for job in changed] == [
        f"{PLAIN}_steps-2_order-last",
        f"{PLAIN}_order-last",
    ]
    with pytest.raises(ConfigurationError, match=r"^-p steps: SNIP has no parameter 'steps'"):
        planned("steps=2")
    with pytest.raises(ConfigurationError, match=r"'stebs'.*did you mean 'steps'"):
        planned("stebs=2")


@pytest.mark.usefixtures("trial")
def test_options_are_told(tmp_path):
    run = Run(configure("made_up", steps=2, epochs=2, device="cpu", results_dir=tmp_path))
    told = run.describe()
    assert (told["steps"], told["weight decay"]) == ("2", "as the protocol has it")
    run.begin()
    written = json.loads((run.experiment.folder / "run.json").read_text())
    assert configure("made_up", **written["parameters"]) == run.experiment


@pytest.mark.parametrize("method", METHODS)
def test_methods_without_options_are_as_they_were(tmp_path, method):
    """Names and run.json of all that was computed before there were trials with options."""
    experiment = configure(method, epochs=0, device="cpu", results_dir=tmp_path)
    assert experiment.run_id == PLAIN.replace("epochs8", "epochs0")
    assert tuple(experiment.parameters()) == PARAMETERS
    run = Run(experiment)
    run.begin()
    written = json.loads((experiment.folder / "run.json").read_text())
    assert " ".join(written) == (
        "run_id method parameters hyperparameters device precision versions code_version started_at"
    )
    assert " ".join(written["hyperparameters"]) == (
        "name source dataset model epochs batch_size learning_rate micro_batch milestones "
        "schedule gamma warmup warmed momentum nesterov weight_decay init batchnorm augment "
        "precision sparsity exceptions"
    )


STEPS = Table("steps", ("step", "note", "size"), ("method", "run_id", "note"))


def finished(folder, rows, **parameters):
    """A run of the made-up trial that leaves these rows of steps.csv."""
    run = Run(configure("made_up", epochs=3, device="cpu", results_dir=folder, **parameters))
    run.score(), run.prune()
    run.history = callbacks.History([dict.fromkeys(schema.EPOCHS, 0)] * 2)
    run_folder.write_csv(run.experiment.folder / "steps.csv", rows, STEPS.columns)
    run.save()
    return run.experiment.folder


def test_further_tables_of_a_trial_are_collected(tmp_path, monkeypatch):
    told = Table(
        *(
            "levels",
            ("step",),
            ("method", "run_id", "order"),
            ("method", "run_id", "order", "size"),
        ),
        read_keys=lambda about: {**about, **about["parameters"], "size": len(about["parameters"])},
        derive=lambda rows: rows.assign(last=rows["step"] == rows["step"].max()),
    )
    monkeypatch.setitem(registry.TRIALS, "made_up", Trial(OWN))
    monkeypatch.setitem(schema.FURTHER, "made_up", (STEPS,))
    monkeypatch.setitem(registry.TRIALS, "lottery_ticket", Trial(()))
    rows = [{"step": 1, "note": "one, two", "size": 0.1}, {"step": 2, "note": "", "size": None}]
    first = finished(tmp_path, rows)
    found = collect(tmp_path)
    assert set(found.more) == {"steps"}
    table = found.more["steps"]
    assert tuple(table.columns) == ("method", "run_id", *STEPS.columns)
    assert table["run_id"].unique().tolist() == [first.name]
    assert table[["step", "note"]].values.tolist() == [[1, "one, two"], [2, ""]]
    assert table["size"].isna().tolist() == [False, True]
    write_collected(found, tmp_path / "published")
    pd.testing.assert_frame_equal(collect(tmp_path / "published").more["steps"], table)

    # What is told of a run, and what follows from all rows together.
    other = finished(tmp_path, rows, order="last")
    for folder in (first, other):
        run_folder.write_csv(folder / "levels.csv", [{"step": len(folder.name)}], ("step",))
    monkeypatch.setitem(registry.TRIALS, "made_up", Trial(OWN))
    monkeypatch.setitem(schema.FURTHER, "made_up", (STEPS, told))
    table = collect(tmp_path).more["levels"].set_index("run_id")
    assert table["order"].to_dict() == {first.name: "first", other.name: "last"}
    assert table["last"].to_dict() == {first.name: False, other.name: True}
    assert (table["size"] == len(PARAMETERS) + len(OWN)).all()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("steps.csv", None, "damaged: no steps.csv"),
        ("steps.csv", "step,note,size\n1,a,0.5", "damaged: steps.csv breaks off"),
        ("steps.csv", "step,note\n1,a\n", "damaged: steps.csv has other columns or no rows"),
        ("steps.csv", "step,note,size\n1,a,big\n", "damaged: steps.csv has no numbers in size"),
        ("run.json", "{", "damaged: run.json does not tell of its steps.csv"),
        ("run.json", "{}", "damaged: run.json does not tell of its steps.csv"),
    ],
)
def test_a_run_without_a_further_table_that_is_whole_is_left_out(
    tmp_path, monkeypatch, name, content, reason
):
    monkeypatch.setitem(registry.TRIALS, "made_up", Trial(OWN))
    monkeypatch.setitem(schema.FURTHER, "made_up", (STEPS,))
    rows = [{"step": 1, "note": "a", "size": 0.5}]
    whole, damaged = finished(tmp_path, rows), finished(tmp_path, rows, seed=1)
    (damaged / name).unlink() if content is None else (damaged / name).write_text(content)
    found = collect(tmp_path)
    assert found.left_out == [(damaged, reason)]
    assert found.summary["run_id"].tolist() == found.more["steps"]["run_id"].tolist()
    assert found.summary["run_id"].tolist() == [whole.name]


def test_no_two_trials_leave_tables_of_one_name():
    tables = [table for tables in schema.FURTHER.values() for table in tables]
    names = [table.name for table in tables]
    assert len({*names, "summary", "epochs", "layers"}) == len(names) + 3
    assert all(table.key_columns[:2] == ("method", "run_id") for table in tables)
    assert set(schema.FURTHER) <= set(registry.TRIALS)
