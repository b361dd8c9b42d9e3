"""What decisions share that take one action a batch, or with ``weighting=sample`` one for each row of it."""

from __future__ import annotations

from types import MappingProxyType

from kd_env.config.environment import EnvConfig

ONE_A_BATCH = "the env takes one action a batch (weighting='batch'); make it with weighting='sample'."
"""Why no policy can be applied to every row with ``weighting=batch``."""
VIEW_HINTS = MappingProxyType({"discrete": "weighting='batch'"})
"""What has to be changed for a view that there is not with ``weighting=sample``."""


def check_by_row(config: EnvConfig, views: str) -> None:
    """Raise ``ValueError`` where actions of single rows fit neither the step nor the view.

    Args:
        config: with either weighting.
        views: that have components for each row, in words.
    """
    if config.weighting == "batch":
        return
    if config.updates_per_step != 1:
        raise ValueError(
            f"updates_per_step={config.updates_per_step} does not fit weighting='sample': the action is about the rows "
            "of one batch. Set updates_per_step=1 or weighting='batch'."
        )
    if config.action_view == "discrete":
        raise ValueError(
            f"action_view='discrete' chooses for a whole batch; use weighting='batch', or the {views} view with "
            "weighting='sample'."
        )
