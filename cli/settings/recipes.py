"""``recipe=paper``: the recipe as published of a method, by the name of any of its experiments."""

from __future__ import annotations

from collections.abc import Iterable

from kd_env.core.registry import unknown_name

SUFFIX = "_paper"
RECIPES = ("paper",)


def paper_recipes(experiments: Iterable[str]) -> dict[str, str]:
    """The experiments that are recipes as published, by the name of their method: ``ks`` -> ``ks_paper``."""
    return {name.removesuffix(SUFFIX): name for name in sorted(experiments) if name.endswith(SUFFIX)}


def paper_recipe(experiment: str, experiments: Iterable[str]) -> str:
    """The recipe as published of an experiment's method.

    Args:
        experiment: name of the method (``lgtm``) or of one of its experiments (``lgtm_mrpc``, ``ks_paper_small``).
        experiments: all that there are.

    Raises:
        ValueError: no such experiment (with near matches), or one without a recipe, with those that have one.
    """
    every = tuple(experiments)
    found = paper_recipes(every)
    if experiment not in every and experiment not in found:
        raise ValueError(unknown_name("experiment preset", experiment, (*every, *found)))
    parts = experiment.split("_")
    for count in range(len(parts), 0, -1):
        name = "_".join(parts[:count])
        if name in found:
            return found[name]
    raise ValueError(
        f"recipe=paper: the experiment {experiment!r} has no recipe as published. Those of "
        f"{', '.join(found) or '(none)'} have one."
    )


def check_recipe(value: object) -> None:
    """Refuse what is no recipe, with the valid ones."""
    if value is not None and value not in RECIPES:
        raise ValueError(unknown_name("recipe", value, (*RECIPES, "null")))
