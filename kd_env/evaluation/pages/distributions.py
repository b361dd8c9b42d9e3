"""Performance profiles and the probability of improvement: over all problems together, or on each by itself."""

from __future__ import annotations

import math
from dataclasses import replace

from kd_env.evaluation.pages import pooling
from kd_env.evaluation.pages.contents import Picture, Section, Study
from kd_env.evaluation.pages.figures import curves, forests
from kd_env.evaluation.pages.pooling import all_places, each
from kd_env.evaluation.pages.tables import Table
from kd_env.evaluation.statistics.intervals import MIN_SEEDS_FOR_CLAIM, MIN_UNITS_FOR_CLAIM, Interval

NOTHING = "There is nothing to compare: an agent that learned and a rule, or a second agent, are needed."


def distributions(study: Study, together: pooling.Pool | None, png: bool) -> list[Section]:
    """Both sections; each problem by itself where measures differ or no agent, as of several environments, is on all.

    Args:
        study: what was read.
        together: the policies that all problems judged; None where their measures differ.
        png: whether pictures are drawn as PNG, too.
    """
    lead, parts = "", [("", "", study, together)]
    if len(study.problems) > 1 and (together is None or not together.agents):
        apart = (
            "some are judged by their gap and others by their loss"
            if together is None
            else "no agent was judged on all"
        )
        lead = f"Each problem by itself: {apart}."
        alone = [(prefix, problem.name, replace(study, problems=(problem,))) for prefix, problem in each(study)]
        parts = [(prefix, f" on {name}", one, pooling.pool(one)) for prefix, name, one in alone]
    profiles, drawn, tables = list[Picture](), list[Picture](), list[Table]()
    for prefix, where, part, pooled in parts:
        if pooled is None:
            continue
        title = f"{'' if pooled.sign > 0 else '- '}{pooled.title}{where}"
        profiles.append(curves.profile(pooling.profiles(pooled), title, f"{prefix}profiles", png))
        picture, table = _improvement(part, pooled, prefix, where, png)
        drawn += picture
        tables += table
    said = lead if tables else f"{lead} {NOTHING}".lstrip()
    return [
        Section("profiles", "Performance profiles", lead, (), tuple(profiles)),
        Section("improvement", "Probability of improvement", said, (), tuple(drawn), tuple(tables)),
    ]


def _improvement(
    study: Study, pooled: pooling.Pool, prefix: str, where: str, png: bool
) -> tuple[list[Picture], list[Table]]:
    """The picture and the table of the problems of a study; none where there is no pair."""
    pairs = [(a, b, interval) for a, by in pooling.improvements(pooled).items() for b, interval in by.items()]
    if not pairs:
        return [], []
    lines = [forests.Line(f"{a} better than {b}", interval, _apart(interval)) for a, b, interval in pairs]
    caption = (
        f"Probability that a new training of the first has a better student than the second from the same seed{where} "
        "(ties one half), with 95% intervals; filled where they exclude 0.5 and the design is large enough for a claim."
    )
    name = "probability of improvement"
    rows = tuple((f"{a} better than {b}", interval) for a, b, interval in pairs)
    places = tuple(all_places(study, a, b) for a, b, _ in pairs)
    title = f"Probability of improvement{where}"
    return (
        [forests.differences(name, lines, f"{prefix}improvement", caption, png, zero=0.5)],
        [Table(f"{prefix}improvement", title, ("pair", name), rows, places)],
    )


def _apart(interval: Interval) -> bool:
    enough = interval.units >= MIN_UNITS_FOR_CLAIM and (interval.seeds or 0) >= MIN_SEEDS_FOR_CLAIM
    return enough and math.isfinite(interval.low) and not interval.low <= 0.5 <= interval.high
