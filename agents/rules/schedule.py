"""Stages of an episode: what rules with a timetable share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.common.base import AnyEnv, Array, episode_steps, require, unknown_name
from agents.rules.base import Rule


class Schedule:
    """Stages of an episode, one after another, each for its share of the budget.

    Args:
        count: number of stages, at least 1.
        shares: of the budget, one a stage, above 0, in any unit (``[2, 1]``: two thirds and one); None: equal ones.

    Raises:
        ValueError: no stage, or shares that are not positive numbers, one a stage.
    """

    def __init__(self, count: int, shares: Sequence[float] | None = None) -> None:
        given = [1.0] * count if shares is None else shares
        numbers = isinstance(given, Sequence) and all(
            isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
            for value in given
        )
        if not count or not numbers or len(given) != count:
            raise ValueError(
                f"shares={shares!r} must be {count} finite numbers above 0, one for each of the {count} stages (at "
                "least 1 stage), or None for equal ones."
            )
        ends = np.cumsum(np.asarray(given, dtype=np.float64))
        self.ends = ends / ends[-1]

    def stage(self, progress: NDArray[Any]) -> NDArray[np.int64]:
        """Index of the stage ``[N]`` in which a step falls that begins at a share ``[N]`` of the budget, in [0, 1]."""
        # A step that begins where a stage ends belongs to the next one, however its progress was rounded (float32).
        return np.asarray(np.searchsorted(self.ends[:-1], np.asarray(progress) + 1e-6, side="right"), dtype=np.int64)

    def check(self, name: str, env: AnyEnv) -> None:
        """Refuse stages in which no step of an episode begins.

        Raises:
            ValueError: with the number of steps.
        """
        steps = episode_steps(env)
        if steps is None:
            return
        missing = sorted(set(range(len(self.ends))) - set(self.stage(np.arange(steps) / steps).tolist()))
        if missing:
            raise ValueError(
                f"The rule {name!r} has {len(self.ends)} stages, but an episode of {steps} steps has none in stage "
                f"{missing[0] + 1}; raise budget, lower updates_per_step, or give other shares."
            )


class Annealing(Rule):
    """The soft label's weight falls from 1 to 0 and the hard label's rises from 0 to 1, linearly with progress.

    Annealing KD (Jafari et al. 2021) first follows the teacher, softly, and then the labels; here the two stages are
    blended as weights (:class:`Stages` does not blend them).

    Args:
        env: the environment.
        seed: unused.
        other_weight: constant weight of all other terms, in [0, 1].
    """

    name = "annealing"
    looks_at_feedback = False
    views = ("box",)
    needs_features = ("progress",)
    needs_terms = ("hard_label", "soft_label")

    def __init__(self, env: AnyEnv, *, seed: int = 0, other_weight: float = 0.0) -> None:
        require(0.0 <= other_weight <= 1.0, "other_weight", other_weight, "in [0, 1]")
        super().__init__(env, seed=seed, other_weight=other_weight)

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """Weights by each replica's own progress."""
        progress = self.progress(observations)
        others = dict.fromkeys(self.term_names, float(self.options["other_weight"]))
        rows = [self.encode({**others, "soft_label": 1.0 - float(p), "hard_label": float(p)}) for p in progress]
        return np.stack(rows), None


class Stages(Rule):
    """Terms in turn: in each stage of an episode its own terms have weight 1, and all others 0.

    Annealing KD (Jafari et al., EACL 2021, section 3) is this rule over ``logit_mse`` with a rising ``target_scale``,
    and then ``hard_label``, as ``experiment=annealing_kd`` has them; TinyBERT's order is intermediate layers first and
    the soft labels afterwards. The optimiser and its learning rate go on from stage to stage.

    Args:
        env: the environment.
        seed: unused.
        terms: of each stage, a term's name or a list of them.
        shares: of the budget, one a stage, in any unit; None: equal ones.

    Raises:
        ValueError: a term that there is not, a stage that the view cannot express or that no step falls in.
    """

    name = "stages"
    looks_at_feedback = False
    needs_features = ("progress",)

    def __init__(
        self,
        env: AnyEnv,
        *,
        seed: int = 0,
        terms: Sequence[str | Sequence[str]],
        shares: Sequence[float] | None = None,
    ) -> None:
        if isinstance(terms, str) or not all(entry and isinstance(entry, str | Sequence) for entry in terms):
            raise ValueError(
                f"terms={terms!r} must be a list with the terms of each stage, a name or a list of names, as "
                "[soft_label, [soft_label, hard_label]]."
            )
        stages = [[entry] if isinstance(entry, str) else list(entry) for entry in terms]
        shares = None if shares is None else list(shares)
        super().__init__(env, seed=seed, terms=stages, shares=shares)
        for term in (term for stage in stages for term in stage):
            if term not in self.term_names:
                raise ValueError(unknown_name("knowledge term", term, self.term_names))
        self._schedule = Schedule(len(stages), shares)
        self._schedule.check(self.name, env)
        self._actions = np.stack([self.encode(dict.fromkeys(stage, 1.0)) for stage in stages])

    def act(self, observations: NDArray[np.float32], memory: Any, starts: NDArray[np.bool_]) -> tuple[Array, Any]:
        """The terms of the stage that each replica is in."""
        return self._actions[self._schedule.stage(self.progress(observations))], None
