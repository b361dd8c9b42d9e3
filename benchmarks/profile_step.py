"""Where the time of a training goes: shares of updates, evaluations, features and the agent.

An actor-critic learns beside N stacked students, weighing the rows of their batches (``decision=sample_weighting``) or
the knowledge terms; students are evaluated on the feedback rows at every step. *update*: student updates; *evaluation*:
the feedback rows; *features*: the observation, and with it a pass of the student on its next batch; *agent*: acting and
learning; *rest*: draws, rewards and the environment's shell.

Environments of several ``precisions`` take turns, with and without the evaluations (``evaluate_every``).

Without ``encoder`` the task is the embedded one, with a fresh student of ``hidden`` and ``layers``. With ``encoder``
and ``data_dir`` it is a GLUE task, whose student is the encoder's first ``layers`` layers; heads are drawn by seed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
from torch.nn import functional

from agents.catalog import make_agent
from benchmarks import common
from benchmarks.teacher_set import with_heads
from kd_env import DistillVectorEnv, Problem, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options
from kd_env.mdp import transition
from kd_env.models import encoder
from kd_env.models.library import attention

PRECISIONS = ("fp32", "vmap", "bf16", "autocast", "auto")
PARTS = ("update", "evaluation", "features", "agent", "rest")


def _empty_or(check: checks.Check) -> checks.Check:
    """An empty list, or one of different values, every one of which passes ``check``."""

    def run(name: str, value: Any) -> None:
        if value != ():
            common.each(check)(name, value)

    return run


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 5
    """Timed rounds, in each of which the agent takes ``steps`` steps in every student and learns from them."""
    steps: int = 8
    """Steps of a round."""
    decision: tuple[str, ...] = ("sample_weighting",)
    """``sample_weighting`` (row features, one update a step) or ``knowledge_selection`` (two updates a step)."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the student of the embedded task; an encoder's is its own."""
    layers: tuple[int, ...] = (1,)
    """Layers of the student."""
    replicas: tuple[int, ...] = (1, 2, 16)
    """Students N."""
    precisions: tuple[str, ...] = ()
    """Take turns: ``fp32``, ``vmap`` (fp32, several students by the library's own code under ``torch.func.vmap``),
    ``bf16``, ``autocast`` (bf16 as PyTorch alone makes it: casts at each use, attention in it) or ``auto``; none:
    ``precision`` alone."""
    terms: tuple[str, ...] = ()
    """Knowledge terms; none: those of the environment."""
    evaluate_every: tuple[int, ...] = (1,)
    """With (1) and without (0) an evaluation of feedback rows at every step."""
    evaluation_rows: int = 128
    """Feedback rows of an evaluation."""
    samples: tuple[int, ...] = (0,)
    """Take turns, too: of these rows so many are read within an episode, the same for five steps; 0: all."""
    task: str = "sst2"
    """GLUE task, with ``data_dir`` and ``encoder``."""
    data_dir: str = ""
    """Folder of the GLUE task; empty for the embedded one."""
    encoder: str = ""
    """Encoder of the GLUE task."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "steps": checks.whole(1),
        "decision": common.each(checks.one_of("sample_weighting", "knowledge_selection")),
        "hidden": common.each(checks.whole(8)),
        "layers": common.each(checks.whole(1)),
        "replicas": common.each(checks.whole(1)),
        "precisions": _empty_or(checks.one_of(*PRECISIONS)),
        "terms": _empty_or(checks.filled),
        "evaluate_every": common.each(checks.whole(0, 1)),
        "evaluation_rows": checks.whole(1),
        "samples": common.each(checks.whole(0)),
        "task": checks.text,
        "data_dir": checks.text,
        "encoder": checks.text,
    }

    def check(self) -> None:
        """See the base class; a GLUE task needs its folder and an encoder."""
        super().check()
        common.check_encoder(self.data_dir, self.encoder)
        if max(self.samples) >= self.evaluation_rows:
            raise ValueError(
                f"samples={list(self.samples)} must be smaller than evaluation_rows={self.evaluation_rows}."
            )
        if max(self.samples) and 0 in self.evaluate_every:
            raise ValueError("evaluate_every=[0] reads no rows within an episode; leave it or samples out.")


class Clock:
    """Seconds of calls by name."""

    def __init__(self, problem: Problem) -> None:
        self.seconds = dict.fromkeys((*PARTS, "step"), 0.0)
        self._device = problem.device
        # Other work on a CPU is left out; a GPU's is seen by the wall clock alone.
        self._timer = time.process_time if problem.device.type == "cpu" else time.perf_counter

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, whose seconds are added to a part."""

        def run(*arguments: Any, **options: Any) -> Any:
            result = None

            def inner() -> None:
                nonlocal result
                result = call(*arguments, **options)

            self.seconds[part] += common.clocked(inner, self._device, self._timer)()
            return result

        return run

    def round(self, learn: Callable[[], object]) -> dict[str, float]:
        """Seconds of every part of one call, within which all others are made."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        total = common.clocked(learn, self._device, self._timer)()
        parts = {part: self.seconds[part] for part in ("update", "evaluation", "features")}
        return {**parts, "agent": total - self.seconds["step"], "rest": self.seconds["step"] - sum(parts.values())}


def run(options: Options) -> common.Result:
    """Measure every cell."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for decision in options.decision:
            for layers in options.layers:
                for hidden in (0,) if options.encoder else options.hidden:
                    problems = {
                        precision: _problem(options, decision, layers, hidden, precision, Path(folder))
                        for precision in options.precisions or (options.precision,)
                    }
                    width = next(iter(problems.values())).student.facts.hidden_size
                    for every in options.evaluate_every:
                        chosen = {
                            (name, sample): with_options(each, evaluate_every=every, **_sampled(sample))
                            for sample in options.samples
                            for name, each in problems.items()
                        }
                        for replicas in options.replicas:
                            common.progress(f"profile_step: {decision}, {layers} x {width}, {replicas} students")
                            cell = {"decision": decision, "layers": layers, "hidden": width, "evaluate_every": every}
                            rows += [{**cell, "replicas": replicas, **row} for row in _cell(options, chosen, replicas)]
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Milliseconds of a step of all students, and the shares of its parts."""
    lines = [
        [
            f"{row['decision']}",
            f"{row['layers']} x {row['hidden']}",
            str(row["replicas"]),
            row["precision"],
            str(row["sample"] or "all") if row["evaluate_every"] else "no",
            common.ms(row["step"]),
            f"{row['ratio']:.2f}",
            *(f"{row[part] / row['step']:.0%}" for part in PARTS),
        ]
        for row in result["rows"]
    ]
    note = (
        "\n\nMedians; of processor time on a CPU. Ratios are the time of the first of those that took turns "
        "over the row's, medians of rounds. Shares are of the sum of the parts."
    )
    header = ["decision", "student", "N", "precision", "evaluated", "ms a step", "ratio", *PARTS]
    return common.markdown(header, lines) + note


def plot(result: common.Result, path: Path) -> None:
    """The parts of a step as stacked bars."""
    rows = result["rows"]
    figure = common.new_figure(7.0, 0.5 * len(rows) + 1.4)
    axes = figure.subplots()
    names = [
        f"{row['decision']}, {row['layers']} x {row['hidden']}, N {row['replicas']}, {row['precision']}"
        + (f", {row['sample']} rows" if row["sample"] else "" if row["evaluate_every"] else ", not evaluated")
        for row in rows
    ]
    left = np.zeros(len(rows))
    for part in PARTS:
        shares = np.array([row[part] / row["step"] for row in rows])
        axes.barh(names, shares, left=left, label=part)
        left += shares
    axes.set_xlabel("share of a step")
    axes.legend(fontsize=7, ncols=len(PARTS), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    common.save_figure(figure, path)


def _sampled(sample: int) -> dict[str, Any]:
    return {"evaluation_sample": sample, "sample_steps": 5} if sample else {}


def _problem(options: Options, decision: str, layers: int, hidden: int, precision: str, folder: Path) -> Problem:
    given: dict[str, Any] = {
        "decision": decision,
        "budget": 100_000,  # no episode ends while it is measured
        "evaluation_rows": options.evaluation_rows,
        "feedback_rows": options.evaluation_rows,
        "precision": {"autocast": "bf16", "vmap": "fp32"}.get(precision, precision),
        **({"terms": options.terms} if options.terms else {}),
        "device": options.device,
    }
    if not options.encoder:
        given["student"] = common.student_options(layers, hidden)
    else:
        if not (folder / "teacher-0").exists():
            with_heads(options.encoder, folder, 1)
        given |= {
            "task": options.task,
            "data_dir": options.data_dir,
            "teacher": str(folder / "teacher-0"),
            "teacher_check": "none",  # a head that was drawn by seed knows nothing of the labels
            "cache_dir": str(folder / "cache"),
            "gap": "divergence",
            "student": {"init": "teacher", "num_hidden_layers": layers},
            "max_length": 64,
            "max_train_rows": 256,
        }
    return build_problem(env_config(**given))


@contextmanager
def _parts(clock: Clock, env: DistillVectorEnv) -> Iterator[None]:
    """The calls of an environment with their times taken."""
    objective = env.problem.objective
    with ExitStack() as stack:
        for part, owner, name in (
            ("update", transition, "update"),
            ("evaluation", objective, "evaluate"),
            ("features", env.run, "observation"),
            ("step", env, "step"),
        ):
            stack.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        yield


@contextmanager
def _as_before(how: str) -> Iterator[None]:
    """Passes as a name of ``precisions`` says: weights cast at every use and attention in bf16, or under ``vmap``."""

    def plain_attention(*given: Any) -> Any:
        *tensors, scale = given
        return functional.scaled_dot_product_attention(*tensors, scale=scale)

    with ExitStack() as stack:
        if how == "autocast":
            stack.enter_context(patch.object(attention, "_fused_attention", plain_attention))
            stack.enter_context(patch.object(encoder.Encoder, "in_bf16", lambda _, params: params))
        elif how == "vmap":
            stack.enter_context(patch.object(encoder.Encoder, "_program", None))
        yield


class _Learning:
    """An agent that learns in N students of a problem, with the times of its rounds."""

    def __init__(self, options: Options, problem: Problem, precision: str, count: int) -> None:
        self.env = DistillVectorEnv(count, problem=problem)
        self.agent = make_agent("actor_critic", self.env, seed=0, device=str(problem.device), n_steps=options.steps)
        self.clock, self.steps, self.rounds = Clock(problem), options.steps * count, list[dict[str, float]]()
        self.precision = precision if precision in ("autocast", "vmap") else problem.precision

    def round(self) -> None:
        with _as_before(self.precision), _parts(self.clock, self.env):
            self.rounds.append(self.clock.round(lambda: self.agent.learn(self.steps, reset_num_timesteps=False)))


def _cell(options: Options, problems: Mapping[tuple[str, int], Problem], count: int) -> list[dict[str, Any]]:
    """Rows of one cell, a row for each precision and sample."""
    learning = [_Learning(options, problem, precision, count) for (precision, _), problem in problems.items()]
    for _ in range(options.repeats + 1):
        for each in learning:
            each.round()
    rows, first = [], np.array([sum(times.values()) for times in learning[0].rounds[1:]])
    for each, (_, sample) in zip(learning, problems, strict=True):
        each.env.close()
        rounds = each.rounds[1:]
        totals = np.array([sum(times.values()) for times in rounds])
        parts = {part: float(np.median([times[part] for times in rounds])) / options.steps for part in PARTS}
        ratio, spread = float(np.median(first / totals)), common.spread(totals.tolist())
        measured = {**parts, "step": sum(parts.values()), "ratio": ratio, "spread": spread}
        rows.append({"precision": each.precision, "sample": sample, **measured})
    return rows
