"""Trackio (extra ``trackio``): a database of runs on this machine (``TRACKIO_DIR``), which ``trackio show`` opens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cli.runs.loggers.base import Shown, keep_id, kept_id


class Trackio:
    """A run of Trackio; a training that goes on, and its report, open the same one.

    Args:
        shown: the run.
    """

    def __init__(self, shown: Shown) -> None:
        import trackio

        before = kept_id(shown, "trackio")
        self._trackio = trackio
        trackio.init(
            project=shown.project,
            name=before or shown.name,
            config=dict(shown.config),
            resume="must" if before else "never",
        )
        if before is None:
            keep_id(shown, "trackio", shown.name)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show values at an environment step."""
        self._trackio.log(dict(values), step=step)

    def pictures(self, paths: Mapping[str, Path], step: int) -> None:
        """Show PNG files by name."""
        if paths:
            self._trackio.log({name: self._trackio.Image(str(path)) for name, path in paths.items()}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._trackio.finish()
