"""What README.md shows runs as written: Python blocks are executed, commands are parsed and checked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from agents import RULES
from agents.catalog import AGENTS
from agents.sb3.algorithms import ALGORITHMS
from cli.commands import COMMANDS
from cli.jobs.evaluate import split_run
from cli.jobs.studies.grid import problems_of
from cli.jobs.studies.registered import registration_of
from cli.jobs.study import plan
from cli.settings.compose import compose, resolve_overrides
from cli.settings.kinds.language_models import mlm_config
from cli.settings.options import split_options
from cli.settings.read import read_settings
from cli.settings.teachers import teacher_config
from kd_env.data.tasks import EMBEDDED, GLUE
from kd_env.decisions.catalog import DECISIONS
from kd_env.knowledge import TERMS
from kd_env.mdp.rewards import REWARDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        for block in blocks("python"):
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


@pytest.mark.parametrize("line", commands())
def test_commands_are_valid(line: str) -> None:
    words = shlex.split(line.split("&&")[-1], comments=True)
    if words[0] == "pytest":
        return
    if words[0] == "torchrun":
        words = ["python", *words[words.index("train_agent.py") :]]
    if words[:2] == ["python", "train_agent.py"]:
        name, overrides = "train", words[2:]
    else:
        assert words[0] == "kd-env"
        name, overrides = words[1], words[2:]
    assert name in COMMANDS
    if "--help" in overrides:
        return
    if "-m" in overrides:
        assert resolve_overrides("config", [word for word in overrides if word != "-m"], sweep=True)
        return
    if name == "bench":
        assert not overrides
        return
    if name == "watch":
        assert not [word for word in overrides if "=" in word]
        return
    if name == "study":
        options, others = split_options("study", overrides)
        if options["study"] is None:
            assert plan(options, others)
        else:  # its cells are composed by tests/command_line/test_registered.py
            assert problems_of(registration_of(options, others, overrides)[0])
        return
    if name == "evaluate" and any(word.startswith("students=") for word in overrides):
        options, others = split_options("downstream", overrides)
        assert not others and set(options["students"]) == {"none", "samples"}
        return
    if name == "glue":
        options, others = split_options("glue", overrides)
        assert not others and set(options["students"]) == {"samples"} and options["tasks"] == ["toy"]
        return
    if name == "evaluate":
        _, overrides = split_run(overrides)
    config = compose(COMMANDS[name].config, overrides)
    if name == "teacher" and config["objective"] == "mlm":
        assert mlm_config(config)
    elif name == "teacher":
        teacher_config(config, config["output"])
    else:
        read_settings(config)


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
