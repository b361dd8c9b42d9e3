"""An episode of a policy that is being judged, kept from time to time: a stopped evaluation goes on in its middle."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from kd_env.envs import DistillVectorEnv
from kd_env.evaluation.judging.course import Course, Ended
from kd_env.evaluation.judging.keeping.kept import KeptResults

EVERY = 300.0
"""Seconds between two savings: shorter episodes are not kept, since they are soon made again."""


@runtime_checkable
class TellsDraws(Protocol):
    """A policy that says where its draws stand; the episodes of others begin anew."""

    def generator_states(self) -> list[Any]:
        """Plain values or arrays."""

    def restore_generators(self, states: list[Any]) -> None:
        """Go on from there."""


class Resumed(NamedTuple):
    """Where an evaluation of a policy goes on."""

    ended: tuple[Ended, ...]  # episodes of the groups of students before the present one
    course: dict[str, Any]
    memory: Any  # of the policy
    generators: list[Any]
    environment: Path


class Running:
    """The episode of one policy.

    Args:
        kept: where results of policies are kept, too.
        name: of the policy.
        policy: plain values of what it is.
        every: seconds between two savings.
    """

    def __init__(self, kept: KeptResults, name: str, policy: Any, every: float = EVERY) -> None:
        self._kept, self._name, self._policy, self._every = kept, f"{name} (running)", policy, every
        self._last = time.monotonic()

    def read(self) -> Resumed | None:
        """What was kept; None where nothing whole is there, or it is of another identity."""
        found = self._kept.read(self._name, self._policy)
        if found is None or not (self._kept.folder / found["environment"]).is_dir():
            return None
        ended = tuple(Ended(*each) for each in found["ended"])
        return Resumed(
            ended, found["course"], found["memory"], list(found["generators"]), self._kept.folder / found["environment"]
        )

    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._last >= self._every

    def write(
        self, ended: Sequence[Ended], env: DistillVectorEnv, course: Course, memory: Any, generators: list[Any]
    ) -> None:
        """Keep what an episode has come to between two of its steps."""
        before = self._environments()
        place = self._kept.place(self._name)
        state = place.with_name(f"{place.name}-{len(ended)}-{course.steps}")
        env.save_state(state)
        values = {
            "ended": tuple(tuple(each) for each in ended),
            "course": course.state(),
            "memory": memory,
            "generators": tuple(generators),
            "environment": state.name,
        }
        self._kept.write(self._name, self._policy, values)
        for folder in before:
            if folder != state:
                shutil.rmtree(folder, ignore_errors=True)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Give up what was kept, once the policy is judged."""
        for folder in (self._kept.place(self._name), *self._environments()):
            shutil.rmtree(folder, ignore_errors=True)

    def _environments(self) -> list[Path]:
        place = self._kept.place(self._name)
        return list(place.parent.glob(f"{place.name}-*"))
