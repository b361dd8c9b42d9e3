"""Weights & Biases (extra ``wandb``); ``WANDB_MODE=offline`` writes into the logs of the run alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cli.runs.loggers.base import Shown, keep_id, kept_id

_STEP = "timesteps"


class WandB:
    """A run of W&B; a training that goes on, and its report, open the same one.

    Args:
        shown: the run.
    """

    def __init__(self, shown: Shown) -> None:
        import wandb

        before = kept_id(shown, "wandb")
        shown.folder.mkdir(parents=True, exist_ok=True)
        self._image = wandb.Image
        self._run = wandb.init(
            project=shown.project,
            name=shown.name,
            dir=str(shown.folder),
            config=dict(shown.config),
            id=before,
            resume="allow" if before else None,
        )
        if before is None:
            keep_id(shown, "wandb", self._run.id)
        # W&B's own step only counts up, and steps after the last checkpoint come twice where a training goes on.
        self._run.define_metric("*", step_metric=_STEP)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show values at an environment step."""
        self._run.log({**values, _STEP: step})

    def pictures(self, paths: Mapping[str, Path], step: int) -> None:
        """Show PNG files by name."""
        if paths:
            self._run.log({**{name: self._image(str(path)) for name, path in paths.items()}, _STEP: step})

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()
