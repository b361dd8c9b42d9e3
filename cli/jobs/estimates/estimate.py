"""How long a job will take, from numbers and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from cli.jobs.contenders import EXTRA
from cli.jobs.estimates.counts import Counts, turns
from cli.jobs.estimates.measure import Costs

IMPORTS = 6.0
"""Seconds in which a process imports torch and transformers, on one core."""
REPORT = 2.0
"""Seconds of intervals, tables and pictures at the end of an evaluation."""


@dataclass(frozen=True)
class Estimate:
    """Of one run."""

    counts: Counts
    training: float
    """Seconds."""
    evaluation: float
    processes: int
    """That share the evaluation."""
    memory: int
    """Bytes, of all processes at once."""

    @property
    def seconds(self) -> float:
        """Of the training and its evaluation."""
        return self.training + self.evaluation


def estimate(counts: Counts, costs: Costs, *, processes: int, workers: int, start_up: float, cores: int) -> Estimate:
    """What a run will need.

    Args:
        counts: of the run.
        costs: of its parts.
        processes: that share its evaluation.
        workers: processes of its training; 0: this one trains.
        start_up: seconds in which the problem is built, which every further process does again.
        cores: that processes share; where there are fewer, they take their turns.
    """
    episodes = counts.rounds / counts.episode_steps
    training = counts.rounds * (costs.step + costs.agent) + episodes * costs.reset
    if counts.rounds and workers:
        training += turns(workers, cores) * (IMPORTS + start_up)
    at_reset = costs.judged_reset + costs.judging
    each = [
        costs.judged_reset
        + counts.episode_steps
        * (
            (costs.unread_step if counts.read_at_end(name) else costs.judged_step)
            + costs.choosing.get(name.removesuffix(EXTRA), costs.agent)
        )
        + costs.judging
        for name in counts.policies
    ]
    evaluation = 0.0
    if each:
        shares = [at_reset + sum(each[place::processes]) for place in range(min(processes, len(each)))]
        begin = IMPORTS + start_up if processes > 1 else 0.0
        evaluation = turns(len(shares), cores) * (max(shares) + begin) + REPORT
    further = max(workers if counts.rounds else 0, processes if processes > 1 else 0)
    return Estimate(counts, training, evaluation, processes, costs.memory * (1 + further))


def together(seconds: Sequence[float], jobs: int) -> float:
    """Seconds until all of several works are done, ``jobs`` at a time, each begun in its turn."""
    running: list[float] = []
    end = 0.0
    for each in seconds:
        begin = heappop(running) if len(running) >= jobs else 0.0
        heappush(running, begin + each)
        end = max(end, begin + each)
    return end
