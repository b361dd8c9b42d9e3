"""Teacher outputs: ragged storage, the disk cache, and where a teacher comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_env import DistillEnv, build_problem
from kd_env.core.types import Signal
from kd_env.data.tables import Table, tokenize
from kd_env.data.tasks import Rows
from kd_env.decisions.options import env_config
from kd_env.teachers.outputs import teacher_outputs
from kd_env.teachers.provenance import provenance
from kd_env.teachers.sources import CachedTeacher, OnlineTeacher

SIGNALS = [
    Signal("logits"),
    Signal("cls", 1),
    Signal("hidden_states", 0),
    Signal("hidden_states", 2),
    Signal("attention_scores", 1),
    Signal("queries", 2),
    Signal("values", 1),
]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_padded_reading_equals_a_forward_pass(tiny_problem: Any, tmp_path: Path, where: str) -> None:
    """Every kind of signal, at real tokens; zeros elsewhere."""
    problem = tiny_problem
    encoder, table = problem.reference.encoder, problem.train
    cache_dir = None if where == "memory" else str(tmp_path)
    outputs = teacher_outputs(encoder, table, SIGNALS, dtype="float64", rows_at_once=7, cache_dir=cache_dir)
    cached = CachedTeacher(encoder.facts, outputs, table, torch.float64)
    rows = np.array([[3, 9, 27], [1, 2, 0]])
    batch = table.gather(rows)
    read = cached.signals(rows, batch, None)
    for replica in range(2):
        one = table.gather(rows[replica])
        width = one.input_ids.shape[1]
        with torch.no_grad():
            expected = encoder.forward({}, one, SIGNALS)
        mask = one.attention_mask
        torch.testing.assert_close(read.logits[replica], expected.logits)
        torch.testing.assert_close(read.cls[1][replica], expected.cls[1])
        for layer in (0, 2):
            mine, theirs = read.hidden_states[layer][replica, :, :width], expected.hidden_states[layer]
            torch.testing.assert_close(mine[mask], theirs[mask])
            assert (mine[~mask] == 0).all()
        pair = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(expected.attention_scores[1])
        mine = read.attention_scores[1][replica, ..., :width, :width]
        torch.testing.assert_close(mine[pair], expected.attention_scores[1][pair])
        assert (mine[~pair] == 0).all()
        for name, layer in (("queries", 2), ("values", 1)):
            head_mask = mask[:, None, :].expand(-1, 2, -1)
            mine = getattr(read, name)[layer][replica, :, :, :width][head_mask]
            torch.testing.assert_close(mine, getattr(expected, name)[layer][head_mask])


@pytest.mark.parametrize("shape", [(16,), (1, 16), (5, 8)])
def test_disk_and_memory_read_the_same_bits(tiny_problem: Any, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Half precision on disk and in memory, one replica or several, more rows than pages are kept for at once."""
    problem = tiny_problem
    encoder, table = problem.reference.encoder, problem.train
    rows = np.random.default_rng(0).integers(len(table), size=shape)
    batch = table.gather(rows)
    read = []
    for cache_dir in (None, str(tmp_path)):
        outputs = teacher_outputs(encoder, table, SIGNALS, dtype="float16", cache_dir=cache_dir)
        read.append(CachedTeacher(encoder.facts, outputs, table, torch.float32).signals(rows, batch, None))
    held, mapped = read
    assert torch.equal(held.logits, mapped.logits)
    for signal in SIGNALS[1:]:
        first, second = (getattr(output, signal.kind)[signal.layer] for output in read)
        assert first.dtype == torch.float32
        assert torch.equal(first, second), signal
        assert first.abs().sum() > 0


def foreign_table(problem: Any) -> Table:
    """The train rows as another tokenizer might read them: each word twice."""
    texts = problem.assets.tokenizer.batch_decode(problem.train.input_ids, skip_special_tokens=True)
    doubled = [" ".join(word for word in text.split() for _ in range(2)) for text in texts]
    rows = Rows(doubled, None, problem.train.labels)
    return tokenize(rows, problem.assets.tokenizer, 30, problem.device, problem.dtype)


@pytest.mark.parametrize("where", ["online", "memory", "disk"])
def test_a_teacher_with_tokens_of_its_own(tiny_problem: Any, tmp_path: Path, where: str) -> None:
    """Logits and [CLS] are of the row as the teacher reads it, whatever the student's batch holds."""
    problem = tiny_problem
    encoder, table, wanted = problem.reference.encoder, foreign_table(problem), [Signal("cls", 2)]
    assert (table.lengths > problem.train.lengths).all()
    source: Any
    if where == "online":
        source = OnlineTeacher(encoder, wanted, "fp64", table)
    else:
        cache_dir = None if where == "memory" else str(tmp_path)
        outputs = teacher_outputs(encoder, table, wanted, dtype="float64", cache_dir=cache_dir)
        source = CachedTeacher(encoder.facts, outputs, table, torch.float64)
    for rows in (np.array([[3, 9, 27], [1, 2, 0]]), np.array([[4, 5, 6], [0, 2, 1]])):
        read = source.signals(rows, problem.train.gather(rows), None)
        with torch.no_grad():
            expected = [encoder.forward({}, table.gather(part), wanted) for part in rows]
        torch.testing.assert_close(read.logits, torch.stack([part.logits for part in expected]))
        torch.testing.assert_close(read.cls[2], torch.stack([part.cls[2] for part in expected]))
        assert source.signals(rows, problem.train.gather(rows), None) is read, "one batch is read once"
    with pytest.raises(ValueError, match=r"cannot give hidden_states of layer 1: .*not the student's"):
        OnlineTeacher(encoder, [*wanted, Signal("hidden_states", 1)], "fp64", table)


def test_disk_cache_is_reused_and_gives_the_same_run(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second construction runs no teacher on train rows; the trajectory is that of the memory cache."""
    options = {**tiny, "cache_dir": str(tmp_path)}
    traces = []
    for round_ in range(3):
        if round_ == 2:
            monkeypatch.setattr("kd_env.teachers.outputs._fill", lambda *_: pytest.fail("the teacher ran again"))
        env = DistillEnv(**(tiny if round_ == 0 else options))
        env.reset(seed=0)
        traces.append([env.step(np.ones(3, np.int8))[1] for _ in range(4)])
    assert traces[0] == traces[1] == traces[2]
    assert all(path.is_dir() and not path.suffix for path in tmp_path.iterdir()), "finished folders alone remain"


def test_stale_or_damaged_caches_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Other content under the key, a file cut short: the folder and the remedy are named."""
    options = env_config(**{**tiny, "cache_dir": str(tmp_path)})
    build_problem(options)
    folder = max(tmp_path.iterdir(), key=lambda path: sum(f.stat().st_size for f in path.iterdir()))
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "rows": "another"}))
    with pytest.raises(ValueError, match=r"is of other content: rows .* Delete"):
        build_problem(options)
    (folder / "meta.json").write_text(json.dumps(meta))
    data = (folder / "logits.npy").read_bytes()
    (folder / "logits.npy").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut short"):
        build_problem(options)
    (folder / "logits.npy").write_bytes(data[:-8] + bytes(8))
    with pytest.raises(ValueError, match="other content"):
        build_problem(options)
    (folder / "logits.npy").write_bytes(data)
    build_problem(options)


def test_other_weights_get_another_cache(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The key is the content, not the path."""
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "teacher"
    shutil.copytree(tiny["teacher"], copy)
    options = {**tiny, "teacher": str(copy), "cache_dir": str(tmp_path / "cache")}
    first = build_problem(env_config(**options)).reference.train_logits
    weights = load_file(copy / "model.safetensors")
    weights["classifier.bias"] += 1.0
    weights["classifier.bias"][0] += 1.0
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    second = build_problem(env_config(**options)).reference.train_logits
    np.testing.assert_allclose(second - first, [[2.0, 1.0]] * len(first), atol=1e-5)


def test_float16_cache_is_close(tiny: dict[str, Any]) -> None:
    """Half the memory, rounding only."""
    exact, rounded = (build_problem(env_config(**tiny, cache_dtype=dtype)) for dtype in ("float32", "float16"))
    rows = np.arange(8)
    batch = exact.train.gather(rows)
    first, second = (each.reference.source.signals(rows, batch, None) for each in (exact, rounded))
    torch.testing.assert_close(first.hidden_states[2], second.hidden_states[2], rtol=2e-3, atol=2e-3)
    assert not torch.equal(first.hidden_states[2], second.hidden_states[2])


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, "unknown"),
        ({"trained_on": "train", "fingerprint": "other", "task": "custom"}, "unknown"),
        ({"trained_on": "train", "fingerprint": "{fingerprint}", "task": "custom"}, "no"),
        ({"trained_on": "train+feedback", "fingerprint": "{fingerprint}", "task": "custom"}, None),
        ({"trained_on": "rows apart from every split", "task": "custom"}, "no"),
        ({"trained_on": "rows apart from every split", "task": "toy"}, "unknown"),
    ],
)
def test_provenance(record: dict[str, str] | None, expected: str | None, tiny: dict[str, Any], tmp_path: Path) -> None:
    """A foreign teacher is marked, one of this split is trusted, one that saw feedback is refused."""
    copy = tmp_path / "teacher"
    shutil.copytree(tiny["teacher"], copy)
    options = env_config(**{**tiny, "teacher": str(copy)})
    if record is not None:
        fingerprint = build_problem(options).fingerprint
        filled = {key: value.format(fingerprint=fingerprint) for key, value in record.items()}
        (copy / "kd_env_teacher.json").write_text(json.dumps(filled))
    if expected is None:
        with pytest.raises(ValueError, match="saw feedback rows"):
            build_problem(options)
    else:
        assert build_problem(options).reference.saw_feedback == expected


def test_a_teacher_of_other_rows_is_told(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A data file that lost its second half since the fine-tuning is no reason to refuse, and none to be silent."""
    for name in ("data", "teacher"):
        shutil.copytree(Path(tiny["data_dir"]).with_name(name), tmp_path / name)
    options = {**tiny, "teacher": str(tmp_path / "teacher"), "data_dir": str(tmp_path / "data")}
    record = {"trained_on": "train", "task": "custom", "fingerprint": "other"}
    record["content_hash"] = build_problem(env_config(**options)).splits.content_hash
    (tmp_path / "teacher" / "kd_env_teacher.json").write_text(json.dumps(record))
    build_problem(env_config(**options))
    lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines[:120]))
    with pytest.warns(UserWarning, match=rf"other rows of task 'custom'.*then {record['content_hash']}.*has changed"):
        build_problem(env_config(**options))


OWN = {"trained_on": "train", "fingerprint": "here"}
APART = {"trained_on": "rows apart from every split", "task": "toy"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "no"),
        (OWN, "no"),
        (APART, "no"),
        ({**OWN, "source": APART}, "no"),
        ({"trained_on": "unknown"}, "unknown"),
        ("something", "unknown"),
        ({**OWN, "fingerprint": "other"}, "unknown"),
        ({**APART, "task": "toy_pair"}, "unknown"),
        ({**OWN, "source": {"trained_on": "unknown"}}, "unknown"),
        ({**OWN, "trained_on": "train+feedback"}, None),
        ({"trained_on": "unknown", "source": {**OWN, "trained_on": "everything"}}, None),
    ],
)
def test_provenance_reaches_back_to_what_a_teacher_was_made_from(
    source: Any, expected: str | None, tmp_path: Path
) -> None:
    """Fine-tuning on train rows does not wash off what the encoder had seen before."""
    (tmp_path / "kd_env_teacher.json").write_text(json.dumps({**OWN, "task": "toy", "source": source}))
    if expected is None:
        with pytest.raises(ValueError, match="saw feedback rows"):
            provenance(str(tmp_path), "toy", "here")
    else:
        assert provenance(str(tmp_path), "toy", "here") == expected
