"""Docstrings as Markdown: they are written for Sphinx's roles and tables, which Markdown does not know."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")
_RULE = re.compile(r"^=+( +=+)+$")
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
SOURCE = re.compile(
    r"[A-Z][\w-]+(?: and [A-Z][\w-]+| et al\.)?"  # authors
    r",? (?:[A-Z]\w+ of )?[A-Z]*[\w ]*(?:19|20)\d\d"  # where, and when
)
"""A citation in running text, as ``Sun et al., EMNLP 2019``, ``Wang et al. 2022`` or ``Ba and Caruana, NIPS 2014``."""


def markdown(text: str) -> str:
    """A docstring as Markdown: roles as code, simple tables as pipe tables.

    Args:
        text: the docstring, as it stands in the source or cleaned.
    """
    found = "\n".join(piped(inspect.cleandoc(text).splitlines()))
    return re.sub(r"``([^`]+)``", r"`\1`", roles(found))


def roles(text: str) -> str:
    """Text in which ``:class:`kd_env.x.Name``` is the code ``Name``, and a module its whole name."""
    return _ROLE.sub(lambda match: f"`{_short(match[0], match[1])}`", text)


def summary(text: str | None) -> str:
    """The first paragraph of a docstring as one line of Markdown."""
    return " ".join(markdown((text or "").split("\n\n")[0]).split())


def body(text: str | None) -> str:
    """What follows the first paragraph, as Markdown."""
    return markdown("\n\n".join(inspect.cleandoc(text or "").split("\n\n")[1:]))


def prose(text: str | None) -> str:
    """A docstring without its sections (``Args`` and the like), as Markdown."""
    kept = []
    for line in inspect.cleandoc(text or "").splitlines():
        if _SECTION.match(line):
            break
        kept.append(line)
    return markdown("\n".join(kept)).rstrip()


def arguments(text: str | None) -> dict[str, str]:
    """The entries of the section ``Args`` by name, each as one line of Markdown."""
    found: dict[str, str] = {}
    inside = False
    for line in inspect.cleandoc(text or "").splitlines():
        if _SECTION.match(line):
            inside = line == "Args:"
        elif inside and (match := re.match(r"^    (\w+): (.*)$", line)):
            found[match[1]] = match[2]
        elif inside and found and line.startswith("        "):
            found[list(found)[-1]] += f" {line.strip()}"
    return {name: markdown(value) for name, value in found.items()}


def cell(text: object) -> str:
    """Text that can stand in a cell of a table; in code a pipe is none of its borders."""
    words = " ".join(str(text).split())
    return re.sub(r"(`+).+?\1|\|", lambda found: "\\|" if found[0] == "|" else found[0], words)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A pipe table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in row) + " |" for row in lines)


def sources(text: str | None) -> list[str]:
    """Citations in a text, in their order, each once."""
    plain = " ".join((text or "").replace("(", "").replace(")", "").split())
    return list(dict.fromkeys(match[0].strip() for match in SOURCE.finditer(plain)))


def _short(role: str, target: str) -> str:
    return target if role.startswith((":mod:", ":data:")) else target.rsplit(".", 1)[-1]


def piped(lines: list[str]) -> list[str]:
    """Simple tables (rules of ``=`` above, below the header and at the end) as pipe tables; else the same lines."""
    found: list[str] = []
    place = 0
    while place < len(lines):
        if not _RULE.match(lines[place].strip()):
            found.append(lines[place])
            place += 1
            continue
        indent = len(lines[place]) - len(lines[place].lstrip())
        rule, ends = lines[place].strip(), [place]
        while len(ends) < 3:
            ends.append(next(i for i in range(ends[-1] + 1, len(lines)) if _RULE.match(lines[i].strip())))
        columns = [match.span() for match in re.finditer(r"=+", rule)]
        rows: list[list[str]] = []
        for line in lines[ends[1] + 1 : ends[2]]:
            cells = _cells(line[indent:], columns)
            if cells[0] or not rows:
                rows.append(cells)
            else:  # the first column is empty where a line goes on with the row above
                rows[-1] = [f"{above} {more}".strip() for above, more in zip(rows[-1], cells, strict=True)]
        header = _cells(" ".join(lines[ends[0] + 1 : ends[1]])[indent:], columns)
        found += ["", *table(header, rows).splitlines(), ""]
        place = ends[2] + 1
    return found


def _cells(line: str, columns: list[tuple[int, int]]) -> list[str]:
    starts = [start for start, _ in columns]
    return [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
