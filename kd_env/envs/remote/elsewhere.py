"""Replicas that are not in this process: what is asked of each where it is, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd_env.core import trees
from kd_env.envs.env import DistillEnv
from kd_env.envs.run import check_replicas
from kd_env.envs.shells.replicas import EnvState
from kd_env.envs.view import RunView
from kd_env.mdp.state import DistillState, Effect
from kd_files.writing import new_folder


class ReplicasElsewhere(RunView):
    """N replicas in other processes.

    States cannot be forked or students read across processes: use the stacked environment for that.
    """

    num_envs: int

    if TYPE_CHECKING:

        def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
            """What a method of every replica gives; the other base class has it."""

    def row_influence(self) -> np.ndarray:
        """Drop of the feedback loss per unit of weight of each row of the next batch, ``[N, B]``, by all processes."""
        return np.concatenate(self.call("row_influence"))

    def _present(self) -> DistillState:
        """Refused, since the state is in other processes."""
        raise ValueError("States of worker processes cannot be read; use vectorization=stacked.")

    def get_state(self) -> EnvState:
        """Refused, since the state is in other processes."""
        raise ValueError("States of worker processes cannot be copied; use vectorization=stacked.")

    def set_state(self, state: EnvState) -> None:
        """Refused, since the state is in other processes."""
        raise ValueError("States of worker processes cannot be set; use vectorization=stacked.")

    def save_state(self, folder: str | Path) -> None:
        """Write the state of every process into a folder of its own in ``folder``, all of them or none."""
        with new_folder(Path(folder).absolute()) as fresh:
            self.call("save_part", str(fresh))

    def load_state(self, folder: str | Path) -> None:
        """Restore in every process what :meth:`save_state` wrote.

        Raises:
            ValueError: another number of processes, or as :meth:`kd_env.envs.view.RunView.load_state`.
        """
        count = sum(path.is_dir() and path.name.isdigit() for path in Path(folder).iterdir())
        if count != self.num_envs:
            raise ValueError(f"The state in {folder} is of {count} processes, this environment has {self.num_envs}.")
        self.call("load_part", str(Path(folder).absolute()))

    def predict(self, table: Any) -> np.ndarray:
        """Refused, since the students are in other processes."""
        raise ValueError("Students in worker processes cannot be read; use vectorization=stacked.")


class ReplicaEnv(DistillEnv):
    """One of several environments, which knows where its part of their state belongs."""

    def __init__(self, place: int, **options: Any) -> None:
        super().__init__(**options)
        self.place = str(place)

    def save_part(self, folder: str) -> None:
        """Write the state into this environment's own folder in ``folder``."""
        self.save_state(Path(folder) / self.place)

    def load_part(self, folder: str) -> None:
        """Restore what :meth:`save_part` wrote."""
        self.load_state(Path(folder) / self.place)


def cut(effect: Effect, count: int) -> list[Effect]:
    """An effect of ``count`` replicas as one for each; raises ``ValueError`` where it is of another number."""
    check_replicas(effect, count)
    return [trees.take(effect, [place]) for place in range(count)]
