"""Runs whose one student is that beside which the agent learned, put together: trainings become students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd_env.evaluation.comparing.runs import Run


def together(runs: Sequence[Run]) -> list[Run]:
    """The runs, or where they are joint one for each agent and control, with the students of all its trainings.

    Students of one seed begin alike under every agent and rule, and are pairs: all agents need the same seeds.

    Raises:
        ValueError: joint runs beside others, a training twice, or agents and rules on other seeds.
    """
    joint = [run for run in runs if run.joint]
    if not joint:
        return list(runs)
    if len(joint) < len(runs):
        other = next(run for run in runs if not run.joint)
        raise ValueError(
            f"{joint[0].place} judged the student beside which its agent learned (env.protocol=joint), and "
            f"{other.place} fresh ones; compare them apart."
        )
    measure = "loss" if any(run.results["measure"] == "loss" for run in joint) else "gap_closed"
    groups: dict[tuple[str, str], dict[int, Run]] = {}
    rules: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in joint:
        seed = int(run.results["seeds"][0])
        for row in run.results["policies"]:
            if row["learned"]:
                members = groups.setdefault((run.agent, run.control), {})
                if seed in members:
                    raise ValueError(
                        f"{members[seed].place} and {run.place} are one training of {run.agent} (seed {seed}) and no "
                        "independent ones; leave one of them out."
                    )
                members[seed] = run
            else:
                rules.setdefault(row["policy"], {}).setdefault(seed, row)
    seeds = sorted(set().union(*groups.values(), *rules.values()))
    known = {
        **{f"agent {name}": set(by) for (name, _), by in groups.items()},
        **{n: set(by) for n, by in rules.items()},
    }
    for what, there in known.items():
        missing = [seed for seed in seeds if seed not in there]
        if missing:
            raise ValueError(
                f"Students of one seed are pairs, and {what} has none of seed {missing[0]}, which others have: compare "
                "trainings of the same seeds, with the same rules judged beside one agent at each (evaluation.rules)."
            )
    fixed = [_row([by[seed] for seed in seeds]) for by in rules.values()]
    merged: list[Run] = []
    for members in groups.values() if groups else [{seed: joint[0] for seed in seeds}]:
        trainings = [members[seed] for seed in seeds]
        learned = (
            [next(row for row in run.results["policies"] if row["learned"]) for run in trainings] if groups else []
        )
        rows = [*([_row(learned)] if learned else []), *(fixed if not merged else [])]
        results = {**trainings[0].results, "seeds": seeds, "policies": rows, "measure": measure}
        merged.append(replace(trainings[0], results=results, places=tuple(run.place for run in trainings)))
    return merged


def _row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One policy with the students of several runs."""
    # What is followed over time is a mean over the students of each run, and stays there.
    kept = [
        {key: value for key, value in row["seeds"].items() if not key.endswith(("traces", "_time"))} for row in rows
    ]
    return {**rows[0], "diverged": sum(int(row["diverged"]) for row in rows), "seeds": _beside(kept)}


def _beside(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        # Runs that another version judged may lack a number; who needs it says so.
        shared = [key for key in values[0] if all(key in value for value in values)]
        return {key: _beside([value[key] for value in values]) for key in shared}
    if isinstance(values[0], list):
        return [each for value in values for each in value]
    return values[0]
