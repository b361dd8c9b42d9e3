"""Replicas on the actors of a Ray cluster, with the bits of worker processes."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from kd_env.core.clusters import connection as clusters
from kd_env.core.clusters.packages import require
from kd_env.envs.remote.elsewhere import ReplicaEnv, ReplicasElsewhere, cut
from kd_env.envs.run import Run
from kd_env.envs.shells.stacked import seed_list
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import Effect

logger = logging.getLogger("kd_env")

Step = tuple[Any, float, bool, bool, dict[str, Any]]


class Group:
    """What an actor is: some of the replicas, one after another with one thread.

    Args:
        options: of each environment; a problem is built here from them.
        places: which of all replicas they are.
        directory: to which paths in the options are relative.
    """

    def __init__(self, options: Mapping[str, Any], places: Sequence[int], directory: str) -> None:
        os.chdir(directory)
        torch.set_num_threads(1)
        first, *others = places
        self._envs = [ReplicaEnv(first, **options)]
        self._envs += [ReplicaEnv(place, problem=self._envs[0].problem) for place in others]

    def ready(self) -> None:
        """Answers once the environments are made."""

    def reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None) -> list[tuple[Any, dict[str, Any]]]:
        """Begin an episode in every environment."""
        return [env.reset(seed=seed, options=options) for env, seed in zip(self._envs, seeds, strict=True)]

    def step(self, actions: Sequence[Any]) -> list[Step]:
        """One step of every environment; those that end begin anew within it."""
        return [_step(env, action) for env, action in zip(self._envs, _owned(actions), strict=True)]

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """What a method, or an attribute, of every environment gives."""
        found = [getattr(env, name) for env in self._envs]
        return [each(*args, **kwargs) if callable(each) else each for each in found]


def _step(env: ReplicaEnv, action: Any) -> Step:
    observation, reward, terminated, truncated, info = env.step(action)
    if terminated or truncated:
        last = {"final_info": info, "final_obs": observation}
        observation, fresh = env.reset()
        info = {**last, **fresh}
    return observation, reward, terminated, truncated, info


class DistillRayVectorEnv(ReplicasElsewhere, VectorEnv[Any, Any, Any]):
    """N single environments on actors of a Ray cluster; the problem is also held here, to be read.

    There are as many actors as the cluster has free CPUs (of students on CUDA: devices), at most N; each has some of
    the replicas. Where none is free the environment waits for one, and says so.

    Args:
        problem: of the same options.
        num_envs: replicas N.
        options: of each environment.

    Raises:
        ValueError: Ray is absent, or its cluster has no device for students on CUDA.
    """

    def __init__(self, problem: Problem, num_envs: int, options: Mapping[str, Any]) -> None:
        require("ray", "ray", "vectorization=ray")
        import ray

        self._actors: list[Any] = []
        self.run = Run(problem, 1)
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode.SAME_STEP
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = self.run.render_mode
        self.single_observation_space, self.single_action_space = self.run.spaces
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        clusters.connect()
        what = "CPU"
        if problem.device.type == "cuda":  # the one that an actor is given, whichever that is
            what, options = "GPU", {**options, "device": "cuda"}
        self._parts = [part.tolist() for part in np.array_split(np.arange(num_envs), _count(what, num_envs))]
        wanted = {"num_cpus": 1, "num_gpus": int(what == "GPU"), "max_restarts": 0}
        for part in self._parts:
            actor = ray.remote(Group).options(**wanted).remote(dict(options), part, os.getcwd())
            self._actors.append(actor)
        self._wait(what)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all episodes; ``options["budget"]`` as in ``DistillEnv``."""
        seeds = seed_list(seed, self.num_envs)
        begun = self._all("reset", [([seeds[place] for place in part], options) for part in self._parts])
        return self._batched([observation for observation, _ in begun]), self._infos([info for _, info in begun])

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Raw actions ``[N, ...]``, or an effect in place of them, which is cut into one for each replica."""
        if isinstance(actions, Effect):
            single = cut(actions, self.num_envs)
        else:
            single = list(iterate(self.action_space, actions))
        made: list[Step] = self._all("step", [([single[place] for place in part],) for part in self._parts])
        observations, rewards, terminated, truncated, infos = zip(*made, strict=True)
        return (
            self._batched(observations),
            np.array(rewards, dtype=np.float64),
            np.array(terminated, dtype=np.bool_),
            np.array(truncated, dtype=np.bool_),
            self._infos(infos),
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What a method, or an attribute, of every replica gives."""
        return tuple(self._all("call", [(name, args, kwargs)] * len(self._parts)))

    def render(self) -> tuple[Any, ...] | None:
        """One line or picture per replica."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """Take the actors away."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _all(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a method of every actor gives, of all replicas in their order.

        Raises:
            ChildProcessError: an actor was lost with its node.
            Exception: what an environment raised.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        asked = [getattr(actor, method).remote(*each) for actor, each in zip(self._actors, arguments, strict=True)]
        try:
            found: list[Any] = _owned([value for values in ray.get(asked) for value in values])
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise _lost(error) from error
        return found

    def _wait(self, what: str) -> None:
        """Wait until every actor has made its environments."""
        import ray
        from ray.exceptions import ActorDiedError, RayError, RayTaskError

        asked = [actor.ready.remote() for actor in self._actors]
        try:
            left = asked
            while left := ray.wait(left, num_returns=len(left), timeout=clusters.PATIENCE)[1]:
                logger.warning("Waiting for %d %s of the Ray cluster, for replicas.", len(left), what)
            ray.get(asked)
        except (RayError, KeyboardInterrupt) as error:
            self.close_extras()
            if isinstance(error, RayTaskError):
                raise error.cause from None
            if isinstance(error, ActorDiedError):
                raise _lost(error) from error
            raise

    def _batched(self, observations: Sequence[Any]) -> Any:
        empty: Any = create_empty_array(self.single_observation_space, self.num_envs, fn=np.zeros)
        return concatenate(self.single_observation_space, observations, empty)

    def _infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place, info in enumerate(infos):
            found = self._add_info(found, info, place)
        return found


def _owned(values: Any) -> Any:
    """A copy of what came through Ray, whose arrays cannot be written to."""
    return copy.deepcopy(values)


def _count(what: str, most: int) -> int:
    """Actors: one for each free CPU or device, at least one and at most ``most``."""
    import ray

    there = ray.cluster_resources().get(what, 0)
    if there < 1:
        raise ValueError(
            f"The Ray cluster has no {what}, which vectorization=ray needs for its replicas: add a node that has one, "
            "or use vectorization=stacked."
        )
    return max(1, min(most, int(ray.available_resources().get(what, 0))))


def _lost(error: Exception) -> ChildProcessError:
    reason = str(error).partition("\n")[0][:200]
    return ChildProcessError(
        f"An actor with replicas was lost ({type(error).__name__}: {reason}); the same command with resume=true goes "
        "on from the last checkpoint."
    )
