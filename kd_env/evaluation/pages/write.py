"""A report as files: the page, every figure as PNG and SVG, every table as CSV, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path

from kd_env.evaluation.pages.contents import Study
from kd_env.evaluation.pages.figures.drawing import as_file
from kd_env.evaluation.pages.html import page
from kd_env.evaluation.pages.sections import sections
from kd_env.evaluation.pages.tables import as_csv, as_latex, as_markdown
from kd_env.evaluation.pages.verdict import verdicts
from kd_files.writing import atomic_write

PAGE, FIGURES, TABLES = "report.html", "figures", "tables"
POLICIES = "policies"
"""The picture that compares the policies on dev, which is always a PNG, too."""


def write_page(folder: Path, study: Study, *, files: bool = True) -> Path:
    """Write ``report.html`` and, with ``files``, ``figures/`` and ``tables/``; the page.

    Args:
        folder: made where it is missing; the page is written last.
        study: what was read.
        files: whether figures and tables are written beside the page; else ``policies.png`` alone.
    """
    parts = sections(study, png=files)
    if files:
        for name in (FIGURES, TABLES):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for picture in (picture for part in parts for picture in part.pictures):
            atomic_write(folder / FIGURES / f"{picture.name}.svg", as_file(picture.svg))
            atomic_write(folder / FIGURES / f"{picture.name}.png", picture.png)
        for table in (table for part in parts for table in part.tables):
            for ending, write in (("csv", as_csv), ("md", as_markdown), ("tex", as_latex)):
                atomic_write(folder / TABLES / f"{table.name}.{ending}", write(table))
    else:
        shown = next(picture for part in parts for picture in part.pictures if picture.name == POLICIES)
        atomic_write(folder / f"{POLICIES}.png", shown.png)
    atomic_write(folder / PAGE, page(study, verdicts(study), parts))
    return folder / PAGE
