"""What reports show of tutors: rewards of single tokens, over the valid slots of the updates of an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core.types import Floats
from kd_env.decisions.base import Measure
from kd_env.mdp.problem import Problem
from kd_env.numerics.traces import Trace

_SHARE = (0.0, 1.0)
_TRACES = {"teacher_recognises": "R_T (the teacher recognises)", "student_error": "R_S (the student errs)"}


class TokenMean(Measure):
    """Mean over the slots of all updates of an episode, or of the first or last tenth of them (at least one).

    Args:
        name: of the measure.
        title: of its column.
        bounds: of its values.
        keys: of ``info``, whose values are added.
        count: N students.
        updates: of a whole episode.
        part: ``all``, ``first`` or ``last``. A student that diverged before its last tenth has none: the mean over all
            its updates stands there, since 0 would be the best end.
    """

    def __init__(
        self,
        name: str,
        title: str,
        bounds: tuple[float, float],
        keys: Sequence[str],
        count: int,
        updates: int,
        part: str = "all",
    ) -> None:
        self.name, self.title, self.bounds = name, title, bounds
        self.trace, self.of_a_part = _TRACES.get(name, ""), part != "all"
        self._keys, self._part = keys, part
        self._tenth, self._planned = max(updates // 10, 1), updates
        self._sums, self._slots = np.zeros((2, count)), np.zeros((2, count))
        self._means = Trace()

    def add(self, info: Mapping[str, NDArray[Any]], running: NDArray[np.bool_]) -> None:
        """Take ``info`` of one step; steps that complete no text say nothing."""
        counted, slots = info["updated"] & running, info["edited_slots"]
        values = np.sum([info[key].astype(np.float64).sum((1, 2)) for key in self._keys], axis=0)
        within = counted
        if self._part == "first":
            within = counted & (info["updates"] <= self._tenth)
        elif self._part == "last":
            within = counted & (info["updates"] > self._planned - self._tenth)
        for place, chosen in enumerate((within, counted)):
            self._sums[place] += np.where(chosen, values, 0.0)
            self._slots[place] += np.where(chosen, slots, 0)
        if info["updated"].any():
            self._means.append(np.where(counted, values / np.maximum(slots, 1), np.nan))

    def values(self) -> Floats:
        """The mean of every student, ``[N]``."""
        within, whole = self._sums / np.maximum(self._slots, 1)
        return np.asarray(np.where(self._slots[0] > 0, within, whole))

    def over_time(self) -> Floats:
        """The mean of every update, ``[updates, N]``; NaN after the end of a student."""
        return self._means.array()


def token_measures(problem: Problem, count: int) -> tuple[TokenMean, ...]:
    """The measures of an episode of ``count`` students."""
    config = problem.config
    updates, limit = config.budget, config.max_episode_steps
    if limit is not None:
        updates = min(updates, limit // (1 if config.mode == "joint" else problem.reader.slots))
    both = ("teacher_recognises", "student_error")
    return (
        TokenMean("reward", "reward", (-1.0, 2.0), both, count, updates),
        TokenMean("teacher_recognises", "R_T", (-1.0, 1.0), both[:1], count, updates),
        TokenMean("student_error", "R_S", _SHARE, both[1:], count, updates),
        TokenMean("student_error_first", "R_S, first tenth", _SHARE, both[1:], count, updates, "first"),
        TokenMean("student_error_last", "R_S, last tenth", _SHARE, both[1:], count, updates, "last"),
        TokenMean("plausibility", "plausibility", _SHARE, ("plausibility",), count, updates),
        TokenMean("teacher_probability", "p_T(a)", _SHARE, ("teacher_probability",), count, updates),
    )
