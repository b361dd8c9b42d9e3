"""What an SB3 model is made of, as tensors and plain values; put back exactly."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.common import storage
from agents.common.base import check_same_replicas

_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate")
_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def counters(model: Any) -> dict[str, Any]:
    """Plain values: counters, the replay buffer's place, the generators that are no tensors."""
    values: dict[str, Any] = {"counters": {k: getattr(model, k) for k in _COUNTERS if hasattr(model, k)}}
    values["num_timesteps"] = model.num_timesteps
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        values["replay"] = {"pos": int(buffer.pos), "full": bool(buffer.full)}
    # SB3 draws from the global generators; without their state a continued run would differ.
    numpy_state = np.random.get_state(legacy=False)
    values["numpy"] = {
        "pos": int(numpy_state["state"]["pos"]),
        "has_gauss": int(numpy_state["has_gauss"]),
        "cached_gaussian": float(numpy_state["gauss"]),
    }
    values["action_space"] = model.action_space.np_random.bit_generator.state
    return values


def tensors(model: Any) -> dict[str, dict[str, Tensor]]:
    """Tensors by file: ``networks``, ``training`` and, off-policy, ``replay``."""
    networks: dict[str, Tensor] = {}
    training: dict[str, Tensor] = {"torch_generator": torch.get_rng_state()}
    training["numpy_generator"] = torch.from_numpy(np.random.get_state(legacy=False)["state"]["key"].astype(np.int64))
    for name, part in _parts(model).items():
        if isinstance(part, torch.optim.Optimizer):
            training |= storage.flatten_optimizer(name, part)
        elif isinstance(part, nn.Module):
            networks |= storage.with_prefix(f"{name}/", part.state_dict())
        else:
            networks[name] = part
    if model._last_obs is not None:
        # Transposed where it lies in memory by columns: products of matrices differ in their last bits by the layout.
        columns = model._last_obs.flags.f_contiguous and not model._last_obs.flags.c_contiguous
        name, values = ("last_obs_columns", model._last_obs.T) if columns else ("last_obs", model._last_obs)
        training[name] = torch.from_numpy(np.array(values, order="C"))
        training["last_episode_starts"] = torch.from_numpy(np.array(model._last_episode_starts))
        training["returns"] = torch.from_numpy(model.env._returns.copy())
        training["lengths"] = torch.from_numpy(model.env._lengths.copy())
        for network, memory in _memories(model).items():
            training |= {f"{network}.{place}": value for place, value in enumerate(memory)}
    files = {"networks": networks, "training": training}
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        used = buffer.buffer_size if buffer.full else buffer.pos
        files["replay"] = {k: torch.from_numpy(getattr(buffer, k)[:used].copy()) for k in _REPLAY}
    return files


def restore_networks(model: Any, folder: Path) -> None:
    """Put the networks of a saved model of the same sizes into another one."""
    networks = storage.read_tensors(folder / "networks.safetensors")
    for name, part in _parts(model).items():
        if isinstance(part, nn.Module):
            part.load_state_dict(storage.part(networks, f"{name}/"))
        elif isinstance(part, Tensor):
            part.data.copy_(networks[name])
    if hasattr(model, "n_delta"):
        # ARS searches around a vector of its own, beside the policy.
        model.weights = nn.utils.parameters_to_vector(model.policy.parameters()).detach()


def restore(model: Any, folder: Path, header: Mapping[str, Any], *, learning: bool, force_reset: bool) -> None:
    """Put back into a fresh model what :func:`tensors` and :func:`counters` gave.

    Args:
        model: made with the saved hyper-parameters.
        folder: the saved agent.
        header: its ``agent.json``.
        learning: whether the model has an env to continue in; else only the networks are needed.
        force_reset: as in :meth:`agents.sb3.agent.SB3Agent.load`.
    """
    restore_networks(model, folder)
    for key, value in header["counters"].items():
        setattr(model, key, value)
    if not learning:
        return
    training = storage.read_tensors(folder / "training.safetensors")
    for name, part in _parts(model).items():
        if isinstance(part, torch.optim.Optimizer):
            storage.restore_optimizer(name, part, training)
    if "replay" in header:
        _restore_replay(model.replay_buffer, storage.read_tensors(folder / "replay.safetensors"), header["replay"])
    if force_reset:
        return
    if "last_episode_starts" in training:
        columns = training.get("last_obs_columns")
        last_obs = training["last_obs"].numpy() if columns is None else columns.numpy().T
        check_same_replicas(len(last_obs), model.n_envs)
        model._last_obs = last_obs.copy(order="K")
        model._last_episode_starts = training["last_episode_starts"].numpy().copy()
        model.env._returns = training["returns"].numpy().copy()
        model.env._lengths = training["lengths"].numpy().copy()
        memories = {
            network: tuple(training[f"{network}.{place}"].to(model.device) for place in range(len(memory)))
            for network, memory in _memories(model).items()
        }
        if memories:
            model._last_lstm_states = type(model._last_lstm_states)(**memories)
    torch.set_rng_state(training["torch_generator"])
    keys = training["numpy_generator"].numpy().astype(np.uint32)
    place = header["numpy"]
    np.random.set_state(("MT19937", keys, place["pos"], place["has_gauss"], place["cached_gaussian"]))
    model.action_space.np_random.bit_generator.state = header["action_space"]


def plain_hyperparameters(model_class: Any, model: Any) -> dict[str, Any]:
    """The hyper-parameters of a model that are plain values, for one that we did not make."""
    names = set(inspect.signature(model_class.__init__).parameters)
    names -= {"self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
    values: dict[str, Any] = {}
    for name in names:
        value = getattr(model, name, None)
        try:
            json.dumps(value)
        except TypeError:
            continue
        if value is not None and not isinstance(value, tuple):
            values[name] = value
    return values


def _memories(model: Any) -> dict[str, tuple[Tensor, ...]]:
    """Hidden and cell states of recurrent networks by name; empty where no network is recurrent."""
    states = getattr(model, "_last_lstm_states", None)
    return {} if states is None else states._asdict()


def _parts(model: Any) -> dict[str, Any]:
    names, variables = model._get_torch_save_params()
    parts: dict[str, Any] = {}
    for name in (*names, *variables):
        part = model
        for piece in name.split("."):
            part = getattr(part, piece)
        if part is not None:
            parts[name] = part
    # Most algorithms keep one optimiser inside the policy and name it; those that do not would lose its moments.
    if "policy.optimizer" not in parts and isinstance(getattr(model.policy, "optimizer", None), torch.optim.Optimizer):
        parts["policy.optimizer"] = model.policy.optimizer
    return parts


def _restore_replay(buffer: Any, saved: Mapping[str, Tensor], place: Mapping[str, Any]) -> None:
    present = buffer.rewards.shape
    count, rows = saved["rewards"].shape[1], saved["rewards"].shape[0]
    if count != present[1] or rows > present[0]:
        raise ValueError(
            f"The replay buffer was saved with {count} replicas, the env has {present[1]}; continue with as many."
        )
    for key in _REPLAY:
        getattr(buffer, key)[:rows] = saved[key].numpy()
    buffer.pos, buffer.full = place["pos"], place["full"]
