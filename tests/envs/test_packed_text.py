"""Students that learn packed text, of every decision, and the state in the middle of an epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_env import DistillEnv, DistillVectorEnv, build_problem
from kd_env.data.forms import normalize
from kd_env.data.shards import table as table_module
from kd_env.data.shards.table import PackedTable
from kd_env.decisions.options import env_config
from kd_env.envs.workers import make_vector
from kd_env.evaluation.judging.tables import check_texts, judged_tables, selection_table
from kd_env.mdp.observations.rows import visits
from kd_env.testing import tiny_text

DECISIONS = ("tutor_token", "knowledge_selection", "sample_weighting", "teacher_weighting")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of a tiny packed text."""
    folder = tmp_path_factory.mktemp("packed")
    options = tiny_text(folder, rows=900)
    return {**options, "objective": "text", "packing": True, "cache_dir": str(folder / "cache"), "max_length": 16} | {
        "updates_per_step": 1
    }


def options_of(decision: str, packed: dict[str, Any]) -> dict[str, Any]:
    options = {**packed, "decision": decision}
    if decision != "tutor_token":
        del options["num_candidates"]
    if decision == "teacher_weighting":
        folder = options.pop("teacher")
        options["teachers"] = [{"name": "a", "path": folder}, {"name": "b", "path": folder}]
    return options


@pytest.fixture(scope="module")
def problems(packed: dict[str, Any]) -> dict[str, Any]:
    return {name: build_problem(env_config(**options_of(name, packed))) for name in DECISIONS}


@pytest.mark.parametrize("decision", DECISIONS)
def test_states_are_restored_in_the_middle_of_an_epoch(decision: str, problems: dict[str, Any], tmp_path: Path) -> None:
    problem = problems[decision]
    for make in (lambda: DistillEnv(problem=problem), lambda: DistillVectorEnv(2, problem=problem)):
        env, twin = make(), make()
        env.reset(seed=3)
        env.action_space.seed(0)
        env.step(env.action_space.sample())
        env.save_state(tmp_path / "state")
        twin.load_state(tmp_path / "state")
        assert list(twin.run.started().streams) == list(env.run.started().streams)
        actions = [env.action_space.sample() for _ in range(2)]
        ours, theirs = ([each.step(action) for action in actions] for each in (env, twin))
        assert all(np.array_equal(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))
        assert np.array_equal(env.run.started().next_rows, twin.run.started().next_rows)
        assert all(torch.equal(p, twin.run.started().params[name]) for name, p in env.run.started().params.items())
    size = sum(path.stat().st_size for path in (tmp_path / "state").iterdir() if path.suffix == ".json")
    assert size < 100_000


def test_rows_are_read_from_the_shards(problems: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problems["knowledge_selection"]
    table, reader, tokenizer = problem.train, problem.reader, problem.assets.tokenizer
    assert isinstance(table, PackedTable) and len(table) > 300
    assert table.lengths.strides == table.labels.strides == (0,), "no number for each row is kept"
    monkeypatch.setattr(table_module, "_GIVE_BACK", 10)
    everything = reader.ids[np.arange(len(table))]
    rng = np.random.default_rng(0)
    for shape in ((1,), (5,), (2, 3)):
        rows = rng.integers(len(table), size=shape)
        assert np.array_equal(reader.ids[rows], everything[rows])
        batch = table.gather(rows)
        assert np.array_equal(batch.input_ids.numpy(), everything[rows]) and batch.labels.shape == shape
        assert batch.attention_mask.all() and not batch.token_type_ids.any()
        special = np.isin(everything[rows], tokenizer.all_special_ids)
        assert np.array_equal(reader.ordinary[rows], ~special)
    assert np.array_equal(reader.ids[3], everything[3])
    assert reader.ids.shape == reader.ordinary.shape == everything.shape
    assert (everything[:, 0] == tokenizer.cls_token_id).all() and (everything[:, -1] == tokenizer.sep_token_id).all()
    for wrong in (-1, len(table)):
        with pytest.raises(IndexError, match="must lie in"):
            reader.ids[np.array([wrong])]


def test_fewer_rows_are_a_random_subset(problems: dict[str, Any], packed: dict[str, Any]) -> None:
    everything = problems["knowledge_selection"].reader.ids[np.arange(300)]
    tables = []
    for most in (40, 80):
        config = env_config(**{**options_of("knowledge_selection", packed), "max_train_rows": most, "epochs": 2.0})
        problem = build_problem(config)
        assert len(problem.train) == most and problem.config.budget == 2 * most // 4
        tables.append(problem.reader.ids[np.arange(most)])
    assert np.array_equal(tables[0], tables[1][:40]) and not np.array_equal(tables[0], everything[:40])
    assert len(np.unique(tables[1], axis=0)) == 80


def test_rows_with_too_few_ordinary_tokens_are_left_out(packed: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, word in (("b", "w{}"), ("a", "x{}")):
        (tmp_path / "text").mkdir(exist_ok=True)
        lines = [" ".join(word.format(number) for number in rng.integers(40, size=30)) for _ in range(100)]
        (tmp_path / "text" / f"{name}.txt").write_text("\n".join(lines))
    options = {**options_of("knowledge_selection", packed), "text": str(tmp_path / "text"), "slots": 9}
    with pytest.warns(UserWarning, match=r"reads about 100% of the words of these rows as \[UNK\]"):
        problem = build_problem(env_config(**options))
    assert problem.reader.left_out > 40 and (problem.reader.ordinary[np.arange(len(problem.train))].sum(1) >= 9).all()
    assert problem.summary()["left_out"] == problem.reader.left_out
    with pytest.raises(ValueError, match=r"slots=15 is more than the 14 tokens of text in a packed row"):
        build_problem(env_config(**{**options, "slots": 15}))


def test_visits_are_those_that_were(problems: dict[str, Any]) -> None:
    problem = problems["sample_weighting"]
    env = DistillVectorEnv(2, problem=problem)
    env.reset(seed=0)
    state = env.run.started()
    seen = np.zeros((2, len(problem.train)), dtype=int)
    for _ in range(len(problem.train) // 2):
        view: Any = type("View", (), {"problem": problem, "state": state, "rows": state.next_rows[:, 0]})
        found = visits(view)
        for place, rows in enumerate(state.next_rows):
            assert np.array_equal(found[place], seen[place][rows[0]])
            np.add.at(seen[place], rows.ravel(), 1)
        drawn = [problem.buckets.draw(stream, state.next_rows.shape[1]) for stream in state.streams]
        streams = state.streams.copy()
        streams[:] = [stream for _, stream in drawn]
        state = state._replace(streams=streams, next_rows=np.stack([rows for rows, _ in drawn]))
    assert seen.max() >= 2


def test_judged_rows_share_no_text_with_others(problems: dict[str, Any], packed: dict[str, Any]) -> None:
    problem = problems["tutor_token"]
    judged = judged_tables(problem, 30)
    sizes = {name: len(table) for name, table in judged.tables.items()}
    assert judged.dev_splits == ("dev",) and sizes == {"selection": 24, "dev": 30}
    own = selection_table(problem).tables["selection"]
    assert torch.equal(own.input_ids, judged.tables["selection"].input_ids)
    texts = {normalize(line) for line in (Path(packed["text"]) / "lines.txt").read_text().splitlines()}
    tokenizer = problem.assets.tokenizer
    train = problem.reader.ids[np.arange(len(problem.train))]
    pieces = {piece.strip() for row in train for piece in tokenizer.decode(row[1:-1]).split("[SEP]")[1:-1]}
    pieces.discard("")
    assert pieces and pieces <= texts, "whole texts stand between separators"
    check_texts(problem.config)


def test_worker_processes_equal_stacked_replicas(packed: dict[str, Any]) -> None:
    config = env_config(**options_of("knowledge_selection", packed))
    problem = build_problem(config)
    stacked, workers = (make_vector(config, 1, kind, problem) for kind in ("stacked", "processes"))
    try:
        stacked.reset(seed=[0])
        workers.reset(seed=[0])
        stacked.action_space.seed(0)
        for _ in range(2):
            action = stacked.action_space.sample()
            ours, theirs = stacked.step(action), workers.step(action)
            assert np.allclose(ours[1], theirs[1], atol=1e-5) and np.allclose(ours[0], theirs[0], atol=1e-4)
    finally:
        stacked.close()
        workers.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_dir": None}, "packing=True keeps packed texts on the disk; give cache_dir=<folder>"),
        ({"objective": "labels", "decision": "knowledge_selection"}, "packing=True is for masked text"),
        ({"packing": "yes"}, "packing='yes' must be true or false"),
        ({"packing": False}, "cache_dir="),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, Any], message: str, packed: dict[str, Any]) -> None:
    given = {"objective": "text", "decision": "tutor_token", "packing": True, "cache_dir": packed["cache_dir"]}
    with pytest.raises(ValueError, match=message):
        env_config(**{**given, **options})


def test_models_that_cannot_read_the_rows_are_refused_before_any_work(packed: dict[str, Any], tmp_path: Path) -> None:
    options = {**options_of("knowledge_selection", packed), "max_length": 40, "cache_dir": str(tmp_path)}
    with pytest.raises(ValueError, match=r"has 40 tokens, .* only 32 positions; set max_length"):
        build_problem(env_config(**options))
    assert not [path for path in tmp_path.glob("corpora/*") if path.name != "sources"]
    with pytest.raises(ValueError, match="fewer than batch_size=5000; lower batch_size"):
        build_problem(env_config(**{**options_of("knowledge_selection", packed), "batch_size": 5000}))


def test_a_dev_split_of_its_own_is_judged_without_texts_of_others(
    packed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    lines = (Path(packed["text"]) / "lines.txt").read_text().splitlines()
    for name, part in (("train", lines[:600]), ("validation", lines[300:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"body": line}) + "\n" for line in part))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    make = datasets.load_dataset_builder
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda path, name: make("json", data_files=files, cache_dir=str(tmp_path))
    )
    given = {"text": "org/data", "column": "body", "cache_dir": str(tmp_path / "cache")}
    problem = build_problem(env_config(**{**options_of("knowledge_selection", packed), **given}))
    judged = judged_tables(problem)
    tokenizer = problem.assets.tokenizer
    [corpus] = [path for path in (tmp_path / "cache" / "corpora").iterdir() if (path / "plan.json").is_file()]
    [kept] = corpus.glob("dev-*.json")
    assert len(json.loads(kept.read_text())["texts"]) == len(lines) - 300
    tokens = sum(len(tokenizer(line, add_special_tokens=False)["input_ids"]) + 1 for line in lines[600:])
    assert len(judged.tables["dev"]) == tokens // 14, "those that stand in train as well are left out"
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a: (_ for _ in ()).throw(ConnectionError("none")))
    again = judged_tables(problem)
    for name, table in judged.tables.items():
        assert torch.equal(again.tables[name].input_ids, table.input_ids), "what was streamed is kept"
