"""GLUE scores of students in the form of the papers: a score a task, their average, and printed numbers beside them.

A task's score is the mean of its official metrics (over both dev splits of MNLI where both are there), times 100, and
the average is that of the tasks' scores (Wang et al. 2019): over all nine the score of the leaderboard, which many
papers leave WNLI out of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_env.core.metrics import bounds_of
from kd_env.data.tasks import GLUE
from kd_env.evaluation.downstream.printed import PRINTED, SIX
from kd_env.evaluation.statistics.crossed import policy_interval
from kd_env.evaluation.statistics.intervals import Bounds, Interval

Floats = NDArray[np.float64]
Judged = Mapping[str, Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]]
"""By name of the students, task, and place of the folder in its list: a record with ``dev`` for each seed, or one where
nothing was fine-tuned. What is not finished is left out."""
SCALE = 100.0
NINE = tuple(GLUE)
EIGHT = tuple(task for task in GLUE if task != "wnli")


class Line(NamedTuple):
    """One line of the table."""

    title: str
    tasks: tuple[str, ...]
    """One, or those of an average."""
    split: str | None
    metric: str | None
    """None: the score of a task, or an average."""
    values: dict[str, Floats]
    """By name [folders, seeds], times 100."""
    intervals: dict[str, Interval]
    printed: dict[str, float]


def lines_of(judged: Judged, tasks: Sequence[str], fine_tuned: bool) -> list[Line]:
    """The table: every GLUE task, those of ``tasks`` with our numbers, then the averages.

    Args:
        judged: what is finished.
        tasks: that were to be judged.
        fine_tuned: whether the records of a folder are seeds; else each folder has one, and folders are the units.
    """
    lines: list[Line] = []
    for task in dict.fromkeys([*GLUE, *tasks]):
        printed = {one.name: one.scores[task] for one in PRINTED if task in one.scores}
        lines += _task_lines(judged, task, printed, fine_tuned)
    run = tuple(task for task in tasks if any(task in by_task for by_task in judged.values()))
    scores = {NINE: "GLUE score (nine tasks, as on the leaderboard)", EIGHT: "GLUE score without wnli"}
    lines += [_average(judged, each, title, {}, fine_tuned) for each, title in scores.items() if {*each} <= {*run}]
    if len(run) > 1 and {*run} not in ({*SIX}, {*NINE}, {*EIGHT}):
        lines.append(_average(judged, run, f"average of {', '.join(run)}", {}, fine_tuned))
    six = {one.name: one.six for one in PRINTED if one.six is not None}
    lines.append(_average(judged, SIX, f"average of {', '.join(SIX)}", six, fine_tuned))
    return lines


def columns_of(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Splits and official metrics of a task's records."""
    return [
        (split, metric)
        for split, scores in records[0]["dev"].items()
        for metric in scores
        if metric not in ("rows", "loss")
    ]


def _task_lines(judged: Judged, task: str, printed: dict[str, float], fine_tuned: bool) -> Iterator[Line]:
    first = next((records for by_task in judged.values() for records in by_task.get(task, {}).values()), None)
    if first is None:
        yield Line(task, (task,), None, None, {}, {}, printed)
        return
    columns = columns_of(first)
    scores = {name: _scores(by_task[task], columns) for name, by_task in judged.items() if by_task.get(task)}
    means = {name: found.mean(axis=-1) for name, found in scores.items()}
    titles = [f"{task} {metric}{_mark(split)}" for split, metric in columns]
    title = titles[0] if len(columns) == 1 else f"{task} (mean of {len(columns)})"
    yield Line(title, (task,), None, None, means, _intervals(means, _bounds(columns), fine_tuned), printed)
    if len(columns) > 1:
        for place, (split, metric) in enumerate(columns):
            values = {name: found[..., place] for name, found in scores.items()}
            intervals = _intervals(values, _bounds([columns[place]]), fine_tuned)
            yield Line(f"  {titles[place]}", (task,), split, metric, values, intervals, {})


def _average(judged: Judged, tasks: tuple[str, ...], title: str, printed: dict[str, float], fine_tuned: bool) -> Line:
    """Over tasks, of the names that have all of them, by the folders that have."""
    values, bounds = {}, []
    for name, by_task in judged.items():
        places = sorted(set.intersection(*(set(by_task.get(task, {})) for task in tasks)))
        if places:
            each = [{place: by_task[task][place] for place in places} for task in tasks]
            columns = [columns_of(records[places[0]]) for records in each]
            bounds = [_bounds(found) for found in columns]
            scores = [_scores(records, found).mean(axis=-1) for records, found in zip(each, columns, strict=True)]
            values[name] = np.mean(scores, axis=0)
    return Line(title, tasks, None, None, values, _intervals(values, _mean_bounds(bounds), fine_tuned), printed)


def _scores(records: Mapping[int, Sequence[Mapping[str, Any]]], columns: Sequence[tuple[str, str]]) -> Floats:
    """``[folders, seeds, columns]``, times 100."""
    found = [
        [[one["dev"][split][metric] for split, metric in columns] for one in records[place]]
        for place in sorted(records)
    ]
    return SCALE * np.asarray(found, dtype=np.float64)


def _intervals(values: Mapping[str, Floats], bounds: Bounds | None, fine_tuned: bool) -> dict[str, Interval]:
    """Over folders and seeds, crossed; of classifiers as they are over folders alone."""
    return {name: policy_interval(found if fine_tuned else found.T, bounds=bounds) for name, found in values.items()}


def _bounds(columns: Sequence[tuple[str, str]]) -> Bounds | None:
    """Of the mean of some metrics, times 100."""
    found = [bounds_of(metric) for _, metric in columns]
    return _mean_bounds([None if one is None else (SCALE * one[0], SCALE * one[1]) for one in found])


def _mean_bounds(found: Sequence[Bounds | None]) -> Bounds | None:
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    return float(np.mean([low for low, _ in known])), float(np.mean([high for _, high in known]))


def _mark(split: str) -> str:
    return f" ({split.removeprefix('validation_')})" if "_" in split else ""
