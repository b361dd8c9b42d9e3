"""Tables of a report in four forms: HTML, CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from kd_env.evaluation.statistics.intervals import Interval
from kd_env.evaluation.statistics.verdicts import show

Cell = str | int | float | Interval
PLACES = "runs"
"""Title of the column that says from which folders a row is."""
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


@dataclass(frozen=True)
class Table:
    """Rows of cells, each with the run folders that its numbers are from."""

    name: str
    """Of its files, unique in a report."""
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    places: tuple[tuple[str, ...], ...]
    """Of every row."""
    signed: bool = False
    """Whether intervals are of differences."""
    note: str = ""

    def text(self, cell: Cell) -> str:
        """A cell as it is shown."""
        if isinstance(cell, Interval):
            return "-" if math.isnan(cell.mean) else show(cell, self.signed)
        if isinstance(cell, float):
            return f"{cell:.3f}" if math.isfinite(cell) else "-"
        return f"{cell:,}" if isinstance(cell, int) else cell


def as_html(table: Table, anchors: Mapping[str, tuple[str, str]]) -> str:
    """The table in a box that scrolls by itself.

    Args:
        table: the table.
        anchors: by run folder the id of its place in the page, and its short name.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in (*table.header, PLACES))
    lines = []
    for row, places in zip(table.rows, table.places, strict=True):
        first, *others = (escape(table.text(cell)) for cell in row)
        links = " ".join(_link(place, anchors) for place in places)
        cells = "".join(f"<td>{text}</td>" for text in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}<td class="runs">{links}</td></tr>')
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table id="table-{table.name}"><caption>{escape(table.title)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + f"\n</tbody></table></div>{note}\n"
    )


def _link(place: str, anchors: Mapping[str, tuple[str, str]]) -> str:
    if place not in anchors:
        return escape(place)
    anchor, name = anchors[place]
    return f'<a href="#{anchor}" title="{escape(place)}">{escape(name)}</a>'


def as_csv(table: Table) -> str:
    """Numbers as they are; an interval has three columns."""
    wide = [any(isinstance(row[index], Interval) for row in table.rows) for index in range(len(table.header))]
    header = [
        name
        for title, three in zip(table.header, wide, strict=True)
        for name in ([title, f"{title} low", f"{title} high"] if three else [title])
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, PLACES])
    for row, places in zip(table.rows, table.places, strict=True):
        cells = [value for cell, three in zip(row, wide, strict=True) for value in _plain(cell, three)]
        writer.writerow([*cells, ";".join(places)])
    return text.getvalue()


def _plain(cell: Cell, three: bool) -> Sequence[str]:
    if isinstance(cell, Interval):
        return [_number(value) for value in (cell.mean, cell.low, cell.high)]
    value = _number(cell) if isinstance(cell, float) else str(cell)
    return [value, "", ""] if three else [value]


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def as_markdown(table: Table) -> str:
    """The table with its title and note."""
    clean: Callable[[str], str] = lambda text: text.replace("|", "\\|").replace("\n", " ")  # noqa: E731
    lines = [[*table.header, PLACES], ["---"] * (len(table.header) + 1)]
    lines += [
        [*(clean(table.text(cell)) for cell in row), clean(", ".join(places))]
        for row, places in zip(table.rows, table.places, strict=True)
    ]
    body = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{table.title}\n\n{body}" + (f"\n{table.note}\n" if table.note else "")


def as_latex(table: Table) -> str:
    """A ``tabular`` with the rules of booktabs; the run folders stand behind each row as a comment."""
    lines = [
        f"% {_one_line(table.title)}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(latex(title) for title in table.header) + r" \\",
        r"\midrule",
    ]
    for row, places in zip(table.rows, table.places, strict=True):
        comment = f" % {_one_line(', '.join(places))}" if places else ""
        lines.append(" & ".join(latex(table.text(cell)) for cell in row) + r" \\" + comment)
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *([f"% {_one_line(table.note)}"] if table.note else [])]) + "\n"


def latex(text: str) -> str:
    """A text for LaTeX: special characters are written out, and the sign of a number is a minus."""
    escaped = "".join(_LATEX.get(character, character) for character in _one_line(text))
    words = escaped.split(" ")
    return " ".join(
        f"{word[: len(word) - len(word.lstrip('['))]}$-${word.lstrip('[')[1:]}" if _is_negative(word) else word
        for word in words
    )


def _is_negative(word: str) -> bool:
    bare = word.lstrip("[")
    return len(bare) > 1 and bare[0] == "-" and bare[1].isdigit()


def _one_line(text: str) -> str:
    return " ".join(text.split())
