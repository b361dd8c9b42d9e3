"""``kd-env teacher``: makes a teacher, or a set together, from train rows; records hold the split's fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.errors import going_on
from cli.settings.compose import compose
from cli.settings.kinds.language_models import MLM_KEYS, mlm_config
from cli.settings.teachers import TASK_KEYS, set_config, teacher_config
from kd_env.core.registry import unknown_name

_OBJECTIVES = ("classification", "mlm")
_IN_USE = ("path", "callable", "source", "cache_dtype", "check")
"""Options of ``teacher`` that say how a teacher is used."""
_MLM_OPTIONS = ("text", "text_column", "mask_rate", "train_encoder")


def make_teacher(overrides: Sequence[str], command: str) -> Path:
    """Run the job; the folder of the teacher, or with ``members`` of the set, or with ``rows`` the file of texts.

    Raises:
        ValueError: anything that does not fit, before any training.
    """
    from cli.jobs.kinds.prepare import set_threads

    resolved, default = compose("finetune", overrides), compose("finetune", [])
    if resolved["rows"] is not None:
        return _write_rows(resolved, default)
    _refuse_unread(resolved, default)
    alone = _make_one if resolved["members"] is None else _make_set
    make = _make_mlm if resolved["objective"] == "mlm" else alone
    set_threads(resolved["threads"])
    place = "the partial folder beside the output" if resolved["output"] is None else f"{resolved['output']}.partial"
    keeps = f"{place} keeps what was trained up to the last evaluation; the same command goes on."
    with going_on(lambda: keeps):
        return make(resolved, command)


def _write_rows(resolved: Mapping[str, Any], default: Mapping[str, Any]) -> Path:
    """Write the rows to be answered by a teacher that is no encoder; nothing is trained."""
    from kd_env.evaluation.rows_to_answer import write_rows

    unread = [key for key in resolved if key not in ("rows", "task") and resolved[key] != default[key]]
    if unread:
        raise ValueError(f"With rows={resolved['rows']} no teacher is trained, and nothing reads {', '.join(unread)}.")
    task = resolved["task"]
    # max_length cuts tokens, which others have in their own way.
    options = {key: task[key] for key in TASK_KEYS if key != "max_length"}
    counts = write_rows(resolved["rows"], task["name"], **options)
    path = Path(resolved["rows"])
    print(f"Rows of {task['name']} to be answered: {', '.join(f'{part} {count}' for part, count in counts.items())}")
    print(f"Texts by id: {path}; docs/teachers.md says how the answers are written.")
    print(f"Use them: python train_agent.py task={task['name']} teacher.path=<file of answers>", flush=True)
    return path


def _make_one(resolved: Mapping[str, Any], command: str) -> Path:
    from kd_env.finetuning.classifier import finetune, teacher_record

    config = teacher_config(resolved, resolved["output"])
    folder = finetune(config)
    record = teacher_record(folder) or {}
    print(f"Teacher of {config.task}, fine-tuned by `{command}`: {folder}")
    for name in ("trained_on", "fingerprint", "selection"):
        if name in record:
            print(f"  {name}: {record[name]}")
    print(f"Use it: python train_agent.py task={config.task} teacher.path={folder}", flush=True)
    return folder


def _make_set(resolved: Mapping[str, Any], command: str) -> Path:
    from kd_env.core.records import members
    from kd_env.finetuning.classifier import teacher_record
    from kd_env.finetuning.co_classifier import cofinetune

    config = set_config(resolved, resolved["members"], resolved["output"], key="members")
    folder = cofinetune(config)
    found = members(folder)
    records = [teacher_record(member) or {} for member in found]
    print(f"Set of {len(found)} teachers of {config.task}, co-fine-tuned by `{command}`: {folder}")
    for name in ("trained_on", "fingerprint"):
        print(f"  {name}: {records[0][name]}")
    for member, record in zip(found, records, strict=True):
        print(f"  {member.name}: {record['selection']}")
    print(f"Use it: python train_agent.py task={config.task} env=teacher_weighting cofinetuned={folder}")
    print(f"One alone: python train_agent.py task={config.task} teacher.path={found[0]}", flush=True)
    return folder


def _make_mlm(resolved: Mapping[str, Any], command: str) -> Path:
    from kd_env.finetuning.classifier import teacher_record
    from kd_env.finetuning.masked_lm import train_mlm

    config = mlm_config(resolved)
    folder = train_mlm(config)
    record = teacher_record(folder) or {}
    print(f"Masked language model of {'+'.join(record['text'])}, trained by `{command}`: {folder}")
    for name in ("trained_on", "fingerprint", "head", "selection"):
        print(f"  {name}: {record[name]}")
    print(f"Fine-tune it: kd-env teacher task=<task> teacher.name_or_path={folder}", flush=True)
    return folder


def _refuse_unread(resolved: Mapping[str, Any], default: Mapping[str, Any]) -> None:
    """Refuse an unknown objective, and options that the job does not read.

    Those are the options of a teacher in use, and those of the other objective.
    """
    if resolved["objective"] not in _OBJECTIVES:
        raise ValueError(unknown_name("objective", resolved["objective"], _OBJECTIVES))
    teacher = resolved["teacher"]
    for name in _IN_USE:
        if teacher[name] != default["teacher"][name]:
            hint = " The encoder to start from is teacher.name_or_path." if name == "path" else ""
            raise ValueError(
                f"teacher.{name}={teacher[name]} says how a teacher is used, and kd-env teacher makes one: leave it "
                f"out.{hint}"
            )
    mlm = resolved["objective"] == "mlm"
    own = (*_IN_USE, "name_or_path", *MLM_KEYS)
    unread = [f"teacher.{name}" for name in teacher if name not in own and teacher[name] != default["teacher"][name]]
    if not mlm:
        unread = [name for name in _MLM_OPTIONS if resolved[name] != default[name]]
    if unread:
        raise ValueError(
            f"With objective={resolved['objective']} nothing reads {', '.join(unread)}; leave it out, or set "
            f"objective={'classification' if mlm else 'mlm'}."
        )
