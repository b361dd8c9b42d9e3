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
import time
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.common import storage
from agents.common.base import (
    AnyEnv,
    Array,
    LearnCallback,
    Metrics,
    ProgressBar,
    RewardTransform,
    as_path,
    as_vector_env,
    build_config,
    episode_steps,
    reset_seed,
)
from agents.common.normalizer import ObservationNormalizer
from agents.common.rollout import Collector, Rollout
from agents.knowledge_selector import storage as selector_storage
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


class KnowledgeSelector:
    """KS as an agent.

    Args:
        env: a gymnasium env or vector env (``autoreset_mode=SAME_STEP``) with flat observations among whose features
            (``env.unwrapped.observation_layout``) are ``teacher_cls`` and ``student_cls``; or the :class:`Interface` of
            one for an agent that only acts.
        seed: of initial weights, of noise and samples, and of the env's first reset.
        device: of the networks.
        reward_transform: applied to the rewards ``[n_steps, N]`` of the env before they are remembered (controls
            permute them); reported returns are those of the env.
        **options: fields of :class:`agents.knowledge_selector.config.KnowledgeSelectorConfig`.

    Raises:
        ValueError: an unknown option, a value outside its range, missing features, or a mode that the env's actions
            cannot express.
    """

    name: ClassVar[str] = "knowledge_selector"
    config_class: ClassVar[type[KnowledgeSelectorConfig]] = KnowledgeSelectorConfig

    def __init__(
        self,
        env: AnyEnv | Interface,
        *,
        seed: int = 0,
        device: str = "cpu",
        reward_transform: RewardTransform | None = None,
        **options: Any,
    ) -> None:
        self.config = c = build_config(self.name, self.config_class, options)
        self.interface = env if isinstance(env, Interface) else read_interface(env)
        self.spaces = self.interface.spaces
        self.seed = seed
        self.device = torch.device(device)
        self.reward_transform = reward_transform
        self.num_timesteps = 0
        self.num_episodes = 0
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
            generator=torch.Generator().manual_seed(seed),
        ).to(self.device)
        self.target = copy.deepcopy(self.selector).requires_grad_(False)
        self.actor_optimizer = torch.optim.Adam(self.selector.actor_parameters(), lr=c.learning_rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(
            self.selector.critic_parameters(), lr=c.critic_learning_rate, fused=True
        )
        size = int(self.spaces.observation.shape[0])
        self.normalizer = ObservationNormalizer(size)
        self.replay = ReplayBuffer(c.replay_size, size, self.action_map.size)
        self.reward_scale = RewardScale(c.reward_normalization)
        kind = HardExploration if self.action_map.hard else SoftExploration
        self.exploration: HardExploration | SoftExploration = kind(c.exploration_coef)
        self.noise: Tensor | None = None  # [N, A] standard normal, of the last step
        # On the CPU whatever the device, so that a saved agent draws the same on another one. Two generators: acting
        # for an evaluation must not change what is learned afterwards.
        self._learn_generator = torch.Generator().manual_seed(seed + 1)
        self._act_generator = torch.Generator().manual_seed(seed + 2)
        self.generators = {"learn_generator": self._learn_generator, "act_generator": self._act_generator}
        self.collector = None if isinstance(env, Interface) else Collector(as_vector_env(env))

    # -- learning

    def learn(
        self,
        total_timesteps: int,
        callback: LearnCallback | None = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for at least ``total_timesteps`` environment steps (phases), counted over all replicas.

        Args:
            total_timesteps: steps of this call.
            callback: called after about an episode's steps with plain floats: ``timesteps, episodes, fps, updates``,
                ``weight_<i>`` (mean of the i-th action component as executed); from the first update on ``critic_loss,
                target_mean, actor_loss, policy_grad_norm`` (means over the
                updates); and, where an episode ended, ``return_mean, return_std, length_mean``. Learning stops where it
                returns False.
            reset_num_timesteps: start counting at 0 and reset the env; what was learned and remembered stays. False
                continues where the last call stopped.
            progress_bar: show a tqdm bar.

        Raises:
            ValueError: the agent has no env.
        """
        collector = self.collector
        if collector is None:
            raise ValueError(f"This {self.name} agent has no env to learn in; give one to {type(self).__name__}.load.")
        if reset_num_timesteps:
            self.num_timesteps = 0
            self.num_episodes = 0
        if reset_num_timesteps or collector.observations is None:
            collector.reset(reset_seed(self.seed, self.num_timesteps))
            self.exploration.begin()
        first, start = self.num_timesteps, time.perf_counter()
        length = episode_steps(collector.env) or 40
        whole = self.reward_transform is not None or self.config.td_steps > 1
        n_steps = self.config.n_steps or (length if whole else 1)
        report_every = max(length, n_steps) * collector.env.num_envs
        with ProgressBar(total_timesteps, progress_bar) as bar:
            while self.num_timesteps - first < total_timesteps:
                rollouts: list[Rollout] = []
                losses: list[Metrics] = []
                goal = min(self.num_timesteps + report_every, first + total_timesteps)
                while self.num_timesteps < goal:
                    rollouts.append(collector.collect(self._explore, n_steps=n_steps))
                    losses += self._learn_from(rollouts[-1])
                metrics = self._metrics(rollouts, losses, first, start)
                bar.update(self.num_timesteps - first, metrics)
                if callback is not None and callback(metrics) is False:
                    break
        return self

    def _learn_from(self, rollout: Rollout) -> list[Metrics]:
        """Remember the transitions of a rollout, then make the updates that are due."""
        rewards = self._transformed(rollout)
        bonuses = self.exploration(rollout.actions.numpy(), rollout.step_index)
        self.num_timesteps += rollout.num_steps
        self.num_episodes += len(rollout.episode_returns)
        self.normalizer.update(rollout.observations)
        self.reward_scale.update(rewards.ravel(), rollout.step_index.ravel())
        self.replay.add(transitions_of(rollout, rewards, bonuses, self.config.td_steps, self.config.gamma))
        # Compared with all that was taken, not with what is remembered: a warm-up may be longer than the memory.
        if self.num_timesteps < self.config.warmup_steps or len(self.replay) < self.config.batch_size:
            return []
        updates = self.config.updates_per_phase * rollout.num_steps
        return [self._update(self.replay.sample(self.config.batch_size, self._learn_generator)) for _ in range(updates)]

    def _transformed(self, rollout: Rollout) -> NDArray[np.float64]:
        if self.reward_transform is None:
            return rollout.rewards
        rewards = np.asarray(self.reward_transform(rollout.rewards.copy()), dtype=np.float64)
        if rewards.shape != rollout.rewards.shape:
            raise ValueError(
                f"reward_transform gave shape {rewards.shape} for rewards of shape {rollout.rewards.shape}."
            )
        return rewards

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

    def _metrics(self, rollouts: list[Rollout], losses: list[Metrics], first: int, start: float) -> Metrics:
        seconds = max(time.perf_counter() - start, 1e-9)
        weights = torch.cat([rollout.actions.flatten(0, 1) for rollout in rollouts]).mean(0)
        metrics = {
            "timesteps": float(self.num_timesteps),
            "episodes": float(self.num_episodes),
            "fps": (self.num_timesteps - first) / seconds,
            "updates": float(self.num_updates),
            **{f"weight_{i}": weight.item() for i, weight in enumerate(weights)},
        }
        if losses:
            metrics |= {name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]}
        returns = np.concatenate([rollout.episode_returns for rollout in rollouts])
        if len(returns):
            lengths = np.concatenate([rollout.episode_lengths for rollout in rollouts])
            metrics["return_mean"], metrics["return_std"] = float(returns.mean()), float(returns.std())
            metrics["length_mean"] = float(lengths.mean())
        return metrics

    # -- acting

    def _inputs(self, observations: NDArray[np.float32]) -> Tensor:
        values = self.normalizer(observations) if self.config.normalize_observations else observations
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)

    def _explore(self, observations: NDArray[np.float32]) -> tuple[Tensor, Array]:
        """Actions for the next step of training: random ones in the warm-up, then those of the policy with noise."""
        assert self.collector is not None
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

    def predict(
        self,
        observation: Array,
        state: Any = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, None]:
        """Actions for ``[O]`` or ``[N, O]``: ``mu(s)`` where ``deterministic``, else with the noise of training.

        There is no memory: the state is None.

        Raises:
            ValueError: an observation of another size.
        """
        observation = np.asarray(observation, dtype=np.float32)
        size = self.spaces.observation.shape[0]
        if observation.ndim not in (1, 2) or observation.shape[-1] != size:
            raise ValueError(f"Observation of shape {observation.shape}; expected ({size},) or (N, {size}).")
        batch = observation.reshape(-1, size)
        shape = (len(batch), self.action_map.size)
        weights = self._weights(batch, None if deterministic else torch.randn(shape, generator=self._act_generator))
        actions = self.action_map.to_env(weights)
        return (actions[0] if observation.ndim == 1 else actions), None

    # -- saving

    def save(self, path: str | Path) -> None:
        """Write a folder with everything that acting and continuing need, but not the environment."""
        selector_storage.write(self, as_path(path))

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: AnyEnv | None = None,
        *,
        device: str = "cpu",
        force_reset: bool = True,
        reward_transform: RewardTransform | None = None,
    ) -> Self:
        """Read a folder written by :meth:`save`.

        Args:
            path: the folder.
            env: where to continue; None for an agent that only acts.
            device: of the networks.
            force_reset: reset the env when learning continues. False continues the running episodes, bit-equal to an
                agent that was never saved: the env must be in the state that it had then.
            reward_transform: as in the constructor; it is not saved.

        Raises:
            ValueError: no complete agent of this kind, or spaces or features that do not fit ``env``.
        """
        folder = as_path(path)
        header = storage.read_header(folder, cls.name)
        saved = selector_storage.saved_interface(header)
        if env is not None:
            check_same_interface(saved, env)
        options = {"seed": header["seed"], "device": device, "reward_transform": reward_transform, **header["config"]}
        agent = cls(saved if env is None else env, **options)
        selector_storage.restore(agent, folder, header, force_reset=force_reset)
        return agent
