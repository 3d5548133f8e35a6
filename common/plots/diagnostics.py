"""The figures behind single methods' own diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.plots import style

SAMPLE = 1 << 18  # scores that a curve is drawn from, spread evenly over all


@style.styled
def predicted_densities(
    layers: pd.DataFrame, predicted: Sequence[float], method: str = ""
) -> Figure:
    """Measured layerwise densities on what theory predicts for them.

    layers: columns of layers.csv; predicted: a density per row. The band is twice the standard
    deviation of a binomial count: where a layer falls when each of its weights is kept or not
    independently.
    """
    predicted, x = np.asarray(predicted, dtype=float), np.arange(len(layers))
    spread = 2 * np.sqrt(predicted * (1 - predicted) / layers["size"].to_numpy())
    hue = style.colour(method)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    axes.errorbar(
        x, predicted, spread, color=style.GREY, capsize=5, lw=1.2, ls="none", label="predicted ± 2σ"
    )
    axes.plot(x, layers["density"], style.marker(method), color=hue, label="measured", zorder=3)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("Density")
    style.name_layers(axes, list(layers["layer"]))
    style.legend_above(figure, axes.get_legend_handles_labels()[0])
    inside = int((abs(layers["density"] - predicted) <= spread).sum())
    style.write_caption(figure, f"{inside} of {len(layers)} layers lie within the band.")
    return figure


@style.styled
def concentration(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], method: str = ""
) -> Figure:
    """How much of the sum of abs(score) the weights with the highest ones hold.

    scores, masks: {parameter name: tensor}. The line marks what the masks keep: exactly, since only
    the curve is drawn from a sample of large networks.
    """
    flat = torch.cat([score.detach().abs().flatten().cpu().double() for score in scores.values()])
    kept = torch.cat([masks[name].flatten().cpu() for name in scores])
    share, held = float(kept.double().mean()), float(flat[kept].sum() / flat.sum())
    sample = flat[:: max(1, len(flat) // SAMPLE)].sort(descending=True).values.numpy()
    hue = style.colour(method)
    figure = style.new_figure(3.4)
    axes = figure.subplots()
    axes.plot(
        np.arange(1, len(sample) + 1) / len(sample) * 100,
        sample.cumsum() / sample.sum() * 100,
        color=hue,
    )
    axes.plot(100 * share, 100 * held, style.marker(method), color=hue)
    axes.annotate(
        f"the mask keeps {100 * share:.3g}% of the weights\nand {100 * held:.3g}% of the sum",
        (100 * share, 100 * held),
        xytext=(12, -4),
        textcoords="offset points",
        va="top",
    )
    axes.set_xscale("log")
    style.plain_log_ticks(axes.xaxis)
    axes.set_ylim(0, 102)
    axes.set_xlabel("Weights with the highest |score| (% of all)")
    axes.set_ylabel("Share of the sum of |score| (%)")
    return figure
