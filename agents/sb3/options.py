"""Hyper-parameters of SB3 as plain values: what an algorithm would only refuse in its middle is refused here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from agents.common.base import unknown_name

ACTIVATIONS = {
    "relu": "ReLU",
    "tanh": "Tanh",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "leaky_relu": "LeakyReLU",
    "sigmoid": "Sigmoid",
}
"""Names of ``policy_kwargs.activation_fn``, which SB3 takes as a class of torch.nn."""
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "a text"),
    "dict": ((dict,), "options by name"),
    "tuple": ((list, tuple), "a list"),
    "TrainFreq": ((list, tuple), "a list"),
    "None": ((type(None),), "null"),
}
"""Words of an annotation, plain values that they stand for, and what messages call these."""
_AT_LEAST_ONE = (
    *("n_steps", "batch_size", "n_epochs", "buffer_size", "train_freq", "target_update_interval", "policy_delay"),
    *("n_delta", "n_eval_episodes", "stats_window_size"),
)
_SHARES = ("gamma", "gae_lambda", "tau", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps")


def check_values(name: str, constructor: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse values of a type that the constructor does not take, and numbers that mean nothing.

    Raises:
        ValueError: the hyper-parameter, its value and what is allowed.
    """
    parameters = inspect.signature(constructor).parameters
    for key, value in given.items():
        annotation = "float | None" if key == "action_noise_std" else str(parameters[key].annotation)
        allowed = _words(annotation)
        fits = not allowed or any(_is(value, _KINDS[word][0]) for word in allowed)
        if not fits:
            kinds = " or ".join(dict.fromkeys(_KINDS[word][1] for word in sorted(allowed, key=list(_KINDS).index)))
            raise ValueError(f"{name}: {key}={value!r} must be {kinds}.")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _AT_LEAST_ONE and number and value < 1:
            raise ValueError(f"{name}: {key}={value!r} must be at least 1.")
        if key in _SHARES and number and not 0 <= value <= 1:
            raise ValueError(f"{name}: {key}={value!r} must lie in [0, 1].")
    if isinstance(given.get("ent_coef"), str) and not re.fullmatch(r"auto(_[0-9.]+(e-?\d+)?)?", given["ent_coef"]):
        raise ValueError(f"{name}: ent_coef={given['ent_coef']!r} must be a number, auto or auto_<first value>.")


def policy_options(name: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """``policy_kwargs`` as SB3 takes them: the activation's class in place of its name.

    Raises:
        ValueError: an unknown activation.
    """
    options = dict(given or {})
    activation = options.get("activation_fn")
    if activation is not None:
        if not isinstance(activation, str) or activation.lower() not in ACTIVATIONS:
            raise ValueError(unknown_name(f"policy_kwargs.activation_fn of {name}:", str(activation), ACTIVATIONS))
        from torch import nn

        options["activation_fn"] = getattr(nn, ACTIVATIONS[activation.lower()])
    return options


def _words(annotation: str) -> set[str]:
    """The plain kinds that an annotation names at its outermost level; none where it names no plain one."""
    outer = annotation
    while (inner := re.sub(r"\[[^\[\]]*\]", "", outer)) != outer:
        outer = inner
    return {word for word in re.findall(r"\w+", outer.replace("NoneType", "None")) if word in _KINDS}


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
