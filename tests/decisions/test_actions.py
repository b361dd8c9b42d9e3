"""Raw actions and their effects."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from kd_env.decisions.knowledge_selection.actions import KnowledgeSelectionActions
from kd_env.mdp.gradients import normalize_weights

TERMS = ("hard_label", "soft_label", "relation")


def test_encode_is_the_inverse_of_decode() -> None:
    """In every view, for every effect that it can express."""
    for view, gate in (("native", False), ("discrete", False), ("box", True), ("box", False)):
        model = KnowledgeSelectionActions(TERMS, view, gate)
        for values in product((0.0, 1.0), repeat=3):
            if view == "discrete" and sum(values) == 2:
                continue
            action = model.encode(dict(zip(TERMS, values, strict=True)))
            assert model.space.contains(action) or view == "discrete"
            effect = model.decode(np.asarray(action)[None])
            np.testing.assert_array_equal(effect.weights[0, 0, :, 0], values)
            assert effect.update_scale.tolist() == [1.0]


def test_box_weights_and_gate() -> None:
    """(a + 1) / 2, and the gate's dead zone."""
    model = KnowledgeSelectionActions(TERMS, "box", True)
    assert model.action_names == (*TERMS, "gate")
    effect = model.decode(np.array([[-1, 0, 1, 1], [0.5, 0.5, 0.5, -0.51], [0, 0, 0, -0.5], [0, 0, 0, 0]], np.float32))
    np.testing.assert_allclose(effect.weights[0, 0, :, 0], [0.0, 0.5, 1.0])
    np.testing.assert_allclose(effect.update_scale, [1.0, 0.0, 0.25, 0.5])
    assert model.decode(model.encode({"relation": 0.25}, gate=0.0)[None]).update_scale[0] == 0.0


def test_discrete_choices() -> None:
    """None, each term alone, all."""
    model = KnowledgeSelectionActions(TERMS, "discrete", True)
    assert model.action_names == ("none", *TERMS, "all") and model.space.n == 5
    weights = model.decode(np.arange(5)).weights[:, 0, :, 0]
    np.testing.assert_array_equal(weights, [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])


@pytest.mark.parametrize(
    ("view", "weights", "gate", "message"),
    [
        ("native", {"soft_lable": 1.0}, 1.0, "Did you mean 'soft_label'"),
        ("native", {"soft_label": 1.2}, 1.0, r"must lie in \[0, 1\]"),
        ("native", {"soft_label": 0.5}, 1.0, "use action_view='box'"),
        ("native", {"soft_label": 1.0}, 0.0, "gate=true"),
        ("discrete", {"soft_label": 1.0, "relation": 1.0}, 1.0, "use action_view='native'"),
        ("box", {"soft_label": 1.0}, 0.1, "0 .skip. or lie in"),
    ],
)
def test_what_a_view_cannot_express(view: str, weights: dict[str, float], gate: float, message: str) -> None:
    """Refused, with the view that can."""
    with pytest.raises(ValueError, match=message):
        KnowledgeSelectionActions(TERMS, view, True).encode(weights, gate)


def test_normalization() -> None:
    """Absent entries get no weight; means and sums are over present entries; all-zero stays zero."""
    present = np.array([[True, True, False]])
    weights = np.array([[1.0, 3.0, 9.0], [0.0, 0.0, 5.0]], np.float32)[:, None, :, None]
    for how, expected in {"none": [1, 3, 0], "mean": [0.5, 1.5, 0], "sum": [0.25, 0.75, 0]}.items():
        result = normalize_weights(weights, present, how)
        np.testing.assert_allclose(result[0, 0, :, 0], expected)
        assert not result[1].any()
