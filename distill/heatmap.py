"""Scores as a picture: a panel per benchmark, systems down, languages across."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill.comparison import Scores

CELL_INCHES = 0.42
MARGIN_INCHES = 2.6
HEAD_INCHES = 0.9
DOTS_PER_INCH = 100


def write_heatmap(
    path: Path, panels: Mapping[str, Mapping[str, Scores]], languages: Sequence[str]
) -> tuple[int, int]:
    """Draw benchmark -> system -> language -> score as a PNG; return its width and height in pixels.

    Colour runs from the lowest to the highest score of its panel; a cell without a score is left
    empty.
    """
    rows = [len(systems) for systems in panels.values()]
    heights = [HEAD_INCHES + CELL_INCHES * count for count in rows]
    width = MARGIN_INCHES + CELL_INCHES * len(languages)
    figure = Figure(figsize=(width, sum(heights)), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (title, systems) in zip(axes, panels.items(), strict=True):
        _draw(panel, title, systems, languages)
    figure.tight_layout()
    figure.savefig(path, format="png")
    return round(width * DOTS_PER_INCH), round(sum(heights) * DOTS_PER_INCH)


def _draw(panel: Axes, title: str, systems: Mapping[str, Scores], languages: Sequence[str]) -> None:
    grid = np.array(
        [[scores.get(language, np.nan) for language in languages] for scores in systems.values()]
    )
    known = grid[~np.isnan(grid)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    panel.imshow(grid, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    panel.set_title(title, fontsize=8, loc="left")
    panel.set_xticks(range(len(languages)), labels=list(languages), fontsize=7)
    panel.set_yticks(range(len(systems)), labels=list(systems), fontsize=7)
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            dark = value < low + 0.6 * (high - low)
            panel.text(
                column,
                row,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if dark else "black",
            )
