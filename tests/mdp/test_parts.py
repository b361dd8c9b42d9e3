"""Batches that are computed in parts, by one process or by several ranks, against batches that are computed whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import kd_env  # noqa: F401 - registers the environments
from kd_env.mdp.parts import in_parts, pieces, row_tokens
from kd_env.models.library import recomputing
from kd_env.numerics.ranks import Ranks
from tests.launched import two_ranks
from tests.parts_played import CASES, FEW_ROWS, RANKED, UPDATES, play, problem_of

SMALL = {"budget": 4, "updates_per_step": 1, **FEW_ROWS}


@pytest.fixture(scope="module")
def problems() -> dict[str, Any]:
    return {case: problem_of(case) for case in CASES}


@pytest.fixture(scope="module")
def whole(problems: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    return {case: play(case, problem, UPDATES if case in RANKED else 5) for case, problem in problems.items()}


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in found.items():
        assert values.size or name == "observations"
        np.testing.assert_allclose(values, expected[name][: len(values)], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_an_update_in_uneven_pieces_is_that_of_the_whole_batch(
    case: str, problems: dict[str, Any], whole: dict[str, dict[str, np.ndarray]]
) -> None:
    found = play(case, problems[case], updates=5, micro_batch_size=3)
    found.pop("params")  # of fewer updates
    assert_close(found, whole[case])


def test_two_ranks_keep_the_student_of_one_process(whole: dict[str, dict[str, np.ndarray]], tmp_path: Path) -> None:
    """Losses and parameters after ten updates: terms, rows, a teacher that learns (by influence, too) and tokens."""
    folders = [tmp_path / rank for rank in "01"]
    for folder in folders:
        folder.mkdir()
    ended = two_ranks(["tests.parts_played", str(tmp_path / "{rank}")])
    assert [status for status, _ in ended] == [0, 0], ended
    for case in RANKED:
        first, second = (dict(np.load(folder / f"{case}.npz")) for folder in folders)
        assert_close(first, whole[case])
        for name, values in first.items():
            assert values.tobytes() == second[name].tobytes(), (case, name)


def test_shares_and_pieces_cover_every_row_once(tiny_problem: Any) -> None:
    class Shared:
        config = tiny_problem.config.from_kwargs(micro_batch_size=3)

    rows = []
    for rank in range(2):
        Shared.ranks = Ranks(2, rank)  # type: ignore[attr-defined]
        rows += [list(range(piece.start, piece.stop)) for piece in pieces(Shared, 16)]  # type: ignore[arg-type]
    assert [len(piece) for piece in rows] == [3, 3, 2, 3, 3, 2]
    assert [row for piece in rows for row in piece] == list(range(16))
    assert not in_parts(tiny_problem)


def test_rows_of_a_part_count_by_the_tokens_of_the_whole_batch() -> None:
    mask = torch.tensor([[[True, True, True], [True, False, False]], [[True, True, False], [True, True, False]]])
    assert row_tokens(mask).tolist() == [[3, 1], [2, 2]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"terms": ["dist"], "micro_batch_size": 4},
            "'dist' compares the rows.*micro_batch_size=4.*leave the term",
        ),
        ({"terms": ["rkd"], "micro_batch_size": 4}, "'rkd' compares the rows"),
        ({"features": ["gradient_cosines"], "micro_batch_size": 4}, "gradient_cosines.*micro_batch_size=4"),
        ({"micro_batch_size": 0}, "micro_batch_size=0"),
        ({"data_parallel": True}, "torchrun --nproc-per-node 2"),
    ],
)
def test_what_cannot_be_computed_in_parts_is_refused(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=words):
        gym.make("kd_env/KnowledgeSelection-v0", **{**FEW_ROWS, **options})


def test_terms_without_their_part_across_rows_are_allowed() -> None:
    gym.make(
        "kd_env/KnowledgeSelection-v0", terms=[{"name": "dist", "gamma": 0.0}], micro_batch_size=4, **FEW_ROWS
    ).close()
    whole = {"terms": ["dist"], "micro_batch_size": 16}  # rows of the whole batch
    gym.make("kd_env/KnowledgeSelection-v0", **whole, **FEW_ROWS).close()


def test_activations_that_are_computed_again_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a term reads what lies within a block, and with dropout."""
    calls: list[bool] = []
    as_at_first = recomputing._as_at_first

    def counted(before: Any, *, again: bool) -> Any:
        calls.append(again)
        return as_at_first(before, again=again)

    monkeypatch.setattr(recomputing, "_as_at_first", counted)
    options = {
        **SMALL,
        "terms": ["attention", "hidden_states"],
        "student": {"dropout": 0.1, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    losses = []
    for again in (False, True):
        env = gym.make("kd_env/KnowledgeSelection-v0", activation_checkpointing=again, **options)
        env.reset(seed=1)
        losses.append([env.step(np.ones(2, np.int8))[4]["raw_losses"] for _ in range(4)])
        assert bool(calls) == again
    np.testing.assert_array_equal(*losses)
    assert calls.count(True) == calls.count(False) == 4 * 2  # every block of every update twice
    with pytest.raises(ValueError, match="activation_checkpointing=True needs single environments"):
        gym.make_vec("kd_env/KnowledgeSelection-v0", num_envs=2, activation_checkpointing=True)


def test_a_state_goes_on_in_other_parts(tmp_path: Path) -> None:
    env = gym.make("kd_env/KnowledgeSelection-v0", **SMALL)
    env.reset(seed=1)
    env.unwrapped.save_state(tmp_path / "state")  # type: ignore[attr-defined]
    other = gym.make("kd_env/KnowledgeSelection-v0", micro_batch_size=4, **SMALL)
    other.reset(seed=2)
    other.unwrapped.load_state(tmp_path / "state")  # type: ignore[attr-defined]
    action = np.ones(4, np.int8)
    assert env.step(action)[1] == pytest.approx(other.step(action)[1], abs=1e-6)


def test_ranks_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_rank_has(everyone: torch.Tensor) -> None:
        everyone[1] = 7

    monkeypatch.setattr("torch.distributed.all_reduce", other_rank_has)
    with pytest.raises(RuntimeError, match=r"Rank 0 of 2 has other actions than rank 1.*agent_device=cpu"):
        Ranks(2, 0).check_same("actions", b"left")
