"""The tutorials are played as they are, with warnings as errors, one of them in a kernel; no output is kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pytest
from nbclient import NotebookClient

from docs.house import ROOT
from docs.site.notebooks import as_page, cells
from tests.here import Here

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
IN_A_KERNEL = "own_decision"
"""It registers a decision, which no other test should meet."""
STRICT = "import warnings\n\nwarnings.simplefilter('error')"


def test_the_tutorials_are_there() -> None:
    assert {path.stem for path in TUTORIALS} == {"first_agent", "csv_to_student", "own_decision", "reproduce_table"}


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_notebook_is_one_and_holds_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    kind, title = cells(path)[0]
    assert kind == "markdown" and title.startswith("# ")
    page = as_page(path)
    assert all(text in page for _, text in cells(path)) and f"`docs/tutorials/{path.name}`" in page


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a notebook is played in."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # fonts are not looked for again
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", [path for path in TUTORIALS if path.stem != IN_A_KERNEL], ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells as a kernel takes them, in one namespace, without the start of a kernel or of a study's process."""
    monkeypatch.setattr("cli.jobs.study.opened", lambda *_: Here())
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.stem} cell {number}", "exec", dont_inherit=True), names)


@pytest.mark.timeout(400)
def test_a_notebook_runs_in_a_kernel(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(there / "ipython"))
    notebook = nbformat.read(ROOT / "docs" / "tutorials" / f"{IN_A_KERNEL}.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(there)}})
    asyncio.run(client.async_execute())
    played = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in played)
    assert not [out for cell in played for out in cell.outputs if out.output_type == "error"]
