"""Whether the policy that was judged is far from the one that learned.

An agent learns by the actions that it draws. The most likely ones can be others than any that it ever made: where each
of three gates opens in 45 of 100 draws, the most likely action closes all of them, always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.reports.report import Report

FAR = 0.1
"""Of the gap. Feedback rows, on which training is followed, and selection rows differ by less."""
KEY = "apart"
"""Of :class:`Apart` in ``results.json``."""


class Apart(NamedTuple):
    """A policy whose most likely actions close far less of the gap than those that it tried while it learned."""

    policy: str
    tried: float
    """Mean gap closed on the feedback rows in the last quarter of the training."""
    judged: float
    """Mean gap closed on the selection rows by the most likely actions."""

    @property
    def words(self) -> str:
        """A sentence for reports."""
        return (
            f"While {self.policy} learned, the actions that it tried closed {self.tried:.3f} of the gap on the "
            "feedback rows (last quarter of its training); its most likely actions, which are judged here, close "
            f"{self.judged:.3f} on the selection rows. The two are different policies: evaluation.deterministic=false "
            "judges the one that learned.\n"
        )


def apart(report: Report, history: Sequence[Mapping[str, float]], deterministic: bool) -> Apart | None:
    """What is far apart; None where it is not, samples were judged, or no training is known.

    Also where the report shows no gaps: of a teacher that learned, or that is hardly better than a fresh student.

    Args:
        report: of the judged policy.
        history: log of its training.
        deterministic: whether its most likely actions were judged.
    """
    gaps = [point["gap_closed"] for point in history if "gap_closed" in point]
    learned = [row for row in report.rows if row.learned]
    if not (deterministic and gaps and len(learned) == 1 and report.measure == "gap_closed"):
        return None
    tried, judged = float(np.mean(gaps[-max(len(gaps) // 4, 1) :])), learned[0].gap_closed[SELECTION]
    if not np.nanmax([judged.mean, judged.high]) < tried - FAR:
        return None
    return Apart(learned[0].policy, tried, judged.mean)


def is_apart(results: Mapping[str, Any]) -> bool:
    """Whether ``results.json`` of a run says so."""
    return results.get(KEY) is not None
