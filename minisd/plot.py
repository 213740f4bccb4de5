"""The course's figures in one style: colours that colour-blind readers can tell apart, text that survives printing.

A notebook makes a figure here, draws on its axes with plain matplotlib, and passes it to `show` with a sentence that
describes it for readers who cannot see it.
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from torch import Tensor

# Okabe & Ito 2008, "Color Universal Design": black first, without the yellow, which is too pale for lines.
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # colour is never the only difference
STYLE = {
    "font.size": 10, "axes.titlesize": 10.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "legend.frameon": False, "lines.linewidth": 1.8, "lines.markersize": 5,
    "axes.prop_cycle": mpl.cycler(color=COLOURS), "figure.facecolor": "white", "image.cmap": "cividis",
    "figure.constrained_layout.use": True,
}
DPI, PICTURE_DPI = 144, 100  # sharp in print; noise makes large files, so less for grids of pictures


def figure(rows: int = 1, columns: int = 1, width: float = 8, height: float = 3,
           **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure, sized in inches, and its axes, always (rows, columns); options as for matplotlib's `subplots`."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(width, height), dpi=DPI)
        return made, made.subplots(rows, columns, squeeze=False, **options)


def show(made: Figure, alt: str) -> None:
    """Show a figure below the cell, with alternative text."""
    from IPython.display import Image as Shown
    from IPython.display import display

    with mpl.rc_context(STYLE):
        data = io.BytesIO()
        made.savefig(data, format="png", dpi=made.dpi)
    if made.dpi == PICTURE_DPI and data.tell() > 200_000:  # noise hardly compresses; with 256 colours it takes a third
        small = Image.open(data).convert("RGB").quantize(256)
        small.save(data := io.BytesIO(), format="png", optimize=True)
    width = round(made.get_figwidth() * 90)
    display(Shown(data.getvalue(), format="png", width=width, alt=alt))


def to_array(picture: Tensor | np.ndarray | Image.Image) -> np.ndarray:
    """A picture in the form that matplotlib expects: (H, W, 3) or (H, W) in [0, 1].

    picture: a Pillow image; a tensor (3, H, W) or (1, H, W), clipped to [-1, 1]; or an array that has this form.
    """
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB")) / 255
    if isinstance(picture, Tensor):
        pixels = (picture.detach().float().cpu() / 2 + 0.5).clamp(0, 1)
        return pixels.squeeze(0).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    return picture


def put(axis: Axes, picture: Tensor | np.ndarray | Image.Image, title: str = "", fontsize: float = 9.5,
        **options: Any) -> None:
    """Draw a picture on an axis, without ticks, its pixels as sharp squares."""
    axis.imshow(to_array(picture), interpolation="nearest", **{"vmin": 0, "vmax": 1, "cmap": "gray"} | options)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)
    if title:
        axis.set_title(title, fontsize=fontsize)


def pictures(rows: Sequence[Sequence] | dict[str, Sequence], titles: Sequence[str] = (), width: float = 8,
             captions: Sequence[Sequence[str]] = ()) -> Figure:
    """A grid of pictures, whose pixels stay sharp squares.

    Args:
        rows: lists of pictures (see `to_array`) of equal length; the keys of a dict become labels on the left.
        titles: above the columns.
        captions: below the pictures, one list per row.
    """
    labels = list(rows) if isinstance(rows, dict) else [""] * len(rows)
    rows = list(rows.values()) if isinstance(rows, dict) else rows
    columns = len(rows[0])
    first = to_array(rows[0][0])
    level = any(labels) and width / columns < 0.85  # beside small pictures, labels are horizontal
    margin = 0.075 * max(map(len, "\n".join(labels).split("\n"))) if level else 0.3 * any(labels)
    cell = (width - margin) / columns * first.shape[0] / first.shape[1]
    fontsize = min(9.5, 12 * cell)
    height = cell * len(rows) + 0.3 * bool(titles) + 0.22 * len(captions)
    made, axes = figure(len(rows), columns, width, height)
    made.set_dpi(PICTURE_DPI)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            put(axes[i, j], picture, titles[j] if titles and i == 0 else "", fontsize)
            if captions:
                axes[i, j].set_xlabel(captions[i][j], fontsize=9)
        upright = {"rotation": 0, "horizontalalignment": "right", "verticalalignment": "center"} if level else {}
        axes[i, 0].set_ylabel(labels[i], fontsize=min(10, fontsize + 0.5), **upright)
    return made


def heatmap(axis: Axes, table: Tensor | np.ndarray, title: str = "", signed: bool = False, **options: Any) -> None:
    """A matrix as colours; signed ones from blue (negative) through white to red."""
    table = table.detach().float().cpu().numpy() if isinstance(table, Tensor) else np.asarray(table)
    if signed:
        most = np.abs(table).max()
        options = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} | options
    drawn = axis.imshow(table, interpolation="nearest", **options)
    axis.grid(False)
    axis.set_title(title, fontsize=9.5)
    axis.figure.colorbar(drawn, ax=axis, fraction=0.046)


# --- the map of the system ------------------------------------------------------------------------------------

# box: (left, bottom, width, height), its text, the notebooks that build it
MAP = {
    "prompt": ((0.0, 2.1, 1.6, 0.9), "prompt\n“a red apple”", ""),
    "tokenizer": ((2.1, 2.1, 1.6, 0.9), "tokenizer", "05"),
    "text encoder": ((4.7, 2.1, 1.6, 0.9), "text encoder", "05"),
    "noise": ((0.0, 0.5, 1.6, 0.9), "random\nlatents", "01"),
    "scheduler": ((2.1, 0.5, 1.6, 0.9), "scheduler", "02 03"),
    "U-Net": ((4.7, 0.5, 1.6, 0.9), "U-Net", "06"),
    "VAE decoder": ((7.1, 0.5, 1.6, 0.9), "VAE decoder", "04"),
    "picture": ((9.2, 0.5, 1.2, 0.9), "picture", ""),
}


def system_map(*here: str) -> Figure:
    """The data flow of Stable Diffusion; the boxes named in `here`, which this lesson builds, are highlighted."""
    if unknown := set(here) - set(MAP):
        raise ValueError(f"the map has no {', '.join(sorted(unknown))}; it has {', '.join(MAP)}")
    made, axes = figure(width=8.4, height=2.8)
    axis = axes[0, 0]
    axis.set(xlim=(-0.1, 10.5), ylim=(-0.1, 3.15), aspect="equal")
    axis.axis("off")
    for name, ((x, y, w, h), text, notebook) in MAP.items():
        rounding = 0.45 if name in ("prompt", "noise", "picture") else 0.08
        colours = {"facecolor": "#ffe0b0", "edgecolor": "#d55e00", "linewidth": 2} if name in here else {
            "facecolor": "white", "edgecolor": "0.35", "linewidth": 1.1}
        axis.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=f"round,pad=0,rounding_size={rounding}", **colours))
        axis.text(x + w / 2, y + h / 2 + (0.1 if notebook else 0), text, ha="center", va="center", fontsize=9.5)
        if notebook:
            axis.text(x + w / 2, y + 0.13, f"notebook {notebook.replace(' ', ' and ')}", ha="center", fontsize=6.5,
                      color="0.35")

    def arrow(*corners: tuple[float, float], text: str = "", at: tuple[float, float] = (0, 0)) -> None:
        axis.plot(*zip(*corners[:-1]), color="0.25", linewidth=1.2)
        axis.annotate("", corners[-1], corners[-2], arrowprops={"arrowstyle": "-|>", "color": "0.25", "shrinkA": 0,
                                                                "shrinkB": 0, "mutation_scale": 11})
        axis.text(*at, text, ha="center", va="center", fontsize=7.5, color="0.25")

    arrow((1.6, 2.55), (2.1, 2.55))
    arrow((3.7, 2.55), (4.7, 2.55), text="77 ids", at=(4.2, 2.7))
    arrow((5.5, 2.1), (5.5, 1.4), text="embeddings\n77 × width", at=(6.0, 1.75))
    arrow((1.6, 0.95), (2.1, 0.95))
    arrow((3.7, 1.15), (4.7, 1.15), text="noisy latents", at=(4.2, 1.32))
    arrow((4.7, 0.75), (3.7, 0.75), text="predicted\nnoise", at=(4.2, 0.53))
    arrow((2.9, 0.5), (2.9, 0.12), (6.7, 0.12), (6.7, 0.95), (7.1, 0.95), text="after the last step: clean latents",
          at=(4.9, 0.0))
    arrow((8.7, 0.95), (9.2, 0.95))
    return made
