"""The main job: ``python train_agent.py [key=value ...]``; ``-m`` sweeps over values separated by commas."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from cli.errors import guarded
from cli.main import run
from cli.settings.read import default_name

PROGRAM = "python train_agent.py"
SWEEP_FLAGS = ("-m", "--multirun")


def main() -> int:
    """Run the job, or a sweep of them; the exit status."""
    words = sys.argv[1:]
    if not any(word in SWEEP_FLAGS for word in words):
        return run("train", words, PROGRAM)
    overrides = [word for word in words if word not in (*SWEEP_FLAGS, "--debug")]
    return guarded(lambda: _sweep(overrides), PROGRAM, debug="--debug" in words)


def _sweep(overrides: list[str]) -> None:
    """Every combination of the values, by Hydra's sweeper and launcher; a name of its own for each run folder."""
    import hydra

    from cli.settings.compose import resolve_overrides, swept_keys

    checked = resolve_overrides("config", overrides, sweep=True)
    swept = swept_keys(overrides)

    def job(_: Any) -> float | None:
        return _run_one(swept)

    sys.argv = [sys.argv[0], "-m", *checked]
    hydra.main(version_base="1.3", config_path="configs", config_name="config")(job)()


def _run_one(swept: list[str]) -> float | None:
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
        folder = train(overrides, shlex.join([*PROGRAM.split(), *overrides]))
        found.append(objective_of(folder))

    status = guarded(job, PROGRAM, debug=False)
    if status:
        sys.exit(status)
    return found[0]


def sweep_name(config: Mapping[str, Any], overrides: list[str], swept: list[str]) -> str:
    """Folder name of one job: the usual one and whatever else the sweep varies, so that no two jobs share one."""
    values = dict(text.split("=", 1) for text in overrides)
    varied = [f"{key}_{values[key]}" for key in swept if key not in ("seed", "task", "agent", "experiment")]
    name = "-".join([default_name(config), *varied])
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    return name if len(name) <= 120 else f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


if __name__ == "__main__":
    sys.exit(main())
