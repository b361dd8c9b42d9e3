"""What a knowledge selector is made of, as tensors and plain values; put back exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agents import storage
from agents.rollout import Collector
from agents.selection import Interface

if TYPE_CHECKING:
    from agents.knowledge_selector import KnowledgeSelector


def write(agent: KnowledgeSelector, target: Path) -> None:
    """Write the folder ``target``: networks, training, replay buffer, moments of observations, and the header."""
    training = storage.flatten_optimizer("actor_optimizer", agent.actor_optimizer)
    training |= storage.flatten_optimizer("critic_optimizer", agent.critic_optimizer)
    training |= {f"exploration.{k}": v for k, v in agent.exploration.state().items()}
    training["reward_moments"] = torch.from_numpy(agent.reward_scale.moments)
    if agent.noise is not None:
        training["noise"] = agent.noise
    training |= {name: generator.get_state() for name, generator in agent.generators.items()}
    collector = agent.collector
    if collector is not None and collector.observations is not None:
        training["collector.observations"] = torch.from_numpy(collector.observations)
        training["collector.steps"] = torch.from_numpy(collector.steps)
        training["collector.returns"] = torch.from_numpy(collector.returns)
    networks = {f"selector.{k}": v for k, v in agent.selector.state_dict().items()}
    networks |= {f"target.{k}": v for k, v in agent.target.state_dict().items()}
    header = {
        "agent": agent.name,
        "config": dataclasses.asdict(agent.config),
        "spaces": storage.spaces_to_json(agent.spaces),
        "layout": agent.interface.layout,
        "gated": agent.interface.gated,
        "seed": agent.seed,
        "num_timesteps": agent.num_timesteps,
        "num_episodes": agent.num_episodes,
        "num_updates": agent.num_updates,
    }
    with storage.new_folder(target) as folder:
        storage.write_tensors(folder / "networks.safetensors", networks)
        storage.write_tensors(folder / "training.safetensors", training)
        storage.write_tensors(folder / "replay.safetensors", agent.replay.state())
        storage.write_tensors(folder / "normalizer.safetensors", agent.normalizer.state())
        storage.write_header(folder, header)


def saved_interface(header: Mapping[str, Any]) -> Interface:
    """What the saved agent reads and acts on."""
    layout = {name: (int(start), int(stop)) for name, (start, stop) in header["layout"].items()}
    return Interface(storage.spaces_from_json(header["spaces"]), layout, bool(header["gated"]))


def restore(agent: KnowledgeSelector, folder: Path, header: Mapping[str, Any], *, force_reset: bool) -> None:
    """Put back into a fresh agent of the same options what :func:`write` wrote.

    Raises:
        ValueError: a file is missing, or running episodes are to continue in another number of replicas.
    """
    networks = storage.read_tensors(folder / "networks.safetensors")
    agent.selector.load_state_dict(_part(networks, "selector."))
    agent.target.load_state_dict(_part(networks, "target."))
    training = storage.read_tensors(folder / "training.safetensors")
    storage.restore_optimizer("actor_optimizer", agent.actor_optimizer, training)
    storage.restore_optimizer("critic_optimizer", agent.critic_optimizer, training)
    agent.exploration.restore(_part(training, "exploration."))
    agent.reward_scale.moments = training["reward_moments"].numpy().copy()
    for name, generator in agent.generators.items():
        generator.set_state(training[name])
    agent.noise = training.get("noise")
    agent.replay.restore(storage.read_tensors(folder / "replay.safetensors"))
    agent.normalizer.restore(storage.read_tensors(folder / "normalizer.safetensors"))
    agent.num_timesteps, agent.num_episodes = header["num_timesteps"], header["num_episodes"]
    agent.num_updates = header["num_updates"]
    if agent.collector is not None and not force_reset and "collector.observations" in training:
        _continue_episodes(agent.collector, _part(training, "collector."))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _continue_episodes(collector: Collector, saved: Mapping[str, Tensor]) -> None:
    if len(saved["steps"]) != collector.env.num_envs:
        raise ValueError(
            f"The agent stopped in {len(saved['steps'])} replicas, the env has {collector.env.num_envs}: running "
            "episodes cannot continue; use the same number, or force_reset=True."
        )
    collector.observations = saved["observations"].numpy().copy()
    collector.steps = saved["steps"].numpy().copy()
    collector.returns = saved["returns"].numpy().copy()
