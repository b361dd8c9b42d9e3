"""Environments as pages: spaces and infos of real ones, on the embedded tasks, and what differs in their options."""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from docs.site.docstrings import markdown, prose, summary, table
from docs.site.options import default_of, options_of
from kd_env.config.environment import EnvConfig
from kd_env.decisions.base import Decision
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.ids import environment_id
from kd_env.decisions.options import env_config
from kd_env.envs import environments

INFO = {
    "gap_closed": "Fraction of the gap closed since reset, `(e_reset - e) / D`.",
    "gap_floored": "Whether the floor of `D` is active.",
    "loss": "`e`: loss on the evaluated feedback rows, as `gap` says.",
    "raw_loss": "The same against gold labels, without a temperature.",
    "temperature": "The student's temperature, 1 where none is fitted.",
    "feedback_metric": "The headline metric of the task on the evaluated feedback rows.",
    "raw_losses": "Loss of every term (of every teacher) in the last step.",
    "scaled_losses": "The same as `term_scale` scales them.",
    "weights": "Weights of the loss table in the last step, mean over rows.",
    "update_scale": "Factor on the last update.",
    "update_norm": "Norm of the last update of the parameters.",
    "skipped": "Whether the last step made no update.",
    "diverged": "Whether losses or parameters are no longer finite.",
    "updates": "Budget that is spent.",
    "reward_clipped": "Whether the reward was cut to its bounds (after a step).",
    "rows": "Train rows of the last batch.",
    "row_weights": "What the action gave each of them.",
    "soft_temperature": "Temperature of soft labels that the action gave, of each row with `weighting=sample`.",
    "reverse_share": "Share of the reverse KL that it gave them.",
    "tokens": "Tokens that were written in the last update, row by row and slot by slot.",
    "originals": "What the text said there.",
    "updated": "Whether the student was updated (with `mode=sequential` not at every step).",
    "dropped_slots": "Masked positions that found no slot in the text that is to be filled.",
    "edited_slots": "Valid slots of the last update.",
    "losses": "Loss of every term, without its constant weight.",
    "teacher_recognises": "`R_T` of every slot.",
    "student_error": "`R_S` of every slot.",
    "plausibility": "`m` of every slot.",
    "teacher_probability": "`p_T(a | X^M)` of every slot.",
}
"""Meaning of every key of ``info``. One that is not here stops the build."""


FEW_ROWS = {"max_train_rows": 256, "feedback_rows": 64, "selection_rows": 64, "evaluation_rows": 64}
"""Spaces and infos are the same as with all rows, and sooner there; of tokens they have the size of the longest row."""


@cache
def made(decision: str) -> Any:
    """An environment of a decision on its embedded task, in its native view."""
    rows = {} if DECISIONS[decision].writes_tokens else FEW_ROWS
    env = gym.make(environment_id(decision), **rows).unwrapped
    env.action_space.seed(0)
    return env


def in_view(decision: str, view: str) -> Decision:
    """The decision of that environment in another view."""
    return DECISIONS[decision](env_config(decision=decision, action_view=view), made(decision).decision.parts)


def environment_class(decision: str) -> type[Any]:
    """The class behind the environment's id."""
    kind: type[Any] = getattr(environments, f"{decision.title().replace('_', '')}Env")
    return kind


def described(decision: str) -> str:
    """The summary of an environment, and its sections, as its docstring has them."""
    text = inspect.getdoc(environment_class(decision)) or ""
    sections = text.split("\n## ")
    kept = [
        part for part in sections[1:] if part.split("\n")[0] in ("Description", "Action Space", "Observation Space")
    ]
    rest = [part for part in sections[1:] if part.split("\n")[0].startswith("Reward")]
    return markdown("\n## ".join([sections[0], *kept, *rest]))


def views(decision: str) -> str:
    """Action spaces and components of every view, with the defaults of the embedded task."""
    rows = []
    for view in DECISIONS[decision].view_names():
        seen = in_view(decision, view)
        names = [f"`{name}`" for name in seen.action_names]
        shown = names if len(names) <= 6 else [*names[:2], "...", names[-1]]
        rows.append((f"`{view}`", f"`{_space(seen.action_space)}`", ", ".join(shown)))
    return table(("`action_view`", "space", "components or choices"), rows)


def identities(decision: str) -> str:
    """The ids of an environment, with their views."""
    suffixes = {"": "`native`", "Discrete": "`discrete`", "Continuous": "`box`"}
    rows = [(f"`{environment_id(decision, suffix)}`", view) for suffix, view in suffixes.items()]
    return table(("id", "`action_view`"), rows)


def observed(decision: str) -> str:
    """The parts of the observation with the defaults of the embedded task."""
    env = made(decision)
    if isinstance(env.observation_space, spaces.Dict):
        rows = [(f"`{name}`", f"`{_space(part)}`") for name, part in env.observation_space.items()]
        return table(("part", "space"), rows)
    rows = [
        (f"`{name}`", "x".join(map(str, place.shape)), f"[{place.low:g}, {place.high:g}]")
        for name, place in env.observation_layout.items()
    ]
    width = env.observation_space.shape[0]
    return f"`{_space(env.observation_space)}`, {width} numbers:\n\n{table(('feature', 'shape', 'bounds'), rows)}"


def information(decision: str) -> str:
    """The keys of ``info`` after a step, with the types and shapes that they have on the embedded task."""
    env = made(decision)
    env.reset(seed=0)
    *_, info = env.step(env.action_space.sample())
    if unknown := info.keys() - INFO.keys():
        raise ValueError(
            f"docs/site/environments.py does not say what {sorted(unknown)} of info mean; add them to INFO."
        )
    rows = [(f"`{name}`", _kind(value), INFO[name]) for name, value in info.items()]
    return table(("key", "value", "meaning"), rows)


def differing(decision: str) -> str:
    """Options of a decision alone, and those whose default it changes."""
    config, fields = env_config(decision=decision), {f.name: f for f in dataclasses.fields(EnvConfig)}
    own = DECISIONS[decision].options
    values = {name: getattr(config, name) for name in fields}
    plain = EnvConfig.from_kwargs()
    changed = {
        name: value
        for name, value in values.items()
        if name in own or (value != default_of(fields[name]) and value != getattr(plain, name) and name != "decision")
    }
    return options_of(EnvConfig, changed, tables="../options.md")


def catalogue() -> str:
    """All environments, with what is decided in each."""
    rows = [
        (
            f"[`{environment_id(decision)}`](environments/{decision}.md)",
            f"`env={decision}`",
            summary(environment_class(decision).__doc__),
        )
        for decision in DECISIONS
        if hasattr(environments, f"{decision.title().replace('_', '')}Env")
    ]
    return table(("id", "in the main job", "what is decided"), rows)


def short_forms() -> str:
    """Options of the tutor's environment that are short for others."""
    from kd_env.decisions.tutor_token.options import written_out

    text = inspect.getdoc(written_out) or ""
    return markdown(text.split("options: keywords of ``gymnasium.make``. ")[1].split("\n\n")[0])


def recipes() -> str:
    """What is published of Tutor-KD, and what each recipe of the environment takes of it."""
    from kd_env.decisions.tutor_token import options

    return prose(options.__doc__)


def _space(space: Any) -> str:
    """A space in short."""
    if isinstance(space, spaces.Box):
        return f"Box({space.low.min():g}, {space.high.max():g}, {space.shape}, {space.dtype})"
    if isinstance(space, spaces.MultiDiscrete):
        return f"MultiDiscrete([{space.nvec[0]}] * {len(space.nvec)})"
    return str(space)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"`{value.dtype}` {'x'.join(map(str, value.shape))}"
    return f"`{type(value).__name__}`"
