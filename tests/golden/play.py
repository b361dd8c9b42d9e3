"""Plays the golden cases: ``python -m tests.golden.play`` says what differs from the record.

``--write`` records anew (all, or those whose names start with given words), ``--exact`` takes differing bits for a
difference, ``--times`` shows what every case costs.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from safetensors.numpy import load_file

# Everything that is not reached through an environment: what moves in the package is mended here.
import kd_env  # noqa: F401 - registers the environments
from agents import make_rule
from kd_env.envs.process import with_options
from kd_env.evaluation.judging.protocol import Contender, evaluate_policies
from kd_env.evaluation.judging.tables import judged_tables
from kd_env.evaluation.reports.report import summarize
from kd_env.evaluation.reports.report_files import to_json
from kd_env.testing import tiny_task

from .cases import CASES, ONLINE, PROBES, TEXT, TOY, Case
from .digests import Digest, Trace, differences, digest, record

FOLDER = Path(__file__).parent / "recorded"
ALIKE, ELSEWHERE = 1e-6, 1e-3
"""Relative differences that are allowed where bits differ: with the arithmetic of the record, and with another one. A
fresh student is drawn in float32 by functions that depend on the vector instructions: there it is another one, by its
seventh digit."""
ARITHMETIC = FOLDER / "arithmetic.json"


def problem_of(env: str, build: Mapping[str, Any]) -> Any:
    """The problem of these options, built once: it is what costs most. The views of an environment share theirs."""
    native = env.removesuffix("-v0").removesuffix("Discrete").removesuffix("Continuous")
    return _problem(f"kd_env/{native}-v0", json.dumps(build, sort_keys=True))


@functools.cache
def _problem(name: str, build: str) -> Any:
    options = json.loads(build)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", UserWarning)  # of gaps that are counted down to a floor
        if options.pop("scores", False):  # there is no embedded regression
            options = {**tiny_task(folder, regression=True), **options}
        return gym.make(name, disable_env_checker=True, **options).unwrapped.problem  # type: ignore[attr-defined]


def make(case: Case) -> Any:
    """The environment of a case."""
    options = {**case.process, "problem": problem_of(case.env, case.build)}
    if case.num_envs:
        return gym.make_vec(f"kd_env/{case.env}", num_envs=case.num_envs, **options)
    return gym.make(f"kd_env/{case.env}", disable_env_checker=True, **options)


def play(case: Case) -> Trace:
    """What a case does: observations, rewards, ends and infos of every step, and the students at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return _play(case)


def _play(case: Case) -> Trace:
    env, trace = make(case), Trace()
    inner, several = env.unwrapped, isinstance(env, VectorEnv)
    env.action_space.seed(3)
    policy = _rule(case, env)
    options = dict(case.reset) or None
    observation, infos = env.reset(seed=case.seed, options=options)
    _say(trace, 0, observation, infos)
    begins, memory = np.ones(case.num_envs or 1, dtype=bool), None
    for step in range(1, case.steps + 1):
        for name in case.probes:
            record(trace, f"probe/{name}", step, PROBES[name](inner))
        if policy is not None:
            action, memory = policy.predict(observation, memory, begins)
        else:
            action = env.action_space.sample() if case.act is None else case.act(inner, step - 1)
        observation, reward, terminated, truncated, infos = env.step(action)
        _say(trace, step, observation, infos, reward=reward, terminated=terminated, truncated=truncated)
        begins = np.atleast_1d(terminated | truncated)
        if begins.all() and not several:
            _students(trace, inner, f"student_{step}", case)
            observation, infos = env.reset(options=options)
            _say(trace, f"{step} reset", observation, infos)
        elif begins.any() and inner.metadata["autoreset_mode"] is gym.vector.AutoresetMode.DISABLED:
            for index in np.flatnonzero(begins):  # one by one, so that a reset leaves others alone
                observation, infos = env.reset(options={"reset_mask": np.arange(case.num_envs) == index})
                _say(trace, f"{step} reset {index}", observation, infos)
    if several or not begins.all():
        _students(trace, inner, "student", case)
    env.close()
    return trace


def _rule(case: Case, env: Any) -> Any:
    if case.rule is None:
        return None
    name, options = case.rule
    return make_rule(name, env, seed=1, **options)


def _say(trace: Trace, label: object, observation: Any, infos: Mapping[str, Any], **more: Any) -> None:
    record(trace, "observation", label, observation)
    record(trace, "info", label, {name: value for name, value in infos.items() if not name.startswith("_")})
    masks = {name: value for name, value in infos.items() if name.startswith("_")}
    for name in sorted(masks):  # of vector environments: whose values these are
        record(trace, "info masks", f"{label} {name}", masks[name])
    for key, value in more.items():
        record(trace, key, label, value)


def _students(trace: Trace, inner: Any, key: str, case: Case) -> None:
    if not case.students:
        return
    folder = Path(tempfile.mkdtemp())
    try:
        for replica in range(max(1, case.num_envs)):
            place = {"replica": replica} if case.num_envs else {}
            path = inner.save_student(folder / str(replica), **place)
            for name, tensor in sorted(load_file(path / "model.safetensors").items()):
                record(trace, f"{key}/{replica}", name, tensor)
    finally:
        shutil.rmtree(folder)


def results(env: str, build: Mapping[str, Any], policies: Mapping[str, Mapping[str, Any]], **process: Any) -> Trace:
    """What is written about an evaluation of rules: numbers by policy, without words, facts and paths."""
    problem = problem_of(env, build)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        contenders = {
            name: Contender(functools.partial(make_rule, name, seed=1, **options)) for name, options in policies.items()
        }
        evaluation = evaluate_policies(with_options(problem, **process) if process else problem, contenders, (11, 12))
        found = to_json(summarize(evaluation))
    trace = Trace()
    for name in ("seeds", "dev_splits", "term_names", "measure", "comparator", "best_rule"):
        record(trace, "whole", name, str(found[name]))
    _leaves(trace, "teacher", found["teacher"])
    for row in found["policies"]:
        _leaves(trace, row["policy"], row)
    return trace


def token_results(build: Mapping[str, Any], rules: Iterable[str]) -> Trace:
    """What an evaluation of token rules finds."""
    problem, trace = problem_of("TutorToken-v0", build), Trace()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        rules_by_name = {name: Contender(functools.partial(make_rule, name, seed=1)) for name in rules}
        found = evaluate_policies(problem, rules_by_name, (11, 12), judged=judged_tables(problem, 24))
    [dev] = found.dev_splits
    for name, result in found.policies.items():
        measures = {measured.name: measured.values for measured in result.measures}
        scores = result.splits[dev]
        metrics = {} if build.get("task") is None else scores.metrics
        scored = {"dev_loss": scores.loss, "dev_gap_closed": scores.gap_closed, "metrics": metrics}
        _leaves(trace, name, {**measures, **scored, "diverged": result.diverged})
    return trace


def _leaves(trace: Trace, key: str, value: Any, path: str = "") -> None:
    """Leaves of nested values: floats under ``<key> numbers``, everything else under ``<key> exact``."""
    if isinstance(value, Mapping):
        for name in sorted(value):
            _leaves(trace, key, value[name], f"{path}/{name}")
        return
    array = np.array(value)
    if array.dtype == object:
        array = np.array(str(value))
    kind = "numbers" if array.dtype.kind == "f" else "exact"
    trace.setdefault(f"{key} {kind}", []).append((path, array))


_TEACHES = {**ONLINE, "teacher_updates": "prokt", "learning_teacher": {"learning_rate": 1e-3, "log_every": 1}}
EVALUATIONS: dict[str, Callable[[], Trace]] = {
    "evaluation/knowledge_selection": lambda: results("KnowledgeSelection-v0", TOY, {"all": {}, "random_hard": {}}),
    "evaluation/teacher_weighting": lambda: results(
        "TeacherWeighting-v0", TOY, {"average": {}, "mt_bert": {}}, gap="labels"
    ),
    "evaluation/sample_weighting": lambda: results(
        "SampleWeighting-v0", {**TOY, "label_noise": 0.3}, {"uniform": {}, "lgtm": {}}
    ),
    "evaluation/learning_teacher": lambda: results("SampleWeighting-v0", _TEACHES, {"lgtm": {}}),
    "evaluation/tutor_token": lambda: token_results(TEXT, ("teacher_samples", "keep_masked")),
    "evaluation/tutor_token_task": lambda: token_results({**TEXT, "task": "toy"}, ("random_tokens", "keep_original")),
}

NAMES = (*CASES, *EVALUATIONS)


def trace_of(name: str) -> Trace:
    """The trace of a case or an evaluation by name."""
    return EVALUATIONS[name]() if name in EVALUATIONS else play(CASES[name])


def file_of(name: str) -> Path:
    """Where a case is recorded: one file for every first part of the names."""
    return FOLDER / f"{name.split('/')[0]}.json"


@functools.cache
def recorded(path: Path) -> dict[str, Any]:
    """The digests of a file, by name; empty if there is none."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def arithmetic() -> dict[str, str]:
    """What the seventh digit of a drawn number, or of a product of matrices, depends on."""
    return {
        "torch": torch.__version__.split("+")[0],
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        # With the same instructions MKL takes other kernels on processors of another maker.
        "processor": _maker(),
    }


def _maker() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(names, platform.processor())


def check(name: str, *, exact: bool | None = None) -> list[str]:
    """Where a case is not what was recorded; see :func:`golden.digests.differences`.

    Args:
        name: of the case.
        exact: whether bits may not differ; None reads ``KD_ENV_GOLDEN=exact``.
    """
    expected = recorded(file_of(name)).get(name)
    if expected is None:
        return [f"not recorded; run python -m tests.golden.play --write {name}"]
    strict = os.environ.get("KD_ENV_GOLDEN") == "exact" if exact is None else exact
    tolerance = ALIKE if recorded(ARITHMETIC) == arithmetic() else ELSEWHERE
    tolerance *= CASES[name].rounding if name in CASES else 1.0
    return differences(trace_of(name), expected, tolerance=tolerance, exact=strict)


def write(names: Iterable[str]) -> None:
    """Record cases anew; what is recorded under names that are gone is dropped."""
    FOLDER.mkdir(exist_ok=True)
    fresh = {name: digest(trace_of(name)) for name in names}
    for path in {file_of(name) for name in NAMES}:
        kept = {**recorded(path), **fresh}
        cases = {name: kept[name] for name in NAMES if name in kept and file_of(name) == path}
        path.write_text(_text(cases), encoding="utf-8")
    for path in set(FOLDER.glob("*.json")) - {file_of(name) for name in NAMES}:
        path.unlink()
    ARITHMETIC.write_text(json.dumps(arithmetic()) + "\n", encoding="utf-8")


def _text(cases: Mapping[str, Digest]) -> str:
    """JSON with one key of a case a line, so that a change of the record can be read."""
    blocks = []
    for name, entries in cases.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(entry, separators=(',', ':'))}" for key, entry in entries.items()]
        blocks.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the number of cases that differ, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.play", description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names; none: every case")
    for flag, words in (("write", "record anew"), ("exact", "compare bits"), ("times", "show seconds")):
        parser.add_argument(f"--{flag}", action="store_true", help=words)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as tests/conftest.py: the order of additions depends on it
    names = [name for name in NAMES if not given.names or name.startswith(tuple(given.names))]
    if given.write:
        write(names)
        return 0
    wrong = 0
    for name in names:
        start = time.perf_counter()
        lines = check(name, exact=True if given.exact else None)
        wrong += bool(lines)
        if given.times:
            print(f"{time.perf_counter() - start:6.2f} s {name}")
        for line in lines:
            print(f"{name}: {line}")
    print(f"{len(names)} cases, {wrong} differ.")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
