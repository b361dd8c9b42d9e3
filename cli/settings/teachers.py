"""The teachers of a job: packaged ones, folders that are there, and the options of those that are fine-tuned first."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.settings.cache import made_folder
from kd_env.core.records import read_record, read_set_record
from kd_env.core.registry import unknown_name
from kd_env.data import toy
from kd_env.data.tasks import EMBEDDED

if TYPE_CHECKING:
    from kd_env.finetuning.classifier import TeacherConfig
    from kd_env.finetuning.co_classifier import CoTeacherConfig

TASK_KEYS = ("data_dir", "columns", "split_seed", "feedback_rows", "selection_rows", "max_train_rows", "max_length")
"""Options of ``task`` that decide which rows there are and how they are cut."""
ALL_ROWS = "all"
"""Value of ``teacher.max_train_rows``: no limit, whatever that of the students' rows is."""
_ENCODER_KEYS = ("init", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
_TRAINING_KEYS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "warmup",
    "max_grad_norm",
    "seed",
    "precision",
    "evaluations_per_epoch",
    "noisy_words",
    "keep",
)
_ENTRY_KEYS = (
    "name",
    "path",
    "callable",
    "packaged",
    "name_or_path",
    "label_noise",
    "max_train_rows",
    *_ENCODER_KEYS,
    *_TRAINING_KEYS,
)
"""Of an entry of ``teachers``."""
_READY = ("path", "callable", "packaged")
"""Those of them that name a teacher which is there."""
_MEMBER_KEYS = ("name", "packaged", "name_or_path", *_ENCODER_KEYS, "seed")
"""Of a member of a co-fine-tuned set."""
_OF_THE_SET = (*(key for key in _TRAINING_KEYS if key != "seed"), "shared_width")
"""Options of ``teacher`` that all members of a set share."""


def teacher_config(c: Mapping[str, Any], output: str | None) -> TeacherConfig:
    """Options of the fine-tuning that ``task`` and ``teacher`` describe; ``output`` None: a folder in the cache.

    Raises:
        ValueError: no encoder, or a value that does not fit.
    """
    from kd_env.finetuning.classifier import TeacherConfig
    from kd_env.finetuning.contents import task_contents

    task, teacher = c["task"], c["teacher"]
    if not teacher["name_or_path"]:
        raise ValueError(
            f"The task {task['name']!r} needs a teacher: give teacher.name_or_path=<folder or hub name of an encoder> "
            "to fine-tune one, or teacher.path=<folder of a fine-tuned one>."
        )
    if teacher["shared_width"] is not None:
        raise ValueError(
            f"teacher.shared_width={teacher['shared_width']} is for a set that is co-fine-tuned; leave it out for a "
            "single teacher."
        )
    options = {
        **_training_options(c),
        "name_or_path": str(teacher["name_or_path"]),
        "output": output or "cache",
        "label_noise": _label_noise(c),
        **{key: teacher[key] for key in _ENCODER_KEYS},
    }
    config = TeacherConfig.from_kwargs(**options)
    if output is not None:
        return config
    contents = task_contents(config.task, config.data_dir, [config.name_or_path])
    what = f"{task['name']}-{Path(config.name_or_path).name}"
    return dataclasses.replace(config, output=made_folder(c, what, config.identity(), contents, read_record))


def set_config(c: Mapping[str, Any], given: Any, output: str | None, *, key: str) -> CoTeacherConfig:
    """Options of the co-fine-tuning of a set; ``output`` None: a folder in the cache.

    Members start from what ``teacher`` says, but for what they say themselves; without any encoder from the packaged
    teacher of an embedded task.

    Args:
        c: resolved configuration, with ``task`` and ``teacher``.
        given: the members, mappings.
        output: folder that is written.
        key: the option that holds ``given``, for messages.

    Raises:
        ValueError: no members, or a value that does not fit.
    """
    from kd_env.finetuning.co_classifier import CoTeacherConfig
    from kd_env.finetuning.contents import task_contents

    if not isinstance(given, list) or not given or not all(isinstance(entry, Mapping) for entry in given):
        raise ValueError(
            f"{key}={given!r} must be a list of mappings, for example [{{name: six}}, {{name: four, "
            "num_hidden_layers: 4}]."
        )
    config = CoTeacherConfig.from_kwargs(
        **_training_options(c),
        members=[_member(c, entry, key) for entry in given],
        output=output or "cache",
        label_noise=_label_noise(c),
        shared_width=c["teacher"]["shared_width"],
    )
    if output is not None:
        return config
    contents = task_contents(config.task, config.data_dir, [member.name_or_path for member in config.members])
    folder = made_folder(c, f"{c['task']['name']}-set", config.identity(), contents, read_set_record)
    return dataclasses.replace(config, output=folder)


def single_teacher(c: Mapping[str, Any]) -> tuple[tuple[str, str | TeacherConfig], ...]:
    """The one teacher of ``teacher`` by name: its folder, or what makes it; empty for the packaged one.

    Raises:
        ValueError: a teacher that is there and another that is to be made, or neither.
    """
    teacher, task = c["teacher"], c["task"]["name"]
    ways = {
        "path": "fine-tuned already, or a file of answers",
        "callable": "a function",
        "name_or_path": "to be fine-tuned",
    }
    given = [name for name in ways if teacher[name]]
    if len(given) > 1:
        told = " and ".join(f"teacher.{name} ({ways[name]})" for name in given)
        raise ValueError(f"{told} are both given; set one of them to null.")
    ready = teacher["path"] or teacher["callable"]
    if ready:
        return ((task, _checked_callable(str(ready)) if teacher["callable"] else str(ready)),)
    if task in EMBEDDED and not teacher["name_or_path"]:
        return ()
    # resume=true|false of the main job is about the agent; a half-made teacher is always finished.
    return ((task, teacher_config({**c, "resume": True}, None)),)


def teacher_list(c: Mapping[str, Any]) -> tuple[tuple[str, str | TeacherConfig], ...]:
    """The entries of ``teachers``: each has its folder, or options that differ from those of ``teacher``.

    Raises:
        ValueError: an entry that cannot be read, or two of one name.
    """
    given, task = c["teachers"], c["task"]["name"]
    if not isinstance(given, list) or not given or not all(isinstance(entry, Mapping) for entry in given):
        raise ValueError(f"teachers={given!r} must be a list of mappings, for example [{{name: a, seed: 1}}].")
    for key, what in (("path", "folder"), ("callable", "function")):
        if c["teacher"][key]:
            raise ValueError(f"teacher.{key} and teachers are both given; name the {what} as one of teachers.")
    found: dict[str, Any] = {}
    for entry in given:
        for key in entry:
            if key not in _ENTRY_KEYS:
                raise ValueError(unknown_name("option of an entry of teachers:", str(key), _ENTRY_KEYS))
        name = entry.get("name")
        if not isinstance(name, str) or name in found:
            raise ValueError(f"teachers entry {dict(entry)}: name={name!r} must be a text that no other entry has.")
        options = {key: value for key, value in entry.items() if key != "name"}
        ready = [key for key in _READY if key in options]
        if ready:
            if len(options) > 1:
                raise ValueError(f"The teacher {name!r} is there already and is not made; leave the rest out: {entry}.")
            [value] = options.values()
            found[name] = _ready(task, ready[0], value)
            continue
        merged = {**c["teacher"], **options}
        if task in EMBEDDED and not merged["name_or_path"]:
            merged = {**merged, "name_or_path": str(toy.teacher_folder(task))}
        found[name] = teacher_config({**c, "teacher": merged, "resume": True}, None)
    return tuple(found.items())


def cofinetuned_set(c: Mapping[str, Any]) -> tuple[dict[str, str], CoTeacherConfig | None]:
    """Names and folders of the members that ``cofinetuned`` says, and the options of the set where it is made first.

    Raises:
        ValueError: a folder without a set, members that cannot be read, or another key that names teachers, too.
    """
    given = c["cofinetuned"]
    for key, value in (
        ("teachers", c["teachers"]),
        *((f"teacher.{name}", c["teacher"][name]) for name in ("path", "callable")),
    ):
        if value:
            raise ValueError(f"cofinetuned and {key} both name teachers; leave one of them out.")
    if isinstance(given, str):
        from kd_env.core.records import members

        return {folder.name: str(folder) for folder in members(given)}, None
    # resume=true|false of the main job is about the agent; a half-made set is always finished.
    config = set_config({**c, "resume": True}, given, None, key="cofinetuned")
    return {member.name: str(Path(config.output) / member.name) for member in config.members}, config


def _ready(task: str, key: str, value: Any) -> str:
    """Folder, file or function of a teacher that is there, from an entry's one key beside the name."""
    if key == "packaged":
        return _packaged(task, value)
    return _checked_callable(str(value)) if key == "callable" else str(value)


def _checked_callable(name: str) -> str:
    """A function's name.

    Raises:
        ValueError: it is not written as one.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
        raise ValueError(f"teacher.callable={name!r} must be written package.module:function.")
    return name


def _label_noise(c: Mapping[str, Any]) -> float:
    """Share of wrong labels that a teacher learns from: its own, or that of the students' rows."""
    own = c["teacher"]["label_noise"]
    return float(c["task"]["label_noise"] if own is None else own)


def _train_rows(c: Mapping[str, Any]) -> Any:
    """Limit of the rows that a teacher learns from: its own, none, or that of the students' rows."""
    own = c["teacher"]["max_train_rows"]
    return c["task"]["max_train_rows"] if own is None else None if own == ALL_ROWS else own


def _training_options(c: Mapping[str, Any]) -> dict[str, Any]:
    """What one teacher and a set share."""
    return {
        "task": c["task"]["name"],
        "device": c["device"],
        "show_progress": bool(c["progress"]),
        "resume": c.get("resume", True),
        **{key: c["task"][key] for key in TASK_KEYS},
        "noise_seed": c["task"]["noise_seed"],
        "max_train_rows": _train_rows(c),
        **{key: c["teacher"][key] for key in _TRAINING_KEYS},
    }


def _member(c: Mapping[str, Any], entry: Mapping[Any, Any], key: str) -> dict[str, Any]:
    """One member as the library takes it."""
    task, teacher = c["task"]["name"], c["teacher"]
    for option in entry:
        if option in _OF_THE_SET:
            raise ValueError(f"{key} entry {dict(entry)}: {option} is the whole set's; give it as teacher.{option}=...")
        if option == "label_noise":
            raise ValueError(f"{key} entry {dict(entry)}: label_noise is the whole set's; give it as task.label_noise.")
        if option not in _MEMBER_KEYS:
            raise ValueError(unknown_name(f"option of an entry of {key}:", str(option), _MEMBER_KEYS))
    own = dict(entry)
    if "packaged" in own:
        if "name_or_path" in own:
            raise ValueError(f"{key} entry {dict(entry)}: packaged and name_or_path both say where to start.")
        own["name_or_path"] = _packaged(task, own.pop("packaged"))
    merged = {"name_or_path": teacher["name_or_path"], **{name: teacher[name] for name in _ENCODER_KEYS}, **own}
    if not merged["name_or_path"]:
        if task not in EMBEDDED:
            raise ValueError(
                f"{key} entry {dict(entry)} has no encoder to start from: give teacher.name_or_path=<folder or hub "
                "name> for all members, or name_or_path for this one."
            )
        merged["name_or_path"] = str(toy.teacher_folder(task))
    return merged


def _packaged(task: str, member: Any) -> str:
    """Folder of one of the packaged teachers of an embedded task."""
    if task not in EMBEDDED:
        raise ValueError(f"packaged={member!r} is for the tasks {' and '.join(EMBEDDED)}; give the path of a teacher.")
    folders = toy.teacher_set(task)
    if member not in folders:
        raise ValueError(unknown_name("packaged teacher", str(member), folders))
    return folders[member]
