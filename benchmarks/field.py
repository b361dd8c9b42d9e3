"""Student updates a second against the loops that people use: plain PyTorch, Hugging Face's Trainer, TextBrewer.

A 4-layer teacher and a 2-layer student learn from hard and soft labels (what every tool can do): the same models, start
weights, batches, AdamW (fused), clipping and schedule, no dropout. The soft loss is ``tau^2`` times the cross-entropy
of the softened distributions in all of them (``soft_label`` with ``kind=cross_entropy`` here); TextBrewer's own loss
lacks the ``tau^2``, which its ``kd_loss_weight`` restores. The losses of the first 6 updates are required to agree in
all loops before anything is timed; as each loss depends on the updates before it, so do the updates.

*Online* loops run the teacher for every batch, as these tools do by default; ``pytorch_cached`` is the same plain loop
with logits that were computed beforehand, for comparison. All rows have the same length, so that loops are compared and
not padding, and every loop reads its batches from a data loader that cuts each from a table in one piece. A tool that
is not installed is named with the command that installs it, and left out. torchdistill is not among them: it imports
torchvision, which does not load beside every CPU build of PyTorch, so that a loop of it could not be checked here.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from benchmarks import common, field_loops
from kd_env import DistillEnv, build_problem
from kd_env.core import checks
from kd_env.data.tables import draw, start_stream
from kd_env.decisions.options import env_config
from kd_env.envs.process import with_options

AIM = 2.5


class Tool(NamedTuple):
    """One loop beside the environment."""

    label: str
    packages: tuple[str, ...]
    online: bool
    make: Callable[[field_loops.Setting], field_loops.Loop]


TOOLS = {
    "pytorch": Tool("plain PyTorch", (), True, lambda setting: field_loops.pytorch(setting, cached=False)),
    "trainer": Tool("Hugging Face Trainer", ("accelerate",), True, lambda setting: field_loops.trainer(setting)),
    "textbrewer": Tool(
        "TextBrewer GeneralDistiller", ("textbrewer",), True, lambda setting: field_loops.textbrewer(setting)
    ),
    "pytorch_cached": Tool(
        "plain PyTorch, cached logits", (), False, lambda setting: field_loops.pytorch(setting, cached=True)
    ),
}
SAMPLE = common.FEEDBACK_ROWS // 4
ENVIRONMENTS = {
    "env": "kd-env step",
    "env_sampled": f"kd-env step, {SAMPLE} of {common.FEEDBACK_ROWS} rows read every step",
    "env_evaluated": "kd-env step, evaluated every step",
}
EVALUATED: dict[str, dict[str, Any]] = {
    "env": {},
    "env_sampled": {"evaluate_every": 1, "evaluation_sample": SAMPLE, "sample_steps": 5},
    "env_evaluated": {"evaluate_every": 1},
}
"""Options in which the environments differ."""


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 7
    """Timed rounds; in each of them every loop makes ``updates`` updates. Medians over rounds are reported."""
    updates: int = 60
    """Timed updates of each loop in a round, after 5 that are not timed."""
    tools: tuple[str, ...] = ("pytorch", "trainer", "textbrewer", "pytorch_cached")
    """Loops beside the environment; ``pytorch_cached`` is no online loop."""
    teacher_layers: int = 4
    """Layers of the teacher."""
    teacher_hidden: int = 256
    """Width of the teacher (4 layers and 256 are the sizes of BERT-mini)."""
    layers: int = 2
    """Layers of the student."""
    hidden: int = 128
    """Width of the student (2 layers and 128 are the sizes of BERT-tiny)."""
    vocab: int = 30522
    """Words of the vocabulary; their embeddings are trained."""
    batch: int = 16
    """Rows of a batch."""
    length: int = 64
    """Tokens of every row."""
    updates_per_step: int = 2
    """Student updates in a step of the environment."""
    temperature: float = 2.0
    """Temperature tau of the soft labels."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "updates": checks.whole(1),
        "tools": common.each(checks.one_of(*TOOLS)),
        "teacher_layers": checks.whole(1),
        "teacher_hidden": checks.whole(8),
        "layers": checks.whole(1),
        "hidden": checks.whole(8),
        "vocab": checks.whole(50),
        "batch": checks.whole(1),
        "length": checks.whole(8),
        "updates_per_step": checks.whole(1),
        "temperature": checks.positive,
    }

    def check(self) -> None:
        """See the base class; the environment makes whole steps."""
        super().check()
        if self.updates % self.updates_per_step:
            raise ValueError(
                f"updates={self.updates} is no multiple of updates_per_step={self.updates_per_step}; change one of "
                "them."
            )


def absent(tools: tuple[str, ...]) -> dict[str, str]:
    """Tools that cannot run, with the command that installs what they need."""
    missing = {
        name: [package for package in TOOLS[name].packages if importlib.util.find_spec(package) is None]
        for name in tools
    }
    return {name: f"pip install {' '.join(packages)}" for name, packages in missing.items() if packages}


def run(options: Options) -> common.Result:
    """Check that all loops agree, then time them."""
    from transformers import BertForSequenceClassification

    lacking = absent(options.tools)
    for name, command in lacking.items():
        common.progress(f"field: {TOOLS[name].label} is left out, since it is not installed: {command}")
    tools = {name: tool for name, tool in TOOLS.items() if name in options.tools and name not in lacking}
    with tempfile.TemporaryDirectory() as folder, field_loops.kept_global_state():
        spec = common.TaskSpec(options.vocab, options.length, options.teacher_layers, options.teacher_hidden)
        given = common.write_task(Path(folder), spec)
        soft = {"name": "soft_label", "kind": "cross_entropy", "temperature": options.temperature}
        changed = {
            "terms": ("hard_label", soft),
            "student": common.student_options(options.layers, options.hidden),
            "batch_size": options.batch,
            "updates_per_step": options.updates_per_step,
            "precision": options.precision,
            "device": options.device,
            "optimizer": {"learning_rate": 5e-4, "warmup": 0.0},
            "learning_rate": None,
        }
        problem = build_problem(env_config(**{**given, **changed}))
        envs = {name: DistillEnv(problem=with_options(problem, **changes)) for name, changes in EVALUATED.items()}
        for made in envs.values():
            made.reset(seed=0)
        with common.no_bars():
            teacher: Any = BertForSequenceClassification.from_pretrained(given["teacher"], attn_implementation="sdpa")
        setting = field_loops.Setting(
            problem=problem,
            teacher=teacher.to(problem.device).eval().requires_grad_(False),
            start={name: value[0].clone() for name, value in envs["env"].run.started().params.items()},
            temperature=options.temperature,
            folder=Path(folder) / "tools",
        )
        loops = {name: tool.make(setting) for name, tool in tools.items()}
        worst = _require_agreement(envs["env"], loops, options)
        found, spread = _times(envs, loops, options)
    rows: list[dict[str, Any]] = [
        {
            "loop": name,
            "label": ENVIRONMENTS.get(name) or TOOLS[name].label,
            "online": name in TOOLS and TOOLS[name].online,
            "seconds": seconds,
            "env_speedup": seconds / found["env"],
            "spread": spread,
        }
        for name, seconds in found.items()
    ]
    online = [row for row in rows if row["online"]]
    best = min(online, key=lambda row: row["seconds"]) if online else None
    summary = {
        "loss_difference": worst,
        "absent": lacking,
        "best_online": best and best["label"],
        "speedup": best and best["env_speedup"],
    }
    return {"rows": rows, "facts": {**common.facts(options), **summary}}


def table(result: common.Result) -> str:
    """Updates a second, best first."""
    lines = [
        [
            row["label"] + (" (online)" if row["online"] else ""),
            common.ms(row["seconds"]),
            f"{1 / row['seconds']:.1f}",
            f"{row['env_speedup']:.2f}",
        ]
        for row in sorted(result["rows"], key=lambda row: row["seconds"])
    ]
    known = result["facts"]
    text = common.markdown(["loop", "ms an update", "updates a second", "time / kd-env step"], lines)
    text += f"\n\nLargest relative difference of the losses: {known['loss_difference']:.0e}."
    if known["best_online"]:
        text += f" Against the best online loop ({known['best_online']}): **{known['speedup']:.2f} x** (aim {AIM})."
    for name, command in known["absent"].items():
        text += f" {TOOLS[name].label} is left out, since it is not installed (`{command}`)."
    return text


def plot(result: common.Result, path: Path) -> None:
    """Updates a second as bars."""
    rows = sorted(result["rows"], key=lambda row: -row["seconds"])
    figure = common.new_figure(7.0, 0.45 * len(rows) + 1.0)
    axes = figure.add_subplot()
    colours = ["C0" if row["loop"] in ENVIRONMENTS else "C1" if row["online"] else "C7" for row in rows]
    labels = [row["label"] + (" (online)" if row["online"] else "") for row in rows]
    bars = axes.barh(labels, [1 / row["seconds"] for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.12)
    axes.set_xlabel("student updates a second")
    axes.grid(axis="x", alpha=0.3)
    common.save_figure(figure, path)


def _require_agreement(env: DistillEnv, loops: dict[str, field_loops.Loop], options: Options) -> float:
    common.progress("field: checking that all loops give the same losses")
    observed, _ = field_loops.environment(env)
    rows, losses = observed(-(-(field_loops.WARM_UP + 1) // options.updates_per_step))
    compared = {"env": losses}
    for name, loop in loops.items():
        each = np.asarray(loop(rows).losses).reshape(-1, options.updates_per_step)
        compared[name] = each.mean(1).tolist()  # the environment tells the mean over the updates of a step
    return common.require_equal("field", compared, common.TOLERANCE[options.precision])


def _times(envs: dict[str, DistillEnv], loops: dict[str, field_loops.Loop], options: Options) -> common.Times:
    buckets = envs["env"].problem.buckets
    rows, _ = draw(buckets, start_stream(buckets, 1), field_loops.WARM_UP + options.updates)
    steps = options.updates // options.updates_per_step
    timed = {name: field_loops.environment(env)[1] for name, env in envs.items()}

    def told(name: str, measure: Callable[[], float]) -> Callable[[], float]:
        def call() -> float:
            seconds = measure()
            common.progress(f"field: {name} {seconds * 1e3:.2f} ms an update")
            return seconds

        return call

    calls = {name: told(name, lambda call=call: call(steps)) for name, call in timed.items()}  # type: ignore[misc]
    calls |= {name: told(name, lambda loop=loop: loop(rows).seconds) for name, loop in loops.items()}  # type: ignore[misc]
    return common.interleaved(calls, options.repeats)
