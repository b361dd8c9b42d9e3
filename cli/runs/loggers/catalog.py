"""Loggers by name: which there are, whether their packages are here, and several as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cli.runs.folder import LOGS
from cli.runs.loggers.base import Logger, Shown
from cli.runs.loggers.mlflow import MLflow
from cli.runs.loggers.tensorboard import TensorBoard
from cli.runs.loggers.trackio import Trackio
from cli.runs.loggers.wandb import WandB
from kd_env.core.checks import refuse
from kd_env.core.registry import Registry, unknown_name

LOGGERS: Registry[Callable[[Shown], Logger]] = Registry("logger", "kd_env.loggers")
LOGGERS.register("tensorboard")(TensorBoard)
LOGGERS.register("trackio")(Trackio)
LOGGERS.register("wandb")(WandB)
LOGGERS.register("mlflow")(MLflow)
_EXTRAS = ("trackio", "wandb", "mlflow")


def check_loggers(option: str, given: Any) -> None:
    """Refuse a value of ``logger=...`` before any work.

    Raises:
        ValueError: no list of names, an unknown one, one twice, or one whose package is absent.
    """
    if not isinstance(given, list | tuple):
        refuse(option, given, f"a list of {', '.join(LOGGERS)}; [] shows nothing elsewhere")
    for name in given:
        if name not in LOGGERS:
            raise ValueError(unknown_name(option, name, LOGGERS))
        if name in _EXTRAS and find_spec(name) is None:
            raise ValueError(f'{option}={name} needs a package that is absent: pip install "kd-env[{name}]".')
    if len(set(given)) < len(given):
        refuse(option, list(given), "each name once")


def open_loggers(config: Mapping[str, Any], folder: Path, *, done: int = 0, judged: bool = False) -> Loggers:
    """The loggers of a run.

    Args:
        config: resolved; ``logger`` and ``logger_project`` of it.
        folder: of the run.
        done: environment steps that were taken before.
        judged: whether they are for the report of a training that has ended.
    """
    shown = Shown(folder / LOGS, folder.name, config["logger_project"], config, done, judged)
    return Loggers(config["logger"], shown)


class Loggers:
    """All loggers of a run, as one.

    Args:
        names: of :data:`LOGGERS`.
        shown: the run.
    """

    def __init__(self, names: Sequence[str], shown: Shown) -> None:
        self._loggers: list[Logger] = []
        try:
            for name in names:
                self._loggers.append(LOGGERS[name](shown))
        except BaseException:
            self.close()
            raise

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show values at an environment step."""
        for logger in self._loggers:
            logger.scalars(values, step)

    def pictures(self, paths: Mapping[str, Path], step: int) -> None:
        """Show PNG files by name."""
        for logger in self._loggers:
            logger.pictures(paths, step)

    def close(self) -> None:
        """Write what is left, in all of them."""
        for logger in self._loggers:
            logger.close()
