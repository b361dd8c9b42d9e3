"""A step with a teacher that learns: ProKT, LGTM and MetaDistil against a plain loop of an online teacher and student.

The plain loop (PyTorch, Hugging Face models) makes one update of each; its losses, teacher and student are required to
agree with the environment's ProKT step first. Beside the times stand the passes of teacher and student in one step,
counted in the models themselves: F forward, B backward, P forward-mode product. The rule ``lgtm`` for a frozen, cached
teacher is set against a uniform step. No evaluation, and an observation that costs nothing. Ratios are medians over
rounds, with the least and the greatest.

``toy`` is the embedded task with its packaged teacher and the fresh student of the environment's defaults; ``random``
are rows of random words with a random teacher and a student of given sizes.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from torch.autograd import forward_ad

from agents import make_rule
from benchmarks import common
from benchmarks.bare_teaching import TERMS, BarePair, agree
from kd_env import DistillEnv, build_problem
from kd_env.core import checks
from kd_env.decisions.options import env_config
from kd_env.mdp.problem import Problem
from kd_env.models.devices import resolve_device

AIM = 2.5
"""Of a step of LGTM over the plain loop."""
SETTINGS = ("toy", "random")
LEARNING: dict[str, tuple[str, dict[str, Any]]] = {
    "prokt": ("prokt", {}),
    "lgtm, student_loss": ("lgtm", {}),
    "lgtm, teacher_loss": ("lgtm", {"influence_target": "teacher_loss"}),
    "metadistil": ("metadistil", {}),
}
FROZEN: dict[str, tuple[str, dict[str, Any]]] = {"frozen, uniform": ("uniform", {}), "frozen, lgtm": ("lgtm", {})}
"""Steps by name: the rule, and its options."""
BASES = {**dict.fromkeys(LEARNING, "plain loop"), "frozen, lgtm": "frozen, uniform"}
"""What each is set against."""
CHECKED = 4
"""Updates of the plain loop and of ProKT that are compared before anything is timed."""
TRIES = 50
"""Steps after which a rule that makes no update is given up."""

T = TypeVar("T")


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    settings: tuple[str, ...] = SETTINGS
    """Rows and models: ``toy``, ``random``."""
    hidden: tuple[int, ...] = (256,)
    """Widths of the student on random rows."""
    layers: int = 2
    """Its layers."""
    teacher_layers: int = 4
    """Layers of the random teacher."""
    teacher_hidden: int = 256
    """Width of the random teacher."""
    batch: tuple[int, ...] = (16,)
    """Rows of a batch, and feedback rows of a step of the influence."""
    length: tuple[int, ...] = (48,)
    """Tokens of random rows."""
    vocab: int = 30522
    """Words of random rows. The student's embeddings are trained, the teacher's are not."""
    clock: str = "wall"
    """``wall``, or ``processor``: the time of this process alone, for a CPU that others use too."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "settings": common.each(checks.one_of(*SETTINGS)),
        "hidden": common.each(checks.whole(8)),
        "layers": checks.whole(1),
        "teacher_layers": checks.whole(1),
        "teacher_hidden": checks.whole(8),
        "batch": common.each(checks.whole(1)),
        "length": common.each(checks.whole(8)),
        "vocab": checks.whole(50),
        "clock": checks.one_of(*common.CLOCKS),
    }

    def check(self) -> None:
        """See the base class; the influence draws as many feedback rows as a batch has."""
        super().check()
        if self.clock == "processor" and resolve_device(self.device).type != "cpu":
            raise ValueError("clock='processor' does not see the work of a GPU; use clock=wall, or device=cpu.")
        for rows in self.batch:
            if rows > common.FEEDBACK_ROWS:
                checks.refuse("batch", rows, f"at most {common.FEEDBACK_ROWS}, the rows of the feedback split")


class Cell(NamedTuple):
    """What is measured at a time."""

    setting: str
    hidden: int
    batch: int
    length: int


class Problems(NamedTuple):
    """The same task and models, with a teacher that learns and with a frozen one whose outputs are cached."""

    learning: Problem
    frozen: Problem


def run(options: Options) -> common.Result:
    """Measure every cell."""
    rows: list[dict[str, Any]] = []
    for setting, batch in itertools.product(options.settings, options.batch):
        sizes = [(0, 0)] if setting == "toy" else itertools.product(options.length, options.hidden)
        for length, hidden in sizes:
            rows += _measure(options, Cell(setting, hidden, batch, length))
    return {"rows": rows, "facts": common.facts(options)}


def table(result: common.Result) -> str:
    """Every step with its passes and its ratio."""
    header = ["rows", "tokens", "batch", "teacher", "student", "step", "teacher passes", "student passes", "ms"]
    lines = [
        [
            row["setting"],
            f"{row['tokens']:.0f}",
            str(row["batch"]),
            row["teacher"],
            row["student"],
            row["step"],
            spelled(row["passes"], "teacher"),
            spelled(row["passes"], "student"),
            common.ms(row["seconds"]),
            *_ratio(row),
        ]
        for row in result["rows"]
    ]
    worst = max(row["loss_difference"] for row in result["rows"])
    return (
        f"{common.markdown([*header, 'over', 'ratio', 'least to greatest'], lines)}\n\nPasses: F forward, B backward, "
        f"P forward-mode product. Times are of the {result['facts']['options']['clock']} clock. Aim: lgtm at most "
        f"{AIM:.1f} times the plain loop. Largest relative difference of losses between the plain loop and prokt: "
        f"{worst:.0e}."
    )


def plot(result: common.Result, path: Path) -> None:
    """Ratio of every step to what it is set against."""
    figure = common.new_figure(9.0, 4.0)
    axes = figure.subplots()
    compared = [row for row in result["rows"] if row["over"]]
    cells = list(dict.fromkeys(row["cell"] for row in compared))
    for index, cell in enumerate(cells):
        own = [row for row in compared if row["cell"] == cell]
        at = np.arange(len(own)) + 0.15 * (index - (len(cells) - 1) / 2)
        spread = [[r["ratio"] - r["ratio_min"] for r in own], [r["ratio_max"] - r["ratio"] for r in own]]
        ratios, label = [row["ratio"] for row in own], "{setting}, batch {batch}, teacher {teacher}, student {student}"
        axes.errorbar(at, ratios, yerr=spread, fmt="o", color=f"C{index}", capsize=3, label=label.format(**own[0]))
    axes.axhline(AIM, color="black", linestyle=":", label=f"aim for lgtm over the plain loop: {AIM:.1f}")
    axes.set_xticks(range(len(BASES)), [f"{step}\nover {base}" for step, base in BASES.items()], fontsize=7)
    axes.set_ylabel("ratio of times")
    axes.set_ylim(bottom=0.0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    common.save_figure(figure, path)


def spelled(passes: Mapping[str, int], model: str) -> str:
    """Passes of a model in a step as text, such as ``2 F, 1 B``; a dash where there is none."""
    kinds = {"F": "forward", "B": "backward", "P": "product"}
    found = [f"{passes[f'{model} {kind}']} {letter}" for letter, kind in kinds.items() if passes.get(f"{model} {kind}")]
    return ", ".join(found) or "-"


def _ratio(row: Mapping[str, Any]) -> list[str]:
    if not row["over"]:
        return ["", "", ""]
    return [row["over"], f"**{row['ratio']:.2f}**", f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"]


# -- what is measured --------------------------------------------------------------------------------------------------


def _measure(options: Options, cell: Cell) -> list[dict[str, Any]]:
    """One row for every step."""
    sizes = "" if cell.setting == "toy" else f", hidden {cell.hidden}, length {cell.length}"
    common.progress(f"influence_step: {cell.setting}{sizes}, batch {cell.batch}")
    problems = build(options, cell)
    problem = problems.learning
    steps, worst = start(problems)
    passes = {name: passes_of(step) for name, step in steps.items()}
    clocks = {name: common.clocked(step, problem.device, common.CLOCKS[options.clock]) for name, step in steps.items()}
    rounds = [
        {name: updated(step, clocks[name]) for name, step in steps.items()}
        for _ in range(options.repeats + 1)  # the first does not count
    ][1:]
    times = {name: np.array([each[name] for each in rounds]) for name in steps}
    shared = {
        "cell": "-".join(map(str, cell)),
        "setting": cell.setting,
        "batch": cell.batch,
        "tokens": float(problem.train.lengths.mean()),
        "vocab": problem.student.facts.vocab_size,
        "teacher": _size(problem.reference.encoder.facts),
        "student": _size(problem.student.facts),
        "loss_difference": worst,
        "spread": max(common.spread(found.tolist()) for found in times.values()),
    }
    rows = []
    for name, found in times.items():
        base = BASES.get(name, "")
        rows.append(
            {
                **shared,
                "step": name,
                "passes": dict(passes[name]),
                "seconds": float(np.median(found)),
                "over": base,
                **(over(found, times[base]) if base else {}),
            }
        )
    return rows


def over(times: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """The ratio round by round: median, least and greatest."""
    ratios = times / base
    return {"ratio": float(np.median(ratios)), "ratio_min": float(ratios.min()), "ratio_max": float(ratios.max())}


def _size(facts: Any) -> str:
    return f"{facts.num_layers} x {facts.hidden_size}"


class Loop:
    """An environment in the middle of an episode, and the rule that acts in it.

    Args:
        problem: of the environment.
        rule: by name.
        options: of the rule.
    """

    def __init__(self, problem: Problem, rule: str, options: Mapping[str, Any]) -> None:
        self.env = DistillEnv(problem=problem)
        self.observation, self.info = self.env.reset(seed=0)
        self.rule: Any = make_rule(rule, self.env, seed=0, **options)
        self.models = {"teacher": problem.reference.encoder.module, "student": problem.student.module}

    def __call__(self) -> dict[str, Any]:
        """One step; its ``info``."""
        self.observation, *_, self.info = self.env.step(self.rule.predict(self.observation)[0])
        return self.info


class PlainLoop:
    """The hand-written loop, on the rows that an environment has drawn."""

    info: ClassVar[dict[str, Any]] = {}

    def __init__(self, pair: BarePair, env: DistillEnv) -> None:
        self.pair, self.env = pair, env
        self.models = {"teacher": pair.teacher.model, "student": pair.student.model}

    def __call__(self) -> object:
        """One update of both."""
        return self.pair.step(self.env.run.started().next_rows[0, 0])


Step = Loop | PlainLoop


def start(problems: Problems) -> tuple[dict[str, Step], float]:
    """Steps by name, ready to be timed, and how far the losses of the plain loop and of ProKT are apart.

    Raises:
        AssertionError: those two do not do the same work.
    """
    prokt = Loop(problems.learning, *LEARNING["prokt"])
    pair = BarePair(prokt.env)
    worst = agree(prokt.env, pair, prokt, CHECKED)
    steps: dict[str, Step] = {"plain loop": PlainLoop(pair, prokt.env), "prokt": prokt}
    for problem, rules in ((problems.learning, LEARNING), (problems.frozen, FROZEN)):
        for name, (rule, given) in rules.items():
            if name not in steps:
                steps[name] = Loop(problem, rule, given)
    return steps, worst


def updated(step: Step, call: Callable[[], T]) -> T:
    """What ``call``, which makes the step once, gives; again where the rule gave every row weight 0.

    Such a step makes no update and costs less. Rows that are alike get there at the start, where the rule's standard
    deviation is small beside the influence itself.

    Raises:
        RuntimeError: that happens :data:`TRIES` times on end.
    """
    for _ in range(TRIES):
        found = call()
        if not step.info.get("skipped", False):
            return found
    raise RuntimeError(f"No update in {TRIES} steps of one rule: every row has weight 0. Choose more rows (batch).")


# -- passes ------------------------------------------------------------------------------------------------------------


def passes_of(step: Step) -> Counter[str]:
    """Passes of one step after another has been made, by ``teacher forward``, ``student product`` and so on."""
    step()

    def once() -> Counter[str]:
        with counted(step.models) as passes:
            step()
        return passes

    return updated(step, once)


@contextmanager
def counted(models: Mapping[str, Any]) -> Iterator[Counter[str]]:
    """Counts passes through Hugging Face classifiers: each call, and each time that a gradient reaches its logits.

    A call with a tangent counts as ``product`` in place of ``forward``.
    """
    passes: Counter[str] = Counter()

    def watch(name: str) -> Callable[..., None]:
        def called(module: Any, given: Any, output: Any) -> None:
            tangent = forward_ad.unpack_dual(output.logits).tangent is not None
            passes[f"{name} {'product' if tangent else 'forward'}"] += 1
            if output.logits.requires_grad:
                output.logits.register_hook(lambda gradient: passes.update([f"{name} backward"]))

        return called

    hooks = [module.register_forward_hook(watch(name)) for name, module in models.items()]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


# -- problems ----------------------------------------------------------------------------------------------------------


def build(options: Options, cell: Cell) -> Problems:
    """Both problems of a cell, without evaluations, in episodes that do not end while they are measured."""
    with tempfile.TemporaryDirectory() as folder:
        spec = common.TaskSpec(options.vocab, cell.length, options.teacher_layers, options.teacher_hidden)
        if cell.setting == "random":
            given = common.write_task(Path(folder), spec)
            given["student"] = common.student_options(options.layers, cell.hidden)
        else:
            given = {"task": cell.setting, "max_train_rows": spec.rows, "evaluation_rows": common.FEEDBACK_ROWS}
        given |= {
            "decision": "sample_weighting",
            "batch_size": cell.batch,
            "features": ("progress",),
            "reward": "loss_drop",
            "terms": TERMS,
            "term_scale": "none",
            "gap": "labels",
            "evaluate_every": 0,
            "budget": 100_000,
            "optimizer": {"learning_rate": 1e-4, "warmup": 0.0},
            "precision": options.precision,
            "device": options.device,
        }
        given.pop("learning_rate", None)  # stands in the optimiser's options
        learns = {"teacher_source": "online", "teacher_updates": "prokt", "learning_teacher": {"warmup": 0.0}}
        learning = build_problem(env_config(**given, **learns))
        return Problems(learning, build_problem(env_config(**{**given, "gap": "divergence"})))
