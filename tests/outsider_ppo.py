"""PPO in one file, in the manner of cleanrl, by somebody who knows an environment's id and nothing else about it."""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


def train(env_id: str, total_steps: int = 256, rollout: int = 64, seed: int = 0) -> list[float]:
    """Train on one environment; returns the episode returns."""
    torch.manual_seed(seed)
    env = gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))
    size = int(np.prod(env.observation_space.shape))
    actor = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, int(env.action_space.n)))
    critic = nn.Sequential(nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    observation, _ = env.reset(seed=seed)
    returns: list[float] = []
    for _ in range(total_steps // rollout):
        observations, actions, log_probs, rewards, dones = [], [], [], [], []
        for _ in range(rollout):
            x = torch.as_tensor(observation)
            with torch.no_grad():
                policy = Categorical(logits=actor(x))
                action = policy.sample()
            observations.append(x)
            actions.append(action)
            log_probs.append(policy.log_prob(action))
            observation, reward, terminated, truncated, info = env.step(int(action))
            rewards.append(float(reward))
            dones.append(terminated or truncated)
            if dones[-1]:
                returns.append(float(info["episode"]["r"]))
                observation, _ = env.reset()
        x, a, old = torch.stack(observations), torch.stack(actions), torch.stack(log_probs)
        with torch.no_grad():
            values = torch.cat([critic(x)[:, 0], critic(torch.as_tensor(observation))])
        advantage, last = torch.zeros(rollout), 0.0
        for t in reversed(range(rollout)):
            alive = 1.0 - dones[t]
            delta = rewards[t] + values[t + 1] * alive - values[t]
            advantage[t] = last = float(delta + 0.95 * alive * last)
        target = advantage + values[:-1]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for _ in range(4):
            policy = Categorical(logits=actor(x))
            ratio = (policy.log_prob(a) - old).exp()
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
            loss = -surrogate + 0.5 * (critic(x)[:, 0] - target).pow(2).mean() - 0.01 * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--env-id", default="kd_env:kd_env/KnowledgeSelectionDiscrete-v0")
    parser.add_argument("--total-steps", type=int, default=4096)
    arguments = parser.parse_args()
    print(train(arguments.env_id, arguments.total_steps))
