"""Comparisons in plain words."""

from __future__ import annotations

from kd_env.evaluation.comparing.comparison import Comparison, Contrast, Entry, PausedAgent, Pruning
from kd_env.evaluation.comparing.sheets import HOLM_LEVEL, split_mark
from kd_env.evaluation.reports.report import BOUND_WORDS
from kd_env.evaluation.reports.words import facts_in_words
from kd_env.evaluation.statistics.intervals import MIN_SEEDS_FOR_CLAIM, MIN_UNITS_FOR_CLAIM
from kd_env.evaluation.statistics.verdicts import reaction_words, seeds_words, show


def plain_words(c: Comparison) -> str:
    """What the tables do and do not show."""
    agents = [entry for entry in c.entries if entry.learned]
    count = len(c.seeds)
    words = [
        f"Every policy distilled students from the same {count} evaluation seed{'s' if count > 1 else ''}, and all "
        f"were judged on the official dev split ({', '.join(c.dev_splits)})."
    ]
    if c.joint:
        words = [
            f"Each of {count} trainings of an agent had one student, which learned while the agent did, from its first "
            "action on, and is the one that is judged; rules taught a student from the same start, with the same data, "
            "for every training. Brackets are 95% t intervals over these students; differences are paired by seed."
        ]
    elif agents:
        words.append(
            "An agent's line is a group of independent trainings that differ in the seed alone: brackets are 95% "
            "intervals over trainings and evaluation seeds, both as crossed random effects (mean squares, "
            "Satterthwaite's degrees of freedom); of one training they are over its seeds."
        )
    words += [pruning_words(pruning) for pruning in c.prunings]
    if len(agents) < len(c.entries):
        words.append("A rule's line is one policy: its brackets are 95% intervals over evaluation seeds.")
    if any(entry.extra_labels for entry in c.entries):
        words.append("+ marks rules trained on train and feedback rows: what the clean labels give without an agent.")
    words += [BOUND_WORDS] if any(entry.bound for entry in c.entries) else []
    if not agents:
        words.append("No run has an agent that learned: nothing is compared.")
    words += [_few(entry) for entry in agents if entry.units < MIN_UNITS_FOR_CLAIM and not c.joint]
    words += [_judged_apart(entry) for entry in agents if entry.apart]
    words += [_claims(c, entry) for entry in agents if any(contrast.first == entry.policy for contrast in c.to_rules)]
    if c.to_rules:
        words.append(
            f"Differences are paired by evaluation seed, {_better(c)}. Holm's p is adjusted for all {len(c.to_rules)} "
            f"differences to rules, and for those of each other table apart. A claim needs at least "
            f"{_least(c)}, an interval without 0 and Holm's p below {HOLM_LEVEL}."
        )
    words += seeds_words(count) if agents else []
    words += [_apart(c, contrast) for contrast in (*c.between_agents, *c.between_controls)]
    words += [
        reaction_words(one.first, one.second, one.intervention, one.difference, c.measure, split_mark(c, one.split))
        for one in c.reactions
    ]
    words += [
        f"{first} and {second} share seeds of the students that they were trained on, so that they are not wholly "
        "independent."
        for first, second in c.overlapping
    ]
    words += facts_in_words(c.facts, c.measure)
    words += [
        f"{e.diverged} of {count if c.joint else len(e.runs) * count} students diverged under {e.policy}."
        for e in c.entries
        if e.diverged
    ]
    words.append(
        "Nothing here speaks about other tasks, another split of the train rows, another teacher or student, or "
        "another draw of dev rows."
    )
    return " ".join(words)


def pruning_words(pruning: Pruning) -> str:
    """Which agents a study trained no further, why, and what that means for the numbers of the others."""
    pruned = [paused for paused in pruning.agents if paused.pruned]
    kept = [paused for paused in pruning.agents if not paused.pruned]
    which = "No agent was" if not pruned else f"{', '.join(map(_worth, pruned))} {_were(pruned)}"
    students = (
        f"of {len(pruning.seeds)} students together" if pruning.together else f"and {len(pruning.seeds)} students"
    )
    return (
        f"{which} pruned at the pause of {pruning.study} at step {pruning.at}: the median of the {len(pruning.agents)} "
        f"agents' gap closed on the selection rows was {pruning.median:.3f} (means over trainings "
        f"{students}, of other seeds than those here; no dev row had a say). "
        f"{'Pruned agents have no dev numbers. ' if pruned else ''}{', '.join(map(_worth, kept))} went on with all "
        "trainings, for what these were worth at the pause, which may flatter an agent near the median."
    )


def _worth(paused: PausedAgent) -> str:
    steps = sorted({*paused.steps})
    when = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"{paused.agent} ({paused.value:.3f} at {when})"


def _were(agents: list[PausedAgent]) -> str:
    return "was" if len(agents) == 1 else "were"


def _least(c: Comparison) -> str:
    """The smallest design of which a claim may be made."""
    if c.joint:
        return f"{MIN_SEEDS_FOR_CLAIM} trainings of each agent, a seed each"
    return f"{MIN_UNITS_FOR_CLAIM} trainings of each agent, {MIN_SEEDS_FOR_CLAIM} evaluation seeds"


def _few(entry: Entry) -> str:
    if entry.units == 1:
        return (
            f"{entry.policy} was trained once: its differences are over evaluation seeds, describe that one policy and "
            "say nothing about another training."
        )
    return f"{entry.policy} was trained {entry.units} times, fewer than {MIN_UNITS_FOR_CLAIM}: no claim is made of it."


def _judged_apart(entry: Entry) -> str:
    return (
        f"In {entry.apart} of {len(entry.runs)} trainings of {entry.policy} the most likely actions, which are judged, "
        "close far less of the gap than those that it tried while it learned; evaluation.deterministic=false judges "
        "the latter."
    )


def _claims(c: Comparison, entry: Entry) -> str:
    contrasts = [contrast for contrast in c.to_rules if contrast.first == entry.policy]
    claims = []
    for sign, word in ((1, "above"), (-1, "below")):
        claimed = [
            contrast
            for contrast in contrasts
            if contrast.difference.claim and sign * contrast.difference.interval.mean > 0
        ]
        if claimed:
            names = ", ".join(_claimed_rule(c, contrast) for contrast in claimed)
            claims.append(f"{word} {names}")
    if not claims:
        return f"{entry.policy}: no claim of a difference in {c.title} to any rule."
    return f"{entry.policy}: {c.title} {', and '.join(claims)}."


def _claimed_rule(c: Comparison, contrast: Contrast) -> str:
    caveat = "" if contrast.holm_p < HOLM_LEVEL else " (not after Holm)"
    return f"{contrast.second}{split_mark(c, contrast.split)}{caveat}"


def _apart(c: Comparison, contrast: Contrast) -> str:
    names, d = f"{contrast.first} minus {contrast.second}{split_mark(c, contrast.split)}", contrast.difference
    return f"{names}: {show(d.interval, True)}; {d.reading}."


def _better(c: Comparison) -> str:
    return "below 0 is better for the agent" if c.measure == "loss" else "above 0 is better for the agent"
