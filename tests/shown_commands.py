"""Commands that README and docs show: composed and checked as the command line would, before any work."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex

from cli.commands import COMMANDS
from cli.jobs import bench
from cli.jobs.evaluate import split_run
from cli.jobs.exports.options import read_export
from cli.jobs.studies.grid import problems_of
from cli.jobs.studies.registered import registration_of
from cli.jobs.study import plan
from cli.jobs.tuning.command import plan as search_plan
from cli.settings.compose import compose, resolve_overrides
from cli.settings.kinds.language_models import mlm_config
from cli.settings.options import split_folders, split_options, split_place
from cli.settings.read import read_settings
from cli.settings.teachers import teacher_config

ELSEWHERE = {"pip", "pytest", "ray"}
"""Programs of others: their words are not ours to check."""


def python_blocks(text: str) -> list[str]:
    """Python blocks of a page."""
    return _blocks(text, "python")


def commands_in(text: str) -> list[str]:
    """Commands of the shell blocks of a page, with their variables put in; long ones in one line."""
    found, variables = [], {"M": ""}
    for block in _blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.fullmatch(r'([A-Z]+)="(.*)"', line):
                variables[match[1]] = match[2]
            elif line.strip() and not line.startswith("#"):
                found.append(re.sub(r"\$([A-Z]+)\b", lambda match: variables[match[1]], line))
    return found


def check_command(line: str) -> None:
    """Raise where the command line would refuse a command, or does not know it."""
    words = shlex.split(line.split("&&")[-1], comments=True)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[0] in ELSEWHERE:
        return
    if words[0] == "torchrun" or words[:2] == ["accelerate", "launch"]:
        words = ["python", *words[words.index("train_agent.py") :]]
    if words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words
        return
    if words[:2] == ["python", "train_agent.py"]:
        name, overrides = "train", words[2:]
    else:
        assert words[0] == "kd-env", line
        name, overrides = words[1], words[2:]
    assert name in COMMANDS, line
    if "--help" not in overrides:
        _check(name, overrides)


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def _check(name: str, overrides: list[str]) -> None:
    if name == "train" and "-m" in overrides:
        _check_sweep([word for word in overrides if word != "-m"])
    elif name == "bench":
        _check_bench(overrides)
    elif name == "watch":
        assert not [word for word in overrides if "=" in word]
    elif name in ("report", "compare", "power"):
        assert split_folders(name, overrides)[1]
    elif name == "estimate":
        _check(overrides[0] if overrides[0] in ("train", "study") else "train", overrides[1:])
    elif name == "study":
        _check_study(overrides)
    elif name == "export":
        assert read_export(overrides).patterns
    elif name == "tune":
        options, others = split_options("tune", overrides)
        assert search_plan(options, *split_place(others))
    elif name == "glue":
        options, others = split_options("glue", overrides)
        assert not split_place(others)[1] and (options["students"] or options["check"])
    elif name == "evaluate" and any(word.startswith("students=") for word in overrides):
        options, others = split_options("downstream", overrides)
        assert options["students"] and not others
    else:
        _check_job(name, split_run(overrides)[1] if name == "evaluate" else overrides)


def _check_sweep(words: list[str]) -> None:
    if not any(word.startswith("hydra/") for word in words):  # sweepers are plug-ins of Hydra
        assert resolve_overrides("config", words, sweep=True)


def _check_bench(words: list[str]) -> None:
    if words:
        assert words[0] in bench.NAMES, words
        module = importlib.import_module(f"benchmarks.{words[0]}")
        given = dict(word.split("=", 1) for word in words[1:])
        if words[0] == "gpu":  # there need be no device where the page is checked
            given.setdefault("device", "cpu")
        assert bench.parse(module.Options, given)


def _check_study(overrides: list[str]) -> None:
    options, others = split_options("study", overrides)
    if options["study"] is None:
        assert plan(options, others)
    elif not str(options["study"]).endswith(".yaml"):  # cells are composed by tests/command_line/test_registered.py
        assert problems_of(registration_of(options, others, overrides)[0])


def _check_job(name: str, overrides: list[str]) -> None:
    config = compose(COMMANDS[name].config, overrides)
    if name == "teacher" and config["rows"]:  # rows to be answered need no teacher
        assert str(config["rows"]).endswith(".parquet")
    elif name == "teacher" and config["objective"] == "mlm":
        assert mlm_config(config)
    elif name == "teacher":
        teacher_config(config, config["output"])
    else:
        read_settings(config)
