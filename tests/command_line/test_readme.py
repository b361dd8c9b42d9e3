"""What README.md shows runs as written: Python blocks are executed, commands are parsed and checked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agents import RULES
from agents.catalog import AGENTS
from agents.sb3.algorithms import ALGORITHMS
from kd_env.data.tasks import EMBEDDED, GLUE
from kd_env.decisions.catalog import DECISIONS
from kd_env.knowledge import TERMS
from kd_env.mdp.rewards import REWARDS
from tests.shown_commands import check_command, commands_in, python_blocks

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        for block in python_blocks(TEXT):
            exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    finally:
        TERMS._items.pop("confidence", None)
    assert re.search(r"gap closed: -?\d\.\d{3}", capsys.readouterr().out)
    assert (tmp_path / "student" / "model.safetensors").is_file()


def test_set_up_is_two_commands() -> None:
    section = TEXT.split("## Set-up")[1].split("\n## ")[0]
    first = re.findall(r"^```sh\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert len(first) == 1
    lines = first[0].splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("pip install -c constraints.txt -e .") and lines[0].endswith("python train_agent.py")
    assert lines[1].startswith("pip install -c constraints.txt -e ") and lines[1].endswith("pytest")


@pytest.mark.parametrize("line", commands_in(TEXT))
def test_commands_are_valid(line: str) -> None:
    check_command(line)


def test_the_table_of_names_is_complete() -> None:
    table = TEXT.split("## Names")[1].split("\n## ")[0]
    expected = {
        "tasks": {*GLUE, *EMBEDDED, "custom"},
        "agents": {*AGENTS, *ALGORITHMS, "sb3/"},
        "rules": {*RULES},
        "knowledge terms": set(TERMS) - {"confidence"},
        "rewards": {*REWARDS},
    }
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", table, flags=re.MULTILINE))
    for kind, names in expected.items():
        assert set(re.findall(r"`([^`]+)`", rows[kind])) == names, kind
    views = set(re.findall(r"`([^`]+)`", rows["action views"]))
    assert views == {view for name in DECISIONS for view in DECISIONS[name].view_names()}
