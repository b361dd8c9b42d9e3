"""What every agent offers, and what all of them need from an environment.

An agent is anything with ``learn``, ``predict``, ``save`` and ``load`` (:class:`Agent`). Algorithms of
Stable-Baselines3 have these methods already; ours, the wrapped ones of :mod:`agents.sb3.agent` and the rules follow the
same words. Nothing here knows which environment is driven: an agent sees a flat observation, an action space and, where
it asks for more, public attributes of ``env.unwrapped``.

Shape letters: N replicas, O observation components, A action components, T steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

AnyVectorEnv = VectorEnv[Any, Any, Any]
AnyEnv = gym.Env[Any, Any] | AnyVectorEnv
Array = NDArray[Any]
Metrics = dict[str, float]
LearnCallback = Callable[[Metrics], bool | None]
RewardTransform = Callable[[Array], Array]

ActionSpace = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary

T = TypeVar("T")


@runtime_checkable
class Agent(Protocol):
    """Anything that learns from an environment and then acts in it; SB3's algorithms satisfy it unchanged."""

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        *,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn for ``total_timesteps`` environment steps, counted over all replicas."""
        ...

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Actions for one observation ``[O]`` or a batch ``[N, O]``, and the agent's memory for the next call."""
        ...

    def save(self, path: Any) -> None:
        """Write everything that is needed to act and to continue learning."""
        ...

    @classmethod
    def load(cls, path: Any, env: Any = None) -> Self:
        """Read what :meth:`save` wrote; ``env`` is needed only to continue learning."""
        ...


class Spaces(NamedTuple):
    """Spaces of one replica."""

    observation: spaces.Box  # [O]
    action: ActionSpace


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """Message for a name that does not exist: the value, near matches and every valid name."""
    names = sorted(valid)
    near = get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"Unknown {kind} {name!r}.{hint} Valid: {', '.join(names) or '(none)'}."


def build_config(kind: str, config_class: type[T], options: Mapping[str, Any]) -> T:
    """A frozen config dataclass from plain keywords; lists become tuples.

    Raises:
        ValueError: an option that does not exist, with near matches; ranges are checked by the dataclass itself.
    """
    names = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    for key in options:
        if key not in names:
            raise ValueError(unknown_name(f"option of {kind}", key, names))
    return config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise ``ValueError`` naming an option, its value and what is allowed, unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{name}={value!r} is not allowed; it must be {allowed}.")


def as_vector_env(env: AnyEnv) -> AnyVectorEnv:
    """The env itself where it is vectorised, else a vector env of one replica around it.

    Raises:
        ValueError: a vector env that does not reset a replica in the step that ended its episode.
    """
    if not isinstance(env, VectorEnv):
        return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
    mode = env.metadata.get("autoreset_mode")
    # Under NEXT_STEP the action after an end is ignored: agents would learn from steps that never happened.
    if mode is None or AutoresetMode(mode) is not AutoresetMode.SAME_STEP:
        raise ValueError(
            f"Agents need a vector env with autoreset_mode=SAME_STEP, got {mode}; pass "
            'autoreset_mode="same_step" (gymnasium.make_vec: vector_kwargs={"autoreset_mode": "SameStep"}).'
        )
    return env


def spaces_of(env: AnyEnv) -> Spaces:
    """Spaces of one replica.

    Raises:
        ValueError: observations that are no flat ``Box``, or actions of another kind than the four that agents know.
    """
    observation = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
    action = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
        raise ValueError(
            f"Agents need a flat 1-D Box observation, got {observation}; make the env with observation='flat' where it "
            "has that option, or use a FlattenObservation wrapper."
        )
    if not isinstance(action, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ValueError(f"Agents need a Box, Discrete, MultiDiscrete or MultiBinary action space, got {action}.")
    if len(action.shape or ()) > 1:
        raise ValueError(f"Agents need a 1-D action space, got {action}; flatten it.")
    return Spaces(observation, action)


def check_same_spaces(saved: Spaces, env: AnyEnv) -> None:
    """Raise ``ValueError`` naming both where a saved agent does not fit an environment.

    Only what the networks depend on is compared: sizes and kinds, and the bounds of a Box action, which scale it.
    """
    present = spaces_of(env)
    if saved.observation.shape != present.observation.shape:
        raise ValueError(
            f"The agent was trained on the observation space {saved.observation}, the env has {present.observation}; "
            "make the env with the same features."
        )
    if saved.action != present.action:
        raise ValueError(
            f"The agent was trained on the action space {saved.action}, the env has {present.action}; make the env "
            "with the same action view and terms."
        )


def check_same_replicas(saved: int, present: int) -> None:
    """Raise ``ValueError`` where episodes that ran in ``saved`` replicas are to go on in another number of them."""
    if saved != present:
        raise ValueError(
            f"The agent stopped in {saved} replicas, the env has {present}: running episodes cannot continue; use the "
            "same number, or force_reset=True."
        )


def inner_env(env: AnyEnv) -> Any:
    """What has the public attributes of an env: itself unwrapped, or the first of several that are stepped in turn."""
    base = env.unwrapped
    return base.envs[0].unwrapped if isinstance(base, SyncVectorEnv) else base


def episode_steps(env: AnyEnv) -> int | None:
    """Steps of a full episode where the env says so: ``unwrapped.episode_steps``, else its registered step limit."""
    inner = env.unwrapped.envs[0] if isinstance(env.unwrapped, SyncVectorEnv) else env
    length = getattr(inner.unwrapped, "episode_steps", None)
    if length is None and inner.spec is not None:
        length = inner.spec.max_episode_steps
    return None if length is None else int(length)


def final_observation(infos: Mapping[str, Any], replica: int) -> Array:
    """Last observation ``[O]`` of the episode that ``replica`` ended in this step, before its reset."""
    if "final_obs" not in infos:
        raise ValueError(
            "The vector env ended an episode without info['final_obs']; autoreset_mode=SAME_STEP needs it."
        )
    return np.asarray(infos["final_obs"][replica])


def reset_seed(seed: int, num_timesteps: int) -> int:
    """Seed of a reset; at the start ``seed`` itself, later another one, so that a resumed run sees new episodes."""
    if num_timesteps == 0:
        return seed
    return int(np.random.SeedSequence([seed, num_timesteps]).generate_state(1)[0] >> 1)


class ProgressBar:
    """A tqdm bar over environment steps that shows the latest return or reward; a context manager."""

    def __init__(self, total: int, shown: bool) -> None:
        self._bar: Any = None
        if shown:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="step", dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, metrics: Metrics) -> None:
        """Move to ``done`` steps; shows ``return_mean`` where an episode has ended, ``reward`` where there is one."""
        if self._bar is None:
            return
        shown = {name: f"{metrics[name]:.3f}" for name in ("return_mean", "reward") if name in metrics}
        if shown:
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(done - self._bar.n)


def as_path(path: str | Path) -> Path:
    """The path as given, as :class:`pathlib.Path`."""
    return Path(path).expanduser()


def decision_name(env: AnyEnv) -> str:
    """What the agent of an env decides, by name; ``knowledge_selection`` where the env does not say."""
    decision = getattr(inner_env(env), "decision", "knowledge_selection")
    return str(getattr(decision, "name", decision))
