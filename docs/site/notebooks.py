"""Tutorials: notebooks without outputs, shown as pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def cells(path: Path) -> list[tuple[str, str]]:
    """Kind (``markdown`` or ``code``) and text of every cell."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]


def as_page(path: Path) -> str:
    """A notebook as Markdown, with a line that says where it is."""
    parts = [text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells(path)]
    where = f"*A notebook to run: `docs/tutorials/{path.name}`.*"
    return "\n\n".join([parts[0], where, *parts[1:]]) + "\n"
