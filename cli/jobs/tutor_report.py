"""What a study of tutors finds: evaluations that are kept with their students, and the report on them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cli.runs import folder as runs
from cli.runs.watch import Lines

if TYPE_CHECKING:
    from kd_env.decisions.tutor_token.problem import TutorProblem
    from kd_env.envs.tutor_env import TutorVectorEnv
    from kd_env.evaluation.judging.tutoring import Contender, TutorResult
    from kd_env.evaluation.statistics.intervals import Difference, Interval

JUDGED, STUDENTS = "judged", "students"
START = "none"
"""Folder of students that nobody taught."""
MEASURES = {
    "reward": "reward",
    "teacher_recognises": "R_T",
    "student_error": "R_S",
    "student_error_first": "R_S, first tenth",
    "student_error_last": "R_S, last tenth",
    "plausibility": "plausibility",
    "teacher_probability": "p_T(a)",
    "dev_gap_closed": "gap closed (dev)",
}
"""Columns of the table, by field of :class:`kd_env.evaluation.judging.tutoring.TutorResult`."""
_COMPARED = ("reward", "dev_gap_closed")
_BOUNDS = {
    "teacher_recognises": (-1.0, 1.0),
    **dict.fromkeys(("student_error", "student_error_first", "student_error_last"), (0.0, 1.0)),
    **dict.fromkeys(("plausibility", "teacher_probability"), (0.0, 1.0)),
}
DEV_ROWS = 512
"""Dev texts that students are judged on, where there is no task."""
Samples = Sequence[Mapping[str, Any]]


def judge(
    contenders: Mapping[str, Contender],
    native: TutorProblem,
    folder: Path,
    seeds: Sequence[int],
    kept: Sequence[int],
    shown: bool,
) -> dict[str, TutorResult]:
    """Results of all, those that are missing made and written with the students that are kept.

    Args:
        contenders: by name.
        native: problem of those without one of their own.
        folder: of the study.
        seeds: of the students.
        kept: those of them whose students are kept.
        shown: whether progress is.
    """
    from kd_env.evaluation.judging.tutoring import evaluate_tutors, joined
    from kd_env.models.loading import quiet_transformers

    found = {name: read_judged(folder, name, seeds, kept) for name in contenders}
    missing = {name: contender for name, contender in contenders.items() if found[name] is None}
    lines: dict[str, Lines] = {}
    parts: dict[str, list[TutorResult]] = {name: [] for name in missing}

    def progress(name: str, step: int, steps: int) -> None:
        if name not in lines:
            print(f"evaluating {name}", flush=True)
            lines[name] = Lines(f"evaluating {name}", steps, shown)
        lines[name].at(step)

    def on_end(name: str, env: TutorVectorEnv, result: TutorResult, of: list[int]) -> None:
        if not parts[name]:
            shutil.rmtree(folder / STUDENTS / name, ignore_errors=True)  # of an evaluation of other students
        keep_students(folder, name, env, result, of, kept)
        parts[name].append(result)
        if of[-1] == seeds[-1]:
            write_judged(folder, name, joined(parts[name]), seeds)

    with quiet_transformers():
        _save_starts(native, folder, kept)
    if missing:
        found |= evaluate_tutors(
            native, missing, seeds, dev_rows=DEV_ROWS, progress=progress if shown else None, on_end=on_end
        )
    return {name: result for name, result in found.items() if result is not None}


def keep_students(
    folder: Path,
    name: str,
    env: TutorVectorEnv,
    result: TutorResult,
    seeds: Sequence[int],
    kept: Sequence[int],
    finished: bool = False,
) -> None:
    """Write the students of ``env`` that are kept and did not diverge.

    Args:
        folder: of the study.
        name: of the tutor.
        env: holds one student for each seed.
        result: of these.
        seeds: of these.
        kept: seeds of those that are kept.
        finished: whether the episodes of the students were reset at their end.
    """
    from kd_env.models.loading import quiet_transformers

    for replica, seed in enumerate(seeds):
        if seed not in kept:
            continue
        target = folder / STUDENTS / name / f"seed{seed}"
        shutil.rmtree(target, ignore_errors=True)
        if result.diverged[replica]:
            print(f"{name}: the student of seed {seed} diverged and is not kept.", flush=True)
            continue
        with quiet_transformers():
            env.save_student(target, replica, finished)


def write_judged(folder: Path, name: str, result: TutorResult, seeds: Sequence[int]) -> None:
    """Write the result of an evaluation."""
    from kd_env.core.files import atomic_write

    values = {key: _plain(value) for key, value in vars(result).items()}
    judged = folder / JUDGED / f"{name}.json"
    judged.parent.mkdir(exist_ok=True)
    atomic_write(judged, json.dumps({"seeds": list(seeds), "dev_rows": DEV_ROWS, "result": values}) + "\n")


def read_judged(folder: Path, name: str, seeds: Sequence[int], kept: Sequence[int]) -> TutorResult | None:
    """The result of an evaluation of the same students, with those that are kept; None where there is none."""
    from kd_env.evaluation.judging.tutoring import TutorResult

    path = folder / JUDGED / f"{name}.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(TutorResult)}
    if found["seeds"] != list(seeds) or found["dev_rows"] != DEV_ROWS or set(found["result"]) != fields:
        return None
    metrics = {key: np.array(value) for key, value in found["result"].pop("metrics").items()}
    result = TutorResult(**{key: np.array(value) for key, value in found["result"].items()}, metrics=metrics)
    diverged = dict(zip(seeds, result.diverged.tolist(), strict=True))
    there = [diverged[seed] or (folder / STUDENTS / name / f"seed{seed}").is_dir() for seed in kept]
    return result if all(there) else None


def _plain(value: Any) -> Any:
    return {key: each.tolist() for key, each in value.items()} if isinstance(value, Mapping) else value.tolist()


def _save_starts(problem: TutorProblem, folder: Path, seeds: Sequence[int]) -> None:
    """Keep students as they are at reset: the same for every tutor."""
    from kd_env.envs.tutor_env import TutorEnv

    for seed in seeds:
        target = folder / STUDENTS / START / f"seed{seed}"
        if not target.is_dir():
            env = TutorEnv(problem=problem)
            env.reset(seed=seed)
            env.save_student(target)


def edited_samples(problem: TutorProblem, agent: Any, seed: int, count: int) -> list[dict[str, Any]]:
    """Texts of the first batch of an episode, original and as the agent edits them."""
    from kd_env.envs.tutor_env import TutorVectorEnv

    env = TutorVectorEnv(1, problem=problem, autoreset_mode="disabled")
    observation, _ = env.reset(seed=seed)
    rows = env.run.started().rows[0]
    positions, valid = env.run.started().positions[0], env.run.started().valid[0]
    info: dict[str, Any] = {"updated": np.zeros(1, dtype=bool)}
    state, begins = None, np.ones(1, dtype=bool)
    while not info["updated"][0]:
        actions, state = agent.predict(observation, state, begins)
        observation, _, _, _, info = env.step(actions)
        begins = np.zeros(1, dtype=bool)
    tokenizer, found = problem.assets.tokenizer, []
    for row in range(min(count, len(rows))):
        ids = problem.host_ids[rows[row]][: problem.train.lengths[rows[row]]]
        before = tokenizer.convert_ids_to_tokens(ids.tolist())
        after = list(before)
        for slot in np.flatnonzero(valid[row]).tolist():
            place = int(positions[row, slot])
            token = tokenizer.convert_ids_to_tokens(int(info["tokens"][0, row, slot]))
            before[place], after[place] = f"[{before[place]}]", f"[{token}]"
        names = ("plausibility", "student_error")
        parts = {name: np.round(info[name][0, row][valid[row]].astype(float), 3).tolist() for name in names}
        found.append({"original": " ".join(before), "edited": " ".join(after), **parts})
    return found


def write_report(
    folder: Path,
    command: str,
    problem: TutorProblem,
    agents: Mapping[str, Sequence[str]],
    found: Mapping[str, TutorResult],
    samples: Samples,
    joint: bool,
) -> None:
    """Print the report, and write it to ``results.md`` and ``results.json``.

    Args:
        folder: of the study.
        command: how it was called.
        problem: of the study.
        agents: by label, the names of its trainings in ``found``.
        found: results by name; those of no agent are rules.
        samples: texts, original and edited.
        joint: whether each training has one student, of the seed of the training, and rules have those of all seeds.
    """
    from kd_env.core.files import atomic_write, without_infinities

    rules = [name for name in found if not any(name in trained for trained in agents.values())]
    measures = {**MEASURES, **{name: f"{name} (dev)" for name in next(iter(found.values())).metrics}}
    compared = [name for name in measures if name in _COMPARED or name not in MEASURES]
    differences = {measure: _differences(agents, rules, found, measure, joint) for measure in compared}
    text = _text(problem, measures, agents, rules, found, differences, samples, joint)
    print(text)
    results = {
        "command": command,
        "protocol": "joint" if joint else "frozen",
        "facts": {
            "slots": problem.slots,
            "left_out": problem.assets.left_out,
            "fingerprint": problem.assets.fingerprint,
            "saw_feedback": problem.assets.saw_feedback,
        },
        "agents": {label: list(names) for label, names in agents.items()},
        "tutors": {
            name: {m: _values(result, m).tolist() for m in (*measures, "dev_loss", "diverged")}
            for name, result in found.items()
        },
        "differences": without_infinities(
            {
                measure: {
                    label: {other: dataclasses.asdict(difference) for other, difference in row.items()}
                    for label, row in table.items()
                }
                for measure, table in differences.items()
            }
        ),
        "samples": list(samples),
    }
    atomic_write(folder / runs.RESULTS, json.dumps(results, indent=2) + "\n")
    atomic_write(folder / "results.md", text + "\n")
    print(f"Written to {folder}", flush=True)


def _differences(
    agents: Mapping[str, Sequence[str]],
    rules: Sequence[str],
    found: Mapping[str, TutorResult],
    measure: str,
    joint: bool,
) -> dict[str, dict[str, Difference]]:
    """Every agent minus every rule (paired by students), and minus every other agent.

    Other agents are independent trainings; with ``joint`` those of one seed begin with the same student and data, and
    are pairs.
    """
    from kd_env.evaluation.statistics.crossed import policy_difference
    from kd_env.evaluation.statistics.intervals import paired_difference

    trained = {label: _of(found, names, measure) for label, names in agents.items()}
    if joint:
        fixed = {name: _values(found[name], measure) for name in rules}
        every = {**fixed, **{label: own[:, 0] for label, own in trained.items()}}
        return {
            label: {
                other: paired_difference(every[label], theirs, trained=True)
                for other, theirs in every.items()
                if other != label and len(theirs) > 1
            }
            for label in agents
        }
    return {
        label: {
            **{name: policy_difference(own, _values(found[name], measure)) for name in rules},
            **{other: policy_difference(own, theirs) for other, theirs in trained.items() if other != label},
        }
        for label, own in trained.items()
    }


def _of(found: Mapping[str, TutorResult], names: Sequence[str], measure: str) -> np.ndarray:
    """``[trainings, students]``."""
    return np.stack([_values(found[name], measure) for name in names])


def _values(result: TutorResult, measure: str) -> np.ndarray:
    """A field, or one of the official metrics, ``[students]``."""
    values: np.ndarray = result.metrics[measure] if measure in result.metrics else getattr(result, measure)
    return values


def _text(
    problem: TutorProblem,
    measures: Mapping[str, str],
    agents: Mapping[str, Sequence[str]],
    rules: Sequence[str],
    found: Mapping[str, TutorResult],
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]],
    samples: Samples,
    joint: bool,
) -> str:
    from kd_env.evaluation.statistics.crossed import policy_interval
    from kd_env.evaluation.statistics.intervals import t_interval
    from kd_env.evaluation.statistics.verdicts import detectable_words, show
    from kd_env.numerics.metrics import BOUNDS

    def interval(names: Sequence[str], measure: str) -> Interval:
        values, limits = _of(found, names, measure), {**BOUNDS, **_BOUNDS}.get(measure)
        # With one student for each training, or one policy, there is one sample.
        return (
            t_interval(values[:, 0], bounds=limits)
            if joint and len(values) > 1
            else policy_interval(values, bounds=limits)
        )

    def line(head: Sequence[str], names: Sequence[str]) -> list[str]:
        return [*head, *(show(interval(names, measure)) for measure in measures)]

    lines = [line([f"{label} *", str(len(names))], names) for label, names in agents.items()]
    lines += [line([name, "rule"], [name]) for name in rules]
    first = _headline(measures, agents, rules, differences)
    text = [*([first, ""] if first else []), *_table(["tutor", "trainings", *measures.values()], lines), ""]
    others = [*rules, *(agents if len(agents) > 1 else ())]
    for measure, rows in differences.items():
        if not others:
            break
        cells = [
            [
                label,
                *(f"{show(d.interval, True)}{', tie' if d.tie else ''}" if d else "" for d in map(row.get, others)),
            ]
            for label, row in rows.items()
        ]
        pairs = [(f"{label} - {other}", row[other]) for label, row in rows.items() for other in others if other in row]
        text += [f"{measures[measure]}, row minus column:", "", *_table(["", *others], cells), ""]
        text += [detectable_words(pairs, measures[measure]), ""]
    text += [
        (_joint_words if joint else _words)(problem, agents, found),
        "",
        f"Texts, and as {next(iter(agents))} edits them:",
        "",
    ]
    for sample in samples:
        text += [f"- `{sample['original']}`", f"  `{sample['edited']}` (plausibility {sample['plausibility']})"]
    return "\n".join(text)


def _headline(
    measures: Mapping[str, str],
    agents: Mapping[str, Sequence[str]],
    rules: Sequence[str],
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]],
) -> str:
    """Whether an agent is above every rule on dev rows: with no selection split none of them may be chosen as the best.

    The first official metric counts, or without a task the gap closed; being above each rule needs no correction for
    their number (an intersection-union test).
    """
    measure = next((name for name in measures if name not in MEASURES), "dev_gap_closed")
    found = {label: [row[rule] for rule in rules if rule in row] for label, row in differences[measure].items()}
    if not any(found.values()):
        return ""
    above = [label for label, own in found.items() if own and all(one.interval.low > 0 for one in own)]
    what = measures[measure]
    if above:
        designs = ", ".join(dict.fromkeys(one.design for label in above for one in found[label]))
        claims = all(one.claim for label in above for one in found[label])
        return f"Above every rule in {what}: {', '.join(above)} ({designs}{'' if claims else ': shown, no claim'})."
    return f"Nothing learned is above every rule in {what}: {', '.join(agents)}."


def _words(problem: TutorProblem, agents: Mapping[str, Sequence[str]], found: Mapping[str, TutorResult]) -> str:
    from kd_env.evaluation.statistics.intervals import MIN_UNITS_FOR_CLAIM
    from kd_env.evaluation.statistics.verdicts import seeds_words

    students = len(next(iter(found.values())).reward)
    single = min(map(len, agents.values())) < 2
    units = "; one training is that one policy over its students, and no claim about its agent" if single else ""
    apart = "; trainings of two agents are independent" if len(agents) > 1 else ""
    few = "".join(f" {words}" for words in seeds_words(students))
    least = min(map(len, agents.values()))
    if 1 < least < MIN_UNITS_FOR_CLAIM:
        few += f" {least} trainings: shown, no claim (a claim needs {MIN_UNITS_FOR_CLAIM})."
    return (
        f"Every tutor taught the same {students} fresh students for {problem.config.budget} updates each; agents act "
        "as they do in training, but for those that explore by chance alone (dqn, qrdqn), which take their best "
        f"action. Rewards are means per token over all updates, the gap is that of {_gap(problem)}. Brackets: 95% "
        f"intervals, over trainings and students, crossed, for agents (*), over students for the others{units}; "
        f"differences are paired by student{apart}; tie: an interval that contains 0.{few} "
        f"{int(sum(result.diverged.sum() for result in found.values()))} students diverged."
    )


def _joint_words(problem: TutorProblem, agents: Mapping[str, Sequence[str]], found: Mapping[str, TutorResult]) -> str:
    from kd_env.evaluation.statistics.intervals import MIN_SEEDS_FOR_CLAIM

    count = len(next(iter(agents.values())))
    few = f" {count} trainings: shown, no claim (a claim needs {MIN_SEEDS_FOR_CLAIM}, a seed each)."
    few = few if count < MIN_SEEDS_FOR_CLAIM else ""
    diverged = int(sum(result.diverged.sum() for result in found.values()))
    return (
        f"protocol=joint: each of {count} trainings of an agent (*) had one student of {problem.config.budget} "
        "updates, which learned while the agent did, from its first action on, and is the one that is judged; rules "
        "taught a student from the same start, with the same texts and masks, for every training. Rewards are means "
        f"per token over all updates, the gap is that of {_gap(problem)}. Brackets: 95% t intervals over these "
        f"students; differences are paired by seed; tie: an interval that contains 0.{few} {diverged} students "
        "diverged."
    )


def _gap(problem: TutorProblem) -> str:
    return "L_pp on dev texts" if problem.config.task is None else "the gold labels' cross-entropy on dev rows"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]
