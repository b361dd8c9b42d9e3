"""Corpora in shards: the same bytes however they are made, whole or named, and split by content."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from kd_env.core import processes
from kd_env.data.corpora import task_texts
from kd_env.data.forms import normalize
from kd_env.data.shards import packing, segments, sources
from kd_env.data.shards.corpus import Corpus, Request, look, shares_of
from kd_env.data.shards.held import held_rows
from kd_env.data.shards.making import MANIFEST, open_corpus
from kd_env.data.shards.packing import Packer, content_hashes, packing_of, splits_of
from kd_env.data.shards.segments import Segment, texts_of
from kd_env.data.shards.work import entry_path, main, shard_path, write_plan
from kd_env.data.tasks import EMBEDDED
from kd_env.data.text import token_facts
from kd_env.data.toy import masked_lm_folder
from kd_env.models.pretrained import load_tokenizer
from kd_env.testing import WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
FACTS = token_facts(TOKENIZER, "tiny")
HELD = ("feedback", "selection", "dev")


def lines(count: int, seed: int = 0, longest: int = 30) -> list[str]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(WORDS), size=(count, longest))
    lengths = rng.integers(1, longest + 1, size=count)
    return [
        " ".join(WORDS[word] for word in row[:length])
        for row, length in zip(drawn.tolist(), lengths.tolist(), strict=True)
    ]


def corpus(folder: Path, cache: Path, *, workers: int = 1, **options: Any) -> Corpus:
    request = Request(str(folder), max_length=options.pop("max_length", 16), **options)
    return open_corpus(look(request, TOKENIZER, FACTS, cache), cache, workers=workers)


def contents(found: Corpus) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found.folder.glob("*.npy")}


def train_rows(found: Corpus) -> np.ndarray:
    return np.concatenate([np.load(shard_path(found.folder, part, "train")) for part in range(len(found.parts))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one in a folder below, of 2000 lines, with blank ones between."""
    texts = lines(2000)
    (tmp_path / "text" / "below").mkdir(parents=True)
    (tmp_path / "text" / "a.txt").write_text("\n\n".join(texts[:1200]) + "\n   \n", encoding="utf-8")
    (tmp_path / "text" / "below" / "b.txt").write_text("\r\n".join(texts[1200:]), encoding="utf-8-sig")
    return tmp_path / "text"


def test_rows_are_those_of_a_plain_loop(folder: Path, tmp_path: Path) -> None:
    found = corpus(folder, tmp_path / "cache")
    shares, separator = found.plan.packing.shares, TOKENIZER.sep_token_id
    streams: dict[str, list[int]] = {name: [] for name in ("train", *HELD)}
    for text in lines(2000):
        place = int(splits_of(content_hashes([text]), shares)[0])
        streams[("train", *HELD)[place]] += [*TOKENIZER(text, add_special_tokens=False)["input_ids"], separator]
    rows = [
        [TOKENIZER.cls_token_id, *streams["train"][begin : begin + 14], separator]
        for begin in range(0, len(streams["train"]) - 13, 14)
    ]
    special = set(TOKENIZER.all_special_ids)
    ordinary = [sum(token not in special for token in row) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: -ordinary[place])
    assert train_rows(found).tolist() == [rows[place] for place in order]
    assert train_rows(found).dtype == np.uint16 and found.parts[0]["left_out"] == len(streams["train"]) % 14
    assert dict(map(tuple, found.parts[0]["ordinary"])) == {n: ordinary.count(n) for n in set(ordinary)}
    for name in HELD:
        assert found.held(name).tolist() == streams[name] and 500 < len(streams[name]) < 6000
    assert held_rows(found, "feedback", 40).shape == (40, 16)
    assert np.array_equal(held_rows(found, "feedback", 10), held_rows(found, "feedback", 40)[:10])
    with pytest.raises(ValueError, match=r"selection_rows=9999 rows .* are more than the \d+ that 10.00% of"):
        held_rows(found, "selection", 9999)


def test_long_texts_and_halves_of_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(lines(30, longest=9))
    packer = Packer(packing_of(TOKENIZER, FACTS, 16, packing.Shares(0.0, 0.0, 0.0, 0)))
    splits = np.zeros(3, dtype=int)
    whole = packer.streams(["w1", text, "w2"], splits)[0]
    monkeypatch.setattr(packing, "LONGEST", 50)
    assert np.array_equal(packer.streams(["w1", text, "w2"], splits)[0], whole)
    halves = packer.streams(["w3", "a \ud800 b", ""], splits)[0].tolist()
    assert halves[0] == TOKENIZER("w3", add_special_tokens=False)["input_ids"][0] and len(halves) == 6
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.jsonl").write_text("".join(f'{{"text": "\\ud800 w1 {number}"}}\n' for number in range(50)))
    assert len(train_rows(corpus(tmp_path / "a", tmp_path / "cache")))


def test_all_formats_give_the_same_tokens(folder: Path, tmp_path: Path) -> None:
    texts = lines(2000)
    rows = pa.table({"id": list(range(2000)), "text": texts})

    def stream(path: Path) -> None:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
            writer.write_table(rows, max_chunksize=300)

    objects = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts)
    writers: dict[str, Callable[[Path], Any]] = {
        "a.jsonl": lambda path: path.write_text(objects),
        "b.jsonl": lambda path: path.write_text(objects, encoding="utf-16"),
        "c.txt": lambda path: path.write_text("\r".join(texts), encoding="utf-16"),
        "d.parquet": lambda path: parquet.write_table(rows, path, row_group_size=300),
        "e.arrow": stream,
        "f.feather": lambda path: feather.write_feather(rows, str(path), chunksize=300),
    }
    expected = contents(corpus(folder, tmp_path / "cache"))
    for name, write in writers.items():
        place = tmp_path / name.replace(".", "-")
        place.mkdir()
        write(place / name)
        assert contents(corpus(place, tmp_path / "cache")) == expected, name


@pytest.mark.parametrize("least", [700, 5000])
def test_pieces_of_files_hold_every_text_once(
    least: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", least)
    monkeypatch.setattr(segments, "BLOCK", 512)
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines(300, 1)))
    parquet.write_table(pa.table({"text": lines(300, 2)}), folder / "d.parquet", row_group_size=7)
    feather.write_feather(pa.table({"text": lines(300, 3)}), str(folder / "e.feather"), chunksize=7)
    parts = look(Request(str(folder), max_length=16), TOKENIZER, FACTS, tmp_path).plan.parts
    assert len(parts) > 20
    found = [text for part in parts for segment in part for batch in texts_of(segment, "text") for text in batch]
    expected = [*lines(2000), *lines(300, 1), *lines(300, 2), *lines(300, 3)]
    assert sorted(text for text in found if text.strip()) == sorted(expected)


def test_lines_belong_where_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("ab\n\nc\nlonger\u00e9 line\n\nend", encoding="utf-8")
    size = path.stat().st_size
    for cut in range(1, size):
        found = [
            text
            for begin, end in pairwise((0, cut, size))
            for batch in texts_of(Segment("lines", str(path), begin, end, 1), "")
            for text in batch
            if text
        ]
        assert found == ["ab", "c", "longer\u00e9 line", "end"], cut


def test_a_killed_build_goes_on_and_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 40_000)
    place = tmp_path / "text"
    place.mkdir()
    (place / "a.txt").write_text("\n".join(lines(12_000)))
    outlook = look(Request(str(place), max_length=16), TOKENIZER, FACTS, tmp_path / "one")
    begun = tmp_path / "one" / "corpora" / outlook.identity[:16]
    begun.mkdir(parents=True)
    write_plan(begun, outlook.plan)
    process = processes.start(["kd_env.data.shards.work", str(begun)])
    with process:
        while process.poll() is None and not entry_path(begun, 0).is_file():
            time.sleep(0.005)
        process.kill()
    made = [path.name for path in begun.glob("part-*.json")]
    assert 0 < len(made) < len(outlook.plan.parts), "it was killed in the middle"
    written = shard_path(begun, 0, "train").stat()
    (begun / ".part-00001.npy-x.tmp").write_bytes(b"begun")
    found = open_corpus(outlook, tmp_path / "one", workers=2)
    assert shard_path(begun, 0, "train").stat().st_mtime_ns == written.st_mtime_ns, "what was done is kept"
    other = corpus(place, tmp_path / "two")
    assert contents(found) == contents(other) and found.parts == other.parts
    left = {path.name for path in begun.iterdir()} - set(contents(found))
    assert left == {MANIFEST, "plan.json"}


def test_faults_in_other_processes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 1000)
    monkeypatch.setattr(sources, "SAMPLE", 1000)
    for module in (segments, sources):
        monkeypatch.setattr(module, "BLOCK", 1000)
    place = tmp_path / "text"
    place.mkdir()
    (place / "a.jsonl").write_text('{"text": "w1 w2 w3"}\n' * 500 + '{"text": 7}\n')
    outlook = look(Request(str(place), max_length=16), TOKENIZER, FACTS, tmp_path)
    write_plan(tmp_path, outlook.plan)
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert re.match(r"fault: .*a.jsonl, near byte \d+: the column 'text' holds '7' \(int\)", said)
    ends = {
        f"print({said!r}); raise SystemExit(1)": (ValueError, r"^/.*a.jsonl, near byte"),
        "import os; os.kill(os.getpid(), 9)": (ChildProcessError, "ended from outside .* run the same again to go on"),
        "raise RuntimeError('what else')": (RuntimeError, "(?s)A process that packed texts failed:.*what else"),
    }
    for code, (kind, message) in ends.items():

        def start(words: Any, code: str = code, environment: Any = None, **options: Any) -> Any:
            return subprocess.Popen([sys.executable, "-c", code], **options)

        monkeypatch.setattr(processes, "start", start)
        with pytest.raises(kind, match=message):
            open_corpus(outlook, tmp_path / "cache", workers=2)


def test_damaged_shards_are_named_and_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 20_000)
    cache = tmp_path / "cache"
    found = corpus(folder, cache)
    before = contents(found)
    assert len(found.parts) > 3

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    faults: list[tuple[Path, Callable[[Path], None], str]] = [
        (shard_path(found.folder, 1, "train"), flip, "other content"),
        (shard_path(found.folder, 2, "selection"), lambda path: path.write_bytes(path.read_bytes()[:99]), "99 bytes"),
        (shard_path(found.folder, 0, "dev"), Path.unlink, "missing"),
    ]
    for path, damage, fault in faults:
        damage(path)
        with caplog.at_level(logging.WARNING):
            assert contents(corpus(folder, cache)) == before
        assert path.name in caplog.text and fault in caplog.text
        caplog.clear()
    (found.folder / MANIFEST).write_text("{")
    with caplog.at_level(logging.WARNING):
        assert contents(corpus(folder, cache)) == before
    assert MANIFEST in caplog.text


def test_what_cannot_be_made_again_is_refused(folder: Path, tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", folder / "a.txt"
    os.utime(path, (time.time() - 60,) * 2)
    stat = path.stat()
    found = corpus(folder, cache)
    path.write_text(path.read_text().replace("w1 ", "w2 "))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a change that nobody can see without reading all of it
    assert corpus(folder, cache).identity == found.identity
    shard_path(found.folder, 0, "train").unlink()
    with pytest.raises(ValueError, match=r"its source no longer gives what it gave; delete the folder"):
        corpus(folder, cache)
    os.utime(path)
    assert corpus(folder, cache).identity != found.identity
    shutil.rmtree(found.folder)
    other = corpus(folder, tmp_path / "cache", max_length=20)
    assert other.identity != found.identity and train_rows(other).shape[1] == 20


def test_no_content_is_in_two_splits(tmp_path: Path) -> None:
    texts = [f"W{a} w{b}  w{c}" for a in range(0, 40, 3) for b in range(20) for c in range(9)]
    place = tmp_path / "text"
    place.mkdir()
    (place / "a.txt").write_text("\n".join([*texts, *(text.upper().replace("  ", " ") for text in texts)]))
    shares = look(Request(str(place), max_length=16), TOKENIZER, FACTS, tmp_path).plan.packing.shares
    everything = [*texts, *(text.upper() for text in texts)]
    splits = splits_of(content_hashes(everything), shares)
    forms = np.array([normalize(text) for text in everything])
    held = [set(forms[splits == number].tolist()) for number in range(4)]
    assert sum(map(len, held)) == len(set().union(*held)) == len(texts)
    assert all(0.06 < len(part) / len(texts) < 0.14 for part in held[1:])
    other = splits_of(content_hashes(everything), shares._replace(seed=1))
    assert np.array_equal(other == 3, splits == 3) and not np.array_equal(other == 1, splits == 1)


def test_shares_fill_the_rows_of_large_corpora(tmp_path: Path) -> None:
    place = tmp_path / "text"
    place.mkdir()
    (place / "a.txt").write_text("\n".join(lines(2000)))
    outlook = look(Request(str(place), max_length=16, feedback_rows=600), TOKENIZER, FACTS, tmp_path)
    many = tuple(source._replace(size=10**9) for source in outlook.sources)
    shares = shares_of(Request("", max_length=16, feedback_rows=600), many, dev=True)
    assert shares.feedback == shares.selection == pytest.approx(2 * 1024 * 16 * 6 / 1e9)
    assert shares.dev == pytest.approx(2 * 512 * 16 * 6 / 1e9)


def test_tasks_and_several_sources(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(masked_lm_folder("toy")))
    facts = token_facts(tokenizer, "toy")
    request = Request(("toy", str(folder)), max_length=32)
    found = open_corpus(look(request, tokenizer, facts, tmp_path), tmp_path)
    assert [source.kind for source in found.sources] == ["task", "folder"] and found.plan.keeps_hashes
    texts = [*task_texts(EMBEDDED["toy"]), *lines(2000)]
    assert sum(part["texts"] for part in found.parts) == len(texts)
    kept = {int(hashed) for hashed in np.load(shard_path(found.folder, 0, "hashes"))}
    hashes = content_hashes(texts)
    assert kept == set(hashes[splits_of(hashes, found.plan.packing.shares) != 3].tolist())
    alone = look(Request("toy", max_length=32), tokenizer, facts, tmp_path)
    assert alone.plan.packing.shares.dev == 0, "it has a dev split of its own"


def test_data_sets_are_streamed_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    files = []
    for number in range(3):
        files.append(str(tmp_path / f"{number}.jsonl"))
        objects = [json.dumps({"body": text}) + "\n" for text in lines(400, number)]
        Path(files[-1]).write_text("".join([*objects, '{"body": null}\n']))
    make = datasets.load_dataset_builder
    splits: dict[str, Any] = {"train": files}
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda path, name: make("json", data_files=splits, cache_dir=str(tmp_path))
    )
    request = Request("org/data:small", column="body", max_length=16)
    found = open_corpus(look(request, TOKENIZER, FACTS, tmp_path), tmp_path, workers=1)
    assert len(found.parts) == 3 and [part["texts"] for part in found.parts] == [400] * 3
    assert found.plan.packing.shares.dev > 0
    with pytest.raises(ValueError, match=r"column of org/data: 'text'. Valid: body"):
        look(Request("org/data"), TOKENIZER, FACTS, tmp_path)
    splits["validation"] = files[:1]
    assert look(request, TOKENIZER, FACTS, tmp_path).plan.packing.shares.dev == 0
    seen = look(request, TOKENIZER, FACTS, tmp_path).identity
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a: (_ for _ in ()).throw(ConnectionError("none")))
    with caplog.at_level(logging.WARNING):
        assert look(request, TOKENIZER, FACTS, tmp_path).identity == seen
    assert "as it was when it was last seen" in caplog.text
    with pytest.raises(ValueError, match=r"'org/data' from the hub: ConnectionError: none"):
        look(Request("org/data"), TOKENIZER, FACTS, tmp_path)


def test_bad_input_is_refused_with_its_remedy(folder: Path, tmp_path: Path) -> None:
    def made(name: str, write: Callable[[Path], Any], file: str) -> str:
        (tmp_path / name).mkdir()
        write(tmp_path / name / file)
        return str(tmp_path / name)

    table = pa.table({"text": [1, 2], "body": ["a", "b"]})
    numbers = made("numbers", lambda path: parquet.write_table(table, path), "a.parquet")
    arrow = made("arrow", lambda path: feather.write_feather(table, str(path)), "a.arrow")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"text": made("other", lambda path: path.write_text("a,b"), "a.csv")}, r"no .txt, .jsonl, .*holds a.csv"),
        ({"text": made("empty", Path.touch, "a.txt")}, "1 files .* are empty"),
        ({"text": made("blank", lambda path: path.write_text("\n \n"), "a.txt")}, "blank texts alone"),
        ({"text": made("latin", lambda path: path.write_bytes(b"caf\xe9\n"), "a.txt")}, "convert it to UTF-8"),
        ({"text": made("json", lambda path: path.write_text("w1\n"), "a.jsonl")}, "is no JSON .*one object a line"),
        ({"text": made("list", lambda path: path.write_text("[1]\n"), "a.jsonl")}, "is no JSON object"),
        ({"text": made("names", lambda path: path.write_text('{"texts": "a"}'), "a.jsonl")}, "Did you mean 'texts'"),
        ({"text": made("broken", lambda path: path.write_text("PAR1"), "a.parquet")}, "cannot be read as parquet"),
        ({"text": made("damaged", lambda path: path.write_text("ARROW"), "a.arrow")}, "cannot be read as Arrow's"),
        ({"text": numbers}, "the column 'text' is of type int64, .*column="),
        ({"text": arrow}, "the column 'text' is of type int64"),
        ({"text": numbers, "column": "bodi"}, "column 'bodi'. Did you mean 'body'"),
        ({"text": str(folder), "column": "text"}, "column='text' is for files and data sets with columns"),
        ({"text": str(folder), "data_dir": "glue"}, "data_dir='glue' is for GLUE tasks"),
        ({"text": str(tmp_path / "absent")}, "no such folder"),
        ({"text": [str(folder)] * 2}, "different ones"),
        ({"text": str(folder), "max_length": 2}, "max_length=2 leaves no room .* at least 3"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            look(Request(**options), TOKENIZER, FACTS, tmp_path / "cache")
    assert look(Request(numbers, column="body"), TOKENIZER, FACTS, tmp_path / "cache").sources[0].sample == ("a", "b")


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK", 64)
    monkeypatch.setattr(segments, "LONGEST_LINE", 1 << 20)
    (tmp_path / "a.txt").write_text("w1 " * (1 << 19))
    with pytest.raises(ValueError, match="a line of more than 1 MiB; write one text a line"):
        list(texts_of(Segment("lines", str(tmp_path / "a.txt"), 0, 3 << 19, 1), ""))
