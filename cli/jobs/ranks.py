"""The main job in several processes that ``torchrun`` or ``accelerate launch`` started to train each student together.

All of them do the same. The first one, the leader, has the run folder; what the others write lies in folders of their
own, which begin as copies of it and are gone at the end.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.settings.kinds.base import Settings
from kd_env.numerics import ranks


def several() -> bool:
    """Whether a launcher started this process among others."""
    return ranks.world_size() > 1


def check(settings: Settings[Any]) -> None:
    """Refuse what several processes cannot do together, before they meet.

    Raises:
        ValueError: with the remedy.
    """
    world, c = ranks.world_size(), settings.resolved
    if c["vectorization"] not in ("auto", "stacked"):
        raise ValueError(
            f"vectorization={c['vectorization']} has students in processes of their own, and {world} processes train "
            "each of them together here; leave it out, or start one process."
        )
    if settings.env.batch_size % world:
        raise ValueError(
            f"env.batch_size={settings.env.batch_size} cannot be shared alike between {world} processes; choose a "
            f"multiple of {world}, or start another number of them."
        )


@contextmanager
def joined(settings: Settings[Any]) -> Iterator[Settings[Any]]:
    """Meet the other processes; the settings of this one.

    Args:
        settings: checked.

    Raises:
        ValueError: what cannot be done together, or no way to the others.
    """
    check(settings)
    group = ranks.join()
    shared = dataclasses.replace(settings, env=dataclasses.replace(settings.env, data_parallel=True))
    group.check_same("files in the run folder", *_files(settings.run_folder))
    if group.rank == 0:
        jobs = settings.resolved["evaluation"]["jobs"]
        print(f"{group.world} ranks train each student together, and judge it in place of evaluation.jobs={jobs}.")
        group.wait()  # until the others have their copies
        yield shared
        return
    with tempfile.TemporaryDirectory(prefix=f"kd-env-rank{group.rank}-") as place, _silent():
        folder = Path(place) / settings.run_folder.name
        if settings.run_folder.is_dir():
            shutil.copytree(settings.run_folder, folder)
        group.wait()
        own = {**shared.resolved, "runs_dir": place, "progress": False, "logger": []}
        yield dataclasses.replace(shared, run_folder=folder, resolved=own)


def _files(folder: Path) -> list[bytes]:
    """Names of what lies in a folder, in order: where they differ, not all processes see the same one."""
    return sorted(str(path.relative_to(folder)).encode() for path in folder.rglob("*")) if folder.is_dir() else []


@contextmanager
def _silent() -> Iterator[None]:
    """What the leader says is said once; errors are on the other channel."""
    before = sys.stdout
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = nowhere
        try:
            yield
        finally:
            sys.stdout = before
