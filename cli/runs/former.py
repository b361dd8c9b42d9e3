"""Runs of earlier versions: what they had where nothing was chosen, so that they go on as they began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cli.runs.paths import with_absolute_paths
from kd_env.config.optimizer import FRESH_LEARNING_RATE

_OF_THE_MACHINE = {"micro_batch_size": None, "activation_checkpointing": False}
_LOGGERS = {"logger": ["tensorboard"], "logger_project": "kd_env"}
_NOISE = {"noise_seed": None}
_OF_TEACHERS = {"callable": None, "label_noise": None, "max_train_rows": None}


def with_former_rate(before: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A composed configuration with the learning rate of a run that an earlier version began.

    The default was 0.007 for every student then. Such a run of students that are not fresh goes on as it began, where
    ``config`` has the same kind of student and chooses no learning rate; else nothing is changed.

    Args:
        before: resolved configuration of the run.
        config: composed now.
    """
    same = dict(config)
    env, init = config["env"], config["student"]["init"]
    rate = before["env"]["optimizer"]["learning_rate"]
    other = init == "fresh" or before["student"]["init"] != init or rate != FRESH_LEARNING_RATE
    if other or env["optimizer"]["learning_rate"] is not None:
        return same
    return {**same, "env": {**env, "optimizer": {**env["optimizer"], "learning_rate": rate}}}


def with_former_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run with the options that earlier versions did not have, as they did without them.

    Their paths were as they had been given; they are seen from here.
    """
    student = {
        "zero_head": False,
        "embedding_init": "drawn",
        "trainable": "all",
        "cache_frozen": False,
        **config["student"],
    }
    task, teacher = ({**new, **config[key]} for key, new in (("task", _NOISE), ("teacher", _OF_TEACHERS)))
    found = {"agent_device": "cpu", **_LOGGERS, **config, "task": task, "teacher": teacher, "student": student}
    env, influence = {**_OF_THE_MACHINE, **config["env"]}, config["env"].get("influence")
    if "weighs" in env:
        env = {"fills": None, **env}
    if isinstance(env.get("learning_teacher"), Mapping):
        env["learning_teacher"] = {"zero_head": False, "dropout": 0.0, **env["learning_teacher"]}
    # Earlier influence was without clipping; where nothing learned from it, that is no difference.
    asked = "influence" in (env.get("score"), *(str(name).removeprefix("row_") for name in env.get("features") or ()))
    if isinstance(influence, Mapping) and not asked:
        env["influence"] = {"clip": True, **influence}
    return with_absolute_paths({**found, "env": env})
