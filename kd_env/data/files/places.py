"""Where the files of a split lie: one file, or the numbered parts that the hub keeps."""

from __future__ import annotations

import re
from pathlib import Path

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")
_SHOWN = 12
_PART = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?\.parquet")


def find_tables(data_dir: str, task: str, split: str) -> tuple[Path, ...]:
    """Files of a split: ``<data_dir>/<task>/<split>.*``, or the hub's ``<split>-00000-of-00001.parquet`` and so on.

    For ``custom`` they may also lie in ``data_dir`` itself or in its folder ``data``. Empty where there is none.

    Raises:
        ValueError: ``data_dir`` is no folder, parts are missing, or several files hold the split.
    """
    found: list[tuple[Path, ...]] = []
    for folder in _folders(data_dir, task):
        found += [(path,) for ending in FORMATS if (path := folder / f"{split}{ending}").is_file()]
        parts = _parts(folder, split)
        found += [parts] if parts else []
    if len(found) > 1:
        places = ", ".join(str(files[0]) for files in found)
        raise ValueError(
            f"The {split} split of task {task!r} is there more than once: {places}. Only one of them can be meant; "
            "rename or remove the others."
        )
    return found[0] if found else ()


def listing(data_dir: str, task: str) -> str:
    """What the places searched by :func:`find_tables` hold, in words."""
    folders = [folder for folder in _folders(data_dir, task) if folder.is_dir()] or [Path(data_dir).expanduser()]
    return "; ".join(f"in {folder}: {_names(folder)}" for folder in folders)


def _names(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more]) or "(nothing)"


def _folders(data_dir: str, task: str) -> list[Path]:
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise ValueError(f"data_dir={data_dir!r} is no folder; give the folder that holds {task}/train.parquet.")
    return [root / task, root, root / "data"] if task == "custom" else [root / task]


def _parts(folder: Path, split: str) -> tuple[Path, ...]:
    """The numbered parts of a split in order."""
    named = {
        path: match
        for path in sorted(folder.glob(f"{split}-*.parquet"))
        if (match := _PART.fullmatch(path.name, len(split)))
    }
    if not named:
        return ()
    total = max(int(match[2]) for match in named.values())
    numbers = [(int(match[1]), int(match[2])) for match in named.values()]
    if numbers != [(number, total) for number in range(total)]:
        raise ValueError(
            f"{folder} does not hold every part of the {split} split once: there are "
            f"{', '.join(path.name for path in named)}; copy all {total} parts of one version, and nothing else."
        )
    return tuple(named)
