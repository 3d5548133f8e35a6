"""What the mask of one layer looks like."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from common.base.errors import ConfigurationError
from common.plots import style

PLANES = 4  # input channels up to which single kernels are shown
BLOCKS = 128  # rows and columns of the map: finer would not be seen, and makes heavy notebooks


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
