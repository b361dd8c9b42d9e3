"""Options of ``kd-env export``, checked before any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cli.settings.options import flag, split_folders, whole
from kd_env.core import checks
from kd_env.core.clusters.packages import require

OPSETS = (18, 23)
"""First and last version of the operators that the exporter of torch writes."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


class ExportOptions(NamedTuple):
    """What ``configs/export.yaml`` says."""

    patterns: list[str]
    out: Path
    overwrite: bool
    by: str | None
    onnx: bool
    opset: int
    tolerance: float
    int8: bool
    repeats: int
    licence: str | None
    push_to_hub: str | None
    private: bool
    progress: bool


def read_export(words: Sequence[str]) -> ExportOptions:
    """The words of the command.

    Raises:
        ValueError: an option that does not fit, with the remedy, or a package that is absent.
    """
    c, patterns = split_folders("export", words)
    if c["run"] is not None:
        patterns = [text("run", c["run"]), *patterns]
    if not patterns:
        raise ValueError("Name a run: kd-env export run=<run folder> out=<folder>.")
    checks.whole(*OPSETS)("opset", c["opset"])
    options = ExportOptions(
        patterns,
        _out(c["out"], patterns),
        flag("overwrite", c["overwrite"]),
        None if c["by"] is None else text("by", c["by"]),
        flag("onnx", c["onnx"]),
        c["opset"],
        _tolerance(c["tolerance"]),
        flag("int8", c["int8"]),
        whole("repeats", c["repeats"], 1),
        None if c["license"] is None else text("license", c["license"]),
        None if c["push_to_hub"] is None else _hub_name(c["push_to_hub"]),
        flag("private", c["private"]),
        flag("progress", c["progress"]),
    )
    if options.int8 and not options.onnx:
        raise ValueError("int8=true quantises the ONNX file: add onnx=true.")
    if options.private and options.push_to_hub is None:
        raise ValueError("private=true is for the repository of push_to_hub=<user>/<name>, which is not given.")
    for package in _PACKAGES if options.onnx else ():
        require(package, "onnx", "onnx=true")
    return options


def text(key: str, value: Any) -> str:
    """A value that is text; raises ``ValueError`` for anything else."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}={value!r} must be text.")
    return value


def _out(value: Any, patterns: Sequence[str]) -> Path:
    if value is not None:
        return Path(text("out", value)).expanduser()
    if len(patterns) != 1 or not Path(patterns[0]).expanduser().is_dir():
        raise ValueError("Say where the student goes: out=<folder>.")
    return Path(patterns[0]).expanduser() / "export"


def _tolerance(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"tolerance={value!r} must be a number above 0 and at most 1, as 0.0001.")
    return float(value)


def _hub_name(value: Any) -> str:
    name = text("push_to_hub", value)
    if not _HUB_NAME.fullmatch(name):
        raise ValueError(f"push_to_hub={name!r} must be <user>/<name>, as the hub names repositories.")
    return name
