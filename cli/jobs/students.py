"""Students that an evaluation keeps: folders that load as models, and as teachers of further runs."""

from __future__ import annotations

import glob
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli.settings.kinds.base import Settings
from cli.settings.kinds.kept_students import kept_students
from kd_env.config.environment import EnvConfig

if TYPE_CHECKING:
    from kd_env.envs import DistillVectorEnv
    from kd_env.evaluation.judging.contenders import Keep, Standing

STUDENTS = "students"
SELECTION = "selection"
"""Key of a record: how the student did on the selection split, where the best are kept."""


def has_feedback(agent: str) -> bool:
    """Whether feedback rows have a say in what an agent does: in all but the rules that say they do not look."""
    from agents import agent_kind
    from agents.rules.catalog import rule_class

    return agent_kind(agent) != "rule" or rule_class(agent).looks_at_feedback


def keeper(settings: Settings[EnvConfig]) -> Keep | None:
    """Writes the first ``save_students`` students of the run's agent, or the best, as ``<run>/students/seed<seed>``.

    What lay there is replaced: it is of an evaluation that was broken off. The record beside each says what it was
    distilled from, and whether feedback rows had a say in it, so that it can be a teacher (``teacher.path``).
    """
    wanted = kept_students(settings.resolved["save_students"], len(settings.evaluation_seeds), can_rank=True)
    if not wanted.number:
        return None
    from kd_env.envs.student_record import student_record
    from kd_env.finetuning.store import write_record
    from kd_env.models.library.reading import quiet_transformers

    kept, label = settings.evaluation_seeds[: None if wanted.best else wanted.number], settings.agent.label
    steered, students = has_feedback(settings.agent.name), settings.run_folder / STUDENTS

    def keep(
        name: str, env: DistillVectorEnv, replica: int, seed: int, diverged: bool, standing: Callable[[], Standing]
    ) -> None:
        if name != label or seed not in kept:
            return
        folder = students / f"seed{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        if diverged:
            print(f"{name}: the student of seed {seed} diverged and is not kept.", flush=True)
            return
        rank = standing() if wanted.best else None
        if rank is not None and not _make_room(students, wanted.number, rank):
            return
        with quiet_transformers():
            env.save_student(folder, replica)
        if env.problem.config.objective == "text":  # no classifier, and so no teacher: `kd-env evaluate students=...`
            print(f"Student of seed {seed}: {folder}", flush=True)
            return
        record = student_record(env.problem, policy=name, seed=seed, steered=steered)
        write_record(folder, record if rank is None else {**record, SELECTION: rank._asdict()})
        # Another run of this split would refuse it as a teacher.
        note = f"{folder} (feedback rows had a say: no teacher of this split)" if steered else f"teacher.path={folder}"
        print(f"Student of seed {seed}: {note}", flush=True)

    return keep


def _make_room(students: Path, count: int, rank: Standing) -> bool:
    """Whether a student is among the best ``count``; then those that are kept are fewer, the worst is given up.

    The records say how they did: an evaluation that was broken off goes on among those that it had kept. Whoever has no
    standing was kept by its number, before the option was another one.
    """
    from kd_env.core.records import read_record

    ranked: list[tuple[float, float, Path]] = []
    for folder in sorted(students.glob("seed*")):
        found = (read_record(folder) or {}).get(SELECTION)
        if found is None:
            shutil.rmtree(folder)
        else:
            ranked.append((found["metric"], found["minus_loss"], folder))
    ranked.sort(key=lambda one: one[:2], reverse=True)
    if len(ranked) >= count and ranked[count - 1][:2] >= tuple(rank):
        return False
    for *_, folder in ranked[count - 1 :]:
        shutil.rmtree(folder)
    return True


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
