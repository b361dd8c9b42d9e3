"""Which tokens stand in the masked slots of the text on which the student learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from kd_env.config.environment import EnvConfig
from kd_env.core import trees
from kd_env.core.trees import to_host, upload
from kd_env.core.types import FeatureSlice
from kd_env.decisions.base import BOX, DISCRETE, MULTI_DISCRETE, Decision, Measure, Parts
from kd_env.decisions.tutor_token import features, text
from kd_env.decisions.tutor_token.actions import Choices, TokenActions, make_token_actions
from kd_env.decisions.tutor_token.attributes import ATTRIBUTES
from kd_env.decisions.tutor_token.measures import token_measures
from kd_env.decisions.tutor_token.options import check_options, defaults, written_out
from kd_env.decisions.tutor_token.rewards import STUDENT_ERROR, TEACHER_RECOGNISES
from kd_env.decisions.tutor_token.state import TokenRewards, TokenState
from kd_env.knowledge import term_entries
from kd_env.mdp.objectives.batches import Edit, StudentUpdate
from kd_env.mdp.problem import Problem
from kd_env.mdp.state import DistillState, Effect


class TutorToken(Decision):
    """The agent writes tokens into masked text (Tutor-KD, Kim et al., EMNLP 2022)."""

    name = "tutor_token"
    views = ((MULTI_DISCRETE, "candidates"), (DISCRETE, "discrete"), (BOX, "box"), (MULTI_DISCRETE, "native"))
    options = frozenset({"recipe", "mode", "teacher_every", "num_candidates", "observation"})
    view_options = MappingProxyType({"gate": ()})
    default_features = ()
    writes_tokens = True
    sets_weights = False
    keeps_finished = True
    attributes = ATTRIBUTES
    output_refusal = MappingProxyType({"native": "an output for every token of the vocabulary in every slot"})
    score_names = ("tutor", TEACHER_RECOGNISES, STUDENT_ERROR)
    shared_refusal = "the env writes tokens into slots; use agent=tutor, which decides about each slot alike."

    actions: TokenActions

    @classmethod
    def options_for(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with recipe and losses written out."""
        return written_out(options)

    @classmethod
    def defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """One update a text, constant weights of the terms, a teacher that reads every edited text."""
        return {**defaults(), **super().defaults(options)}

    @classmethod
    def check(cls, config: EnvConfig) -> None:
        """Refuse options that have no meaning where batches are edited."""
        check_options(config)

    def make_actions(self, config: EnvConfig, parts: Parts) -> TokenActions:
        """The action model of the configured view, with what it lets no policy do."""
        if config.action_view == "native":
            self.constant_refusal = (
                "The same tokens again say nothing: at every step the slots are those of other texts. Use "
                "action_view='candidates', 'discrete' or 'box' (env.action_view in the main job), which are about the "
                "teacher's lists."
            )
        assert parts.slots is not None, "tokens are written into masked text only"
        self._loss_weights = np.array([entry.weight for entry in term_entries(config.terms)], np.float32)
        slots, vocabulary = parts.slots
        if config.num_candidates > vocabulary:
            raise ValueError(
                f"num_candidates={config.num_candidates} is more than the {vocabulary} tokens of the vocabulary."
            )
        return make_token_actions(
            config.action_view,
            batch_size=config.batch_size,
            slots=slots if config.mode == "joint" else 1,
            vocab_size=vocabulary,
            num_candidates=config.num_candidates,
        )

    def apply(self, problem: Problem, state: DistillState, actions: Any) -> Effect:
        """The tokens of raw actions in their slots; students are ready where every slot is filled."""
        tokens, kept = self.actions.decode(actions, self.choices(problem, state)), state.decision_state
        count = len(state.seeds)
        kept = kept._replace(updated=np.zeros(count, bool))
        ready = None
        if problem.config.mode == "joint":
            kept = kept._replace(chosen=tokens)
        else:
            chosen = kept.chosen.copy()
            chosen[np.arange(count), :, kept.filled] = tokens[:, :, 0]
            kept = kept._replace(chosen=chosen, filled=kept.filled + 1)
            ready = kept.filled == problem.reader.slots
        weights = np.broadcast_to(self.parts.present[None, :, :, None], (count, *self.parts.present.shape, 1))
        return Effect(weights.astype(np.float32), np.ones(count, np.float32), decision_state=kept, ready=ready)

    def choices(self, problem: Problem, state: DistillState) -> Choices:
        """What the next action may refer to: every slot, or with ``mode=sequential`` the next one."""
        kept: TokenState = state.decision_state
        parts = [
            *to_host(kept.view.candidates, kept.view.log_candidates.float()),
            text.originals(problem, state.next_rows[:, 0], kept.positions),
        ]
        if problem.config.mode == "sequential":
            replicas = np.arange(len(state.seeds))
            parts = [part[replicas, :, kept.filled][:, :, None] for part in parts]
        return Choices(parts[0], parts[1], parts[2], text.draw_seeds(state))

    def encode(self, weights: Any, gate: float = 1.0) -> np.ndarray:
        """Refused: an action says tokens, not weights."""
        raise ValueError(f"Actions of decision={self.name!r} are tokens; there are no weights to encode.")

    def prepare(self, problem: Problem, state: DistillState) -> DistillState:
        """The next batch masked, and read by the teacher."""
        return state._replace(decision_state=text.next_text(problem, state))

    def proceed(self, problem: Problem, state: DistillState) -> DistillState:
        """The teacher reads a text that is not complete again, where it is due."""
        kept: TokenState = state.decision_state
        due = np.flatnonzero(kept.filled % problem.config.teacher_every == 0)
        if not len(due):
            return state
        if len(due) == len(state.seeds):
            return state._replace(decision_state=text.read_again(problem, state))
        part = trees.take(state, due)
        changed = trees.set_rows(trees.copy_arrays(kept), due, text.read_again(problem, part))
        return state._replace(decision_state=changed)

    def edit(self, problem: Problem, state: DistillState) -> Edit:
        """The chosen tokens in their slots."""
        kept: TokenState = state.decision_state
        return text.edit(problem, state, upload(kept.chosen, problem.device))

    def updated(self, problem: Problem, state: DistillState, update: StudentUpdate) -> DistillState:
        """The tokens of the update with their rewards."""
        edit, kept = update.batch.edit, state.decision_state
        assert edit is not None
        objective = problem.objective
        parts = (
            objective.recognises(problem, update.batch, update.teachers),
            objective.student_error(problem, update.batch, update.student, update.teachers),
            text.plausibility_of(edit),
            edit.log_chosen.exp(),
        )
        tokens, originals, edited, diverged, *values = to_host(
            *(edit.chosen, edit.original, edit.valid.sum((1, 2)), update.diverged),
            *(torch.where(edit.valid, part, 0.0).float() for part in parts),
        )
        lost = diverged[:, None, None]  # a student that diverged has errors that are no numbers
        return state._replace(
            decision_state=kept._replace(
                updated=np.ones(len(state.seeds), bool),
                tokens=tokens,
                originals=originals,
                edited=edited,
                rewards=TokenRewards(*(np.where(lost, 0.0, value) for value in values)),
            )
        )

    def scores(self, before: DistillState, after: DistillState) -> Mapping[str, np.ndarray]:
        """Rewards of tokens, averaged over the valid slots of the update; 0 before a text is complete."""
        rewards = after.decision_state.rewards
        # Slots that are not valid hold 0; they are not counted either.
        count = np.maximum(after.decision_state.edited, 1)

        def mean(values: np.ndarray) -> np.ndarray:
            return np.where(after.decision_state.updated, values.astype(np.float64).sum((1, 2)) / count, 0.0)

        recognises, errs = rewards.teacher_recognises, rewards.student_error
        return {
            "tutor": mean(recognises + errs),
            TEACHER_RECOGNISES: mean(recognises),
            STUDENT_ERROR: mean(errs),
        }

    def observation_space(self, problem: Problem) -> spaces.Space[Any]:
        """As :func:`kd_env.decisions.tutor_token.features.space`."""
        return features.space(features.sizes(problem))

    def observation_layout(self, problem: Problem) -> dict[str, FeatureSlice]:
        """Where each part stands with ``observation=flat``; empty where parts have names."""
        return features.layout(features.sizes(problem)) if problem.config.observation == "flat" else {}

    def observe(self, problem: Problem, state: DistillState) -> Any:
        """Arrays ``[N, ...]`` by name, or ``[N, O]`` with ``observation=flat``."""
        return features.observe(problem, state)

    def episode_steps(self, problem: Problem) -> int:
        """Steps of an episode with the configured budget."""
        return problem.config.budget * (1 if problem.config.mode == "joint" else problem.reader.slots)

    def info(self, state: DistillState) -> dict[str, np.ndarray]:
        """What is about tokens is about the last update, row by row and slot by slot.

        ``dropped_slots`` is about the text that is to be filled.
        """
        kept: TokenState = state.decision_state
        return {
            **{name: value.copy() for name, value in kept.rewards._asdict().items()},
            "tokens": kept.tokens.copy(),
            "originals": kept.originals.copy(),
            "updated": kept.updated.copy(),
            "dropped_slots": kept.dropped.copy(),
            "edited_slots": kept.edited.copy(),
            "losses": state.raw_losses[:, 0] / self._loss_weights,  # terms without their constant weights
        }

    def line(self, state: DistillState, replica: int) -> str:
        """Slot and rewards of tokens."""
        kept: TokenState = state.decision_state
        rewards = {name: float(value[replica].mean()) for name, value in kept.rewards._asdict().items()}
        return f"slot {kept.filled[replica]} " + " ".join(f"{name}={value:.3f}" for name, value in rewards.items())

    def measures(self, problem: Problem, count: int) -> Sequence[Measure]:
        """Rewards of tokens over the updates of an episode."""
        return token_measures(problem, count)
