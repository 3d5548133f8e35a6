"""One run from inside: how its scores are distributed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from common.base.errors import ConfigurationError
from common.plots import style

BINS = 120
ROWS = 24  # layers up to which each gets a histogram; beyond, its quantiles
SAMPLE = 100_000  # scores of a layer that quantiles are taken from, evenly spaced
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BELOW = 0.002  # share of a layer's scores that may lie below the axis, in its first bin


@style.styled
def score_histograms(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    method: str = "",
    sparsity: float | None = None,
) -> Figure:
    """The distribution of log10 |score| in each layer, and what of it the masks keep.

    scores: {parameter name: score tensor}; masks: same names and shapes, True = kept; method: names
    the hue; sparsity: the share of all |score| that lies below a line, the threshold of one ranking
    over the whole network. Up to 24 layers: a histogram each, scaled to its highest bin, the kept
    scores in full colour; negative scores hang from its base. More layers: the 5, 25, 50, 75 and 95
    percent quantiles of |score|. Zeros have no logarithm: their share is given, as are that of
    negative scores and the kept share. Raises ConfigurationError for no scores, scores that are all
    zero or not finite, or masks of other layers.
    """
    if masks is not None and set(masks) != set(scores):
        raise ConfigurationError("masks: these are not the masks of the layers that have scores")
    layers = [_Layer(name, score, masks and masks[name]) for name, score in scores.items()]
    if all(layer.zero == 1 for layer in layers):
        raise ConfigurationError("scores: nothing to draw, every score is zero")
    hue = style.colour(method)
    figure = _ridges(layers, hue) if len(layers) <= ROWS else _quantiles(layers, hue)
    told = ""
    if sparsity:
        every = torch.cat([layer.logarithm for layer in layers])
        cut = every.kthvalue(max(1, round(sparsity * len(every)))).values.item()
        line = figure.axes[0].axvline if len(layers) <= ROWS else figure.axes[0].axhline
        line(cut, color=style.INK, lw=0.9, zorder=4)
        told = f"Line: the threshold below which {style.percent(sparsity)} of all scores lie."
    facts = f"{len(layers)} layers, {sum(layer.size for layer in layers):,} scores"
    if masks:
        facts += f", {sum(int(mask.sum()) for mask in masks.values()):,} of them kept"
    style.write_caption(figure, facts + ".", told)
    return figure


class _Layer:
    """A layer's scores as the figures need them: everything is counted, only quantiles sample."""

    def __init__(self, name: str, score: Tensor, mask: Tensor | None) -> None:
        score = score.detach().flatten()
        if not torch.isfinite(score).all():
            raise ConfigurationError(f"scores: {name} has values that are not finite")
        self.name, self.size = name.removesuffix(".weight"), score.numel()
        self.logarithm = score.abs().log10_()  # -inf for zeros
        self.below = score < 0
        self.mask = None if mask is None else mask.detach().flatten().to(score.device).bool()
        self.zero = int((score == 0).sum()) / self.size
        self.negative = int(self.below.sum()) / self.size
        self.kept = np.nan if mask is None else int(self.mask.sum()) / self.size

    def quantiles(self, shares: tuple[float, ...]) -> np.ndarray:
        """Quantiles of the logarithms of all scores but zeros; NaN without any."""
        sample = self.logarithm[:: -(-self.size // SAMPLE)].cpu().numpy()
        sample = sample[np.isfinite(sample)]
        return np.quantile(sample, shares) if len(sample) else np.full(len(shares), np.nan)

    def histogram(self, edges: np.ndarray, chosen: Tensor) -> np.ndarray:
        """Counts of the chosen scores: those below the edges in the first bin, zeros in none."""
        low, high = float(edges[0]), float(edges[-1])
        values = self.logarithm[chosen & torch.isfinite(self.logarithm)]
        return torch.histc(values.clamp_(low, high), BINS, low, high).cpu().numpy()

    def notes(self) -> str:
        """The shares that a histogram of logarithms cannot show."""
        shares = {
            "kept": self.kept,
            "zero": self.zero or np.nan,
            "negative": self.negative or np.nan,
        }
        return ", ".join(f"{100 * v:.3g}% {name}" for name, v in shares.items() if v == v)


def _ridges(layers: list[_Layer], hue: str) -> Figure:
    low = np.nanmin([layer.quantiles((BELOW,))[0] for layer in layers])
    high = max(float(layer.logarithm.max()) for layer in layers)
    edges = np.linspace(min(low, high - 0.5), high, BINS + 1)
    signed = any(layer.negative for layer in layers)
    figure = style.new_figure(1.5 + 0.4 * len(layers))
    axes = figure.subplots()
    for row, layer in enumerate(layers):
        _ridge(axes, layer, edges, -row, hue, 0.44 if signed else 0.85)
        place = {"transform": axes.get_yaxis_transform(), "fontsize": 8, "va": "bottom"}
        axes.text(1.01, -row, layer.notes(), **place)
    axes.set_yticks(
        -np.arange(len(layers)), [f"{layer.name} ({layer.size:,})" for layer in layers], va="bottom"
    )
    axes.set_ylim(-len(layers) + (0.4 if signed else 0.8), 0.55 if signed else 1.0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("log10 |score|, the few smaller ones in the first bin")
    axes.grid(axis="y", visible=False)
    axes.spines.left.set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [Patch(color=style.lighter(hue, 0.35), label="scores" + ": positive up" * signed)]
    if signed:
        handles.append(Patch(color=style.lighter(style.GREY, 0.5), label="negative down"))
    if layers[0].mask is not None:
        handles.append(Patch(color=hue, label="kept by the mask"))
    style.legend_above(figure, handles)
    return figure


def _ridge(
    axes: Axes, layer: _Layer, edges: np.ndarray, base: float, hue: str, height: float
) -> None:
    """One layer's histogram on the line y = base; negative scores hang from it."""
    sides = [(~layer.below, 1, style.lighter(hue, 0.35))]
    if layer.negative:
        sides.append((layer.below, -1, style.lighter(style.GREY, 0.5)))
    counts = [layer.histogram(edges, chosen) for chosen, _, _ in sides]
    scale = height / max(max(count.max() for count in counts), 1)
    for (chosen, side, light), count in zip(sides, counts, strict=True):
        axes.stairs(base + side * scale * count, edges, baseline=base, fill=True, color=light)
        if layer.mask is not None:
            kept = layer.histogram(edges, chosen & layer.mask)
            axes.stairs(base + side * scale * kept, edges, baseline=base, fill=True, color=hue)
    axes.axhline(base, color=style.GREY, lw=0.5)


def _quantiles(layers: list[_Layer], hue: str) -> Figure:
    lines = np.array([layer.quantiles(QUANTILES) for layer in layers]).T
    figure = style.new_figure(5.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    x = np.arange(len(layers))
    upper.fill_between(x, lines[0], lines[4], color=hue, alpha=0.2, lw=0)
    upper.fill_between(x, lines[1], lines[3], color=hue, alpha=0.35, lw=0)
    upper.plot(x, lines[2], color=hue)
    upper.set_ylabel("log10 |score|")
    handles = [
        Line2D([], [], color=hue, label="median"),
        Patch(color=hue, alpha=0.5, label="25 to 75 percent"),
        Patch(color=hue, alpha=0.2, label="5 to 95 percent"),
    ]
    for name, dashes in (("kept", "-"), ("zero", ":"), ("negative", "--")):
        share = np.array([getattr(layer, name) for layer in layers])
        if np.nansum(share):
            tint = hue if name == "kept" else style.INK
            lower.plot(x, 100 * share, color=tint, ls=dashes, lw=1.2)
            handles.append(Line2D([], [], color=tint, ls=dashes, lw=1.2, label=name))
    lower.set_ylim(0, 102)
    lower.set_ylabel("Share of the layer (%)")
    style.name_layers(lower, [layer.name for layer in layers])
    style.legend_above(figure, handles)
    return figure
