"""BERT's program for several students against its own code under ``vmap``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_models import KINDS

from kd_env import DistillVectorEnv, build_problem
from kd_env.core.types import Batch, Signal
from kd_env.decisions.options import env_config
from kd_env.models.encoder import Encoder
from kd_env.models.library.attention import ATTENTION, register_attention

PER_LAYER = ("attention_scores", "queries", "keys", "values")
ALL = frozenset(Signal(kind, layer) for layer in (1, 2) for kind in PER_LAYER) | frozenset(  # type: ignore[arg-type]
    Signal(kind, layer)
    for layer in (0, 1, 2)
    for kind in ("cls", "hidden_states")  # type: ignore[arg-type]
)


def template(head: str = "Sequence", *, train_embeddings: bool = True, kind: str = "Bert", **config: Any) -> Encoder:
    register_attention()
    made = getattr(transformers, f"{kind}Config")(**{**KINDS[kind], **config}, attn_implementation=ATTENTION)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = getattr(transformers, f"{kind}For{head}Classification")(made).double().eval()
    return Encoder.build(module, train_embeddings=train_embeddings, fresh="none")


def stacked(encoder: Encoder, count: int = 3) -> dict[str, torch.Tensor]:
    """Parameters of students that differ in every entry."""
    generator = torch.Generator().manual_seed(1)
    first = encoder.initial(0)
    return {
        name: (value + 0.3 * torch.randn(count, *value.shape, generator=generator, dtype=value.dtype)).requires_grad_()
        for name, value in first.items()
    }


def batch(*leading: int) -> Batch:
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(2, 6, (*leading, 4), generator=generator)
    lengths[..., 0] = 5
    return Batch(
        input_ids=torch.randint(5, 20, (*leading, 4, 5), generator=generator),
        attention_mask=torch.arange(5) < lengths[..., None],
        token_type_ids=torch.randint(0, 2, (*leading, 4, 5), generator=generator),
        labels=torch.zeros(*leading, 4, dtype=torch.long),
    )


def tensors(output: Any) -> list[torch.Tensor]:
    return [output.logits, *(kept[layer] for kept in output[1:] for layer in sorted(kept))]


def both(
    encoder: Encoder, params: dict[str, torch.Tensor], rows: Batch, signals: frozenset[Signal], *, shared: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Outputs and gradients, of the program and of the module's own code."""
    assert encoder._program is not None
    found = []
    for program in (encoder._program, None):
        encoder.__dict__["_program"] = program
        outputs = tensors(encoder.forward_stacked(params, rows, signals, shared_batch=shared))
        total = sum((place + 1) * value.pow(3).sum() for place, value in enumerate(outputs))
        grads = torch.autograd.grad(total, list(params.values()), allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
        found.append([*outputs, *grads])
    return found[0], found[1]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "signals", [frozenset(), frozenset({Signal("cls", 2), Signal("values", 2)}), ALL], ids=["logits", "first", "all"]
)
@pytest.mark.parametrize("head", ["Sequence", "Token"])
def test_outputs_and_gradients_are_those_of_its_own_code(head: str, signals: frozenset[Signal], shared: bool) -> None:
    encoder = template(head)
    ours, theirs = both(encoder, stacked(encoder), batch() if shared else batch(3), signals, shared=shared)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("config", [{"type_vocab_size": 1}, {"hidden_act": "relu", "hidden_size": 8}, {}])
@pytest.mark.parametrize("shared", [False, True])
def test_what_students_share_is_read_for_all(config: dict[str, Any], shared: bool) -> None:
    encoder = template(train_embeddings=False, **config)
    assert not any("word_embeddings" in name for name in encoder.trainable)
    params = {name: value for name, value in stacked(encoder).items() if "layer.0.intermediate" not in name}
    ours, theirs = both(encoder, params, batch() if shared else batch(3), ALL, shared=shared)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own, on first use
def test_forward_derivatives_are_there() -> None:
    encoder = template()
    params = {name: value.detach() for name, value in stacked(encoder).items()}
    along = {name: torch.ones_like(value) for name, value in params.items()}
    found = []
    for program in (encoder._program, None):
        encoder.__dict__["_program"] = program
        found.append(
            torch.func.jvp(
                lambda given: encoder.forward_stacked(given, batch(3), {Signal("hidden_states", 2)}).logits,
                (params,),
                (along,),
            )
        )
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["Roberta", "Electra", "DistilBert"])
def test_other_families_run_their_own_code(kind: str) -> None:
    encoder = template(kind=kind)
    assert encoder._program is None
    params = stacked(encoder, 2)
    rows = batch(2)
    output = encoder.forward_stacked(params, rows, ())
    for place in range(2):
        alone = encoder.forward(
            {name: value[place] for name, value in params.items()},
            Batch(*(field[place] for field in rows[:4])),
            (),
        )
        torch.testing.assert_close(output.logits[place], alone.logits, rtol=1e-9, atol=1e-12)


def test_a_course_of_losses_is_that_of_its_own_code(tiny: dict[str, Any]) -> None:
    """Eight updates in float64, with the terms that read most of a student.

    In float32 they part by 1e-4 of a loss: Adam's first updates are signs, and rounding decides those of gradients
    near 0.
    """
    terms = ["hard_label", "soft_label", "hidden_states", "attention", "minilm", "rkd"]
    options = {**tiny, "terms": terms, "updates_per_step": 2, "precision": "fp64"}
    courses = []
    for own in (False, True):
        problem = build_problem(env_config(**options))
        if own:
            problem.student.__dict__["_program"] = None
        envs = DistillVectorEnv(3, problem=problem)
        envs.reset(seed=[0, 1, 2])
        envs.action_space.seed(0)
        courses.append([envs.step(envs.action_space.sample())[4]["raw_losses"] for _ in range(4)])
    np.testing.assert_allclose(*courses, rtol=1e-9)
