"""How every figure looks, and how it is shown and saved: the one place for colours, lines, sizes.

Figures are made without pyplot: nothing is registered anywhere, so a figure that is the last value
of a notebook's cell appears once, and a thousand figures leak nothing.
"""

from __future__ import annotations

import functools
import io
import textwrap
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image
from scipy.spatial import cKDTree

from common.base.files import write_atomically
from common.results.reference import METHODS

NAMED = 30  # layers up to which every one is named on an axis
SHOWN_DPI = 100  # in a notebook
WIDTH = 9.0  # inches: 900 px on a page at 100 dpi, two columns in print
INK, GREY, ALARM = "#1a1a1a", "#8c8c8c", "#C1121F"
NEUTRAL = "#3D5A80"  # a run whose method the figure is not told

# Okabe and Ito's colours (their last one is too light for lines; a violet for it), which differ for
# every kind of colour vision: one hue per method, and a marker where a figure has a line for each.
LOOKS = {
    "random": ("#CC79A7", "X"),
    "magnitude": ("#0072B2", "o"),
    "SNIP": ("#E69F00", "s"),
    "grasp": ("#009E73", "^"),
    "synflow": ("#D55E00", "D"),
    "ntk_sap": ("#5D3A9B", "P"),
    "prospr": ("#56B4E9", "p"),
    "phew": ("#8C6D1F", "<"),
    "igq": ("#6B6B6B", ">"),
    "lottery_ticket": ("#B8860B", "*"),
    "filter_lasso": ("#3D5A80", "h"),
}
COLOURS = {method: hue for method, (hue, _) in LOOKS.items()}
_SPARE_COLOURS = ("#7A6A00", "#A0522D", "#4D4D4D")

# One line style and marker per ablation, and how much of the method's hue it keeps.
ABLATIONS: dict[str, tuple[str, str, str, float]] = {
    "none": ("unmodified", "-", "o", 1.0),
    "shuffle": ("mask shuffled", "--", "s", 0.75),
    "reinit": ("weights redrawn", "-.", "^", 0.55),
    "invert": ("scores inverted", ":", "D", 1.0),
    "shuffle_network": ("mask shuffled over network", (0, (5, 1, 1, 1, 1, 1)), "P", 0.75),
}
_OTHER_ABLATION = ((0, (8, 2)), "v", 0.65)

# Marks that mean the same in every figure.
COLLAPSED = {"color": INK, "marker": "x", "linestyle": "none", "markersize": 5.5, "mew": 1.4}
DENSE = {"color": INK, "linestyle": "-", "linewidth": 0.9}
CHANCE = {"color": INK, "linestyle": (0, (1, 2)), "linewidth": 0.9}

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "savefig.facecolor": "white",
    "svg.hashsalt": "pruning-at-initialization",  # ids that do not change between two savings
    "svg.fonttype": "path",
}


class SelfDisplayingFigure(Figure):
    """A matplotlib Figure that carries its style along and shows itself, once, in a notebook."""

    def draw(self, renderer: object) -> None:
        with mpl.rc_context(STYLE):  # ticks are made only when drawn
            super().draw(renderer)

    def _ipython_display_(self) -> None:
        """Shows itself, whichever backend is active, light enough for executed notebooks."""
        from IPython.display import display

        picture, small = io.BytesIO(), io.BytesIO()
        self.savefig(picture, format="png", dpi=SHOWN_DPI)
        fewer_colours(Image.open(picture)).save(small, "png", optimize=True)
        display({"image/png": small.getvalue(), "text/plain": repr(self)}, raw=True)


def fewer_colours(picture: Image.Image, count: int = 128) -> Image.Image:
    """The picture in its `count` most frequent colours, which makes a third of the bytes.

    Those stay as they are, the hues of all lines and areas among them; the others, which smooth
    edges, become the nearest of them.
    """
    pixels = np.asarray(picture.convert("RGB"))
    packed = pixels @ np.array([1 << 16, 1 << 8, 1])
    _, first, places, times = np.unique(
        packed, return_index=True, return_inverse=True, return_counts=True
    )
    colours = pixels.reshape(-1, 3)[first]
    palette = colours[np.argsort(-times, kind="stable")[:count]]
    nearest = cKDTree(palette).query(colours)[1].astype(np.uint8)
    reduced = Image.fromarray(nearest[places].reshape(packed.shape))
    reduced.putpalette(palette.tobytes())
    return reduced


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Builds the figure in the suite's style and then fixes its layout: panels keep their place
    at every resolution and in every file format."""

    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> Figure:
        with mpl.rc_context(STYLE):
            figure = function(*args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure

    return wrapper


def new_figure(height: float, width: float = WIDTH) -> SelfDisplayingFigure:
    """An empty figure, `width` x `height` inches, that arranges its own panels."""
    return SelfDisplayingFigure(figsize=(width, height), layout="constrained")


@styled
def sentence(text: str) -> SelfDisplayingFigure:
    """A figure that says in words why there is none."""
    lines = textwrap.wrap(text, 130)[:8]
    figure = SelfDisplayingFigure(figsize=(WIDTH, 0.3 + 0.2 * len(lines)))
    figure.text(0.01, 0.5, "\n".join(lines), va="center", color=GREY)
    return figure


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend above all panels, in as many columns as fit the figure's width."""
    look = {"loc": "outside upper left", "handlelength": 2.8, "columnspacing": 1.4}
    for rows in range(1, len(handles) + 1):
        legend = figure.legend(handles=handles, ncols=-(-len(handles) // rows), **look)
        if rows == len(handles) or legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            return
        legend.remove()


def write_caption(figure: Figure, *sentences: str) -> None:
    """What the figure was made from, below it, in small type; empty sentences are left out."""
    characters = int(figure.get_figwidth() * 17)
    lines = [textwrap.fill(sentence, characters) for sentence in sentences if sentence]
    text = "\n".join(lines)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7.5, color="#555555", linespacing=1.35)


def save(figure: Figure, folder: str | Path, name: str, dpi: int = 160) -> tuple[Path, Path]:
    """Write `folder/name.png` and `.svg` (each whole or not at all) and return the two paths.

    The same figure gives the same bytes: no dates, no random ids.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.png", folder / f"{name}.svg"
    for path, metadata in zip(paths, ({"Software": None}, {"Date": None}), strict=True):
        look = {"format": path.suffix[1:], "dpi": dpi, "metadata": metadata}
        with mpl.rc_context(STYLE):
            write_atomically(path, lambda p, look=look: figure.savefig(p, **look))
    return paths


def colour(method: str) -> str:
    """The method's hue; a method that is not in the table always gets the same spare one."""
    if not method:
        return NEUTRAL
    spare = _SPARE_COLOURS[zlib.crc32(method.encode()) % len(_SPARE_COLOURS)]
    return COLOURS.get(method, spare)


def marker(method: str) -> str:
    """The method's marker where figures hold one line per method."""
    return LOOKS[method][1] if method in LOOKS else "v" if method else "o"


def method_look(method: tuple[str, str]) -> dict:
    """How the line of a (method, variant) is drawn where figures hold one per method."""
    look = {"color": colour(method[0]), "marker": marker(method[0])}
    return look | {"linestyle": "--" if method[1] else "-"}


def lighter(hue: str, share: float) -> tuple[float, float, float]:
    """`share` of the hue, the rest white."""
    return tuple(1 - share * (1 - part) for part in mpl.colors.to_rgb(hue))


def ablation_style(ablation: str) -> tuple[str, object, str, float]:
    """(label, line style, marker, share of the hue) of an ablation; combinations share one look."""
    return ABLATIONS.get(ablation, (ablation.replace("_", " "), *_OTHER_ABLATION))


def ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The distinct `names`: those of `known` in its order, then the others by name."""
    known = list(known)
    place = {name: index for index, name in enumerate(known)}
    return sorted(set(names), key=lambda name: (place.get(name, len(known)), name))


def method_label(method: str, variant: str = "") -> str:
    """`SynFlow` or `SynFlow (one shot)`."""
    name = METHODS.get(method) or method.partition("@")[0]  # from outside: name@hash
    name = name[0].upper() + name[1:]
    return f"{name} ({variant.replace('_', ' ')})" if variant else name


def percent(value: float) -> str:
    """0.9 -> `90%`; as many digits as it takes (0.9982 -> `99.82%`)."""
    return f"{100 * value:.4g}%"


def plain_log_ticks(axis: Axis) -> None:
    """0.01, 0.1, 1 on a logarithmic axis, and more between them where it spans little."""
    low, high = sorted(axis.get_view_interval())
    steps = {100.0: (1,), 8.0: (1, 2, 5), 0.0: (1, 1.5, 2, 3, 4, 6, 8)}
    spans = high / low if low > 0 else float("inf")
    steps = next(steps for least, steps in steps.items() if spans > least)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def name_layers(axes: Axes, names: Sequence[str]) -> None:
    """Layer names below the axes at 0, 1, ...: all of them, or evenly spaced ones of many."""
    step = -(-len(names) // NAMED)
    short = [name.removesuffix(".weight") for name in names]
    axes.set_xticks(range(0, len(names), step), short[::step], rotation=90, fontsize=7)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="x", visible=step == 1)
