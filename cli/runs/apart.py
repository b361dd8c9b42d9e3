"""Whether the policy that was judged is far from the one that learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.reports.report import Report

FAR = 0.1
"""Of the gap. Feedback rows, on which training is followed, and selection rows differ by less."""


def apart_words(report: Report, history: Sequence[Mapping[str, float]], deterministic: bool) -> str:
    """A sentence where the most likely actions close far less of the gap than what was tried while learning.

    An agent learns by the actions that it draws. The most likely ones can be others than any that it ever made: where
    each of three gates opens in 45 of 100 draws, the most likely action closes all of them, always.

    Args:
        report: of the judged policy.
        history: log of its training.
        deterministic: whether its most likely actions were judged.

    Returns:
        The sentence; empty where they are close, samples were judged, or no training is known.
    """
    gaps = [point["gap_closed"] for point in history if "gap_closed" in point]
    learned = [row for row in report.rows if row.learned]
    if not (deterministic and gaps and len(learned) == 1):
        return ""
    late = gaps[-max(len(gaps) // 4, 1) :]
    tried, judged = float(np.mean(late)), learned[0].gap_closed[SELECTION]
    if not np.nanmax([judged.mean, judged.high]) < tried - FAR:
        return ""
    return (
        f"While {learned[0].policy} learned, the actions that it tried closed {tried:.3f} of the gap on the feedback "
        f"rows (last quarter of its training); its most likely actions, which are judged here, close {judged.mean:.3f} "
        "on the selection rows. The two are different policies: evaluation.deterministic=false judges the one that "
        "learned.\n"
    )
