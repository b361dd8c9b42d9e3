"""How figures look: narrow enough for a phone, legible in grey, and the same bytes for the same values."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from kd_env.evaluation.pages.contents import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.9
"""Of every figure in inches: on a page of 360 pixels its letters are as large as small print."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Of Okabe and Ito: told apart with any colour vision."""
MARKERS, LINES, HATCHES = "osD^vPX", ("-", "--", "-.", ":"), ("", "///", "...", "xxx", "\\\\\\")
_STYLE: Any = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.titlesize": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "legend.fontsize": 8.0,
    "text.parse_math": False,  # names may hold a dollar sign
    "svg.hashsalt": "kd-env",
    "svg.fonttype": "none",  # half the time and size, and words can be searched
    "path.simplify": True,
}


def look(index: int, line: bool = True) -> dict[str, Any]:
    """Colour, marker and line of the policy with that place: each of the three tells it apart alone, as far as it can.

    Args:
        index: its place.
        line: whether the points are joined.
    """
    style = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5}
    return {**style, "linestyle": LINES[index % len(LINES)]} if line else {**style, "linestyle": "none"}


@contextmanager
def styled() -> Iterator[None]:
    """The style, while figures are made and written."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def picture(name: str, caption: str, alt: str, draw: Callable[[Figure], None], height: float, png: bool) -> Picture:
    """A figure as SVG for the page, and as PNG.

    Places are given in inches by :func:`panels`: a layout that is searched for takes as long as all the drawing.

    Args:
        name: of its files.
        caption: stands under it.
        alt: what it shows, for who cannot see it.
        draw: fills an empty figure.
        height: in inches.
        png: whether the PNG is wanted.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasAgg(figure)
        draw(figure)
        svg, bitmap = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        if png:
            figure.savefig(bitmap, format="png", dpi=160, metadata={"Software": None})
    return Picture(name, caption, alt, inlined(svg.getvalue().decode("utf-8"), name, alt), bitmap.getvalue())


def panels(
    figure: Figure,
    count: int,
    *,
    left: float = 0.68,
    right: float = 0.2,
    top: float = 0.12,
    gap: float = 0.5,
    below: float = 0.0,
) -> list[Axes]:
    """Axes one below the other, with margins in inches.

    Args:
        figure: that they stand in.
        count: how many.
        left: room for names or numbers.
        right: of every one.
        top: above the first.
        gap: under each, for its numbers and its title.
        below: under all, for a legend.
    """
    width, height = figure.get_size_inches()
    each = (height - top - below - gap * count) / count
    places = [(left, height - top - each - place * (each + gap)) for place in range(count)]
    size = (width - left - right, each)
    return [figure.add_axes((x / width, y / height, size[0] / width, size[1] / height)) for x, y in places]


def legend(figure: Figure, axes: Axes) -> None:
    """Names of what was drawn, under all axes."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=_columns(labels), frameon=False, borderaxespad=0.2)


def legend_height(labels: Sequence[str]) -> float:
    """Room for such a legend, in inches."""
    return 0.19 * -(-len(labels) // _columns(labels)) + 0.12


def _columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return 1 if len(labels) < 2 or longest > 24 else 2 if longest > 12 else 3


def inlined(svg: str, name: str, alt: str) -> str:
    """A drawing as part of a page: no header, ids that no other drawing has, a title, and as wide as there is room."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    opening, rest = body.split(">", 1)
    opening = f'{opening} role="img" aria-labelledby="{name}-title"'
    return f'{opening}>\n <title id="{name}-title">{escape(alt)}</title>{rest}'


def as_file(svg: str) -> str:
    """A drawing of a page as a file of its own."""
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}'
