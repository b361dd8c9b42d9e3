"""The knowledge selector (KS): its targets against slow transcriptions, learning, storage, refusals."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from identity import IdentityEnv, ScriptedVectorEnv

from agents import Agent, agent_kind, load_agent, make_agent
from agents.common.base import Spaces
from agents.common.rollout import Collector
from agents.knowledge_selector.agent import KnowledgeSelector
from agents.knowledge_selector.interface import ActionMap, HardExploration, Interface, SoftExploration
from agents.knowledge_selector.networks import Selector, actor_loss, critic_loss, critic_target, select
from agents.knowledge_selector.replay import ReplayBuffer, RewardScale, Transitions, transitions_of
from kd_env.decisions.options import env_config

VIEWS = {"soft": "box", "hard": "multi_binary"}


class ClsIdentityEnv(IdentityEnv):
    """The identity env, whose answer is said to be both [CLS] vectors; undiscounted values need the progress too."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__(kind, **options)
        size = self.observation_space.shape[0]
        self.observation_space = spaces.Box(-1.0, 1.0, (size + 1,), np.float32)
        parts = {"teacher_cls": (0, 1), "student_cls": (1, size), "progress": (size, size + 1)}
        self.observation_layout = {k: SimpleNamespace(start=a, stop=b) for k, (a, b) in parts.items()}

    def _draw(self) -> np.ndarray:
        return np.append(super()._draw(), np.float32(self.steps / self.length))


def vector_env(mode: str, count: int, **options: Any) -> SyncVectorEnv:
    makers = [lambda: ClsIdentityEnv(VIEWS[mode], **options)] * count
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


# -- targets and gradients against slow transcriptions, float64

LAYOUT = {"gap": (0, 2), "student_cls": (2, 5), "teacher_cls": (5, 9), "progress": (9, 10)}


def make_selector(seed: int, **options: Any) -> Selector:
    values: dict[str, Any] = {"hidden": (6, 5), "encoder_size": 4}
    values |= {"use_other_features": True, "num_critics": 1, "share_encoders": False}
    generator = torch.Generator().manual_seed(seed)
    selector = Selector(LAYOUT, 3, **{**values, **options}, generator=generator).double()
    noise = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():  # biases are 0 and the actor nearly constant at first: a wrong one would not show
        for parameter in selector.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return selector


def numbers(selector: Selector) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().astype(np.float64) for name, value in selector.state_dict().items()}


def slow_mlp(w: dict[str, np.ndarray], name: str, x: np.ndarray, layers: int) -> np.ndarray:
    for i in range(layers):
        x = w[f"{name}.{2 * i}.weight"] @ x + w[f"{name}.{2 * i}.bias"]
        x = np.tanh(x) if i < layers - 1 else x
    return x


def slow_state(w: dict[str, np.ndarray], who: str, o: np.ndarray, layout: dict[str, Any] = LAYOUT) -> np.ndarray:
    teacher = np.tanh(slow_mlp(w, f"{who}_encoder.teacher", o[slice(*layout["teacher_cls"])], 2))
    student = np.tanh(slow_mlp(w, f"{who}_encoder.student", o[slice(*layout["student_cls"])], 2))
    others = [o[slice(*place)] for name, place in layout.items() if not name.endswith("cls")]
    return np.concatenate([teacher, student, *others])


def slow_mu(w: dict[str, np.ndarray], o: np.ndarray, layout: dict[str, Any] = LAYOUT) -> np.ndarray:
    return 1 / (1 + np.exp(-slow_mlp(w, "actor", slow_state(w, "actor", o, layout), 3)))


def slow_q(w: dict[str, np.ndarray], o: np.ndarray, a: np.ndarray, layout: dict[str, Any] = LAYOUT) -> float:
    return float(slow_mlp(w, "critics.0", np.concatenate([slow_state(w, "critic", o, layout), a]), 3)[0])


@pytest.mark.parametrize("hard", [False, True])
def test_critic_target_and_loss_are_those_of_the_paper(hard: bool) -> None:
    rng = np.random.default_rng(0)
    selector, target, m, gamma = make_selector(1), make_selector(7), 12, 0.9
    s, following, a = rng.normal(size=(m, 10)), rng.normal(size=(m, 10)), rng.random((m, 3))
    r, terminated = rng.normal(size=m), rng.random(m) < 0.4
    w, old = numbers(selector), numbers(target)
    expected, errors = [], []
    for i in range(m):
        action = slow_mu(old, following[i])
        action = (action > 0.5).astype(float) if hard else action
        y = r[i] if terminated[i] else r[i] + gamma * slow_q(old, following[i], action)
        expected.append(y)
        errors.append((slow_q(w, s[i], a[i]) - y) ** 2)
    t = torch.from_numpy
    values = target.q(t(following), select(target.logits(t(following)), hard))
    targets = critic_target(t(r), t(terminated), values, gamma)
    assert np.allclose(targets.detach().numpy(), expected, rtol=0, atol=1e-10)
    assert critic_loss(selector, t(s), t(a), targets).item() == pytest.approx(np.mean(errors), abs=1e-10)


@pytest.mark.parametrize("gradient", ["", "straight_through", "soft"])
def test_actor_gradient_is_that_of_q_of_mu(gradient: str) -> None:
    """Against central differences of a transcription; behind the threshold dQ/da is taken at the hard action."""
    rng = np.random.default_rng(0)
    selector, m, step, penalty = make_selector(1), 8, 1e-6, 0.01
    s = rng.normal(size=(m, 10))
    w = numbers(selector)

    def slopes(o: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.array([(slow_q(w, o, a + d) - slow_q(w, o, a - d)) / (2 * step) for d in step * np.eye(3)])

    hard_slopes = [slopes(o, (slow_mu(w, o) > 0.5).astype(float)) for o in s]

    def objective(values: dict[str, np.ndarray]) -> float:
        total = 0.0
        for o, slope in zip(s, hard_slopes, strict=True):
            mu = slow_mu(values, o)
            total -= slope @ mu if gradient == "straight_through" else slow_q(w, o, mu)
            total += penalty * np.mean(np.log(mu / (1 - mu)) ** 2)
        return total / m

    names = [name for name in w if name.startswith("actor")]
    loss = actor_loss(selector, torch.from_numpy(s), bool(gradient), gradient or "straight_through", penalty)
    loss.backward(inputs=selector.actor_parameters())
    found = {name: p.grad for name, p in selector.named_parameters() if p.grad is not None}
    assert set(found) == set(names)  # the critic is only passed through
    for name in names:
        for place in list(np.ndindex(*w[name].shape))[::3]:
            values = [copy.deepcopy(w) for _ in range(2)]
            values[0][name][place] += step
            values[1][name][place] -= step
            slow = (objective(values[0]) - objective(values[1])) / (2 * step)
            assert found[name][place].item() == pytest.approx(slow, abs=1e-6), (name, place)


def test_a_whole_update_uses_the_target_networks_the_scaled_reward_and_the_bonus() -> None:
    env = vector_env("soft", 2, length=4)
    agent = KnowledgeSelector(
        env, seed=0, warmup_steps=20, batch_size=16, gamma=0.8, tau=0.3, reward_normalization="running"
    )
    agent.learn(40)
    layout = {"teacher_cls": (0, 1), "student_cls": (1, 2), "progress": (2, 3)}
    batch = agent.replay.sample(16, torch.Generator().manual_seed(0))
    assert batch.terminated.any() and not batch.terminated.all() and batch.bonuses.any()
    w, old = numbers(agent.selector), numbers(agent.target)
    assert any(not np.allclose(w[name], old[name], atol=1e-3) for name in w)
    deviation = np.std(agent.replay.state()["rewards"].numpy())
    total, squares = 0.0, 0.0
    for i in range(16):
        o, following = (
            agent.normalizer(x[i]).astype(np.float64) for x in (batch.observations, batch.next_observations)
        )
        y = batch.rewards[i] / deviation + batch.bonuses[i]
        if not batch.terminated[i]:
            y += 0.8 * slow_q(old, following, slow_mu(old, following, layout), layout)
        total += y / 16  # td_steps=1
        squares += (slow_q(w, o, batch.actions[i].astype(np.float64), layout) - y) ** 2 / 16
    metrics = agent._update(batch)
    assert metrics["target_mean"] == pytest.approx(total, abs=1e-5)
    assert metrics["critic_loss"] == pytest.approx(squares, abs=1e-5)
    for name, value in numbers(agent.target).items():
        moved = old[name] + 0.3 * (numbers(agent.selector)[name] - old[name])
        assert np.allclose(value, moved, atol=1e-6)


def test_shared_encoders_are_trained_by_the_critic_alone() -> None:
    selector = make_selector(1, share_encoders=True)
    s = torch.randn(8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actor_loss(selector, s, False, "soft", 0.0).backward(inputs=selector.actor_parameters())
    assert all(p.grad is None for p in selector.critic_encoder.parameters())
    critic_loss(selector, s, torch.rand_like(s[:, :3]), torch.zeros_like(s[:, 0])).backward()
    assert all(p.grad is not None and p.grad.any() for p in selector.critic_encoder.parameters())


@pytest.mark.parametrize("use", [False, True])
def test_the_papers_state_has_the_two_cls_vectors_only(use: bool) -> None:
    selector = make_selector(1, use_other_features=use)
    s = torch.zeros(10, 10, dtype=torch.float64)
    with torch.no_grad():
        changed = [
            i for i in range(10) if not torch.equal(selector.logits(s)[0], selector.logits(s + torch.eye(10))[i])
        ]
    assert changed == (list(range(10)) if use else list(range(2, 9)))


# -- exploration rewards


def test_soft_exploration_reward_is_the_negative_cosine_to_the_previous_phase() -> None:
    rng = np.random.default_rng(0)
    actions, steps = rng.random((9, 2, 3)), np.array([[t % 4, t % 9] for t in range(9)])
    actions[5, 1] = 0.0  # nothing is similar to choosing nothing
    expected = np.zeros((9, 2))
    for t in range(9):
        for n in range(2):
            if steps[t, n] > 0:
                a, b = actions[t, n], actions[t - 1, n]
                norm = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
                expected[t, n] = -0.3 * sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0
    whole, parts = SoftExploration(0.3), SoftExploration(0.3)
    assert np.allclose(whole(actions, steps), expected, atol=1e-12)
    split = [parts(actions[:4], steps[:4]), parts(actions[4:5], steps[4:5]), parts(actions[5:], steps[5:])]
    assert np.allclose(np.concatenate(split), expected, atol=1e-12)
    assert expected[5:7, 1].tolist() == [0.0, 0.0] and not expected[[0, 4, 8], 0].any() and expected[1:4].all()


def test_hard_exploration_reward_counts_whole_actions() -> None:
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, (20, 3, 2)).astype(np.float32)
    seen: list[list[float]] = []
    expected = []
    for step in actions:
        for action in step:
            seen.append(action.tolist())
            expected.append(0.5 / math.sqrt(seen.count(action.tolist())))
    bonus = HardExploration(0.5)
    found = [bonus(actions[:7], np.zeros((7, 3))), bonus(actions[7:], np.zeros((13, 3)))]
    assert np.allclose(np.concatenate(found).ravel(), expected, atol=1e-12)
    twin = HardExploration(0.5)
    twin.restore(bonus.state())
    assert np.array_equal(bonus(actions, actions[..., 0]), twin(actions, actions[..., 0]))


# -- memory


def test_truncated_transitions_keep_their_own_last_observation() -> None:
    script = [[(2, "truncated"), (3, "terminated")], [(4, "both"), (2, "truncated")]]
    collector = Collector(ScriptedVectorEnv(script))
    collector.reset(0)

    def act(observations: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        return torch.zeros(len(observations), 1), np.zeros(len(observations), dtype=int)

    for n_steps in (1, 1, 3, 5):
        rollout = collector.collect(act, n_steps=n_steps)
        batch = transitions_of(rollout, rollout.rewards, np.zeros_like(rollout.rewards))
        goes_on = ~batch.terminated
        step = np.array([0.0, 0.0, 1.0])
        assert np.array_equal(batch.next_observations[goes_on], (batch.observations + step)[goes_on])
        assert np.array_equal(batch.steps, batch.observations[:, 2])


@pytest.mark.parametrize("td_steps", [1, 2, 3, 9])
def test_sums_over_phases_equal_a_loop_that_stops_where_the_episode_or_the_rollout_does(td_steps: int) -> None:
    script = [[(3, "truncated"), (4, "terminated")], [(5, "both"), (2, "truncated"), (3, "terminated")]]
    collector = Collector(ScriptedVectorEnv(script))
    collector.reset(0)
    rollout = collector.collect(lambda o: (torch.zeros(len(o), 1), np.zeros(len(o), dtype=int)), n_steps=8)
    rng = np.random.default_rng(0)
    rewards, bonuses = rng.normal(size=(2, 8, 2))
    batch = transitions_of(rollout, rewards, bonuses, td_steps, 0.9)
    lasts = {
        (int(t), int(n)): o for (t, n), o in zip(rollout.truncated_at, rollout.truncated_observations, strict=True)
    }
    for t, n in np.ndindex(8, 2):
        i, total, bonus, span = t * 2 + n, 0.0, 0.0, 0
        while True:
            at = t + span
            total, bonus = total + 0.9**span * rewards[at, n], bonus + 0.9**span * bonuses[at, n]
            span += 1
            if span == td_steps or rollout.terminated[at, n] or rollout.truncated[at, n] or at == 7:
                break
        assert batch.rewards[i] == pytest.approx(total) and batch.bonuses[i] == pytest.approx(bonus)
        assert batch.spans[i] == span and batch.terminated[i] == rollout.terminated[at, n]
        if not batch.terminated[i]:
            after = rollout.last_observations[n] if at == 7 else rollout.observations[at + 1, n]
            assert np.array_equal(batch.next_observations[i], lasts.get((at, n), after))


def transitions(values: list[float]) -> Transitions:
    column = np.array(values)
    wide = column[:, None].astype(np.float32)
    whole = column.astype(np.int64)
    return Transitions(wide, wide, column, column, whole + 1, column > 0, wide, whole)


def test_replay_keeps_the_latest() -> None:
    buffer, kept = ReplayBuffer(5, 1, 1), list[float]()
    with pytest.raises(ValueError, match="before anything was added"):
        buffer.sample(1, torch.Generator())
    count = 0
    for size in (2, 2, 3, 12, 1):
        new = [float(count + i) for i in range(size)]
        count += size
        kept = (kept + new)[-5:]
        buffer.add(transitions(new))
        assert len(buffer) == len(kept)
        drawn = buffer.sample(200, torch.Generator().manual_seed(0))
        assert sorted(set(drawn.rewards.tolist())) == kept
        assert np.array_equal(drawn.observations[:, 0], drawn.rewards)
    twin = ReplayBuffer(5, 1, 1)
    twin.restore(buffer.state())
    for one in (buffer, twin):
        one.add(transitions([100.0, 101.0]))
    assert all(torch.equal(a, b) for a, b in zip(buffer.state().values(), twin.state().values(), strict=True))


def test_reward_scale_equals_the_moments_of_all_rewards() -> None:
    rng = np.random.default_rng(0)
    steps = np.tile([0, 1, 2, 5], 30)
    rewards = rng.normal(size=120) / (1 + steps) + 3 / (1 + steps)
    scales = {mode: RewardScale(mode) for mode in ("running", "per_step", "none")}
    for part in (slice(0, 7), slice(7, 120)):
        for scale in scales.values():
            scale.update(rewards[part], steps[part])
    assert np.allclose(scales["running"](rewards, steps), rewards / rewards.std())
    assert np.array_equal(scales["none"](rewards, steps), rewards)
    scaled = scales["per_step"](rewards, steps)
    for step in (0, 1, 2, 5):
        assert scaled[steps == step].mean() == pytest.approx(0, abs=1e-6)
        assert scaled[steps == step].std() == pytest.approx(1, abs=1e-6)
    few = RewardScale("per_step")
    few.update(rewards[:9], steps[:9])  # no step is seen four times: the moments of all stand in
    assert np.allclose(few(rewards[:9], steps[:9]), (rewards[:9] - rewards[:9].mean()) / rewards[:9].std())


# -- actions


def test_soft_actions_fill_the_box_and_keep_the_gate_open() -> None:
    box = Spaces(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (3,), np.float32))
    layout = {"teacher_cls": (0, 1), "student_cls": (1, 2)}
    weights = torch.tensor([[0.0, 1.0], [0.25, 0.5]])
    fixed = ActionMap(Interface(box, layout, gated=True), "soft", act_on_gate=False)
    assert fixed.size == 2
    assert fixed.to_env(weights).tolist() == [[-1.0, 1.0, 1.0], [-0.5, 0.0, 1.0]]
    acting = ActionMap(Interface(box, layout, gated=True), "soft", act_on_gate=True)
    assert acting.size == 3
    assert acting.to_env(torch.tensor([[0.0, 1.0, 0.5]])).tolist() == [[-1.0, 1.0, 0.0]]
    assert ActionMap(Interface(box, layout, gated=False), "soft", act_on_gate=False).size == 3


# -- learning


def score(agent: Any, mode: str) -> float:
    """Mean reward of the deterministic policy."""
    env = vector_env(mode, 32)
    observations, _ = env.reset(seed=1000)
    total = 0.0
    for _ in range(8):
        observations, rewards, *_ = env.step(agent.predict(observations, deterministic=True)[0])
        total += rewards.mean() / 8
    return total


FAST: dict[str, Any] = {"warmup_steps": 200, "learning_rate": 3e-3, "critic_learning_rate": 3e-3, "batch_size": 64}


@pytest.mark.parametrize(
    ("mode", "count", "options"),
    [
        ("soft", 1, {}),
        ("soft", 4, {"share_encoders": True, "reward_normalization": "running"}),
        ("hard", 4, {"num_critics": 2}),
        ("hard", 1, {}),
    ],
)
def test_identity_is_solved(mode: str, count: int, options: dict[str, Any]) -> None:
    env = ClsIdentityEnv(VIEWS[mode]) if count == 1 else vector_env(mode, count)
    goal = -0.04 if mode == "soft" else 0.97
    agent = KnowledgeSelector(env, seed=0, mode=mode, **FAST, **options)
    assert score(agent, mode) < goal - 0.1
    for _ in range(20):
        agent.learn(200, reset_num_timesteps=False)
        if score(agent, mode) > goal:
            return
    pytest.fail(f"score {score(agent, mode)} after {agent.num_timesteps} steps")


def tensors(agent: KnowledgeSelector) -> dict[str, torch.Tensor]:
    found = {f"selector.{k}": v for k, v in agent.selector.state_dict().items()}
    found |= {f"target.{k}": v for k, v in agent.target.state_dict().items()}
    for name, optimizer in (("actor", agent.actor_optimizer), ("critic", agent.critic_optimizer)):
        for i, state in optimizer.state_dict()["state"].items():
            found |= {f"{name}.{i}.{k}": v for k, v in state.items()}
    found |= {f"replay.{k}": v for k, v in agent.replay.state().items()}
    found |= {f"normalizer.{k}": v for k, v in agent.normalizer.state().items()}
    return {name: value.clone() for name, value in found.items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("stop", [21, 99])  # in the warm-up and after it, inside an episode
@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_a_loaded_agent_continues_bit_equal(mode: str, stop: int, tmp_path: Path) -> None:
    env = vector_env(mode, 3, length=5, truncate=True)
    options: dict[str, Any] = {"warmup_steps": 30, "batch_size": 16, "replay_size": 70, "td_steps": 2, "n_steps": 3}
    agent = KnowledgeSelector(env, seed=4, mode=mode, hold_noise=True, **options).learn(stop)
    agent.predict(env.observation_space.sample())
    agent.save(tmp_path / "agent")
    twin_env = copy.deepcopy(env)
    twin = KnowledgeSelector.load(tmp_path / "agent", twin_env, force_reset=False)
    assert twin.config == agent.config and same(tensors(agent), tensors(twin))
    history: list[list[dict[str, float]]] = [[], []]
    agent.learn(60, history[0].append, reset_num_timesteps=False)
    twin.learn(60, history[1].append, reset_num_timesteps=False)
    assert agent.num_updates > 50 and same(tensors(agent), tensors(twin))
    for a, b in zip(*history, strict=True):
        assert {**a, "fps": 0} == {**b, "fps": 0}
    observations = env.reset(seed=9)[0]
    assert np.array_equal(agent.predict(observations)[0], twin.predict(observations)[0])


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_held_noise_changes_with_the_episode_and_not_within(mode: str) -> None:
    env = vector_env(mode, 3, length=5)
    agent = KnowledgeSelector(env, seed=0, mode=mode, warmup_steps=10_000, hold_noise=True, batch_size=16).learn(60)
    actions = agent.replay.state()["actions"].reshape(4, 5, 3, -1)  # episode, phase, replica, component
    assert bool((actions == actions[:, :1]).all())
    assert len(actions[:, 0].reshape(-1, actions.shape[-1]).unique(dim=0)) >= (12 if mode == "soft" else 2)


def test_a_whole_update_sums_phases() -> None:
    env = vector_env("soft", 2, length=4)
    options = {"warmup_steps": 20, "batch_size": 16, "reward_normalization": "none", "exploration_coef": 0.0}
    agent = KnowledgeSelector(env, seed=0, gamma=0.5, td_steps=4, **options).learn(40)
    batch = agent.replay.sample(16, torch.Generator().manual_seed(0))
    assert batch.terminated.all() and set(batch.spans.tolist()) == {1, 2, 3, 4}  # rollouts are whole episodes
    assert agent._update(batch)["target_mean"] == pytest.approx(batch.rewards.mean(), abs=1e-6)


def test_running_episodes_need_as_many_replicas(tmp_path: Path) -> None:
    KnowledgeSelector(vector_env("soft", 2), seed=0).learn(10).save(tmp_path / "a")
    with pytest.raises(ValueError, match="2 replicas, the env has 3"):
        KnowledgeSelector.load(tmp_path / "a", vector_env("soft", 3), force_reset=False)
    more = KnowledgeSelector.load(tmp_path / "a", vector_env("soft", 3))
    assert more.learn(30, reset_num_timesteps=False).num_timesteps > 30


def test_acting_changes_neither_learning_nor_global_generators() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    runs = []
    for look in (False, True):
        agent = KnowledgeSelector(vector_env("soft", 2), seed=0, warmup_steps=20, batch_size=8).learn(32)
        if look:
            agent.predict(np.zeros((50, 3), np.float32))
        runs.append(tensors(agent.learn(32, reset_num_timesteps=False)))
    assert same(*runs)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


def test_callback_gets_plain_floats_and_can_stop() -> None:
    seen: list[dict[str, float]] = []

    def stop_after_two(metrics: dict[str, float]) -> bool:
        seen.append(metrics)
        return len(seen) < 2

    agent = KnowledgeSelector(vector_env("hard", 4), seed=0, mode="hard", warmup_steps=32, batch_size=8)
    agent.learn(100_000, stop_after_two)
    assert len(seen) == 2 and agent.num_timesteps == seen[-1]["timesteps"] == 64
    assert agent.num_updates == 4 * 9  # one for each phase, from the step that ends the warm-up on
    assert all(type(value) is float and np.isfinite(value) for metrics in seen for value in metrics.values())
    names = {"return_mean", "episodes", "fps", "weight_0", "weight_2", "critic_loss", "actor_loss", "target_mean"}
    assert names <= set(seen[1])


def test_reward_transform_sees_an_episode_and_leaves_reported_returns() -> None:
    shapes = []

    def negate(rewards: np.ndarray) -> np.ndarray:
        shapes.append(rewards.shape)
        return -rewards

    seen: list[dict[str, float]] = []
    agent = KnowledgeSelector(vector_env("hard", 4), mode="hard", reward_transform=negate, **FAST)
    for _ in range(10):
        agent.learn(192, seen.append, reset_num_timesteps=False)
        if score(agent, "hard") < 0.1:
            break
    assert score(agent, "hard") < 0.1
    assert all(0 <= metrics["return_mean"] <= 8 for metrics in seen)
    assert set(shapes) == {(8, 4)}
    with pytest.raises(ValueError, match="reward_transform gave shape"):
        KnowledgeSelector(vector_env("soft", 2), reward_transform=lambda rewards: rewards[:1]).learn(1)


# -- names and refusals


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_name_makes_and_loads_the_agent(mode: str, tmp_path: Path) -> None:
    env = vector_env(mode, 2)
    agent = make_agent("knowledge_selector", env, seed=3, mode=mode, hidden_sizes=[16, 8])
    assert agent_kind("knowledge_selector") == "agent" and isinstance(agent, Agent)
    agent.save(tmp_path / "a")
    assert not [path for path in (tmp_path / "a").iterdir() if path.suffix not in (".json", ".safetensors")]
    acting = load_agent(tmp_path / "a")
    observations = env.reset(seed=0)[0]
    for deterministic in (False, True):
        one, two = (x.predict(observations, deterministic=deterministic)[0] for x in (agent, acting))
        assert np.array_equal(one, two) and env.action_space.contains(one)
        single = agent.predict(observations[0], deterministic=deterministic)[0]
        assert env.single_action_space.contains(single)
    with pytest.raises(ValueError, match="no env to learn in"):
        acting.learn(10)
    with pytest.raises(ValueError, match="expected"):
        agent.predict(observations[:, :1])
    other = ClsIdentityEnv(VIEWS[mode])
    other.observation_layout["later"] = other.observation_layout.pop("progress")
    with pytest.raises(ValueError, match="same features in the same order"):
        load_agent(tmp_path / "a", other)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("box", {"mode": "hard"}, r"MultiBinary actions, but the env has Box.*action_view='native'.*mode='soft'"),
        ("multi_binary", {}, r"Box actions, but the env has MultiBinary.*action_view='box'.*mode='hard'"),
        ("discrete", {"mode": "hard"}, "action_view='native'"),
        ("box", {"act_on_gate": True}, "gate=true"),
        ("box", {"replay_size": 50}, "replay_size=50.*at least batch_size=64"),
        ("box", {"mode": "sof"}, "one of soft, hard"),
        ("box", {"gama": 0.5}, "Did you mean 'gamma'"),
        ("box", {"gamma": 1.5}, "gamma=1.5"),
        ("box", {"tau": 0.0}, "tau=0.0"),
        ("box", {"hidden_sizes": [8]}, "two sizes"),
        ("box", {"hard_gradient": "none"}, "straight_through"),
        ("box", {"reward_normalization": "std"}, "per_step, running, none"),
        ("box", {"flip_probability": 0.7}, "flip_probability=0.7"),
        ("box", {"td_steps": 0}, "td_steps=0"),
        ("box", {"td_steps": 5, "reward_normalization": "per_step"}, "no sum"),
    ],
)
def test_bad_options_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent("knowledge_selector", ClsIdentityEnv(kind), seed=0, **options)


def test_an_env_without_the_features_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no named features.*env\.features=\[teacher_cls, student_cls\]"):
        KnowledgeSelector(IdentityEnv("box"))
    env = ClsIdentityEnv("box")
    del env.observation_layout["student_cls"]
    with pytest.raises(
        ValueError, match=r"'student_cls' missing .*env\.features=\[teacher_cls, progress, student_cls\]"
    ):
        KnowledgeSelector(env)


# -- on the environment that it is made for


@pytest.fixture(scope="module")
def cls_problem(tiny: dict[str, Any]) -> Any:
    from kd_env import build_problem

    return build_problem(env_config(**{**tiny, "features": ["progress", "teacher_cls", "student_cls"]}))


@pytest.mark.parametrize(("mode", "view"), [("soft", "box"), ("hard", "native")])
def test_both_stages_on_distillation(mode: str, view: str, cls_problem: Any, tmp_path: Path) -> None:
    from kd_env import DistillEnv, DistillVectorEnv

    envs = DistillVectorEnv(3, problem=cls_problem, action_view=view)
    agent = make_agent("knowledge_selector", envs, seed=0, mode=mode, warmup_steps=12, batch_size=8)
    agent.learn(36)
    agent.save(tmp_path / "a")
    fresh: gym.Env[Any, Any] = DistillEnv(problem=cls_problem, action_view=view)
    frozen = load_agent(tmp_path / "a", fresh)
    observation, _ = fresh.reset(seed=5)
    done = False
    while not done:
        action, _ = frozen.predict(observation, deterministic=True)
        observation, reward, done, _, info = fresh.step(action)
        assert np.isfinite(reward)
        if mode == "soft":
            assert info["update_scale"] == 1.0  # the gate stays open
            assert np.allclose(info["weights"], (action[:3] + 1) / 2, atol=1e-6)
    frozen.learn(6)
    if mode == "soft":
        gated = make_agent("knowledge_selector", envs, seed=0, act_on_gate=True, warmup_steps=100).learn(12)
        assert gated.replay.state()["actions"].shape[1] == 4  # type: ignore[attr-defined]
