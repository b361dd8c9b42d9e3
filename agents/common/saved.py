"""What every agent that learns has in common, ours and SB3's: the folder in which it is kept, and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from torch import Tensor

from agents.common import storage
from agents.common.base import AnyEnv, Array, RewardTransform, Spaces, as_path, check_same_spaces, require


@runtime_checkable
class KeepsDraws(Protocol):
    """A transformation of rewards that draws at random, and whose draws can go on."""

    def state(self) -> dict[str, Any]:
        """Where its generator stands, as plain values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class SavedAgent(ABC):
    """An agent that is kept as a folder: ``agent.json`` (the header), tensors in files of safetensors and a manifest.

    It holds what agents check before they learn, too, whoever's loop they run.
    """

    name: str
    seed: int
    spaces: Spaces
    reward_transform: RewardTransform | None

    @property
    def explores_by_chance(self) -> bool:
        """Whether it explores by actions that have nothing to do with its policy, so that it is judged without them."""
        return False

    def seed_draws(self, seed: int) -> None:
        """Seed the draws of an agent that acts at random; ours hold generators of their own, which go on."""
        return None

    def forget_experience(self) -> None:
        """Give up what only further learning needs and may be larger than all the rest, before it is saved."""
        return None

    @abstractmethod
    def _header(self) -> dict[str, Any]:
        """Plain values: the agent's name, options, seed and counters, and what it knows of its env."""

    @abstractmethod
    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by file."""

    @abstractmethod
    def _restore_policy(self, folder: Path) -> None:
        """Put back what actions are made from, of an agent with networks of the same sizes."""

    @abstractmethod
    def _restore(self, folder: Path, header: dict[str, Any], *, force_reset: bool) -> None:
        """Put back into a fresh agent of the same options what was written."""

    @classmethod
    def _read_header(cls, folder: Path) -> dict[str, Any]:
        return storage.read_header(folder, cls.name)

    @classmethod
    def _saved_interface(cls, header: dict[str, Any]) -> Any:
        """What a saved agent knows of its env, as the constructor takes it in place of one."""
        return storage.spaces_from_json(header["spaces"])

    @classmethod
    def _check_fits(cls, saved: Any, env: AnyEnv) -> None:
        """Raise ``ValueError`` naming both where an env does not fit what :meth:`_saved_interface` gave."""
        check_same_spaces(saved, env)

    @classmethod
    @abstractmethod
    def _fresh(cls, header: dict[str, Any], env: Any, **options: Any) -> Self:
        """An agent of the saved options, in ``env`` or with what :meth:`_saved_interface` gave."""

    def save(self, path: str | Path) -> None:
        """Write a folder with everything that acting and continuing need, but not the environment."""
        with storage.new_folder(as_path(path)) as folder:
            for name, tensors in self._tensors().items():
                storage.write_tensors(folder / f"{name}.safetensors", tensors)
            header = self._header()
            transform: object = self.reward_transform
            if isinstance(transform, KeepsDraws):
                header["reward_transform"] = transform.state()
            storage.write_header(folder, header)

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
                agent that was never saved: the env must be in the state that it had then. SB3's agents put back the
                global generators of torch and NumPy for it, too.
            reward_transform: as in the constructor; it is not saved, but where it draws (:class:`KeepsDraws`) its
                draws go on, unless ``force_reset``.

        Raises:
            ValueError: no complete agent of this kind, or an env that does not fit it (both are named).
        """
        folder = as_path(path)
        header = cls._read_header(folder)
        with storage.restoring(folder):
            saved = cls._saved_interface(header)
        if env is not None:
            cls._check_fits(saved, env)
        with storage.restoring(folder):
            options = {"seed": header["seed"], "device": device, "reward_transform": reward_transform}
            agent = cls._fresh(header, saved if env is None else env, **options)
            agent._restore(folder, header, force_reset=force_reset)
            transform: object = reward_transform
            if isinstance(transform, KeepsDraws) and "reward_transform" in header and not force_reset:
                transform.restore(header["reward_transform"])
        return agent

    def start_from(self, path: str | Path, env: AnyEnv) -> None:
        """Act as the agent in a folder does, and be a fresh one otherwise: steps, optimisers, noise and memory.

        Args:
            path: the folder.
            env: in which this agent was made.

        Raises:
            ValueError: no complete agent of the same name, one that does not fit ``env`` (both are named), or networks
                of other sizes (with the options that differ).
        """
        folder = as_path(path)
        header = storage.read_header(folder, self.name)
        with storage.restoring(folder):
            saved = self._saved_interface(header)
        self._check_fits(saved, env)
        present = self._tensors().get("networks")
        if present is None:
            raise ValueError(f"A {self.name} agent has no networks to begin with; leave its source out.")
        networks = storage.read_tensors(folder / "networks.safetensors")
        if {name: value.shape for name, value in networks.items()} != {
            name: value.shape for name, value in present.items()
        }:
            raise ValueError(
                f"The networks of the agent in {folder} have other sizes than those that it would be put into: "
                f"{_differing(header, self._header())}. Give the same options."
            )
        with storage.restoring(folder):
            self._restore_policy(folder)

    def _check_learns(self, has_env: bool, total_timesteps: int) -> None:
        """Refuse to learn without an env, or for no whole number of steps."""
        if not has_env:
            raise ValueError(f"This {self.name} agent has no env to learn in; give one to {type(self).__name__}.load.")
        whole = isinstance(total_timesteps, int | np.integer) and not isinstance(total_timesteps, bool)
        fits = whole and total_timesteps >= 1
        require(fits, "total_timesteps", total_timesteps, "a whole number of at least 1")

    def _transformed(self, rewards: Array) -> Array:
        """The rewards from which the agent learns, in the shape and type of those that the env gave."""
        if self.reward_transform is None:
            return rewards
        changed = np.asarray(self.reward_transform(rewards.copy()), dtype=rewards.dtype)
        if changed.shape != rewards.shape:
            raise ValueError(f"reward_transform gave shape {changed.shape} for rewards of shape {rewards.shape}.")
        return changed


def _differing(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Options that differ, in words."""
    for key in ("config", "resolved"):
        before, present = then.get(key, {}), now.get(key, {})
        names = [name for name in sorted({*before, *present}) if _plain(before.get(name)) != _plain(present.get(name))]
        if names:
            return ", ".join(f"{name} {before.get(name)!r} there, {present.get(name)!r} here" for name in names)
    return "what they read is of another size"


def _plain(value: Any) -> Any:
    """Lists as they came from a file and tuples alike."""
    return list(value) if isinstance(value, tuple) else value
