"""``-m``: every combination of the values that commas separate, or what a sweeper of Hydra proposes."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cli.errors import guarded
from cli.settings.read import default_name


def sweep(overrides: Sequence[str], program: str) -> None:
    """Run the main job for each set of values, by Hydra's sweeper and launcher; a name of its own for each run folder.

    Args:
        overrides: of the configuration, without the flag.
        program: how the job was called, for the command of each run and for messages.

    Raises:
        ValueError: an option that is unknown, before any job begins.
        SystemExit: a job failed; it has told why.
    """
    import hydra

    from cli.settings.compose import resolve_overrides, swept_keys
    from cli.settings.presets import PACKAGE

    checked = resolve_overrides("config", list(overrides), sweep=True)
    swept = swept_keys(list(overrides))

    def job(_: Any) -> float | None:
        return _run_one(swept, program)

    sys.argv = [sys.argv[0], "-m", *checked]
    hydra.main(version_base="1.3", config_path=f"pkg://{PACKAGE}", config_name="config")(job)()


def _run_one(swept: Sequence[str], program: str) -> float | None:
    """One job of a sweep; what a sweeper that optimises is told of it."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from cli.jobs.train import train
    from cli.runs.objective import objective_of
    from cli.settings.compose import compose

    overrides = [text.lstrip("+") for text in HydraConfig.get().overrides.task]
    GlobalHydra.instance().clear()  # train() composes again, which Hydra refuses while it is initialised
    found: list[float | None] = []

    def job() -> None:
        if not any(text.startswith("name=") for text in overrides):
            overrides.append(f"name={sweep_name(compose('config', overrides), overrides, swept)}")
        folder = train(overrides, shlex.join([*program.split(), *overrides]))
        found.append(objective_of(folder))

    status = guarded(job, program, debug=False)
    if status:
        sys.exit(status)
    return found[0]


def sweep_name(config: Mapping[str, Any], overrides: Sequence[str], swept: Sequence[str]) -> str:
    """Folder name of one job: the usual one and whatever else the sweep varies, so that no two jobs share one."""
    values = dict(text.split("=", 1) for text in overrides)
    varied = [f"{key}_{values[key]}" for key in swept if key not in ("seed", "task", "agent", "experiment")]
    name = "-".join([default_name(config), *varied])
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return name if len(name) <= 120 else f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
