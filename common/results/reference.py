"""Published accuracies of others (`figures/reference/`), to lay beside our own.

Every source is a protocol and a statistic of its own, so a curve is always of one source: there is
no function that returns two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pandas as pd

from common import datasets
from common.base.errors import ConfigurationError, unknown
from common.base.paths import ROOT
from common.results.schema import EXACT

FOLDER = ROOT / "figures" / "reference"

# How the literature writes our names; figures label with them too.
DATASETS = {name: spec.title for name, spec in datasets.DATASETS.items()}
MODELS = {
    **{f"vgg{depth}": f"VGG-{depth}" for depth in (11, 13, 16, 19)},
    **{f"resnet{depth}": f"ResNet-{depth}" for depth in (18, 20, 32, 34, 44, 50, 56, 110)},
    "wide_resnet18": "WideResNet-18",
    "lenet_300_100": "LeNet-300-100",
    "lenet5": "LeNet-5",
    "small_vgg": "small VGG",
}
METHODS = {
    "random": "random",
    "magnitude": "magnitude",
    "SNIP": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "ntk_sap": "NTK-SAP",
    "prospr": "ProsPr",
    "phew": "PHEW",
    "igq": "IGQ",
    "lottery_ticket": "lottery ticket",
    "filter_lasso": "filter lasso",
}
_OURS = {title: name for table in (DATASETS, MODELS) for name, title in table.items()}
# Their name -> our (method, variant), where it is more than the plain method.
_VARIANTS = {
    "random (uniform)": ("random", "uniform"),
    "random (ERK)": ("random", "erk"),
}


@dataclass(frozen=True)
class Source:
    """What a figure has to say about a source: who, what to beware of, and how many epochs they
    trained for on CIFAR, if that is one number."""

    name: str
    caution: str
    epochs: int | None = None


SOURCES = {
    "tanaka2020": Source(
        "Tanaka et al. 2020",
        "digitised from their Fig. 6; best epoch on the test set, mean of 3; parameters were three "
        "times in the optimizer, so the learning rate is three times the stated one",
        160,
    ),
    "tanaka2020-v1": Source(
        "Tanaka et al. 2020, first version",
        "scores in eval mode; best epoch on the test set; its GraSP had the sign reversed and "
        "counts as inverted here",
    ),
    "comp6258": Source(
        "student reproduction (comp6258)",
        "one run each, final epoch; its SynFlow points are dense networks, its inverted SNIP and "
        "magnitude points are disconnected ones",
        80,
    ),
    "wang2020": Source(
        "Wang et al. 2020",
        "quoted second-hand from later papers, SynFlow from one of them; best epoch",
    ),
    "renda2020": Source(
        "Renda et al. 2020", "median of 3; length of retraining chosen on a validation split"
    ),
    "mge2024": Source("Cunegatti et al. 2024", "160 epochs, mean of 3", 160),
}
# Accuracies along one training (`schedules.csv`).
SCHEDULES = {
    "epfl2020": Source(
        "student reproduction of Su et al. 2020 (CS-433)",
        "one run each, points along one training whose learning rate drops after epochs 80 and 120",
        160,
    ),
    "neuder2026": Source(
        "student reproduction (COS 568, 2026)",
        "one or two runs each, points along one training at a constant learning rate (Adam); "
        "scores in eval mode, SynFlow in one iteration",
        100,
    ),
}
# Their (method, variant) there -> ours. Dense networks, mixed precision and pruning after training
# are there as well and have no place beside masks found at initialisation.
_ALONG = {
    ("SNIP", "one batch of 64, Xavier re-drawn copy for scoring"): ("SNIP", ""),
    ("GraSP", "official GraSP code, 10 per class"): ("grasp", ""),
    ("random", "global, Gaussian scores"): ("random", ""),
    ("SNIP", "eval mode, 100 images"): ("SNIP", ""),
    ("GraSP", "eval mode, 100 images"): ("grasp", ""),
    ("SynFlow", "1 iteration"): ("synflow", "one_shot"),
}


@cache
def _read(name: str) -> pd.DataFrame:
    table = pd.read_csv(FOLDER / name, **EXACT)
    return table.assign(variant=table["variant"].fillna(""))


def published(source: str | None = None) -> pd.DataFrame:
    """The rows of `published.csv`, of one source if named; sparsity is the fraction removed and
    accuracies are percent. Raises ConfigurationError for a source that is not in the table."""
    table = _read("published.csv")
    if source is None:
        return table.copy()
    if source not in SOURCES:
        raise unknown("reference", source, SOURCES)
    return table[table["source"] == source].reset_index(drop=True)


def curves(source: str, dataset: str, model: str) -> pd.DataFrame:
    """What `source` reports for our `dataset` and `model`, for the methods that are also ours.

    Columns as in `published.csv`, with dataset, model, method and variant under our names. Empty
    where the source has nothing to compare. The rows of tanaka2020-v1 whose GraSP sign was reversed
    kept the wrong end of the ranking: they come back with the ablation `invert`.
    Raises ConfigurationError for an unknown source.
    """
    rows = published(source)
    rows = rows[
        (rows["dataset"] == DATASETS.get(dataset, dataset))
        & (rows["model"] == MODELS.get(model, model))
    ]
    ours = {theirs: (name, "") for name, theirs in METHODS.items()} | _VARIANTS
    rows = rows[rows["method"].isin(ours)].copy()
    rows.loc[rows["variant"].str.contains("sign reversed"), "ablation"] = "invert"
    rows["dataset"], rows["model"] = dataset, model
    rows["variant"] = [ours[name][1] for name in rows["method"]]
    rows["method"] = [ours[name][0] for name in rows["method"]]
    return rows.sort_values(["method", "variant", "ablation", "sparsity"]).reset_index(drop=True)


def along_training(source: str) -> pd.DataFrame:
    """What `source` reports epoch by epoch of one training, for the methods that are also ours.

    Columns as in `schedules.csv`, with dataset, model (where we have it), method and variant under
    our names; a row is a run's test accuracy (percent) after `epoch` of the `epochs_budget` epochs.
    Random pruning has two runs at some sparsities. Raises ConfigurationError for a source that is
    not there.
    """
    if source not in SCHEDULES:
        raise unknown("reference", source, SCHEDULES)
    rows = _read("schedules.csv")
    rows = rows[(rows["source"] == source) & rows["epoch"].notna()]
    ours = [_ALONG.get(how) for how in zip(rows["method"], rows["variant"], strict=True)]
    rows = rows.assign(epoch=rows["epoch"].astype(int), ours=ours).dropna(subset="ours")
    rows["method"], rows["variant"] = rows["ours"].str[0], rows["ours"].str[1]
    rows["dataset"], rows["model"] = (rows[name].replace(_OURS) for name in ("dataset", "model"))
    return rows.drop(columns="ours").reset_index(drop=True)


def retraining() -> pd.DataFrame:
    """Renda et al.'s pruning after training, at the protocol's learning rates.

    Columns of `published.csv` with dataset and model under our names, `how` (one-shot, iterative)
    and `retrain` (our name of what follows pruning).
    """
    ways = {
        "fine-tune": "fine_tune",
        "weight rewinding": "rewind_weights",
        "learning-rate rewinding": "rewind_learning_rate",
        "reinitialise": "reinit",
    }
    rows = published("renda2020")
    rows[["how", "retrain"]] = rows["variant"].str.split(", ", n=1, expand=True)
    rows = rows[rows["retrain"].isin(ways)]
    named = {name: rows[name].map(_OURS) for name in ("dataset", "model")}
    return rows.assign(**named, retrain=rows["retrain"].map(ways)).reset_index(drop=True)


def single_source(rows: pd.DataFrame) -> Source | None:
    """The one source of `rows` (None for no rows). Raises ConfigurationError if there are several:
    their protocols and statistics differ, so they share no curve."""
    names = sorted(rows["source"].unique())
    if len(names) > 1:
        raise ConfigurationError(
            f"reference curves of {' and '.join(names)} in one figure: choose one source"
        )
    return SOURCES[names[0]] if names else None
