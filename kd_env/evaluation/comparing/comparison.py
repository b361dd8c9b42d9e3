"""Everything that is printed or written about several runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_env.evaluation.statistics.intervals import Difference, Interval
from kd_env.evaluation.statistics.verdicts import above_all, headline, title_of


@dataclass(frozen=True)
class Entry:
    """One agent group, or one rule. Intervals are over trainings and seeds; of one training or a rule over seeds."""

    policy: str
    agent: str
    control: str
    learned: bool
    searched: bool
    """Whether it is the constant action of a search: a rule with trainings."""
    extra_labels: bool
    """Whether it trained on feedback rows too."""
    bound: bool
    """Whether it saw a truth that no policy can know: it is shown, and nobody's rival."""
    action_view: str
    runs: tuple[str, ...]
    unit: str
    """``training`` or ``evaluation seed``."""
    units: int
    values: dict[str, tuple[float, ...]]
    """By dev split: the measure of every unit; of a training its mean over the seeds."""
    metrics: dict[str, dict[str, Interval]]
    """By dev split and metric."""
    loss: dict[str, Interval]
    gap_closed: dict[str, Interval]
    calibration_error: dict[str, Interval] | None
    """None in regression, and for results of earlier versions."""
    raw_loss: dict[str, Interval] | None
    """None for results of earlier versions, whose loss is the raw one."""
    raw_gap_closed: dict[str, Interval] | None
    mean_weights: dict[str, Interval]
    """By term: applied weight, a mean over the steps."""
    chosen: dict[str, Interval]
    """By term: share of steps in which its applied weight was above 0."""
    measures: dict[str, Interval]
    """What the decision measures beside, by name."""
    diverged: int
    """How many of all its students."""
    apart: int
    """Trainings whose most likely actions are judged and close far less of the gap than those that were tried."""


@dataclass(frozen=True)
class Contrast:
    """``first`` minus ``second`` in the measure, on one dev split."""

    first: str
    second: str
    split: str
    difference: Difference
    holm_p: float
    """Adjusted for all contrasts of the same list (Holm 1979)."""
    intervention: str = ""
    """What the second is of the first, in :attr:`Comparison.reactions`."""


@dataclass(frozen=True)
class PausedAgent:
    """What an agent of a study was worth when its trainings paused."""

    agent: str
    value: float
    """Gap closed on the selection split, a mean over trainings of what their students closed together."""
    trainings: tuple[float, ...]
    """Of each training."""
    steps: tuple[int, ...]
    """At which each came to its pause."""
    runs: tuple[str, ...]
    """Names of their folders."""
    pruned: bool
    """Whether it was trained no further, and has no dev numbers."""


@dataclass(frozen=True)
class Pruning:
    """A study that trained the agents below the median at a pause no further."""

    study: str
    """Name of its folder."""
    share: float
    """Of the steps of a training, after which it was to pause."""
    at: int
    """That step."""
    median: float
    """Of the values of the agents."""
    seeds: tuple[int, ...]
    """Of the students, other ones than those of the report."""
    agents: tuple[PausedAgent, ...]
    together: bool = True
    """Whether values are of all students together, and not plain means over them as a former version had them."""


@dataclass(frozen=True)
class Comparison:
    """Everything that is printed or written about several runs."""

    facts: Mapping[str, Any]
    seeds: tuple[int, ...]
    dev_splits: tuple[str, ...]
    term_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    measures: dict[str, str]
    """Titles of what the decision measures beside, by name."""
    measure: str
    """``gap_closed``, or ``loss`` where the floor of the gap was active."""
    entries: tuple[Entry, ...]
    """Agent groups first, then rules, those with extra labels and bounds last."""
    to_rules: tuple[Contrast, ...]
    """Every agent group to every rule, paired by evaluation seed."""
    to_bounds: tuple[Contrast, ...]
    """Likewise to every bound."""
    reactions: tuple[Contrast, ...]
    """Every agent group to each intervention on it, paired by training and evaluation seed."""
    between_controls: tuple[Contrast, ...]
    """Groups of one agent under different controls: trainings are independent, seeds shared."""
    between_agents: tuple[Contrast, ...]
    """Groups of different agents, none under a control, likewise."""
    best_rule: str | None
    """The best on the selection split of all rules, those with feedback labels and searched ones included; None without
    rules."""
    overlapping: tuple[tuple[str, str], ...]
    """Pairs of runs of one group that share seeds of students."""
    prunings: tuple[Pruning, ...] = ()
    """Of the studies that the runs are from."""
    joint: bool = False
    """Whether each training has one student, beside which it learned, and students of one seed are pairs."""

    @property
    def title(self) -> str:
        """The measure in words."""
        return title_of(self.measure, self.facts)

    @property
    def headline(self) -> str:
        """The first line: whether an agent (its controls only where there is no other) is above the best rule."""
        return headline(self.best_rule, self.against_rules, self.measure, self.title)

    @property
    def winners(self) -> list[str]:
        """The agents that the headline says to be above every rule."""
        return above_all(self.best_rule, self.against_rules, self.measure)

    @property
    def against_rules(self) -> dict[str, dict[str, dict[str, Difference]]]:
        """Of the agents that the headline speaks of the differences to every rule, searched ones too, by dev split."""
        agents = [entry for entry in self.entries if entry.learned and not entry.searched]
        agent_names = {entry.policy for entry in agents if entry.control == "none"} or {
            entry.policy for entry in agents
        }
        rivals = {entry.policy for entry in self.entries if (not entry.learned or entry.searched) and not entry.bound}
        to_rules: dict[str, dict[str, dict[str, Difference]]] = {}
        for contrast in (*self.to_rules, *self.between_agents):  # in these a searched rule is second
            if contrast.second in rivals and contrast.first in agent_names:
                by_rule = to_rules.setdefault(contrast.first, {})
                by_rule.setdefault(contrast.second, {})[contrast.split] = contrast.difference
        return to_rules

    def entry(self, policy: str) -> Entry:
        """The entry of a policy."""
        return next(entry for entry in self.entries if entry.policy == policy)
