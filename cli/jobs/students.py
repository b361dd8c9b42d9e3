"""Students that an evaluation keeps: folders that load as models, and as teachers of further runs."""

from __future__ import annotations

import glob
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.settings.kinds.base import Settings
from kd_env.config.environment import EnvConfig

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.contenders import Keep

STUDENTS = "students"


def has_feedback(agent: str) -> bool:
    """Whether feedback rows have a say in what an agent does: in all but the rules that say they do not look."""
    from agents import agent_kind
    from agents.rules.catalog import rule_class

    return agent_kind(agent) != "rule" or rule_class(agent).looks_at_feedback


def keeper(settings: Settings[EnvConfig]) -> Keep | None:
    """Writes the first ``save_students`` students of the run's agent as ``<run folder>/students/seed<seed>``.

    What lay there is replaced: it is of an evaluation that was broken off. The record beside each says what it was
    distilled from, and whether feedback rows had a say in it, so that it can be a teacher (``teacher.path``).
    """
    count = settings.resolved["save_students"]
    if not count:
        return None
    from kd_env.envs.student_record import student_record
    from kd_env.finetuning.store import write_record
    from kd_env.models.library.reading import quiet_transformers

    kept, label = settings.evaluation_seeds[:count], settings.agent.label
    steered = has_feedback(settings.agent.name)

    def keep(name: str, env: DistillVectorEnv, replica: int, seed: int, diverged: bool) -> None:
        if name != label or seed not in kept:
            return
        folder = settings.run_folder / STUDENTS / f"seed{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        if diverged:
            print(f"{name}: the student of seed {seed} diverged and is not kept.", flush=True)
            return
        with quiet_transformers():
            env.save_student(folder, replica)
        if env.problem.config.objective == "text":  # no classifier, and so no teacher: `kd-env evaluate students=...`
            print(f"Student of seed {seed}: {folder}", flush=True)
            return
        write_record(folder, student_record(env.problem, policy=name, seed=seed, steered=steered))
        # Another run of this split would refuse it as a teacher.
        note = f"{folder} (feedback rows had a say: no teacher of this split)" if steered else f"teacher.path={folder}"
        print(f"Student of seed {seed}: {note}", flush=True)

    return keep


STUDENTS_EXAMPLE = '"students={none: <folder>, tutor: [<folder>, <folder>]}"'


class Student(NamedTuple):
    """One folder."""

    folder: Path
    digest: str
    """Of weights, configuration and tokenizer: results belong to what was fine-tuned, wherever it lies."""
    vocabulary: str
    """Of the tokenizer alone: students that share it share tokenised rows."""


def read_students(value: Any) -> dict[str, list[Student]]:
    """Students by name, in the order given.

    Raises:
        ValueError: nothing given, a folder that is none or holds no model, or something named twice.
    """
    if isinstance(value, str):
        value = [value]
    if not value or not isinstance(value, list | Mapping):
        raise ValueError(f"students={value!r} names nobody; give {STUDENTS_EXAMPLE}.")
    if isinstance(value, Mapping):
        folders = {str(name): _folders(str(name), entry) for name, entry in value.items()}
    else:
        each = _folders("", value)
        folders = {folder.name: [folder] for folder in each}
        if len(folders) < len(each):
            raise ValueError(
                f"Several of the folders students={[str(folder) for folder in each]} have one name; name them, as "
                f"{STUDENTS_EXAMPLE}."
            )
    found = {name: [_student(folder) for folder in each] for name, each in folders.items()}
    for name, each_one in found.items():
        by_digest: dict[str, Path] = {}
        for one in each_one:
            if one.digest in by_digest:
                raise ValueError(
                    f"{one.folder} and {by_digest[one.digest]} of {name!r} are the same student: they would count as "
                    "two independent distillations. Name each once."
                )
            by_digest[one.digest] = one.folder
    return found


def _folders(name: str, entry: Any) -> list[Path]:
    """Folders behind one entry; patterns are followed in alphabetical order."""
    entries = entry if isinstance(entry, list) else [entry]
    if not entries or not all(isinstance(one, str) and one for one in entries):
        raise ValueError(
            f"students: {name or 'the list'}={entry!r} must be a folder or a list of folders, as {STUDENTS_EXAMPLE}."
        )
    found: list[Path] = []
    for one in entries:
        path = Path(one).expanduser()
        pattern = not path.exists() and glob.has_magic(one)
        matches = sorted(p for p in map(Path, glob.glob(str(path))) if p.is_dir()) if pattern else [path]
        if not matches or not all(match.is_dir() for match in matches):
            raise ValueError(f"There is no folder {one!r}{' that fits' if pattern else ''}; check students=...")
        found += matches
    return found


def _student(folder: Path) -> Student:
    from kd_env.models.pretrained import check_source

    check_source(str(folder))
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"The folder {str(folder)!r} is no student: it has no model.safetensors.")
    tokenizer = sorted({*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("*.model")})
    return Student(folder, digest([folder / "config.json", *weights, *tokenizer]), digest(tokenizer))


def digest(files: Sequence[Path]) -> str:
    """Hash of the content of some files."""
    content = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            content.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return content.hexdigest()[:16]
