"""Terms in float32 beside float64 over the whole range of every option that is a number; beyond it they are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd_env.core.types import Batch, EncoderFacts, ModelOutput
from kd_env.knowledge import TERMS, TermInputs, TermSpec, build_terms
from kd_env.knowledge.build import term_options
from kd_env.knowledge.labels import SOFT_KINDS

RANGES: dict[tuple[str, str], tuple[float, float, bool]] = {
    ("hard_label", "label_smoothing"): (0.0, 0.999, True),
    ("soft_label", "temperature"): (0.05, 100.0, True),
    ("dist", "temperature"): (0.05, 100.0, True),
    ("dist", "beta"): (0.0, 1e6, True),
    ("dist", "gamma"): (0.0, 1e6, True),
    ("logit_mse", "target_scale"): (1e-300, 1.0, False),
    ("rkd", "distance_weight"): (0.0, 1e6, True),
    ("rkd", "angle_weight"): (0.0, 1e6, True),
}
"""Least and greatest value, and whether anything lies below the least."""
BETWEEN = (1e-3, 0.3, 1.0, 3.0, 20.0, 1e3)
CASES = [(name, option, {}) for name, option in RANGES if (name, option) != ("soft_label", "temperature")]
CASES += [("soft_label", "temperature", {"kind": kind}) for kind in SOFT_KINDS]


def loss_and_gradient(term: dict[str, Any], scale: float, classes: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """Mean loss of 16 rows of random logits of this scale, and its gradient."""
    facts = EncoderFacts(num_layers=1, hidden_size=classes, num_heads=1, num_labels=classes, vocab_size=9)
    (built,) = build_terms([term], TermSpec(facts, facts, ((0, 0), (1, 1)), False))
    draw = torch.Generator().manual_seed(0)
    student, noise = (scale * torch.randn(16, classes, generator=draw, dtype=torch.float64) for _ in range(2))
    target, values = (student + noise).to(dtype), student.to(dtype).requires_grad_(True)
    outputs = [ModelOutput(v, {1: v}, {}, {}, {}, {}, {}) for v in (values, target)]
    ids, labels = torch.zeros(16, 2, dtype=torch.long), torch.randint(classes, (16,), generator=draw)
    teacher = outputs[1] if built.uses_teacher else None
    loss = built.loss(TermInputs(outputs[0], teacher, Batch(ids, ids.bool(), ids, labels), {})).mean()
    (gradient,) = torch.autograd.grad(loss, values)
    return loss.detach().double(), gradient.double()


@pytest.mark.parametrize(("name", "option", "more"), CASES)
def test_float32_means_what_float64_means(name: str, option: str, more: dict[str, Any]) -> None:
    """For weak and strong logits of few and many classes."""
    low, high, _ = RANGES[name, option]
    for value in (low, *(v for v in BETWEEN if low < v < high), high):
        for scale, classes in ((0.3, 2), (0.3, 20), (3.0, 3), (30.0, 2), (30.0, 20)):
            term = {"name": name, option: value, **more}
            loss, gradient = loss_and_gradient(term, scale, classes, torch.float32)
            exact, exact_gradient = loss_and_gradient(term, scale, classes, torch.float64)
            torch.testing.assert_close(loss, exact, rtol=0.02, atol=1e-6)
            largest = float(exact_gradient.abs().max())
            # Where everything saturates, or two classes are correlated, no gradient is left but what rounding makes.
            noise = 1e-5 * max(1.0, float(exact.abs()))
            torch.testing.assert_close(gradient, exact_gradient, rtol=0.0, atol=1e-3 * largest + noise)


@pytest.mark.parametrize(("name", "option"), RANGES)
def test_beyond_it_they_are_refused(name: str, option: str) -> None:
    """With the value and the range."""
    low, high, below = RANGES[name, option]
    for value in ((low - 0.01,) if below else (0.0,)) + (high * 1.01,):
        with pytest.raises(ValueError, match=rf"{name}\.{option}={value!r} must be a finite number"):
            loss_and_gradient({"name": name, option: value}, 1.0, 3, torch.float32)


def test_the_table_is_complete() -> None:
    """Every option whose default is a number is in it, but for one that counts tokens and enters no arithmetic."""
    import inspect

    numbers = set()
    for name in TERMS:
        for option in term_options(TERMS[name])[0]:
            default = inspect.signature(TERMS[name]).parameters[option].default
            if isinstance(default, float):
                numbers.add((name, option))
    assert numbers - {("plausibility", "uncertain_share")} == RANGES.keys()


@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_weights_of_terms(weight: float) -> None:
    """The loss times the weight, as far as float32 has it; beyond, refused."""
    loss, _ = loss_and_gradient({"name": "logit_mse", "weight": weight}, 30.0, 3, torch.float32)
    exact, _ = loss_and_gradient({"name": "logit_mse"}, 30.0, 3, torch.float64)
    torch.testing.assert_close(loss, weight * exact, rtol=1e-4, atol=0.0)
    with pytest.raises(ValueError, match=r"weight=.* must be a finite number at least 1e-06 and at most 1000000.0"):
        loss_and_gradient({"name": "logit_mse", "weight": weight * weight}, 1.0, 3, torch.float32)
