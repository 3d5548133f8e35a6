"""The findings of the schedule_length study in words, put together from its tables: what is said of
a difference follows from its interval, whatever the runs turn out to be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from common.plots.style import ablation_style, method_label, percent
from common.plots.tables import network_name
from common.results import words as results_words
from common.results.reference import METHODS as NAMES
from common.results.reference import MODELS
from common.results.words import LEAST, judged, listed, signed
from common.studies import schedule_length as study

# What is said of a difference: its interval lies above zero, below it, holds it, or has few seeds.
SHUFFLING = {
    "above": "gains by shuffling",
    "below": "loses by shuffling",
    "open": "no difference found",
    "few": f"fewer than {LEAST} seeds",
}
AGAINST_RANDOM = {**SHUFFLING, "above": "above random pruning", "below": "below random pruning"}
CHANGE = {
    **SHUFFLING,
    "above": "shuffling worth more than in the longest training",
    "below": "shuffling worth less than in the longest training",
}


def _epochs(lengths: Iterable[int]) -> str:
    return f"{listed(lengths)} epoch{'s' * (list(lengths) != [1])}"


def coverage(runs: pd.DataFrame, lengths: Sequence[int]) -> pd.DataFrame:
    """The seeds that are there, by length and procedure."""
    seeds = runs.sort_values("seed").groupby(["epochs", "method", "ablation"])["seed"]
    table = seeds.apply(lambda there: ", ".join(map(str, there))).unstack(["method", "ablation"])
    table = table.reindex(index=sorted(lengths), columns=list(study.PROCEDURES)).fillna("–")
    labels = [(method_label(m), ablation_style(a)[0]) for m, a in table.columns]
    return table.set_axis(pd.MultiIndex.from_tuples(labels, names=["seeds of", ""]), axis=1)


def absent(runs: pd.DataFrame, lengths: Sequence[int], seeds: Sequence[int]) -> str:
    """How many runs of the design are missing, and at which lengths."""
    gaps = study.missing(runs, lengths, seeds)
    each = len(seeds) * len(study.PROCEDURES)
    if gaps.empty:
        return f"All {each * len(lengths)} runs of the design are there."
    counts = gaps.groupby("epochs").size()
    told = [f"{'all ' * (n == each)}{n} with {at} epochs" for at, n in counts.items()]
    return (
        f"**{len(gaps)} of {each * len(lengths)} runs are missing**: {listed(told)}. What follows "
        "is said of the others."
    )


def cells(differences: pd.DataFrame) -> pd.DataFrame:
    """Differences with their intervals, in points: rows lengths, columns methods."""
    rows = judged(differences)
    rows["method"] = rows["method"].map(method_label)
    return rows.pivot(index="epochs", columns="method", values="told").fillna("–")


def verdicts(differences: pd.DataFrame, words: Mapping[str, str]) -> str:
    """A line a method, in Markdown: at which lengths its intervals say what."""
    rows = judged(differences)
    rows["method"] = rows["method"].map(method_label)
    return results_words.verdicts(
        rows, "method", "epochs", words, lambda lengths: f"after {_epochs(lengths)}"
    )


def agreement(order: pd.DataFrame) -> str:
    """How far the order of the methods is that of the longest training."""
    if len(order) < 2:
        return "No two lengths have all four methods yet."
    *earlier, longest = order.index
    told = [f"{signed(order.loc[at, 'agreement'], 2)} after {at}" for at in earlier]
    names = order.loc[longest, list(study.METHODS)].sort_values(ascending=False).index
    orders = math.factorial(len(study.METHODS))
    return (
        f"After {longest} epochs the order is {', '.join(NAMES[name] for name in names)}. "
        f"Kendall's τ with it is {listed(told)} epochs. By chance {len(names)} methods agree in "
        f"order once in {orders} times, so τ alone proves little."
    )


def suggested(steps: pd.DataFrame) -> str:
    """What four epochs of frankle2021's steps, one seed, had suggested."""
    four, (gain, method) = _four(steps), _largest_gain(steps)
    plain = four.xs("none", level="ablation").sort_values()
    last, *others = plain.index
    network = network_name(*steps[["model", "dataset"]].iloc[0])
    return (
        f"Four epochs of frankle2021's steps, moved in proportion, and one seed ({network}, "
        f"{percent(_SUGGESTED)} of the weights removed) had suggested that shuffling helps, by up "
        f"to {abs(gain):.1f} points ({NAMES[method]}, {four[method, 'none']:.1f} to "
        f"{four[method, 'shuffle']:.1f} percent), and that {NAMES[last]} is the last of the four "
        f"methods ({listed(f'{NAMES[name]} {plain[name]:.1f}' for name in others)})."
    )


def taken_back(runs: pd.DataFrame, steps: pd.DataFrame) -> str:
    """What trainings scheduled for their length make of these two."""
    network = ["dataset", "model", "sparsity"]
    if (runs[network].iloc[0] != steps[network].iloc[0]).any():
        shown = network_name(*runs[["model", "dataset"]].iloc[0])
        share = percent(runs["sparsity"].iloc[0])
        return f"The runs above ({shown}, {share} removed) do not speak to that."
    said = [_gain_now(runs, _largest_gain(steps)[1]), _place_now(runs, _last(steps))]
    return " ".join(filter(None, said)) or "The runs above do not speak to that yet."


def longer_steps(steps: pd.DataFrame) -> str:
    """What a longer training by the same steps left of shuffling's gain."""
    rows = study.shuffling(steps[steps["sparsity"] != _SUGGESTED]).sort_values("epochs")
    short, long = rows.to_dict("records")
    return (
        f"With {percent(short['sparsity'])} removed, shuffling {NAMES[short['method']]} was worth "
        f"{signed(short['mean'])} points after {short['epochs']} epochs of such steps and "
        f"{signed(long['mean'])} after {long['epochs']}."
    )


def others() -> str:
    """What points along others' long trainings show of the same."""
    rows = study.published_shuffling()
    snip = rows[(rows["method"] == "SNIP") & (rows["sparsity"] == _SUGGESTED)]
    told = [f"{MODELS.get(model, model)} {_along(part)}" for model, part in snip.groupby("model")]
    rows = study.published_against_random()
    grasp = rows[(rows["method"] == "grasp") & (rows["sparsity"] == _SUGGESTED)]
    ends = grasp[grasp["epoch"].isin([grasp["epoch"].min(), grasp["epoch"].max()])]
    return (
        f"Along others' single trainings, {percent(_SUGGESTED)} removed, SNIP shuffled less SNIP "
        f"is, in points: {'; '.join(told)} (epfl2020); and GraSP less random {_along(ends)} "
        "(neuder2026)."
    )


def advice(runs: pd.DataFrame, steps: pd.DataFrame) -> str:
    """What to do with little time, each with what these runs say of it; a Markdown list."""
    widths = [f"±{study.half_width(1, n):.1f} for {n}" for n in (2, 3, 5)]
    return "\n".join(
        (
            "- **Schedule the training for its length**, so that it ends at a learning rate near "
            f"zero. {_schedule(runs, steps)}",
            "- **Run three seeds at least, and compare within each.** The same seed gives two "
            f"procedures the same weights and batches. {_scatter(runs)}",
            "- **Say the interval.** One seed has none. Where differences have a standard "
            f"deviation of one point it is {listed(widths)} seeds.",
            "- **Let the question choose the length.** In a short training a method that starts "
            f"slowly may look bad, and its ablations good. {_settled(runs)}",
        )
    )


_SUGGESTED = 0.9  # the sparsity of what had been suggested


def _four(steps: pd.DataFrame) -> pd.Series:
    """Accuracies after the four epochs, by method and ablation."""
    rows = steps[(steps["epochs"] == 4) & (steps["sparsity"] == _SUGGESTED)]
    return rows.set_index(["method", "ablation"])["test_accuracy"]


def _largest_gain(steps: pd.DataFrame) -> tuple[float, str]:
    """What shuffling gained most, in points, and of which method."""
    wide = _four(steps).unstack("ablation")
    gain = (wide["shuffle"] - wide["none"]).dropna().round(2)
    return gain.max(), gain.idxmax()


def _last(steps: pd.DataFrame) -> str:
    """The method that was the last."""
    return _four(steps).xs("none", level="ablation").idxmin()


def _gain_now(runs: pd.DataFrame, method: str) -> str:
    rows = judged(study.shuffling(runs)).query("method == @method")
    if rows.empty:
        return ""
    told = [f"{row['told']} after {row['epochs']}" for _, row in rows.iterrows()]
    means = {
        "above": "the gain is still there",
        "below": "it has become a loss",
        "open": "no gain is found",
        "few": "too few seeds to tell",
    }
    longest = rows.iloc[-1]
    return (
        f"In trainings scheduled for their length shuffling changes {NAMES[method]} by "
        f"{listed(told)} epochs: after {longest['epochs']}, {means[longest['verdict']]}."
    )


def _place_now(runs: pd.DataFrame, last: str) -> str:
    plain = runs[runs["ablation"] == "none"]
    rows = judged(study.paired_differences(plain, ("method", "variant"), (last, "")))
    rows = rows[rows["epochs"] == rows["epochs"].max()]
    if rows.empty:
        return ""
    told = [f"{NAMES[row['method']]} {row['told']}" for _, row in rows.iterrows()]
    found = list(rows["verdict"])
    if "below" in found:
        means = "it is not the last"
    elif found == ["above"] * (len(study.METHODS) - 1):
        means = "it is the last still"
    else:
        means = "that it is the last is not shown"
    return (
        f"Compared with {NAMES[last]} the others have, after {rows['epochs'].iloc[0]} epochs, "
        f"{listed(told)}: {means}."
    )


def _along(rows: pd.DataFrame) -> str:
    """`+7.6 after 4 and +0.2 after 160 epochs`."""
    rows = rows.sort_values("epoch")
    told = zip(rows["difference"], rows["epoch"], strict=True)
    return f"{listed(f'{signed(value)} after {epoch}' for value, epoch in told)} epochs"


def _schedule(runs: pd.DataFrame, steps: pd.DataFrame) -> str:
    keys = ["dataset", "model", "sparsity", "epochs", "seed", "method", "ablation"]
    both = runs[runs["protocol"] == "budget"].merge(steps, on=keys, suffixes=("", "_steps"))
    if both.empty:
        return ""
    gain = both["test_accuracy"] - both["test_accuracy_steps"]
    return (
        f"The same {both['epochs'].iloc[0]} epochs with the rate falling linearly to zero in place "
        f"of frankle2021's steps: {signed(gain.mean())} points on the average of {len(gain)} "
        f"procedures ({signed(gain.min())} to {signed(gain.max())}, one seed)."
    )


def _scatter(runs: pd.DataFrame) -> str:
    found = study.scatter(runs).dropna()
    if found.empty:
        return ""
    told = [f"{row['runs']:.1f} and {row['pairs']:.1f} after {at}" for at, row in found.iterrows()]
    return (
        "Standard deviations over seeds, in points, of an accuracy and of the difference that "
        f"shuffling makes: {listed(told)} epochs."
    )


def _settled(runs: pd.DataFrame) -> str:
    change = judged(study.change_of_shuffling(runs))
    change = change[change["verdict"] != "few"]
    if change.empty:
        return ""
    longest = study.shuffling(runs)["epochs"].max()
    tried = sorted(change["epochs"].unique())
    differing = change[change["verdict"] != "open"]
    none = "no effect of shuffling is found to differ from the one after"
    if differing.empty:
        return f"After {listed(tried)} epochs {none} {longest}."
    methods = differing.groupby("method", sort=False)["epochs"].apply(listed)
    told = [f"{NAMES[name]}'s after {at} epochs" for name, at in methods.items()]
    rest = [at for at in tried if at > differing["epochs"].max()]
    return f"Of the effects of shuffling {listed(told)} differ from the one after {longest}" + (
        f"; after {listed(rest)} none is found to." if rest else "."
    )
