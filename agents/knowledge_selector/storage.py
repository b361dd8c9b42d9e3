"""What a knowledge selector is made of, as tensors and plain values; put back exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agents.common import storage
from agents.knowledge_selector.interface import Interface


def write(agent: Any, target: Path) -> None:
    """Write the folder ``target``: networks, training, replay buffer, moments of observations, and the header."""
    training = storage.flatten_optimizer("actor_optimizer", agent.actor_optimizer)
    training |= storage.flatten_optimizer("critic_optimizer", agent.critic_optimizer)
    training |= storage.with_prefix("exploration.", agent.exploration.state())
    training["reward_moments"] = torch.from_numpy(agent.reward_scale.moments)
    if agent.noise is not None:
        training["noise"] = agent.noise
    training |= {name: generator.get_state() for name, generator in agent.generators.items()}
    if agent.collector is not None:
        training |= storage.with_prefix("collector.", agent.collector.state())
    networks = storage.with_prefix("selector.", agent.selector.state_dict())
    networks |= storage.with_prefix("target.", agent.target.state_dict())
    header = {
        **storage.agent_header(agent),
        "layout": agent.interface.layout,
        "gated": agent.interface.gated,
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


def restore(agent: Any, folder: Path, header: Mapping[str, Any], *, force_reset: bool) -> None:
    """Put back into a fresh agent of the same options what :func:`write` wrote.

    Raises:
        ValueError: a file is missing, or running episodes are to continue in another number of replicas.
    """
    networks = storage.read_tensors(folder / "networks.safetensors")
    agent.selector.load_state_dict(storage.part(networks, "selector."))
    agent.target.load_state_dict(storage.part(networks, "target."))
    training = storage.read_tensors(folder / "training.safetensors")
    storage.restore_optimizer("actor_optimizer", agent.actor_optimizer, training)
    storage.restore_optimizer("critic_optimizer", agent.critic_optimizer, training)
    agent.exploration.restore(storage.part(training, "exploration."))
    agent.reward_scale.moments = training["reward_moments"].numpy().copy()
    for name, generator in agent.generators.items():
        generator.set_state(training[name])
    agent.noise = training.get("noise")
    agent.replay.restore(storage.read_tensors(folder / "replay.safetensors"))
    agent.normalizer.restore(storage.read_tensors(folder / "normalizer.safetensors"))
    agent.num_timesteps, agent.num_episodes = header["num_timesteps"], header["num_episodes"]
    agent.num_updates = header["num_updates"]
    if agent.collector is not None and not force_reset:
        agent.collector.restore(storage.part(training, "collector."))
