"""TensorBoard's event files, in the logs of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cli.runs.loggers.base import Shown

_SUFFIX = ".eval"


class TensorBoard:
    """Event files of a run; of a report those before are deleted.

    Args:
        shown: the run; after ``done`` steps later scalars of an old file are not shown.
    """

    def __init__(self, shown: Shown) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if shown.judged:
            for path in shown.folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
                path.unlink()
            self._writer = SummaryWriter(str(shown.folder), filename_suffix=_SUFFIX)
        else:
            self._writer = SummaryWriter(str(shown.folder), purge_step=shown.done + 1 if shown.done else None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show values at an environment step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, paths: Mapping[str, Path], step: int) -> None:
        """Show PNG files by name."""
        from matplotlib.image import imread

        for name, path in paths.items():
            self._writer.add_image(name, imread(path)[..., :3], step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
