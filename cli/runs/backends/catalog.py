"""The backends by name, as the options of a study choose them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.runs.backends.base import Backend
from cli.runs.backends.local import Local
from kd_env.core import checks
from kd_env.core.clusters.packages import require

LOCAL, RAY, SLURM = "local", "ray", "slurm"
_PACKAGES = {RAY: "ray", SLURM: "submitit"}
"""By backend; the extra has the name of the backend."""
_OWN = {RAY: "ray_", SLURM: "slurm_"}
"""How the options begin that are of one backend."""


def jobs_of(options: Mapping[str, Any]) -> int | None:
    """Trainings at the same time; None: all that have a place. Raises ``ValueError`` for anything but a number."""
    jobs: int | None = options["jobs"]
    if jobs is not None:
        checks.whole(1)("jobs", jobs)
        return jobs
    return max(1, (os.cpu_count() or 1) // options["cpus"]) if options["backend"] == LOCAL else None


def check_backend(options: Mapping[str, Any], device: str, defaults: Mapping[str, Any]) -> None:
    """Check the options of a backend, before anything is opened.

    Args:
        options: of the study.
        device: of the main job.
        defaults: of the study's options.

    Raises:
        ValueError: an absent package, with its extra; an option of another backend, or devices that do not fit.
    """
    backend, gpus = options["backend"], options["gpus"]
    jobs_of(options)
    if backend in _PACKAGES:
        require(_PACKAGES[backend], backend, f"backend={backend}")
    for other, beginning in _OWN.items():
        changed = [key for key in options if key.startswith(beginning) and options[key] != defaults[key]]
        if other != backend and changed:
            raise ValueError(f"{changed[0]}={options[changed[0]]!r} is for backend={other}, and backend={backend}.")
    if backend == LOCAL:
        if gpus:
            raise ValueError(
                f"gpus={gpus} is for backend=ray and backend=slurm; trainings here share the devices of this machine: "
                "leave it out, or set backend=ray, which gives each training its own (one machine is enough)."
            )
    elif device.startswith("cuda") and not gpus:
        raise ValueError(f"device={device} needs gpus=1 (or a share, as 0.25) of each training with backend={backend}.")
    elif device == "cpu" and gpus:
        raise ValueError(f"device=cpu uses no device, and gpus={gpus} asks for some: leave one of them out.")
    if gpus and gpus != int(gpus) and (backend == SLURM or gpus > 1):
        raise ValueError(f"gpus={gpus} must be a whole number; only backend=ray gives shares of one, below 1.")


def opened(options: Mapping[str, Any], study: Path, cache: Path | None) -> Backend:
    """The backend of a study: a context, which connects and checks what can only be known then.

    Args:
        options: of the study, checked.
        study: its folder.
        cache: folder of teachers and their outputs; None where they play no part.
    """
    jobs, cpus, gpus, retries = jobs_of(options), options["cpus"], options["gpus"], options["retries"]
    folders = {"runs_dir": study} if cache is None else {"runs_dir": study, "cache_dir": cache}
    if options["backend"] == RAY:
        from cli.runs.backends.ray_cluster import RayCluster

        return RayCluster(jobs, cpus, gpus, retries, options["ray_address"], folders)
    if options["backend"] == SLURM:
        from cli.runs.backends.slurm import Limits, Slurm

        limits = Limits(
            cluster=options["slurm_cluster"],
            partition=options["slurm_partition"],
            account=options["slurm_account"],
            minutes=options["slurm_minutes"],
            memory_gb=options["slurm_memory_gb"],
            options=options["slurm_options"],
        )
        return Slurm(jobs, cpus, int(gpus), retries, study, folders, limits)
    assert jobs is not None, "a number of processes here"
    return Local(jobs, cpus)
