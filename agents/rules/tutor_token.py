"""Tutors that learn nothing: baselines for environments in which tokens are chosen for the slots of a text.

Each is made for its environment and asks it for the teacher's log-probabilities; randomness comes from a generator of
its own. They act in the native view, in which any token can be chosen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.common.base import AnyEnv, inner_env, unknown_name

Ints = NDArray[np.int64]


class TokenRule(ABC):
    """A fixed tutor.

    Args:
        env: the environment that it will act in, in the native view.
        seed: of its random choices.

    Raises:
        ValueError: an environment without slots, or another action view.
    """

    name: ClassVar[str]

    def __init__(self, env: AnyEnv, *, seed: int = 0) -> None:
        self.base: Any = inner_env(env)
        if getattr(self.base, "decision", None) != "tutor_tokens":
            raise ValueError(f"The rule {self.name!r} fills slots of text, and {env} has none; make a TutorToken-v0.")
        if self.base.action_view != "native":
            raise ValueError(
                f"The rule {self.name!r} chooses any token, which the action view {self.base.action_view!r} cannot "
                "say; make the env with action_view='native'."
            )
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def tokens(self, masked: Tensor) -> Tensor:
        """Tokens for every slot, ``[N, B, P]``.

        Args:
            masked: ``[N, B, P]`` what stands in the slots of the masked text.
        """

    def predict(
        self,
        observation: dict[str, NDArray[Any]],
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[Ints, None]:
        """Actions for one observation or a batch; a random rule stays random where ``deterministic``."""
        rows, slots = self.base.batch_size, self.base.slots
        single = np.asarray(observation["positions"]).ndim == 1
        parts = {name: np.atleast_2d(observation[name]) for name in ("input_ids", "positions", "chosen")}
        count = len(parts["positions"])
        positions = parts["positions"].reshape(count, rows, slots)
        masked = np.take_along_axis(parts["input_ids"].reshape(count, rows, -1), positions, axis=-1)
        tokens = self.tokens(torch.as_tensor(masked)).cpu().numpy().astype(np.int64)
        if self.base.mode == "sequential":
            written = parts["chosen"].reshape(count, rows, slots) < self.base.vocab_size
            slot = written[:, 0].sum(-1)
            tokens = tokens[np.arange(count), :, slot][:, :, None]
        actions = tokens.reshape(count, -1)
        return (actions[0] if single else actions), None

    def _sampled(self, log_probabilities: Tensor) -> Tensor:
        flat = log_probabilities.exp().flatten(0, -2).cpu()
        return torch.multinomial(flat, 1, generator=self.generator).view(log_probabilities.shape[:-1])


class RandomTokens(TokenRule):
    """Ordinary tokens of the vocabulary, all alike."""

    name = "random_tokens"

    def tokens(self, masked: Tensor) -> Tensor:
        """Uniform draws."""
        ordinary = torch.as_tensor(self.base.ordinary_tokens)
        return ordinary[torch.randint(len(ordinary), masked.shape, generator=self.generator)]


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
        found: Tensor = self.base.original_tokens()
        return found


class DifficultOfN(TokenRule):
    """Of several samples of the teacher the one about which the student errs most, slot by slot.

    Args:
        env: the environment.
        seed: of the samples.
        samples: how many; each costs a forward pass of the student.
    """

    name = "difficult_of_n"

    def __init__(self, env: AnyEnv, *, seed: int = 0, samples: int = 4) -> None:
        super().__init__(env, seed=seed)
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples={samples!r} must be a whole number of at least 1.")
        self.samples = samples

    def tokens(self, masked: Tensor) -> Tensor:
        """Draws from p_T(. | X^M), and the most difficult of each slot."""
        log_probabilities = self.base.log_probabilities()
        drawn = torch.stack([self._sampled(log_probabilities) for _ in range(self.samples)])
        errors = torch.stack([self.base.student_errors(tokens).cpu() for tokens in drawn])
        return drawn.gather(0, errors.argmax(0)[None])[0]


TOKEN_RULES: dict[str, type[TokenRule]] = {
    rule.name: rule for rule in (RandomTokens, TeacherSamples, TeacherArgmax, KeepMasked, KeepOriginal, DifficultOfN)
}


def make_token_rule(name: str, env: AnyEnv, *, seed: int = 0, **options: Any) -> TokenRule:
    """A fixed tutor by name.

    Raises:
        ValueError: an unknown name, or an environment that it cannot act in.
    """
    if name not in TOKEN_RULES:
        raise ValueError(unknown_name("tutor", name, TOKEN_RULES))
    return TOKEN_RULES[name](env, seed=seed, **options)
