"""What the pages of the documentation show is run or composed as it stands: Python blocks, commands and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from docs.house import ROOT
from docs.site import generate
from kd_env.knowledge import TERMS
from tests.shown_commands import check_command, commands_in, python_blocks

DOCS = ROOT / "docs"
SOURCES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
ELSEWHERE = {"libraries.md", "plugins.md"}
"""Their blocks are run by tests/command_line/test_libraries.py, and quoted from what test_plugins.py installs."""
TUTORIALS = "tutorials/"
"""Their blocks are cells, which test_notebooks.py runs."""
MADE = generate.pages()
COMMANDS = {page: found for page, text in {**SOURCES, **MADE}.items() if (found := commands_in(text))}
WITH_PYTHON = [page for page, text in SOURCES.items() if page not in ELSEWHERE and python_blocks(text)]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(TERMS)
    for block in python_blocks(SOURCES[page]):
        exec(compile(block, page, "exec"), {"__name__": "shown"})
    assert set(TERMS) == before


def test_pages_of_the_site_show_python() -> None:
    assert {"index.md", "environments.md", "terms.md", "rules.md", "protocol.md"} < set(WITH_PYTHON)
    assert not [page for page, text in MADE.items() if python_blocks(text) and not page.startswith(TUTORIALS)]


@pytest.mark.parametrize("page", COMMANDS)
def test_commands_are_valid(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # paths in them are seen from a checkout
    monkeypatch.delenv("KD_ENV_RUNS", raising=False)
    for line in COMMANDS[page]:
        try:
            check_command(line)
        except (ValueError, AssertionError) as error:
            raise AssertionError(f"docs/{page}: {line}\n{error}") from error


def test_a_command_that_is_refused_is_found() -> None:
    for line in (
        "python train_agent.py task=no_such_task",
        "kd-env trian",
        "kd-env bench no_such_benchmark",
        "kd-env study agents=[no_such_agent]",
        "kd-env report",
    ):
        with pytest.raises((ValueError, AssertionError)):
            check_command(line)


@pytest.mark.parametrize("page", SOURCES)
def test_links_work_in_the_repository(page: str) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", SOURCES[page], flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        path, _, _ = target.partition("#")
        if path and "://" not in path:
            assert ((DOCS / page).parent / path).exists(), f"docs/{page}: {target}"


def test_headings_of_a_page_are_told_apart() -> None:
    """An anchor that is there twice leads to the first alone."""
    for page, text in {**SOURCES, **MADE}.items():
        plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        twice = {name for name, count in Counter(re.findall(r"^#+ (.+)$", plain, re.MULTILINE)).items() if count > 1}
        assert not twice, f"{page}: {twice}"
