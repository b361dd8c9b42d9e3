"""MLflow (extra ``mlflow``), where ``MLFLOW_TRACKING_URI`` says, or MLflow's own default."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cli.runs.loggers.base import Shown, keep_id, kept_id

_CONFIG = "config.json"


class MLflow:
    """A run of MLflow; a training that goes on, and its report, open the same one.

    Args:
        shown: the run; its configuration is an artifact, since MLflow cuts parameters.
    """

    def __init__(self, shown: Shown) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric: Any = Metric
        self._client = MlflowClient()
        before = kept_id(shown, "mlflow")
        if before is not None:
            self._run = before
            self._client.update_run(before, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(shown.project)
        number = experiment.experiment_id if experiment else self._client.create_experiment(shown.project)
        self._run = self._client.create_run(number, run_name=shown.name).info.run_id
        keep_id(shown, "mlflow", self._run)
        self._client.log_text(self._run, json.dumps(dict(shown.config), indent=2, default=str), _CONFIG)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show values at an environment step."""
        now = int(time.time() * 1000)
        # A name with another character would end the training.
        named = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}
        self._client.log_batch(
            self._run, metrics=[self._metric(name, value, now, step) for name, value in named.items()]
        )

    def pictures(self, paths: Mapping[str, Path], step: int) -> None:
        """Keep PNG files, in a folder for their step."""
        for name, path in paths.items():
            self._client.log_artifact(self._run, str(path), f"pictures/{step}/{name.rpartition('/')[0]}".rstrip("/"))

    def close(self) -> None:
        """The run has ended, until it is opened again."""
        self._client.set_terminated(self._run)
