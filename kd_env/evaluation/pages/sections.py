"""The parts of a report in their order: pure functions of what was read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kd_env.evaluation.comparing.comparison import Comparison, Contrast, Entry
from kd_env.evaluation.comparing.sheets import HOLM_LEVEL, intervals_of, split_mark
from kd_env.evaluation.comparing.words import plain_words
from kd_env.evaluation.pages import collect, pooling
from kd_env.evaluation.pages.contents import Picture, Problem, Section, Study
from kd_env.evaluation.pages.distributions import NOTHING, distributions
from kd_env.evaluation.pages.figures import courses, curves, forests, reliability
from kd_env.evaluation.pages.hypotheses import registered
from kd_env.evaluation.pages.pooling import all_places, each, places_of
from kd_env.evaluation.pages.tables import Cell, Table
from kd_env.evaluation.pages.verdict import seconds_words
from kd_env.evaluation.reports.report import ECE_TITLE
from kd_env.evaluation.statistics.intervals import Interval
from kd_env.evaluation.statistics.verdicts import title_of


def sections(study: Study, png: bool) -> list[Section]:
    """Everything below the verdict.

    Args:
        study: what was read.
        png: whether pictures are drawn as PNG, too.
    """
    together = pooling.pool(study)
    first = [_differences(study, together, png), _policies(study, png), *distributions(study, together, png)]
    return [
        *registered(study),
        *first,
        *(part(study, png) for part in (_costs, _learning, _chosen, _calibration, _generated)),
    ]


def _differences(study: Study, together: pooling.Pool | None, png: bool) -> Section:
    pictures, tables = list[Picture](), list[Table]()
    if len(study.problems) > 1:
        pictures, tables = _overview(study, together, png)
    for prefix, problem in each(study):
        c = problem.comparison
        contrasts = (*c.to_rules, *c.between_agents, *c.between_controls, *c.reactions, *c.to_bounds)
        if contrasts:
            lines = [forests.Line(_pair(c, one), one.difference.interval, one.difference.claim) for one in contrasts]
            caption = (
                f"Differences on {problem.name}, with 95% intervals of trainings and seeds, crossed; filled where a "
                f"claim may be made. {'Below' if c.measure == 'loss' else 'Above'} 0 is better for the first."
            )
            title = f"difference in {c.title}"
            pictures.append(forests.differences(title, lines, f"{prefix}differences", caption, png))
            tables.append(_contrast_table(problem, contrasts, prefix))
    lead = (
        "Agents minus rules, agents minus agents, and agents minus themselves under controls and under interventions. "
        "A bound (^) knows what no agent may know, and is nobody's rival."
    )
    return Section("differences", "Differences", lead if tables else NOTHING, (), tuple(pictures), tuple(tables))


def _overview(study: Study, together: pooling.Pool | None, png: bool) -> tuple[list[Picture], list[Table]]:
    """Agents minus the best rule of each problem, by problem and over all of them."""
    pooled = {} if together is None else pooling.differences(together)
    to_best = {agent: by_other[pooling.BEST] for agent, by_other in pooled.items() if pooling.BEST in by_other}
    lines = [forests.Line(f"{agent}, pooled", d.interval, d.claim) for agent, d in to_best.items()]
    for problem in study.problems:
        c = problem.comparison
        lines += [
            forests.Line(f"{one.first} - {one.second}, {problem.name}{split_mark(c, one.split)}", *_shown(one))
            for one in collect.to_best(c)
        ]
    title = "difference to the best rule"
    caption = (
        "Agents minus the rule that is best on the selection split, by problem and pooled (a mean, every problem with "
        "the same weight), with 95% intervals; filled where a claim may be made."
    )
    pictures = [forests.differences(title, lines, "overview", caption, png)] if lines else []
    header = ("first - second", "pooled difference", "over", "detectable", "p", "claim")
    found = [(agent, other, d) for agent, by_other in pooled.items() for other, d in by_other.items()]
    rows: list[tuple[Cell, ...]] = [
        (f"{agent} - {other}", d.interval, d.design, d.detectable, d.p_value, "yes" if d.claim else "no")
        for agent, other, d in found
    ]
    places = tuple(all_places(study, agent, other) for agent, other, _ in found)
    told = "Differences over all problems"
    return pictures, [Table("pooled", told, header, tuple(rows), places, signed=True)] if rows else []


def _shown(one: Contrast) -> tuple[Interval, bool]:
    return one.difference.interval, one.difference.claim


def _contrast_table(problem: Problem, contrasts: Sequence[Contrast], prefix: str) -> Table:
    c = problem.comparison
    header = ("first - second", f"difference in {c.title}", "over", "detectable", "p", "Holm p", "claim")
    rows: list[tuple[Cell, ...]] = []
    for one in contrasts:
        d = one.difference
        claim = ("yes" if one.holm_p < HOLM_LEVEL else "not after Holm") if d.claim else "tie" if d.tie else "no"
        rows.append((_pair(c, one), d.interval, d.design, d.detectable, d.p_value, one.holm_p, claim))
    places = tuple(places_of(c, one.first, one.second) for one in contrasts)
    title = f"Differences on {problem.name}"
    return Table(f"{prefix}differences", title, header, tuple(rows), places, signed=True)


def _policies(study: Study, png: bool) -> Section:
    tables = tuple(_policy_table(problem, prefix) for prefix, problem in each(study))
    pictures = tuple(forests.policies(problem, True, prefix) for prefix, problem in each(study))
    texts = tuple(plain_words(problem.comparison) for problem in study.problems)
    lead = "What was trained beside every rule, on the same students."
    return Section("policies", "Every policy on dev", lead, texts, pictures, tables)


def _policy_table(problem: Problem, prefix: str) -> Table:
    c = problem.comparison
    gaps = c.measure == "gap_closed"
    fields = {
        **({"gap_closed": title_of("gap_closed", c.facts)} if gaps else {}),
        "loss": title_of("loss", c.facts),
    }
    header = ["policy", "trainings", "seeds"]
    for split in c.dev_splits:
        header += [f"{name}{split_mark(c, split)}" for name in (*c.metric_names, *fields.values())]
    rows = []
    for entry in c.entries:
        cells: list[Cell] = [_name(entry), len(entry.runs) if entry.learned else "rule", len(c.seeds)]
        for split in c.dev_splits:
            cells += [entry.metrics[split][name] for name in c.metric_names]
            cells += [intervals_of(c, entry)[field][split] for field in fields]
        rows.append(tuple(cells))
    places = tuple(entry.runs for entry in c.entries)
    note = "* was trained. + trained on feedback rows, too. ^ a bound. Brackets: 95% intervals."
    return Table(f"{prefix}policies", f"Policies on {problem.name}", tuple(header), tuple(rows), places, note=note)


def _costs(study: Study, png: bool) -> Section:
    pictures, tables = list[Picture](), list[Table]()
    for prefix, problem in each(study):
        pictures.append(curves.cost_against_score(problem, png, prefix))
        header = ("policy", "trainings", "updates of a training", "time of a training", "updates of a student", "score")
        found = collect.costs(problem)
        rows = tuple(
            (
                *(cost.policy, cost.trainings or "rule", round(cost.updates)),
                *("not recorded" if math.isnan(cost.seconds) else seconds_words(cost.seconds), cost.distillation),
                cost.score,
            )
            for cost in found
        )
        places = tuple(problem.comparison.entry(cost.policy).runs for cost in found)
        note = (
            f"Score: {problem.comparison.title} on {problem.comparison.dev_splits[0]}. Updates count those that were "
            "skipped, which spend the budget, too."
        )
        tables.append(Table(f"{prefix}cost", f"Costs on {problem.name}", header, rows, places, note=note))
    lead = "What a policy costs until its first student is there: the agent's training, and one distillation."
    return Section("cost", "Cost against score", lead, (), tuple(pictures), tuple(tables))


def _learning(study: Study, png: bool) -> Section:
    drawn = [curves.learning_curves(problem, png, prefix) for prefix, problem in each(study)]
    pictures = tuple(picture for picture in drawn if picture is not None)
    lead = "" if pictures else "No run has a log of a training: rules learn nothing."
    return Section("learning", "Learning curves", lead, (), pictures)


def _chosen(study: Study, png: bool) -> Section:
    drawn = [
        draw(problem, png, prefix)
        for prefix, problem in each(study)
        for draw in (courses.chosen_over_time, courses.term_losses, courses.traces)
    ]
    pictures = tuple(picture for picture in drawn if picture is not None)
    tables = tuple(table for prefix, problem in each(study) if (table := _choice_table(problem, prefix)).header[1:])
    lead = (
        "" if pictures or tables else "These policies set no weights of terms, and nothing else of them was recorded."
    )
    return Section("chosen", "What was chosen", lead, (), pictures, tables)


def _choice_table(problem: Problem, prefix: str) -> Table:
    c = problem.comparison
    measures = {name: title for name, title in c.measures.items() if any(name in e.measures for e in c.entries)}
    header = ("policy", *(f"weight of {name}" for name in c.term_names), *measures.values())
    rows = tuple(
        (
            _name(entry),
            *(entry.mean_weights[name] for name in c.term_names),
            *(entry.measures.get(name, "-") for name in measures),
        )
        for entry in c.entries
    )
    places = tuple(entry.runs for entry in c.entries)
    return Table(f"{prefix}chosen", f"Means over a distillation on {problem.name}", header, rows, places)


def _calibration(study: Study, png: bool) -> Section:
    pictures, tables = list[Picture](), list[Table]()
    for prefix, problem in each(study):
        c = problem.comparison
        split = c.dev_splits[0]
        known = [entry for entry in c.entries if entry.calibration_error is not None]
        if not known:
            continue
        found = [(entry, (entry.calibration_error or {})[split]) for entry in known]
        found.sort(key=lambda pair: pair[1].mean)
        lines = [forests.Line(entry.policy, interval, entry.learned) for entry, interval in found]
        caption = f"Expected calibration error on {split} ({problem.name}), as the students are: 0 is best."
        pictures.append(forests.differences(ECE_TITLE, lines, f"{prefix}calibration", caption, png))
        raw = all(entry.raw_loss is not None for entry in known) and c.facts.get("gap") == "calibrated"
        header = ("policy", ECE_TITLE, *(("raw loss", "calibrated loss") if raw else ()))
        rows = tuple(
            (_name(entry), interval, *((entry.raw_loss[split], entry.loss[split]) if raw and entry.raw_loss else ()))
            for entry, interval in found
        )
        places = tuple(entry.runs for entry, _ in found)
        tables.append(Table(f"{prefix}calibration", f"Calibration on {problem.name}", header, rows, places))
        pictures += [drawn for drawn in [reliability.diagram(problem, png, prefix)] if drawn]
        tables += [bins for bins in [reliability.bins_table(problem, prefix)] if bins]
    lead = "" if tables else "Calibration errors are not recorded here (regression, or results of an earlier version)."
    return Section("calibration", "Calibration", lead, (), tuple(pictures), tuple(tables))


def _generated(study: Study, png: bool) -> Section:
    texts = tuple(
        f"{source.place}\n\n{source.run.results['appendix']}"
        for problem in study.problems
        for source in problem.sources
        if source.run.results.get("appendix")
    )
    return Section("generated", "Generated text and remarks", "" if texts else "No run wrote any.", texts=texts)


def _pair(c: Comparison, one: Contrast) -> str:
    return f"{one.first} - {one.second}{split_mark(c, one.split)}"


def _name(entry: Entry) -> str:
    mark = " ^" if entry.bound else " *" if entry.learned else " +" if entry.extra_labels else ""
    return f"{entry.policy}{mark}"
