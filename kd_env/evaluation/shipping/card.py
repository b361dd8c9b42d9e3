"""The model card of a student that ships (Mitchell et al., FAT* 2019), with the metadata that the hub reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kd_env.evaluation.judging.results import SELECTION
from kd_env.evaluation.shipping.facts import ONNX, TEACHER, Facts, SplitFacts
from kd_env.evaluation.shipping.loading import loading
from kd_env.evaluation.shipping.parity import words as parity_words
from kd_env.evaluation.shipping.verdict import verdict


def model_card(facts: Facts) -> str:
    """``README.md`` of the folder."""
    parts = [
        f"# {facts.name.split('/')[-1]}",
        verdict(facts),
        "## Task and data\n\n" + _task(facts),
        "## How it was taught\n\n" + _teaching(facts),
        "## Scores\n\n" + _scores(facts),
        "## Calibration\n\n" + _calibration(facts),
        f"## Size and latency\n\n{_costs(facts)}",
        *([f"## ONNX\n\n{_parity(facts)}"] if facts.parity else []),
        "## To load it\n\n" + loading(facts),
        "## Limits\n\n" + _limits(facts),
        f"## Licence\n\n{_licence(facts)}",
        f"Made with {', '.join(f'{name} {version}' for name, version in facts.versions.items())}.",
    ]
    return f"---\n{_header(facts)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _header(facts: Facts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type=facts.task.name,
            dataset_name=f"{facts.task.name} ({SELECTION} rows cut from train)"
            if split == SELECTION
            else facts.task.name,
            dataset_split="train" if split == SELECTION else split,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(value, 6),
        )
        for split, one in facts.splits.items()
        for metric, value in one.own.items()
    ]
    data = ModelCardData(
        license=facts.licence or "unknown",
        library_name="transformers" if facts.plain else "kd-env",
        pipeline_tag="text-classification",
        tags=["knowledge-distillation", "kd-env", *(["onnx"] if ONNX in facts.costs else [])],
        model_name=facts.name.split("/")[-1],
        eval_results=results,
    )
    return str(data.to_yaml()).rstrip("\n")


def _task(facts: Facts) -> str:
    task = facts.task
    what = "pairs of texts" if task.pair else "single texts"
    if task.label_range is not None:
        low, high = task.label_range
        kind = f"A score from {low:g} to {high:g} (regression)"
    else:
        kind = f"{len(task.labels)} classes ({', '.join(f'`{name}`' for name in task.labels)})"
    lines = [f"{kind} for {what} of the task `{task.name}`, cut to {task.max_length} tokens."]
    if task.noise:
        lines.append(f"{task.noise:.0%} of the labels that it was trained on were made wrong on purpose.")
    lines.append(
        "Train, feedback and selection rows are disjoint parts of the official train split; the official dev split was "
        "read to report alone."
    )
    table = _table(["split", "files", "content hash"], [[s, task.files.get(s, "-"), h] for s, h in task.hashes.items()])
    return f"{' '.join(lines)}\n\n{table}"


def _teaching(facts: Facts) -> str:
    t = facts.teaching
    named = " and ".join(f"`{teacher}`" for teacher in t.teachers)
    how = "a policy that was trained" if t.learned else "a rule, which learned nothing"
    options = f" with {t.options}" if t.options else ""
    lines = [
        f"The student ({t.student}) was distilled from the teacher{'s' if len(t.teachers) > 1 else ''} {named} under "
        f"`{t.policy}`{options}: {how}.",
        f"It had {t.budget} updates of {t.batch_size} {t.trained_on} rows and the knowledge terms "
        f"{', '.join(f'`{term}`' for term in t.terms)}; its seed is {t.seed}.",
    ]
    if t.steered:
        lines.append("Feedback rows, which it did not learn from, had a say in what it learned.")
    others = ", ".join(f"`{name}` {value:.3f}" for name, value in facts.others.items())
    lines.append(
        f"It is the best on the selection split of all students that were judged ({facts.metric} {facts.judged:.3f}"
        f"{f'; the best of the other policies: {others}' if others else ''}). Its value there is that of the best of "
        "many, and so too good by chance; no dev row had a say."
    )
    own = facts.splits[SELECTION].own[facts.metric]
    if f"{own:.4f}" != f"{facts.judged:.4f}":
        lines.append(f"As it is here it has {own:.4f} there, where the run found {facts.judged:.4f}.")
    return " ".join(lines)


def _scores(facts: Facts) -> str:
    t = facts.teaching
    count = f"{t.seeds} seeds" + (f" of each of {t.trainings} trainings" if t.trainings > 1 else "")
    header = ["split", "rows", "metric", "this student", f"students of {t.policy} ({count})", "teacher"]
    cells = [
        [_split(split), str(one.rows), metric, f"{value:.3f}", one.policy[metric], _number(one.teacher.get(metric))]
        for split, one in facts.splits.items()
        for metric, value in one.own.items()
    ]
    text = f"{_table(header, cells)}\n\nIntervals: 0.95, over seeds{' and trainings' if t.trainings > 1 else ''}."
    for split, one in facts.splits.items():
        text += _classes(split, one)
    return text


def _classes(split: str, one: SplitFacts) -> str:
    if not one.classes:
        return ""
    cells = [
        [f"`{name}`", str(c.rows), f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}"]
        for name, c in one.classes.items()
    ]
    return f"\n\nClasses on {_split(split)}:\n\n{_table(['class', 'rows', 'precision', 'recall', 'F1'], cells)}"


def _calibration(facts: Facts) -> str:
    if not facts.calibration_error:
        return "A score has no probabilities to calibrate."
    errors = ", ".join(f"{value:.3f} on {_split(split)}" for split, value in facts.calibration_error.items())
    fitted = (
        "The run fitted no temperature."
        if facts.temperature is None
        else f"Temperature {facts.temperature:.3f}, fitted on held-out rows: divide the logits by it for "
        "probabilities. It is not part of the weights."
    )
    return f"{fitted} Expected calibration error without it: {errors}."


def _costs(facts: Facts) -> str:
    teacher, sizes = facts.costs[TEACHER], list(facts.costs[TEACHER].milliseconds)
    header = ["model", "parameters", "weights, MB", *(f"ms a batch of {n}" for n in sizes), "times as fast at batch 1"]
    cells = [
        [
            name,
            f"{cost.parameters:,}",
            f"{cost.megabytes:.2f}",
            *(f"{cost.milliseconds[n]:.2f}" for n in sizes),
            f"{teacher.milliseconds[sizes[0]] / cost.milliseconds[sizes[0]]:.1f}",
        ]
        for name, cost in facts.costs.items()
    ]
    return (
        f"{_table(header, cells)}\n\nOne thread, float32 unless named; medians of {facts.repeats} batches of selection "
        f"rows, padded to their longest, the same for all models. {facts.machine}."
    )


def _parity(facts: Facts) -> str:
    lines = [f"- {name}: {parity_words(found)}" for name, found in facts.parity.items()]
    text = f"Opset {facts.opset}; batches of any size and length. Beside the student in PyTorch, on selection rows:\n\n"
    return text + "\n".join(lines)


def _limits(facts: Facts) -> str:
    task = facts.task
    lines = [
        f"- It knows the rows of `{task.name}` and nothing of texts of another kind, language or length.",
        f"- Texts beyond {task.max_length} tokens are cut.",
        "- It was not looked at for bias; it may have what its teacher and its rows have.",
        "- One student on one dev split: a difference of few rows to another one says nothing.",
        "- Latencies are of one machine and its load.",
    ]
    if facts.teaching.trained_on != "train":
        lines.append("- It learned from feedback rows, too; its temperature was fitted on selection rows.")
    return "\n".join(lines)


def _licence(facts: Facts) -> str:
    if facts.licence is not None:
        return f"`{facts.licence}`, as it was given; that of the teacher and of the data was not checked."
    return "Unknown: none was given. That of the teacher and of the data was not checked; ask before you publish it."


def _split(split: str) -> str:
    return f"{SELECTION} (cut from train; the student was chosen on it)" if split == SELECTION else f"dev ({split})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
