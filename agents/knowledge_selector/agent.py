"""The knowledge selector: a deterministic actor-critic that chooses what a student learns from its teacher.

KS: C. Wang et al. (2022), "Knowledge selection for distillation" (Findings of EMNLP).

State: the teacher's and the student's last-layer [CLS] on the next batch, each through its own 2-layer MLP. Action: a
weight for each knowledge term, soft in [0, 1] or hard in {0, 1}. One env step is a *phase* (``env.updates_per_step``
student updates) and gives one reward and, with ``updates_per_phase=1``, one update of both networks:

1. Take a step with ``mu(s)`` and noise; remember ``(s, a, r + exploration reward, s')``.
2. Critic: one step on ``mean (Q(s, a) - y)^2`` with ``y = r + gamma * Q'(s', mu'(s'))``, or with the rewards of
   ``td_steps`` phases before Q'; nothing follows a terminated phase, and a truncated one is followed by the last
   observation of its episode.
3. Actor: one step along the gradient of ``mean Q(s, mu(s))``.
4. Target networks: ``theta' += tau * (theta - theta')``.

Two stages: :meth:`KnowledgeSelector.learn` trains the selector over repeated episodes, each with a student of its own;
then :meth:`KnowledgeSelector.predict` drives a fresh student while the selector stays as it is.

The paper gives the state, the 2- and 3-layer networks, the two kinds of action, the TD critic, the deterministic actor,
phases and the two exploration rewards. Everything else is an option of
:class:`agents.knowledge_selector.config.KnowledgeSelectorConfig`. A gate on the student's update is not part of the
paper: it stays open unless ``act_on_gate``.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.common import storage
from agents.common.base import AnyEnv, Array, Metrics, episode_steps
from agents.common.learner import Learner, episode_metrics
from agents.common.normalizer import ObservationNormalizer
from agents.common.rollout import Rollout
from agents.knowledge_selector.config import KnowledgeSelectorConfig
from agents.knowledge_selector.interface import (
    ActionMap,
    HardExploration,
    Interface,
    SoftExploration,
    check_same_interface,
    read_interface,
)
from agents.knowledge_selector.networks import Selector, actor_loss, critic_loss, critic_target, select
from agents.knowledge_selector.replay import ReplayBuffer, RewardScale, Transitions, transitions_of


class KnowledgeSelector(Learner):
    """KS as an agent.

    Arguments as in :class:`agents.common.learner.Learner`, for an env with flat observations among whose features
    (``env.unwrapped.observation_layout``) are ``teacher_cls`` and ``student_cls``, or its :class:`Interface`; options
    are the fields of :class:`agents.knowledge_selector.config.KnowledgeSelectorConfig`. Rewards are transformed before
    they are remembered.

    It learns in phases, and reports after about an episode's steps ``updates``, ``weight_<i>`` (mean of the i-th action
    component as executed) and, from the first update on, ``critic_loss, target_mean, actor_loss, policy_grad_norm``
    (means over the updates).

    Raises:
        ValueError: as there, missing features, or a mode that the env's actions cannot express.
    """

    name = "knowledge_selector"
    config: KnowledgeSelectorConfig
    config_class: ClassVar[type[KnowledgeSelectorConfig]] = KnowledgeSelectorConfig
    counters = (*Learner.counters, "num_updates")

    def _build(self, env: AnyEnv | Interface, init: torch.Generator) -> None:
        c = self.config
        self.interface = env if isinstance(env, Interface) else read_interface(env)
        self.spaces = self.interface.spaces
        self.num_updates = 0
        self.action_map = ActionMap(self.interface, c.mode, c.act_on_gate)
        self.selector = Selector(
            self.interface.layout,
            self.action_map.size,
            hidden=c.hidden_sizes,
            encoder_size=c.encoder_size,
            use_other_features=c.use_other_features,
            num_critics=c.num_critics,
            share_encoders=c.share_encoders,
            squash=c.squash_state,
            generator=init,
        ).to(self.device)
        self.target = copy.deepcopy(self.selector).requires_grad_(False)
        self.actor_optimizer = torch.optim.Adam(self.selector.actor_parameters(), lr=c.learning_rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(
            self.selector.critic_parameters(), lr=c.critic_learning_rate, fused=True
        )
        self.networks = {"selector.": self.selector, "target.": self.target}
        self.optimizers = {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}
        size = int(self.spaces.observation.shape[0])
        self.normalizer = ObservationNormalizer(size)
        self.replay = ReplayBuffer(c.replay_size, size, self.action_map.size)
        self.reward_scale = RewardScale(c.reward_normalization)
        kind = HardExploration if self.action_map.hard else SoftExploration
        self.exploration: HardExploration | SoftExploration = kind(c.exploration_coef)
        self.noise: Tensor | None = None  # [N, A] standard normal, of the last step
        # On the CPU whatever the device, so that a saved agent draws the same on another one.
        self._learn_generator = torch.Generator().manual_seed(self.seed + 1)
        self._act_generator = torch.Generator().manual_seed(self.seed + 2)

    # -- learning

    def _begin(self, total_timesteps: int, anew: bool) -> None:
        if anew or self.collector.observations is None:
            self.exploration.begin()
        super()._begin(total_timesteps, anew)

    def _advance(self, goal: int) -> Metrics:
        collector = self.collector
        length = episode_steps(collector.env) or 40
        whole = self.reward_transform is not None or self.config.td_steps > 1
        n_steps = self.config.n_steps or (length if whole else 1)
        rollouts: list[Rollout] = []
        losses: list[Metrics] = []
        report_at = min(self.num_timesteps + max(length, n_steps) * collector.env.num_envs, goal)
        while self.num_timesteps < report_at:
            rollouts.append(collector.collect(self._explore, n_steps=n_steps))
            self._count(rollouts[-1])
            losses += self._learn_from(rollouts[-1])
        weights = torch.cat([rollout.actions.flatten(0, 1) for rollout in rollouts]).mean(0)
        metrics = {"updates": float(self.num_updates)}
        metrics |= {f"weight_{i}": weight.item() for i, weight in enumerate(weights)}
        if losses:
            metrics |= {name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]}
        return metrics | episode_metrics(rollouts)

    def _learn_from(self, rollout: Rollout) -> list[Metrics]:
        """Remember the transitions of a rollout, then make the updates that are due."""
        rewards = self._transformed(rollout.rewards)
        bonuses = self.exploration(rollout.actions.numpy(), rollout.step_index)
        self.normalizer.update(rollout.observations)
        self.reward_scale.update(rewards.ravel(), rollout.step_index.ravel())
        self.replay.add(transitions_of(rollout, rewards, bonuses, self.config.td_steps, self.config.gamma))
        # Compared with all that was taken, not with what is remembered: a warm-up may be longer than the memory.
        if self.num_timesteps < self.config.warmup_steps or len(self.replay) < self.config.batch_size:
            return []
        updates = self.config.updates_per_phase * rollout.num_steps
        return [self._update(self.replay.sample(self.config.batch_size, self._learn_generator)) for _ in range(updates)]

    def _update(self, batch: Transitions) -> Metrics:
        """One step of the critic, one of the actor, one of the targets."""
        c, hard = self.config, self.action_map.hard
        observations, following = self._inputs(batch.observations), self._inputs(batch.next_observations)
        actions = torch.as_tensor(batch.actions, device=self.device)
        scaled = self.reward_scale(batch.rewards, batch.steps) + batch.bonuses
        rewards = torch.as_tensor(scaled, dtype=torch.float32, device=self.device)
        terminated = torch.as_tensor(batch.terminated, device=self.device)
        with torch.no_grad():
            next_values = self.target.q(following, select(self.target.logits(following), hard))
            discounts = torch.as_tensor(c.gamma**batch.spans, dtype=torch.float32, device=self.device)
            targets = critic_target(rewards, terminated, next_values, discounts)
        loss = critic_loss(self.selector, observations, actions, targets)
        self._step(loss, self.critic_optimizer, self.selector.critic_parameters())
        policy_loss = actor_loss(self.selector, observations, hard, c.hard_gradient, c.logit_penalty)
        norm = self._step(policy_loss, self.actor_optimizer, self.selector.actor_parameters())
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.selector.parameters(), strict=True):
                old.lerp_(new, c.tau)
        self.num_updates += 1
        return {
            "critic_loss": loss.item(),
            "target_mean": targets.mean().item(),
            "actor_loss": policy_loss.item(),
            "policy_grad_norm": norm,
        }

    def _step(self, loss: Tensor, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> float:
        optimizer.zero_grad()
        # The actor's loss passes through the critic, whose own gradients would be computed for nothing.
        loss.backward(inputs=parameters)
        limit = math.inf if self.config.max_grad_norm is None else self.config.max_grad_norm
        norm = nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
        optimizer.step()
        return norm.item()

    # -- acting

    def _inputs(self, observations: NDArray[np.float32]) -> Tensor:
        values = self.normalizer(observations) if self.config.normalize_observations else observations
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def _explore(self, observations: NDArray[np.float32]) -> tuple[Tensor, Array]:
        """Actions for the next step of training: random ones in the warm-up, then those of the policy with noise."""
        shape = (len(observations), self.action_map.size)
        drawn = torch.randn(shape, generator=self._learn_generator)
        if self.config.hold_noise and self.noise is not None and self.noise.shape == shape:
            begins = torch.from_numpy(self.collector.steps == 0)[:, None]
            drawn = torch.where(begins, drawn, self.noise)
        self.noise = drawn
        if self.num_timesteps < self.config.warmup_steps:
            weights = torch.special.ndtr(drawn)  # uniform in [0, 1]
            weights = weights.round() if self.action_map.hard else weights
        else:
            weights = self._weights(observations, drawn)
        return weights, self.action_map.to_env(weights)

    def _weights(self, observations: NDArray[np.float32], noise: Tensor | None) -> Tensor:
        """``mu(s)`` for observations ``[N, O]``, moved by standard normal noise ``[N, A]`` where it is given."""
        hard, c = self.action_map.hard, self.config
        with torch.no_grad():
            weights = select(self.selector.logits(self._inputs(observations)), hard).cpu()
        if noise is None:
            return weights
        if hard:
            return torch.where(torch.special.ndtr(noise) < c.flip_probability, 1.0 - weights, weights)
        return (weights + c.exploration_noise * noise).clamp(0.0, 1.0)

    def _actions(self, batch: NDArray[np.float32], deterministic: bool) -> Array:
        shape = (len(batch), self.action_map.size)
        noise = None if deterministic else torch.randn(shape, generator=self._act_generator)
        return self.action_map.to_env(self._weights(batch, noise))

    # -- saving

    def _interface(self) -> dict[str, Any]:
        return {**super()._interface(), "layout": self.interface.layout, "gated": self.interface.gated}

    @classmethod
    def _saved_interface(cls, header: dict[str, Any]) -> Interface:
        layout = {name: (int(start), int(stop)) for name, (start, stop) in header["layout"].items()}
        return Interface(storage.spaces_from_json(header["spaces"]), layout, bool(header["gated"]))

    @classmethod
    def _check_fits(cls, saved: Interface, env: AnyEnv) -> None:
        check_same_interface(saved, env)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        files = super()._tensors()
        training = files["training"]
        training |= storage.with_prefix("exploration.", self.exploration.state())
        training["reward_moments"] = torch.from_numpy(self.reward_scale.moments)
        if self.noise is not None:
            training["noise"] = self.noise
        return {**files, "replay": self.replay.state(), "normalizer": self.normalizer.state()}

    def _restore_policy(self, folder: Path) -> None:
        super()._restore_policy(folder)
        self.normalizer.restore(storage.read_tensors(folder / "normalizer.safetensors"))

    def _restore(self, folder: Path, header: dict[str, Any], *, force_reset: bool) -> None:
        super()._restore(folder, header, force_reset=force_reset)
        training = storage.read_tensors(folder / "training.safetensors")
        self.exploration.restore(storage.part(training, "exploration."))
        self.reward_scale.moments = training["reward_moments"].numpy().copy()
        self.noise = training.get("noise")
        self.replay.restore(storage.read_tensors(folder / "replay.safetensors"))
