"""Types of the options that jobs share, checked where a configuration is put together: no job meets another kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cli.runs.loggers.catalog import check_loggers
from kd_env.core import checks


def _device(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        checks.refuse(name, value, "auto, cpu, cuda or cuda:<n>")


def _share(name: str, value: Any) -> None:
    if not checks.is_number(value) or not 0 < value < 1:
        checks.refuse(name, value, "a share of the steps, above 0 and below 1")


VALUES: dict[str, checks.Check] = {
    **dict.fromkeys(("resume", "progress", "overwrite"), checks.boolean),
    "threads": checks.optional(checks.whole(1)),
    "runs_dir": checks.filled,
    **dict.fromkeys(
        ("cache_dir", "output", "out", "rows", "data_dir", "task.data_dir"), checks.optional(checks.filled)
    ),
    **dict.fromkeys(("device", "agent_device"), _device),
    **dict.fromkeys(("task.name", "agent.name"), checks.text),
    **dict.fromkeys(("columns", "task.columns"), checks.optional(checks.mapping)),
    **dict.fromkeys(("teacher.path", "teacher.callable", "teacher.name_or_path"), checks.optional(checks.filled)),
    "pruning": checks.one_of("none", "median"),
    "pruning_at": _share,
    "backend": checks.one_of("local", "ray", "slurm"),
    "cpus": checks.whole(1),
    "gpus": checks.within(0),
    "retries": checks.whole(0),
    **dict.fromkeys(("ray_address", "slurm_partition", "slurm_account"), checks.optional(checks.filled)),
    "slurm_cluster": checks.one_of("slurm", "local"),
    "slurm_minutes": checks.whole(1),
    "slurm_memory_gb": checks.optional(checks.positive),
    "slurm_options": checks.mapping,
    "pause.at": checks.optional(checks.whole(1)),
    "pause.seeds": checks.whole(1, 100_000),
    "pause.first_seed": checks.whole(0),
    "logger": check_loggers,
    "logger_project": checks.filled,
    "agent.from": checks.optional(checks.filled),
    "agent.label": checks.optional(checks.text),
    "agent.options": checks.mapping,
}
"""By dotted key; jobs without an option of that name pass."""


def check_values(options: Mapping[Any, Any]) -> None:
    """Refuse a value of another type.

    Raises:
        ValueError: the first such option, with its value and what is allowed.
    """
    for key, check in VALUES.items():
        *sections, name = key.split(".")
        values: Any = options
        for section in sections:
            values = values.get(section, {})
        if name in values:
            check(key, values[name])
