"""``kd-env glue submission=true`` and ``check=``: the files that the GLUE server takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_env.evaluation.downstream.submission import FILES, check_submission


def check_files(value: Any, words: Sequence[str]) -> Path:
    """``kd-env glue check=<zip>``: say how a submission departs from what the GLUE server takes; its path.

    Raises:
        ValueError: it departs from it, nothing is there, or other options are given with it.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"check={value!r} must be a zip of predictions for the GLUE server, or a folder of its files.")
    if len(words) > 1:
        others = ", ".join(word.split("=", 1)[0] for word in words if not word.startswith("check="))
        raise ValueError(f"check={value} reads that alone; leave {others} out.")
    path = Path(value).expanduser()
    problems = check_submission(path)
    for problem in problems:
        print(problem, flush=True)
    if problems:
        raise ValueError(f"{path} is not what the GLUE server takes: {len(problems)} departures (above).")
    print(f"{path} has what the GLUE server takes: {', '.join(file.name for file in FILES)}.", flush=True)
    return path
