"""Which policies are judged together: their students are distilled as one stack where that is faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kd_env.envs.process import with_options
from kd_env.evaluation.judging.contenders import Contender
from kd_env.mdp.problem import Problem
from kd_env.mdp.rewards import END_REWARDS
from kd_env.numerics.chunks import MANY_STUDENTS

STUDENTS = 64
"""Students of a stack at most. Measured on one core, embedded task, hidden size 32, a student's step against that in a
stack of 16: 1.1 to 1.5 times as fast in stacks of 48 to 96, and no faster in larger ones."""
ARITHMETIC = 2e6
"""Arithmetic of an update (``Problem.arithmetic``) below which a larger stack is faster: 1.1 to 1.2 times at hidden
size 64, not at 128."""
TRAINED = 2**24
"""Numbers that all students of a stack train at most: 64 MiB, and as much for gradients and each of two moments."""


@dataclass(frozen=True)
class Stack:
    """Policies that act in one problem, side by side."""

    problem: Problem
    contenders: dict[str, Contender]


def stacks(problem: Problem, policies: Mapping[str, Contender], seeds: int) -> list[Stack]:
    """All policies, those of one problem and action view together, as many as are fastest.

    Args:
        problem: of contenders that have none of their own.
        policies: by name.
        seeds: students of each.
    """
    problems: dict[tuple[int, str, bool], Problem] = {}
    groups: dict[tuple[int, str, bool], list[str]] = {}
    for name, contender in policies.items():
        base = contender.problem or problem
        view, at_end = contender.action_view or base.config.action_view, evaluated_at_end(base, contender)
        key = (id(base), view, at_end)
        if key not in problems:
            viewed = base if view == base.config.action_view else with_options(base, action_view=view)
            problems[key] = read_at_end(viewed) if at_end else viewed
        groups.setdefault(key, []).append(name)
    result = []
    for key, names in groups.items():
        # Of even sizes: 3 and 2 policies are faster than 4 and 1.
        for part in np.array_split(names, -(-len(names) // together(problems[key], seeds))):
            result.append(Stack(problems[key], {name: policies[name] for name in part.tolist()}))
    return result


def evaluated_at_end(problem: Problem, contender: Contender) -> bool:
    """Whether nothing is left out where feedback rows are evaluated at the ends of the contender's episodes alone."""
    return problem.config.reward in END_REWARDS and not contender.reads_evaluations


def read_at_end(problem: Problem) -> Problem:
    """The problem with evaluations at the ends of episodes alone, of all rows."""
    return with_options(problem, evaluate_every=0, evaluation_sample=None, sample_paired=True, sample_steps=1)


def together(problem: Problem, seeds: int) -> int:
    """How many policies with ``seeds`` students each are judged at once, at least 1.

    One where a student alone is work enough, where students have no generator each (dropout), where an action says
    more than weights (of teachers that learn, of tokens), and where few students would be read one after another
    (:mod:`kd_env.numerics.chunks`) or each on rows of its own (``evaluation_sample``): in a stack they would be rounded
    otherwise.
    """
    config = problem.config
    if seeds <= MANY_STUDENTS:
        return 1
    if problem.arithmetic >= ARITHMETIC or config.dropout or config.teacher_learns or config.objective == "text":
        return 1
    if problem.assets.reader is not None or config.evaluation_sample is not None:
        return 1
    trained: int = sum(problem.student.module.get_parameter(name).numel() for name in problem.student.trainable)
    return max(1, min(STUDENTS, TRAINED // max(trained, 1)) // seeds)
