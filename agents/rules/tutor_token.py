"""Rules for tutors: baselines for environments in which tokens are chosen for the slots of a text.

Each asks its environment for the teacher's log-probabilities. They act in the native view, in which any token can be
chosen, and read observations by name. Unlike other rules they draw for all replicas from one generator.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agents.common.base import AnyEnv, require
from agents.rules.base import Rule

Ints = NDArray[np.int64]


class TokenRule(Rule):
    """Base of rules that write tokens; arguments as in :class:`agents.rules.base.Rule`."""

    decision = "tutor_token"
    views = ("native",)
    looks_at_feedback = False

    def __init__(self, env: AnyEnv, *, seed: int = 0, **options: Any) -> None:
        super().__init__(env, seed=seed, **options)
        if not isinstance(getattr(env, "single_observation_space", env.observation_space), spaces.Dict):
            raise ValueError(f"The rule {self.name!r} reads tokens by name; make the env with observation='dict'.")
        self.draws = torch.Generator().manual_seed(seed)

    @abstractmethod
    def tokens(self, masked: Tensor) -> Tensor:
        """Tokens for every slot, ``[N, B, P]``.

        Args:
            masked: ``[N, B, P]`` what stands in the slots of the masked text.
        """

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Ints, Any]:
        """Actions for one observation or a batch; a random rule stays random where ``deterministic``."""
        single = np.asarray(observation["positions"]).ndim == 1
        batch = {name: np.atleast_2d(observation[name]) for name in ("input_ids", "positions", "chosen")}
        actions, state = self.act(batch, state, episode_start)
        return (actions[0] if single else actions), state

    def act(self, observations: Any, memory: Any, starts: Any) -> tuple[Ints, Any]:
        """Tokens of all slots, or of the next one where the environment takes them one after another."""
        count, rows, slots = len(observations["positions"]), self.base.batch_size, self.base.slots
        positions = observations["positions"].reshape(count, rows, slots)
        masked = np.take_along_axis(observations["input_ids"].reshape(count, rows, -1), positions, axis=-1)
        tokens = self.tokens(torch.as_tensor(masked)).cpu().numpy().astype(np.int64)
        if self.base.mode == "sequential":
            written = observations["chosen"].reshape(count, rows, slots) < self.base.vocab_size
            slot = written[:, 0].sum(-1)
            tokens = tokens[np.arange(count), :, slot][:, :, None]
        return tokens.reshape(count, -1), memory

    def generator_states(self) -> list[Any]:
        """That of the one generator, as hexadecimal digits."""
        return [self.draws.get_state().numpy().tobytes().hex()]

    def restore_generators(self, states: list[Any]) -> None:
        """Take back what :meth:`generator_states` gave."""
        self.draws.set_state(torch.frombuffer(bytearray.fromhex(states[0]), dtype=torch.uint8))

    def _sampled(self, log_probabilities: Tensor) -> Tensor:
        flat = log_probabilities.exp().flatten(0, -2).cpu()
        return torch.multinomial(flat, 1, generator=self.draws).view(log_probabilities.shape[:-1])


class RandomTokens(TokenRule):
    """Ordinary tokens of the vocabulary, all alike."""

    name = "random_tokens"
    chooses = False

    def tokens(self, masked: Tensor) -> Tensor:
        """Uniform draws."""
        ordinary = torch.as_tensor(self.base.ordinary_tokens)
        return ordinary[torch.randint(len(ordinary), masked.shape, generator=self.draws)]


class TeacherSamples(TokenRule):
    """Samples of the teacher's own prediction: an ELECTRA-like generator (Clark et al., ICLR 2020)."""

    name = "teacher_samples"

    def tokens(self, masked: Tensor) -> Tensor:
        """Draws from p_T(. | X^M)."""
        return self._sampled(self.base.log_probabilities())


class TeacherArgmax(TokenRule):
    """The teacher's most likely tokens."""

    name = "teacher_argmax"

    def tokens(self, masked: Tensor) -> Tensor:
        """The mode of p_T(. | X^M)."""
        best: Tensor = self.base.log_probabilities().argmax(-1)
        return best


class KeepMasked(TokenRule):
    """No generation: the student reads the masked text as it is, as in plain masked-language-model distillation."""

    name = "keep_masked"

    def tokens(self, masked: Tensor) -> Tensor:
        """What stands there."""
        return masked


class KeepOriginal(TokenRule):
    """No edit at all: the student reads the text as it is. With labels of a task this is plain distillation."""

    name = "keep_original"

    def tokens(self, masked: Tensor) -> Tensor:
        """What the text says."""
        originals: Tensor = self.base.original_tokens()
        return originals


class DifficultOfN(TokenRule):
    """Of several samples of the teacher the one about which the student errs most, slot by slot.

    Args:
        env: the environment.
        seed: of the samples.
        samples: how many; each costs a forward pass of the student.
    """

    name = "difficult_of_n"

    def __init__(self, env: AnyEnv, *, seed: int = 0, samples: int = 4) -> None:
        whole = isinstance(samples, int) and not isinstance(samples, bool)
        require(whole and samples >= 1, "samples", samples, "a whole number of at least 1")
        super().__init__(env, seed=seed, samples=samples)

    def tokens(self, masked: Tensor) -> Tensor:
        """Draws from p_T(. | X^M), and the most difficult of each slot."""
        log_probabilities = self.base.log_probabilities()
        drawn = torch.stack([self._sampled(log_probabilities) for _ in range(self.options["samples"])])
        errors = torch.stack([self.base.student_errors(tokens).cpu() for tokens in drawn])
        return drawn.gather(0, errors.argmax(0)[None])[0]


TOKEN_RULES: tuple[type[Rule], ...] = (
    RandomTokens,
    TeacherSamples,
    TeacherArgmax,
    KeepMasked,
    KeepOriginal,
    DifficultOfN,
)
