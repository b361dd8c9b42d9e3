"""How often the host would wait for a device in a step of every environment, and copies that it need not wait for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kd_env import DistillVectorEnv, build_problem
from kd_env.config.optimizer import OptimizerConfig
from kd_env.core.trees import HostCopy, to_host, upload
from kd_env.decisions.catalog import DECISIONS
from kd_env.decisions.options import env_config
from kd_env.numerics import optim
from tests.synchronizations import Synchronizations

WAITS = {"knowledge_selection": 1, "sample_weighting": 1, "teacher_weighting": 2}
WAITS |= {"divergence_shaping": 2, "tutor_token": 4}
"""Of a step: for the evaluation, which everything that the updates found comes back with; where teachers are weighed
or soft labels shaped for what features read of the next batch; a tutor's also for the lists that an action chooses
from, for the tokens' rewards and for the observation."""


def test_the_counter_counts() -> None:
    values = torch.arange(4.0)
    with Synchronizations() as counted:
        held = values.cpu()
        held.numpy(), held.sum().tolist()
        values.sum().item(), bool(values.any()), float(values[0]), values[values > 1], values.nonzero()
        torch.as_tensor(np.ones(2), device=values.device), torch.as_tensor(np.ones(2))
        upload(np.ones(2), values.device)
    assert counted.waits.total() == 6 + 1 and counted.uploads.total() == 1  # a sum of a host tensor counts, too
    with Synchronizations() as counted:
        first, second = HostCopy(values), HostCopy(values)
        first.arrays()
        second.arrays()
    assert counted.waits.total() == 1


@pytest.mark.parametrize("name", WAITS)
def test_a_step_waits_for_what_comes_back_alone(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(WAITS) == set(DECISIONS)
    tiny = request.getfixturevalue({"teacher_weighting": "tiny_set", "tutor_token": "tiny_text"}.get(name, "tiny"))
    updates = {} if name in ("knowledge_selection", "tutor_token") else {"updates_per_step": 1}
    updates |= {"terms": ["hard_label", "soft_label"]} if name == "divergence_shaping" else {}
    problem = build_problem(env_config(**{**tiny, "decision": name, **updates}))
    monkeypatch.setattr(optim, "waits_for", lambda values: True)
    envs = DistillVectorEnv(9, problem=problem)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = envs.action_space.sample()
    envs.step(actions)
    with Synchronizations() as counted:
        envs.step(actions)
    assert counted.waits.total() <= WAITS[name], counted.waits
    assert not counted.uploads


def test_several_tensors_come_back_in_one_copy() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = (
        torch.rand(3, 2, generator=generator) > 0.5,
        torch.rand(5, 3, generator=generator).T,
        torch.randint(9, (2,), generator=generator),
        torch.empty(4, 0, 0),
        torch.rand((), dtype=torch.float64, generator=generator),
    )
    for tensor, array in zip(tensors, to_host(*tensors), strict=True):
        np.testing.assert_array_equal(array, tensor.numpy(), strict=True)


@pytest.mark.parametrize("lost", [(), (4,)])
def test_one_call_for_many_students_without_asking_which_are_lost(
    lost: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are updated as where the host asks; a lost one is no number in none of its parameters."""
    count, drawn = 9, torch.Generator().manual_seed(0)
    flags = torch.zeros(count)
    flags[list(lost)] = 1.0
    found: list[dict[str, torch.Tensor]] = []
    for asks in (True, False):
        monkeypatch.setattr(optim, "waits_for", lambda values, asks=asks: not asks)
        drawn.manual_seed(1)
        params, grads, first = (
            {name: torch.rand(count, *shape, generator=drawn) for name, shape in (("w", (4, 4)), ("b", (16,)))}
            for _ in range(3)
        )
        second = {name: values**2 for name, values in first.items()}
        for place in lost:
            grads["w"][place] = float("nan")
        optim.adamw_(
            params,
            grads,
            first,
            second,
            steps=np.full(count, 3),
            learning_rates=np.full(count, 0.1),
            apply=np.ones(count, bool),
            non_finite=flags,
            config=OptimizerConfig(),
        )
        found.append(params)
    whole = [place for place in range(count) if place not in lost]
    for name, asked in found[0].items():
        assert torch.equal(asked[whole], found[1][name][whole]) and bool(torch.isfinite(found[1][name]).all())


def test_what_is_lost_in_an_update_keeps_its_evaluation(tiny: dict[str, Any]) -> None:
    """Its evaluation was begun before the host knew."""
    envs = DistillVectorEnv(2, problem=build_problem(env_config(**tiny)), autoreset_mode="disabled")
    envs.reset(seed=0)
    state = envs.get_state()
    with torch.no_grad():
        state.run.params["classifier.weight"][1] = float("inf")
    envs.set_state(state)
    info = envs.step(envs.action_space.sample() | 1)[4]
    assert info["diverged"].tolist() == [False, True]
    assert info["loss"][1] == state.run.loss[1] and info["loss"][0] != state.run.loss[0]
    assert info["temperature"][1] == state.run.temperature[1]
