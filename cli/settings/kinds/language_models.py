"""Masked language models as teachers: the options of one that is trained first, and the folder of one that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.settings.cache import made_folder
from cli.settings.teachers import TASK_KEYS
from kd_env.core.records import read_record
from kd_env.data import toy
from kd_env.data.tasks import EMBEDDED

if TYPE_CHECKING:
    from kd_env.finetuning.masked_lm_config import MlmConfig

MLM_KEYS = (
    *("num_hidden_layers", "epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "max_grad_norm", "seed"),
    *("precision", "evaluations_per_epoch"),
)
"""Options of ``teacher`` that a masked language model has, too."""


def mlm_config(c: Mapping[str, Any]) -> MlmConfig:
    """Options of the masked language model that ``text``, ``task`` and ``teacher`` describe.

    Without ``text`` the sentences of the task are taken; without an encoder, the packaged one of an embedded task.

    Args:
        c: resolved configuration of ``kd-env teacher``.

    Raises:
        ValueError: no text, no encoder, an option of classification, or a value that does not fit.
    """
    from kd_env.finetuning.contents import text_contents
    from kd_env.finetuning.masked_lm_config import MlmConfig, sources

    task, teacher, text = c["task"], c["teacher"], c["text"]
    for name, value in (("task.label_noise", task["label_noise"]), ("members", c["members"])):
        if value:
            raise ValueError(f"{name}={value} is for objective=classification; leave it out with objective=mlm.")
    if text is None and task["name"] == "custom":
        raise ValueError("objective=mlm needs text=<folder of .txt files, task or data set>; task=custom names none.")
    text = task["name"] if text is None else text
    encoder = teacher["name_or_path"]
    if not encoder and isinstance(text, str) and text in EMBEDDED:
        encoder = str(toy.teacher_folder(text))
    if not encoder:
        raise ValueError(f"text={text} needs an encoder: give teacher.name_or_path=<folder or hub name>.")
    config = MlmConfig.from_kwargs(
        text=text,
        column=c["text_column"],
        name_or_path=str(encoder),
        output=c["output"] or "cache",
        device=c["device"],
        show_progress=bool(c["progress"]),
        resume=c["resume"],
        mask_rate=c["mask_rate"],
        train_encoder=c["train_encoder"],
        **{key: task[key] for key in TASK_KEYS if key != "columns"},
        **{key: teacher[key] for key in MLM_KEYS},
    )
    if c["output"] is not None:
        return config
    contents = text_contents(sources(config.text), config.data_dir, config.name_or_path)
    folder = made_folder(c, f"mlm-{Path(str(encoder)).name}", config.identity(), contents, read_record)
    return dataclasses.replace(config, output=folder)


def language_model(c: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The masked language model that is there; none for the packaged one."""
    teacher, text = c["teacher"], c["env"]["text"]
    if teacher["name_or_path"]:
        source = c["task"]["name"] if text == "auto" else text
        raise ValueError(
            f"teacher.name_or_path={teacher['name_or_path']} would have to be trained as a masked language model "
            f"first: `kd-env teacher objective=mlm text={source} teacher.name_or_path=... output=<folder>`, then "
            "teacher.path=<folder>. One that is trained already is given as teacher.path, too."
        )
    if teacher["callable"]:
        raise ValueError(
            f"teacher.callable={teacher['callable']} gives answers to rows of a task, and texts are masked and read by "
            "a masked language model: give teacher.path=<its folder>."
        )
    return (("language_model", str(teacher["path"])),) if teacher["path"] else ()
