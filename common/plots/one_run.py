"""One run from inside: its scores, its mask, and the figures behind single methods' diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from common.base.errors import ConfigurationError
from common.plots import style
from common.plots.panels import entry

BINS = 120
ROWS = 24  # layers up to which each gets a histogram; beyond, its quantiles
SAMPLE = 100_000  # scores of a layer that quantiles are taken from, evenly spaced
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BELOW = 0.002  # share of a layer's scores that may lie below the axis, in its first bin
CURVE = 1 << 18  # scores that a curve is drawn from, evenly spaced
PLANES = 4  # input channels of a mask up to which single kernels are shown
BLOCKS = 128  # rows and columns of a mask's map: finer would not be seen, and is heavy


@style.styled
def score_histograms(
    scores: Mapping[str, Tensor], method: str = "", sparsity: float | None = None
) -> Figure:
    """The distribution of log10 |score| in each layer.

    scores: {parameter name: score tensor}; method: names the hue; sparsity: the share of all
    |score| that lies below a line, the threshold of one ranking over the whole network. Up to 24
    layers: a histogram each, scaled to its highest bin; negative scores hang from its base. More
    layers: the 5, 25, 50, 75 and 95 percent quantiles of |score|. Zeros have no logarithm: their
    share is given, as is that of negative scores. Raises ConfigurationError for no scores, and for
    scores that are all zero or not finite.
    """
    layers = [_Layer(name, score) for name, score in scores.items()]
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
    facts = f"{len(layers)} layers, {sum(layer.size for layer in layers):,} scores."
    style.write_caption(figure, facts, told)
    return figure


class _Layer:
    """A layer's scores as the figures need them: everything is counted, only quantiles sample."""

    def __init__(self, name: str, score: Tensor) -> None:
        score = score.detach().flatten()
        if not torch.isfinite(score).all():
            raise ConfigurationError(f"scores: {name} has values that are not finite")
        self.name, self.size = name.removesuffix(".weight"), score.numel()
        self.logarithm = score.abs().log10_()  # -inf for zeros
        self.below = score < 0
        self.zero = int((score == 0).sum()) / self.size
        self.negative = int(self.below.sum()) / self.size

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
        shares = {"zero": self.zero, "negative": self.negative}
        return ", ".join(f"{100 * share:.3g}% {name}" for name, share in shares.items() if share)


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
    for (_, side, light), count in zip(sides, counts, strict=True):
        axes.stairs(base + side * scale * count, edges, baseline=base, fill=True, color=light)
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
        entry("median", color=hue),
        Patch(color=hue, alpha=0.5, label="25 to 75 percent"),
        Patch(color=hue, alpha=0.2, label="5 to 95 percent"),
    ]
    for name, dashes in (("zero", ":"), ("negative", "--")):
        share = np.array([getattr(layer, name) for layer in layers])
        if share.any():
            look = {"color": style.INK, "ls": dashes, "lw": 1.2}
            lower.plot(x, 100 * share, **look)
            handles.append(entry(name, **look))
    lower.set_ylim(0, 102)
    lower.set_ylabel("Share of the layer (%)")
    style.name_layers(lower, [layer.name for layer in layers])
    style.legend_above(figure, handles)
    return figure


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
    sample = flat[:: max(1, len(flat) // CURVE)].sort(descending=True).values.numpy()
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


@style.styled
def mask_image(mask: Tensor, name: str = "", method: str = "") -> Figure:
    """The mask of one layer, True = kept: (outputs, inputs) or (outputs, inputs, height, width).

    A convolution of up to four input channels (the first layer): every kernel, a panel per input
    channel. Any other layer: the share kept between each pair of input and output channel, and
    beside it of each channel, so that a channel without a weight left shows as a gap. More than 128
    channels are averaged to 128. Raises ConfigurationError for another number of dimensions.
    """
    if mask.ndim not in (2, 4):
        raise ConfigurationError(
            f"mask: shape {tuple(mask.shape)} is not that of a linear (2) or convolution (4) weight"
        )
    mask = mask.detach().cpu().double()
    kernel = f", {mask.shape[2]} x {mask.shape[3]} kernels" if mask.ndim == 4 else ""
    mask = mask.reshape(*mask.shape[:2], *(mask.shape[2:] or (1, 1)))
    colours = LinearSegmentedColormap.from_list("kept", ["white", style.colour(method)])
    single = kernel and mask.shape[1] <= PLANES
    figure = (_kernels if single else _channels)(mask, colours.with_extremes(bad="#d0d0d0"))
    label = f"{name.removesuffix('.weight')}: " if name else ""
    dead = [int((mask.sum(axes) == 0).sum()) for axes in ((1, 2, 3), (0, 2, 3))]
    averaged = not single and max(mask.shape[:2]) > BLOCKS
    style.write_caption(
        figure,
        f"{label}{mask.shape[0]} x {mask.shape[1]} channels{kernel}; {int(mask.sum()):,} of "
        f"{mask.numel():,} weights kept ({100 * float(mask.mean()):.3g}%).",
        f"Without any weight: {dead[0]} output and {dead[1]} input channels."
        + f" The map is averaged to at most {BLOCKS} channels." * averaged,
    )
    return figure


def _kernels(mask: Tensor, colours: Colormap) -> Figure:
    """The kernels of each input channel as tiles, row by row in the order of the outputs."""
    outputs, inputs, height, width = mask.shape
    columns = int(np.ceil(np.sqrt(outputs)))
    rows = -(-outputs // columns)
    figure = style.new_figure(0.6 + 3.0 * rows / columns, width=3.0 * max(inputs, 2))
    for plane, axes in enumerate(figure.subplots(1, inputs, squeeze=False)[0]):
        tiles = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), np.nan)
        for output in range(outputs):
            top, left = (
                1 + p * (k + 1)
                for p, k in zip(divmod(output, columns), (height, width), strict=True)
            )
            tiles[top : top + height, left : left + width] = mask[output, plane]
        axes.imshow(tiles, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"Input channel {plane}: kept weights coloured", fontsize=9)
        axes.set_axis_off()
    return figure


def _channels(mask: Tensor, colours: Colormap) -> Figure:
    """Share kept per pair of channels, and per channel along the upper and right edge."""
    share = mask.mean((2, 3))
    outputs, inputs = share.shape
    blocks = adaptive_avg_pool2d(share[None], (min(outputs, BLOCKS), min(inputs, BLOCKS)))[0]
    figure = style.new_figure(5.4, width=7.0)
    grid = figure.subplots(
        2, 2, sharex="col", sharey="row", width_ratios=[5, 1], height_ratios=[1, 5]
    )
    (top, corner), (centre, right) = grid
    corner.remove()
    extent = (-0.5, inputs - 0.5, outputs - 0.5, -0.5)
    look = {"cmap": colours, "vmin": 0, "aspect": "auto", "interpolation": "nearest"}
    image = centre.imshow(blocks.numpy(), extent=extent, **look)
    centre.grid(False)
    centre.set(xlabel="Input channel", ylabel="Output channel")
    for axes, part, orientation in ((top, 0, "vertical"), (right, 1, "horizontal")):
        channels = share.mean(part).numpy()
        edges = np.arange(len(channels) + 1) - 0.5
        axes.stairs(channels, edges, orientation=orientation, color=colours(1.0), fill=True)
    top.set_ylim(bottom=0)
    right.set_xlim(left=0)
    percent = PercentFormatter(1, decimals=0)
    top.yaxis.set_major_formatter(percent)
    right.xaxis.set_major_formatter(percent)
    figure.colorbar(
        image, ax=[top, centre, right], label="Weights kept", shrink=0.75, format=percent
    )
    return figure
