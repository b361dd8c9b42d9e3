"""One policy and its students among those of several policies that are distilled as one stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_env.core import trees
from kd_env.decisions.raw import checked_actions
from kd_env.envs import DistillVectorEnv
from kd_env.evaluation.judging.contenders import Contender
from kd_env.mdp.state import Effect


class Window:
    """What a policy has of a stack: an environment of its own students alone, which are parts of the stack's.

    Args:
        contender: the policy.
        stack: all students.
        place: of this policy's among those of the other policies.
        count: its students.
    """

    def __init__(self, contender: Contender, stack: DistillVectorEnv, place: int, count: int) -> None:
        self.rows = slice(place * count, (place + 1) * count)
        self.env = DistillVectorEnv(count, problem=stack.problem, autoreset_mode="disabled")
        self._stack, self.memory = stack, None
        self.policy = contender.factory(self.env)

    def begin(self) -> None:
        """Forget what the policy remembers of the episodes before."""
        self.memory = None

    def show(self) -> None:
        """Let the environment show the students as they are in the stack, without a copy."""
        run, whole = self.env.run, self._stack.run
        run.state = trees.map_leaves(lambda leaf: leaf[self.rows], whole.started())
        run.ended, run.generators = whole.ended[self.rows], whole.generators[self.rows]

    def predict(self, observations: Any, starts: NDArray[np.bool_], deterministic: bool) -> Any:
        """The policy's actions from the stack's observations and starts of episodes.

        What it does to its environment, the students have done to them: a rule may look ahead and go back, as it may in
        an environment that it has for itself.
        """
        shown = self.env.run.state
        actions, self.memory = self.policy.predict(
            trees.map_leaves(lambda values: values[self.rows], observations),
            state=self.memory,
            episode_start=starts[self.rows],
            deterministic=deterministic,
        )
        if self.env.run.state is not shown:
            self._put_back()
        return actions

    def part(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Of arrays of all students, those of this policy's."""
        return {name: value[self.rows] for name, value in values.items()}

    def effect(self, actions: Any) -> Effect:
        """The effect of the policy's actions; one that it says itself as it is."""
        if isinstance(actions, Effect):
            return actions
        env = self.env
        raw = checked_actions(actions, env.single_action_space, env.num_envs)
        return env.decision.apply(env.problem, env.run.started(), raw)

    def _put_back(self) -> None:
        run, whole = self.env.run, self._stack.run
        places = np.arange(len(whole.ended))[self.rows]
        whole.state = trees.set_rows(trees.copy_arrays(whole.started()), places, run.started())
        whole.ended[self.rows], whole.generators[self.rows] = run.ended, run.generators
        self.show()


def side_by_side(windows: Sequence[Window], actions: Sequence[Any]) -> Any:
    """Actions of every policy as the effect on the stack."""
    if len(actions) == 1:
        return actions[0]
    effects = [window.effect(each) for window, each in zip(windows, actions, strict=True)]
    # Policies whose effects say more than weights are judged alone (stacks.together).
    return Effect(
        np.concatenate([effect.weights for effect in effects]),
        np.concatenate([effect.update_scale for effect in effects]),
        given={
            name: np.concatenate([(effect.given or {})[name] for effect in effects]) for name in effects[0].given or {}
        },
        block=windows[0].env.num_envs,
    )
