"""The figure of masks that a perturbation too small to matter replaces."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from common.plots import style
from common.plots.panels import entry, ticks_at
from common.studies.captions import compression, study_caption

PANELS = {
    "replaced": "Share of the mask replaced",
    "density_change": "Largest change of a layer's density",
}


@style.styled
def masks_replaced(found: pd.DataFrame, masks: pd.DataFrame) -> Figure:
    """What a perturbation of the weights changes against the number of rounds, a line per method:
    the share of the mask, beside that of masks drawn by lot with the same layerwise densities, and
    layerwise densities. Dots are seeds, lines their means.

    found: of `chaos.replaced`; masks: what it was made from.
    """
    figure = style.new_figure(4.0)
    handles = []
    for axes, (column, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for (method, variant), rows in found.groupby(["method", "variant"], sort=False):
            dashes = "--" if variant == "force" else "-"
            look = {"color": style.colour(method), "marker": style.marker(method), "ls": dashes}
            axes.plot(rows["iterations"], rows[column], **look | {"ls": "none", "alpha": 0.35})
            mean = rows.groupby("iterations")[column].mean()
            axes.plot(mean.index, mean, **look)
            if column == "replaced":
                label = style.method_label(method, variant)
                handles.append(entry(label, **look))
                lots = rows.groupby("iterations")["chance"].mean()
                axes.plot(lots.index, lots, color=look["color"], lw=0.8, ls=":")
        axes.set(xscale="log", xlabel="Rounds", title=title)
        ticks_at(axes.xaxis, sorted(found["iterations"].unique()), "{:g}".format)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=-0.02)
    handles.append(entry("masks drawn by lot", color=style.INK, lw=0.8, ls=":"))
    style.legend_above(figure, handles)
    size = ", ".join(f"{value:g}" for value in sorted(found["relative"].unique()))
    ratios = ", ".join(compression(10.0**value) for value in sorted(found["exponent"].unique()))
    style.write_caption(
        figure,
        study_caption(masks),
        f"Compression {ratios}; initial weights changed by {size} of themselves, all else equal. "
        "Density changes: of the layer where it is largest, as a share of its density.",
    )
    return figure
