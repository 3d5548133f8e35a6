"""What the intervals carry, in sentences; nothing beyond them, and no ranking."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from common.check import kept
from common.plots import settings, style
from common.plots.comparison import each_interval, with_width
from common.plots.tables import of, prepared
from common.results.statistics import mean_interval, paired_differences
from common.results.words import LEAST, by_chance, judged, listed, signed

CHANCE = 0.05  # agreement within layers below which a choice counts as random

# Ablation -> verdict of `judged` -> what it says of the method.
SAYS: Mapping[str, Mapping[str, str]] = {
    "shuffle": {
        "open": "its mask is worth no more than its layer densities, as far as these seeds tell",
        "below": "which weights of a layer it keeps matters",
        "above": "its choice within layers does harm: other weights of the same layers do better",
    },
    "reinit": {
        "open": "no difference found between the weights that its mask was made for and others",
        "below": "its mask is worth more on the weights that it was made for",
        "above": "its mask is worth more on other weights than on those that it was made for",
    },
    "invert": {
        "open": "no difference found between its scores and their reverse",
        "below": "the order of its scores means something",
        "above": "its scores do better upside down",
    },
}
WORDS = {"shuffle": "shuffled", "reinit": "weights redrawn", "invert": "inverted"}
BESIDE = {
    "above": "better than",
    "below": "worse than",
    "open": "no difference found to",
    "few": f"too few seeds (at least {LEAST}) to say anything beside",
}


def told(
    summary: pd.DataFrame, method: tuple[str, str], alike: pd.DataFrame, looks: Mapping[str, bool]
) -> str:
    """The verdict in Markdown.

    summary: the method's own runs and the others'. method: (label, variant). alike: of
    `kept.alike`; looks: of `well_made.looks_at`.
    """
    parts = [_random_in_disguise(alike, looks)]
    parts += [_looking(looks), _stability(alike)]
    number = 0
    for name, part in settings(summary).items():
        differences = compared(part, method)
        parts.append(f"### {name}")
        for sparsity, rows in differences.groupby("sparsity"):
            lines = [_ablated(row) for row in _rows(rows) if row["ablation"] != "none"]
            lines += _beside(rows[rows["ablation"] == "none"])
            head = f"With {style.percent(sparsity)} of the weights removed:"
            parts.append("\n".join([head, "", *(f"- {line}" for line in lines)]))
        number += int((differences["n"] >= LEAST).sum())
    parts.append(by_chance(number) if number else "")
    return "\n\n".join(filter(None, parts))


def compared(summary: pd.DataFrame, method: tuple[str, str]) -> pd.DataFrame:
    """The method's paired differences: of each ablation to it unmodified, and of it unmodified to
    every other method (`other`, its label), with `told` and `verdict`."""
    runs = prepared(summary)
    own = of(runs, method)
    found = [paired_differences(own).assign(other="")]
    plain = runs[(runs["ablation"] == "none") & (runs["sparsity"] > 0)]
    for name, variant in kept.others():
        both = pd.concat([of(plain, method), of(plain, (name, variant))])
        differences = paired_differences(both, ("method", "variant"), (name, variant))
        found.append(differences.assign(other=style.method_label(name, variant)))
    every = pd.concat([part for part in found if len(part)] or found, ignore_index=True)
    rows = judged(every)
    numbers = zip(each_interval(rows), rows["mean"], strict=True)
    return rows.assign(told=[with_width(one, signed(mean, 2)) for one, mean in numbers])


def likeness(alike: pd.DataFrame) -> pd.DataFrame:
    """`kept.alike` as a page shows it: means over seeds with half of their interval."""
    columns = ("correlation", "overlap", "agreement", "densities")
    rows = []
    for (other, sparsity), part in alike.groupby(["other", "sparsity"], sort=False):
        cells = [_mean(part[column]) for column in columns]
        rows.append((other, style.percent(sparsity), *cells))
    names = ("beside", "removed", "scores correlate", "overlap", "agreement", "same layers")
    return pd.DataFrame(rows, columns=names)


def _mean(values: pd.Series) -> str:
    if values.isna().any():
        return "–"
    interval = mean_interval(values)
    return with_width(interval, f"{interval.mean:.2f}".replace("-", "−"))


def _rows(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")


def _ablated(row: Mapping) -> str:
    says = SAYS.get(row["ablation"], {}).get(row["verdict"], "too few seeds to say anything")
    return f"**{says}**: {WORDS.get(row['ablation'], row['ablation'])} {row['told']}"


def _beside(rows: pd.DataFrame) -> list[str]:
    lines = []
    for verdict, words in BESIDE.items():
        there = [f"{row['other']} ({row['told']})" for row in _rows(rows[rows.verdict == verdict])]
        if there:
            lines.append(f"{words} {listed(there)}")
    return lines


def _random_in_disguise(alike: pd.DataFrame, looks: Mapping[str, bool]) -> str:
    """The sentence for a method that chooses at random within layers."""
    stream = alike[alike["other"] == kept.STREAM]
    agreement = mean_interval(stream["agreement"])
    if not looks["random stream"] or agreement.mean > CHANCE:
        return ""
    theirs = alike[~alike["other"].isin((kept.STREAM, kept.WEIGHTS, kept.SEED))]
    means = theirs.groupby("other", sort=False)["densities"].mean()
    nearest = means.idxmax()
    return (
        "**It is random pruning in disguise.** Which weights of a layer it keeps is left to its "
        f"random stream: another stream on the same network keeps others, alike by chance alone "
        f"(agreement {_mean(stream['agreement'])}). What it decides is how many each layer keeps, "
        f"nearly as {style.method_label(*nearest.split(' '))} does "
        f"({style.percent(round(means.max(), 3))} of the kept weights lie in the same layers)."
    )


def _looking(looks: Mapping[str, bool]) -> str:
    seen = [name for name in ("weights", "images", "labels") if looks[name]]
    free = "" if looks["images"] or looks["labels"] else " It is data-free."
    drawn = " Its scores are drawn at random, at least in part." if looks["random stream"] else ""
    return (
        f"It looks at {listed(seen) if seen else 'nothing of the network'}, as tried.{free}{drawn}"
    )


def _stability(alike: pd.DataFrame) -> str:
    rows = alike[alike["other"] == kept.WEIGHTS].groupby("sparsity")["overlap"]
    told = [
        f"{100 * mean_interval(v).mean:.1f} percent with {style.percent(s)} removed"
        for s, v in rows
    ]
    return f"Of its mask a relative change of {kept.CHANGE:g} in the weights leaves {listed(told)}."
