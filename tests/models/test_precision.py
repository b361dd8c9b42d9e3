"""Precision: what ``auto`` is, casts made once, and how far a run in bf16 goes from one in float32."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kd_env import DistillEnv, DistillVectorEnv
from kd_env.core.types import EncoderFacts
from kd_env.envs.environments import TutorTokenEnv
from kd_env.mdp.passes import predict
from kd_env.models import precision
from kd_env.models.encoder import Encoder
from kd_env.models.library.attention import _fused_attention
from kd_env.models.precision import resolve_precision
from kd_env.numerics import chunks

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any CPU is one with products in bf16."""
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda: True)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any CPU is one without products in bf16."""
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda: False)
    precision._say_slow.cache_clear()


def facts(*widths: int) -> list[EncoderFacts]:
    return [EncoderFacts(1, width, 2, 2, 50) for width in widths]


@pytest.mark.parametrize(
    ("device", "widths", "found"),
    [("cpu", (127,), "fp32"), ("cpu", (32, 128), "bf16"), ("cuda", (384,), "fp32")],
)
def test_auto_is_bf16_for_wide_models(quick: None, device: str, widths: tuple[int, ...], found: str) -> None:
    assert resolve_precision("auto", torch.device(device), facts(*widths)) == found
    assert resolve_precision("fp64", torch.device(device), facts(*widths)) == "fp64"


def test_a_cpu_without_bf16_says_so_once(slow: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kd_env"):
        assert resolve_precision("auto", CPU, facts(1024)) == "fp32"
        assert not caplog.records
        assert [resolve_precision("bf16", CPU, facts(8)) for _ in range(2)] == ["bf16", "bf16"]
    [record] = caplog.records
    assert "slow" in record.message and "precision='auto'" in record.message


def test_auto_is_told_and_travels(
    quick: None, tiny: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options say what it became, and its states are those of an environment that names it."""
    assert DistillEnv(**tiny, precision="auto").problem.config.precision == "fp32"
    monkeypatch.setattr(precision, "BF16_WIDTH", 1)
    env, named = (DistillEnv(**tiny, precision=name) for name in ("auto", "bf16"))
    assert env.problem.config.precision == env.problem.summary()["precision"] == "bf16"
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.save_state(tmp_path / "state")
    named.load_state(tmp_path / "state")
    action = np.ones(3, np.int8)
    assert env.step(action)[4]["loss"] == named.step(action)[4]["loss"]


def test_auto_of_teachers_and_readers(
    quick: None, tiny: dict[str, Any], tiny_text: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs at every step counts: a kept teacher does not, an online one and who reads masked text do."""
    kept = DistillEnv(**tiny).problem
    student, teacher = (encoder.facts.hidden_size for encoder in (kept.student, kept.reference.encoder))
    assert student < teacher
    monkeypatch.setattr(precision, "BF16_WIDTH", teacher)
    found = {
        source: DistillEnv(**{**tiny, "teacher_source": source}, precision="auto").problem.precision
        for source in ("cached", "online")
    }
    assert found == {"cached": "fp32", "online": "bf16"}
    monkeypatch.setattr(precision, "BF16_WIDTH", 1)
    tutor = TutorTokenEnv(**tiny_text, precision="auto")
    assert tutor.problem.teachers[0].source.precision == "bf16"  # type: ignore[attr-defined]
    tutor.reset(seed=0)
    assert np.isfinite(tutor.step(tutor.action_space.sample())[4]["loss"])


class _Casts(TorchDispatchMode):
    """Shapes of what is cast to bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") is torch.bfloat16:
            self.shapes[tuple(args[0].shape)] += 1
        return func(*args, **(kwargs or {}))


def test_one_cast_of_the_weights(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight is cast once for all parts of an evaluation; losses, students and logits are autocast's own."""
    monkeypatch.setattr(chunks, "FEWEST_TOKENS", 16)
    monkeypatch.setattr(chunks, "ACTIVATIONS", 16)
    found = []
    for once in (True, False):
        if not once:
            monkeypatch.setattr(Encoder, "in_bf16", lambda _, params: params)
        env = DistillEnv(**tiny, precision="bf16")
        env.reset(seed=0)
        losses = env.step(np.ones(3, np.int8))[4]["raw_losses"]
        params = env.run.started().params
        with _Casts() as casts:
            logits = predict(env.problem, params, env.problem.feedback)
        [shape] = {tuple(value.shape) for name, value in params.items() if "intermediate.dense.weight" in name}
        found.append((losses, params, logits, casts.shapes[shape[1:]] + casts.shapes[shape]))
    (losses, params, logits, once_cast), (plain_losses, plain_params, plain_logits, often_cast) = found
    np.testing.assert_array_equal(losses, plain_losses)
    np.testing.assert_array_equal(logits, plain_logits)
    assert all(torch.equal(value, plain_params[name]) for name, value in params.items())
    assert once_cast == 1 < often_cast


def test_the_course_of_the_embedded_task_in_bf16() -> None:
    """Losses of 10 updates lie within 0.5% of those in float32, single or stacked; what is kept is float32."""
    losses: dict[str, list[np.ndarray]] = {"fp32": [], "bf16": [], "single": []}
    moments = {}
    for name in ("fp32", "bf16"):
        env = DistillVectorEnv(2, precision=name, evaluate_every=0, max_train_rows=320)
        env.reset(seed=0)
        for _ in range(5):
            losses[name].append(env.step(np.ones((2, 4), np.int8))[4]["raw_losses"])
            state = env.run.started()
            moments.setdefault(name, torch.cat([values.flatten() for values in state.exp_avg.values()]).clone())
        for tree in (state.params, state.exp_avg, state.exp_avg_sq):
            assert {values.dtype for values in tree.values()} == {torch.float32}
    single = DistillEnv(problem=env.problem)
    single.reset(seed=0)
    for _ in range(5):
        losses["single"].append(single.step(np.ones(4, np.int8))[4]["raw_losses"])
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=5e-3)
    np.testing.assert_allclose(losses["single"], np.stack(losses["fp32"])[:, 0], rtol=5e-3)
    assert not np.array_equal(losses["bf16"], losses["fp32"])
    assert torch.cosine_similarity(moments["fp32"], moments["bf16"], dim=0) > 0.9999  # of the gradients of one step


def test_attention_under_autocast_is_made_in_float32() -> None:
    """It is no further from float64 than the kernel in bf16, which is slow on the way back, forwards and backwards."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 2, 16, 8, generator=generator).bfloat16() for _ in range(3)]
    mask = torch.zeros(2, 1, 1, 16).index_fill(-1, torch.tensor([14, 15]), -1e9)

    def passed(attention: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [part.to(dtype).requires_grad_() for part in parts]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = attention(*leaves, mask.double() if dtype == torch.float64 else mask, 0.0, scale=0.3)
        return [out, *torch.autograd.grad(out.double().square().sum(), leaves)]

    def ours(*given: Any, scale: float) -> torch.Tensor:
        return _fused_attention(*given, scale)

    exact = passed(F.scaled_dot_product_attention, torch.float64)
    fast, plain = (passed(attention, torch.bfloat16) for attention in (ours, F.scaled_dot_product_attention))
    assert fast[0].dtype == torch.float32 and plain[0].dtype == torch.bfloat16
    for right, near, far in zip(exact, fast, plain, strict=True):
        assert (near - right).norm() <= (far - right).norm() < 0.02 * right.norm()
