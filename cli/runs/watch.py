"""What happens while an agent learns: a live progress bar, JSONL logs, loggers, checkpoints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from cli.runs.diagnosis import Diagnosis, words
from cli.runs.folder import METRICS
from cli.runs.loggers.base import Logger
from cli.runs.loggers.content import show_point
from kd_files.reading import damaged, parse_json, read_text
from kd_files.writing import atomic_write

_OF_STUDENTS = {"gap_closed": "gap_closed", "feedback_loss": "loss"}
"""Metrics of students at the end of their episodes, and where ``info`` has them: of the feedback rows."""
SECONDS = "seconds"
"""Wall time of the training so far, over all processes that went on with it; of steps that were lost it counts none."""


class Recorder(VectorWrapper[Any, Any, Any, Any]):
    """Remembers how the students ended since it was last asked, and what the policy did.

    Args:
        env: where the agent learns.
        diagnosis: is told of every step.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], diagnosis: Diagnosis) -> None:
        super().__init__(env)
        self._ended: dict[str, list[float]] = {name: [] for name in _OF_STUDENTS}
        self._diagnosis = diagnosis

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A step of the env; ``final_info`` tells which episodes ended."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        self._diagnosis.add(infos)
        if "final_info" in infos:
            ended = np.asarray(infos["_final_info"], dtype=bool)
            for name, key in _OF_STUDENTS.items():
                self._ended[name] += np.asarray(infos["final_info"][key], dtype=np.float64)[ended].tolist()
        return observations, rewards, terminations, truncations, infos

    def take(self) -> dict[str, float]:
        """Means of ``gap_closed`` and ``feedback_loss`` of the episodes that ended since, and the diagnosis."""
        means = {name: float(np.mean(values)) for name, values in self._ended.items() if values}
        self._ended = {name: [] for name in _OF_STUDENTS}
        return {**{name: mean for name, mean in means.items() if np.isfinite(mean)}, **self._diagnosis.take()}


class Watch:
    """The learn-callback of the main job; a context manager.

    Args:
        folder: gets ``metrics.jsonl``.
        recorder: the wrapper of the training environment.
        logger: is shown every line, and closed.
        total: environment steps of the whole training.
        done: steps that were taken before (resume); later lines of an old log are dropped.
        checkpoint_every: environment steps between two checkpoints, 0 for none.
        checkpoint: writes one.
        pause_at: environment steps after which the training pauses, with a checkpoint; None: never.
        shown: whether progress is shown.
    """

    def __init__(
        self,
        folder: Path,
        recorder: Recorder,
        logger: Logger,
        *,
        total: int,
        done: int,
        checkpoint_every: int,
        checkpoint: Callable[[], None],
        pause_at: int | None,
        shown: bool,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._recorder, self._total, self._start = folder / METRICS, recorder, total, done
        self._every, self._checkpoint, self._last_checkpoint = checkpoint_every, checkpoint, done
        self._pause_at = pause_at
        self.paused = pause_at is not None and done >= pause_at
        """Whether the training has come to its pause."""
        self.history = [point for point in read_history(folder) if point["timesteps"] <= done]
        self._seconds, self._begin = self.history[-1].get(SECONDS) if self.history else 0.0, time.perf_counter()
        self._bar = _Bar(total, done) if shown else None
        self._logger = logger

    def __enter__(self) -> Self:
        atomic_write(self._path, "".join(json.dumps(point) + "\n" for point in self.history))
        self._file = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._logger.close()
        if self._bar is not None:
            self._bar.close()

    def __call__(self, metrics: dict[str, float]) -> bool:
        """Log one rollout; False where the training pauses now."""
        if self.paused:  # an agent that does not stop when it is told to has its checkpoint
            return False
        point = {**self._recorder.take(), **metrics}  # what the agent says of itself counts
        if self._seconds is not None:  # of a log of an earlier version nobody knows
            point[SECONDS] = self._seconds + time.perf_counter() - self._begin
        self.history.append(point)
        self._file.write(json.dumps(point) + "\n")
        self._file.flush()
        steps = int(point["timesteps"])
        show_point(self._logger, point)
        if self._bar is not None:
            self._bar.update(point)
        self.paused = self._pause_at is not None and steps >= self._pause_at
        if self.paused or (self._every and steps - self._last_checkpoint >= self._every):
            self._checkpoint()
            self._last_checkpoint = steps
        return not self.paused


def read_history(folder: Path) -> list[dict[str, float]]:
    """The logged rollouts of a training, in order; a last line cut off by a crash is dropped.

    Raises:
        DamagedFile: another line is no log of a rollout.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    remedy = "delete the file (only the curve of the training is lost)"
    lines = read_text(path, remedy).split("\n")[:-1]  # what stands behind the last line end was cut off
    points = []
    for number, line in enumerate(lines, 1):
        point = parse_json(path, line, remedy)
        if not isinstance(point, dict) or "timesteps" not in point or not all(map(_is_number, point.values())):
            raise damaged(path, f"line {number} is no log of a rollout", remedy)
        points.append({str(key): float(value) for key, value in point.items()})
    return points


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Bar:
    """Steps, return, gap closed, what the policy does and the time left; without a terminal a line at every tenth."""

    def __init__(self, total: int, done: int) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._total, self._start, self._begin, self._told = total, done, time.perf_counter(), 0
        self._live = sys.stderr.isatty()
        columns = (
            TextColumn("training"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        if self._live:
            from rich.console import Console

            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task("training", total=total, completed=done, text="")
            self._progress.start()

    def update(self, point: dict[str, float]) -> None:
        steps = min(int(point["timesteps"]), self._total)
        shown = {"return": point.get("return_mean"), "gap closed": point.get("gap_closed")}
        if "return_mean" not in point:
            shown["reward"] = point.get("reward")
        text = "  ".join(f"{name} {value:+.3f}" for name, value in shown.items() if value is not None)
        text = "  ".join(filter(None, (text, words(point))))
        if self._live:
            self._progress.update(self._task, completed=steps, text=text)
            return
        tenth = 10 * steps // self._total
        if tenth > self._told:
            self._told = tenth
            seconds = time.perf_counter() - self._begin
            left = seconds / max(steps - self._start, 1) * (self._total - steps)
            print(f"training {steps}/{self._total}  {text}  ETA {left:.0f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live:
            self._progress.stop()
