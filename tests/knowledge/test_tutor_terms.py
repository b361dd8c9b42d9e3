"""Tutor-KD's quantities against a slow transcription of the paper, token by token."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_env.core.types import Batch, EncoderFacts, ModelOutput
from kd_env.knowledge import TermInputs, TermSpec, build_terms, plausibility

GENERATOR = torch.Generator().manual_seed(0)
ROWS, WIDTH, SLOTS, VOCAB = 3, 7, 2, 11
LENGTHS = (7, 5, 4)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


@pytest.fixture
def drawn() -> dict[str, Any]:
    """What two passes of a teacher and one of a student said about three rows."""
    mask = torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]
    return {
        "mask": mask,
        "positions": torch.tensor([[1, 5], [2, 3], [1, 2]]),
        "valid": torch.tensor([[True, True], [True, False], [True, True]]),
        "original": torch.tensor([[3, 4], [5, 6], [7, 8]]),
        "chosen": torch.tensor([[3, 9], [1, 6], [2, 10]]),
        "before": draw(ROWS, SLOTS, VOCAB).log_softmax(-1),  # log p_T(. | X^M) at the slots
        "after": draw(ROWS, SLOTS, VOCAB).log_softmax(-1),  # log p_T(. | X')
        "scores": draw(ROWS, WIDTH),
    }


def pick(log_probs: Tensor, tokens: Tensor) -> Tensor:
    return log_probs.gather(-1, tokens[..., None])[..., 0]


def literal(d: dict[str, Any]) -> tuple[float, list[list[float]], list[list[float]]]:
    """L_pp, R_T and R_S as the paper writes them, one token after another."""
    total, count = 0.0, 0
    recognises = [[0.0] * SLOTS for _ in range(ROWS)]
    error = [[0.0] * SLOTS for _ in range(ROWS)]
    for row in range(ROWS):
        for place in range(WIDTH):
            if not bool(d["mask"][row, place]):
                continue
            m, slot = 1.0, None
            for index in range(SLOTS):
                if bool(d["valid"][row, index]) and int(d["positions"][row, index]) == place:
                    slot = index
            p = 1 / (1 + math.exp(-float(d["scores"][row, place])))
            if slot is not None:
                x, a = int(d["original"][row, slot]), int(d["chosen"][row, slot])
                before, after = d["before"][row, slot].exp(), d["after"][row, slot].exp()
                m = min(1.0, float(before[a]) / float(before[x]))
                recognises[row][slot] = float(after[x]) - float(after[a])
                error[row][slot] = abs(m - p)
            total += -(m * math.log(p) + (1 - m) * math.log(1 - p))
            count += 1
    return total / count, recognises, error


def mean_over_tokens(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """``L_pp``: the mean of what real tokens lose."""
    return plausibility.token_losses(scores, labels, mask)[mask].mean()


def computed(d: dict[str, Any], mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    label = plausibility.plausibility(pick(d["before"], d["original"]), pick(d["before"], d["chosen"]))
    labels = plausibility.token_labels(label, d["positions"], d["valid"], WIDTH)
    loss = mean_over_tokens(d["scores"], labels, mask)
    recognises = plausibility.teacher_recognises(pick(d["after"], d["original"]), pick(d["after"], d["chosen"]))
    error = plausibility.student_error(d["scores"].gather(-1, d["positions"]), label)
    return loss, torch.where(d["valid"], recognises, 0.0), torch.where(d["valid"], error, 0.0)


def test_losses_and_rewards_are_those_of_the_paper(drawn: dict[str, Any]) -> None:
    loss, recognises, error = computed(drawn, drawn["mask"])
    expected = literal(drawn)
    assert float(loss) == pytest.approx(expected[0], rel=1e-9)
    assert torch.allclose(recognises, torch.tensor(expected[1], dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.allclose(error, torch.tensor(expected[2], dtype=torch.float64), rtol=0, atol=1e-12)


def test_an_inverted_mask_is_another_loss(drawn: dict[str, Any]) -> None:
    """What the released code did: padding attended, real tokens left out."""
    assert float(computed(drawn, ~drawn["mask"])[0]) != pytest.approx(literal(drawn)[0], rel=1e-2)


def test_padding_and_invalid_slots_say_nothing(drawn: dict[str, Any]) -> None:
    before = computed(drawn, drawn["mask"])
    drawn["scores"][~drawn["mask"]] = 50.0
    drawn["chosen"][1, 1] = 0
    drawn["after"][1, 1] = draw(VOCAB).log_softmax(-1)
    for old, new in zip(before, computed(drawn, drawn["mask"]), strict=True):
        assert torch.equal(old, new)


def test_an_unchanged_token_is_fully_plausible(drawn: dict[str, Any]) -> None:
    label = plausibility.plausibility(
        pick(drawn["before"], drawn["original"]), pick(drawn["before"], drawn["original"])
    )
    assert torch.equal(label, torch.ones_like(label))
    labels = plausibility.token_labels(label, drawn["positions"], drawn["valid"], WIDTH)
    assert torch.equal(labels, torch.ones(ROWS, WIDTH, dtype=labels.dtype))
    recognises = plausibility.teacher_recognises(
        pick(drawn["after"], drawn["original"]), pick(drawn["after"], drawn["original"])
    )
    assert not recognises.any()


def test_no_student_is_below_the_floor(drawn: dict[str, Any]) -> None:
    """The perfect student's loss is the entropy of the labels; any other is above."""
    label = plausibility.plausibility(pick(drawn["before"], drawn["original"]), pick(drawn["before"], drawn["chosen"]))
    labels = plausibility.token_labels(label.clamp(0.01, 0.99), drawn["positions"], drawn["valid"], WIDTH).clamp(
        max=0.99
    )
    floor = float(plausibility.plausibility_floor(labels, drawn["mask"]))
    perfect = mean_over_tokens(torch.logit(labels), labels, drawn["mask"])
    assert float(perfect) == pytest.approx(floor, rel=1e-9)
    assert float(mean_over_tokens(torch.logit(labels) + 0.1, labels, drawn["mask"])) > floor


def output(**signals: dict[int, Tensor]) -> ModelOutput:
    empty: dict[str, Any] = {name: {} for name in ModelOutput._fields}
    return ModelOutput(**{**empty, "logits": torch.empty(0), **signals})


def test_distillation_losses_against_loops(drawn: dict[str, Any]) -> None:
    mask, heads = drawn["mask"], 2
    hidden = [{layer: draw(ROWS, WIDTH, size) for layer in (0, 1, 2)} for size in (4, 6)]
    scores = [{layer: draw(ROWS, heads, WIDTH, WIDTH) for layer in (1, 2)} for _ in range(2)]
    student, teacher = (output(hidden_states=h, attention_scores=s) for h, s in zip(hidden, scores, strict=True))
    projection, pairs = draw(6, 4), ((0, 0), (1, 2))

    per_row = []
    for layer, other in pairs:
        for row, length in enumerate(LENGTHS):
            gaps = [projection @ hidden[0][layer][row, i] - hidden[1][other][row, i] for i in range(length)]
            per_row.append(sum(float((gap**2).mean()) for gap in gaps) / length)
    spec = TermSpec(EncoderFacts(2, 4, 2, 1, VOCAB), EncoderFacts(2, 6, 2, 1, VOCAB), pairs, False, text=True)
    states, maps = build_terms([{"name": "hidden_states", "shared": True}, "attention"], spec)
    inputs = inputs_of(student, teacher, mask)
    found = states.loss(inputs._replace(projections={"shared": projection})).mean()
    assert float(found) == pytest.approx(sum(per_row) / len(per_row), rel=1e-9)

    per_row = []
    for row, length in enumerate(LENGTHS):
        gap = scores[0][1][row, :, :length, :length] - scores[1][2][row, :, :length, :length]
        per_row.append(float((gap**2).mean()))
    found = maps.loss(inputs).mean()
    assert float(found) == pytest.approx(sum(per_row) / len(per_row), rel=1e-9)
    assert float(maps.loss(inputs_of(student, teacher, ~mask)).mean()) != pytest.approx(float(found), rel=1e-2)


def inputs_of(student: ModelOutput, teacher: ModelOutput, mask: Tensor) -> TermInputs:
    ids = torch.zeros(mask.shape, dtype=torch.long)
    return TermInputs(student, teacher, Batch(ids, mask, ids, ids[:, 0]), {})


TEXT = TermSpec(EncoderFacts(2, 4, 2, 1, VOCAB), EncoderFacts(2, 4, 2, 1, VOCAB), ((0, 0), (1, 1)), False, text=True)


def plausibility_inputs(drawn: dict[str, Any]) -> TermInputs:
    labels = draw(ROWS, WIDTH).sigmoid()
    student = output(hidden_states={}, attention_scores={})._replace(logits=drawn["scores"][..., None])
    return inputs_of(student, student._replace(logits=labels), drawn["mask"])


def test_the_term_is_the_mean_over_all_tokens_row_by_row(drawn: dict[str, Any]) -> None:
    """A row counts by its tokens; padding counts nothing; the same under vmap, and with gradients at real tokens."""
    [term] = build_terms(["plausibility"], TEXT)
    inputs = plausibility_inputs(drawn)
    scores, labels, mask = drawn["scores"], inputs.taught.logits, drawn["mask"]
    losses = term.loss(inputs)
    whole = mean_over_tokens(scores, labels, mask)
    assert losses.shape == (ROWS,) and float(losses.mean()) == pytest.approx(float(whole), rel=1e-12)
    for row, length in enumerate(LENGTHS):
        p = scores[row, :length].sigmoid()
        m = labels[row, :length]
        entropies = -(m * p.log() + (1 - m) * (1 - p).log()).sum()
        assert float(losses[row]) == pytest.approx(float(entropies) * ROWS / sum(LENGTHS), rel=1e-9)
    leaf = scores.clone().requires_grad_()
    term.loss(inputs._replace(student=inputs.student._replace(logits=leaf[..., None]))).sum().backward()
    assert leaf.grad is not None and ((leaf.grad != 0) == mask).all()
    padded = torch.where(mask, scores, 99.0)[..., None]
    assert torch.equal(term.loss(inputs._replace(student=inputs.student._replace(logits=padded))), losses)
    stacked = torch.func.vmap(lambda u: term.loss(inputs._replace(student=inputs.student._replace(logits=u))))(
        torch.stack([scores, scores.flip(0)])[..., None]
    )
    assert torch.allclose(stacked[0], losses, rtol=1e-12)
    nothing = inputs._replace(batch=inputs.batch._replace(attention_mask=torch.zeros_like(mask)))
    assert torch.equal(term.loss(nothing), torch.zeros(ROWS, dtype=torch.float64))


def uncertain(share: Any) -> Any:
    return build_terms([{"name": "plausibility", "uncertain_share": share}], TEXT)[0]


def kept_by_hand(scores: Tensor, length: int, share: str) -> set[int]:
    """The places of a row that count: sorted by entropy, one after another, the earlier of equals first."""
    entropies = []
    for place in range(length):
        p = 1 / (1 + math.exp(-float(scores[place])))
        entropies.append(-(p * math.log(p) + (1 - p) * math.log(1 - p)))
    count = max(1, math.ceil(Fraction(share) * length))
    return set(sorted(range(length), key=lambda place: (-entropies[place], place))[:count])


@pytest.mark.parametrize("share", ["0.2", "0.4", "0.6", "0.75", "0.001"])
def test_of_each_row_only_the_uncertain_tokens_count(share: str, drawn: dict[str, Any]) -> None:
    """Token by token; padding never, though it would be the most uncertain; the same under vmap and in parts."""
    drawn["scores"] = torch.where(drawn["mask"], drawn["scores"], 0.0)
    inputs, term = plausibility_inputs(drawn), uncertain(float(share))
    scores, labels = drawn["scores"], inputs.taught.logits
    kept = [kept_by_hand(scores[row], length, share) for row, length in enumerate(LENGTHS)]
    expected = []
    for row, places in enumerate(kept):
        total = 0.0
        for place in places:
            p, m = float(scores[row, place].sigmoid()), float(labels[row, place])
            total += -(m * math.log(p) + (1 - m) * math.log(1 - p))
        expected.append(total * ROWS / sum(len(places) for places in kept))
    losses = term.loss(inputs)
    assert losses.tolist() == pytest.approx(expected, rel=1e-9)
    leaf = scores.clone().requires_grad_()
    term.loss(inputs._replace(student=inputs.student._replace(logits=leaf[..., None]))).sum().backward()
    assert leaf.grad is not None
    assert [set(row.nonzero().ravel().tolist()) for row in leaf.grad] == kept
    stacked = torch.func.vmap(lambda u: term.loss(inputs._replace(student=inputs.student._replace(logits=u))))(
        torch.stack([scores.flip(0), scores])[..., None]
    )
    assert torch.allclose(stacked[1], losses, rtol=1e-12)
    tokens, parts = drawn["mask"].sum(-1), []
    for piece in (slice(0, 1), slice(1, 3)):
        student, teacher = (one._replace(logits=one.logits[piece]) for one in (inputs.student, inputs.taught))
        batch = inputs.batch._replace(attention_mask=inputs.batch.attention_mask[piece])
        parts.append(term.loss(TermInputs(student, teacher, batch, {}, row_tokens=tokens)))
    assert torch.allclose(torch.cat(parts), losses, rtol=1e-6)  # the mean row is float32


def test_a_share_of_all_tokens_is_the_plain_term_bit_for_bit(drawn: dict[str, Any]) -> None:
    inputs = plausibility_inputs(drawn)
    [plain] = build_terms(["plausibility"], TEXT)
    for share in (1.0, 1):
        assert torch.equal(uncertain(share).loss(inputs), plain.loss(inputs))
    assert not torch.equal(uncertain(0.5).loss(inputs), plain.loss(inputs))


def test_equals_are_kept_in_order_and_shares_are_exact() -> None:
    scores, mask = torch.tensor([[1.0, -1.0, 1.0, 2.0, -1.0]]), torch.ones(1, 5, dtype=torch.bool)
    kept = plausibility.uncertain_tokens(scores, mask, Fraction(2, 5))
    assert kept.tolist() == [[True, True, False, False, False]]
    assert plausibility.kept_tokens(torch.tensor([0, 1, 5, 15, 16]), Fraction(1, 5)).tolist() == [0, 1, 1, 3, 4]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan"), "half", True])
def test_a_share_outside_its_range_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match=r"plausibility.uncertain_share.* above 0.0 and at most 1.0"):
        uncertain(share)


def test_terms_of_labels_and_of_text_are_told_apart() -> None:
    with pytest.raises(ValueError, match="objective='text'"):
        build_terms(["plausibility"], dataclasses.replace(TEXT, text=False))
    for name in ("hard_label", "soft_label", "logit_mse", "dist"):
        with pytest.raises(ValueError, match="objective='text'"):
            build_terms([name], TEXT)
