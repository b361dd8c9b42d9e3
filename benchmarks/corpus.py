"""A corpus of text larger than what is held of it: how fast it is packed, and what training with it keeps in memory.

*Packing*: tokens a second from the first look at the texts to whole shards, over the rate at which the same tokenizer
turns such texts into tokens and does nothing else, in as many processes at once: by its library (``encode_batch_fast``
without special tokens, the ids read out) and by its call (``tokenizer(texts)``). Both are measured before and after,
and their mean counts. Beside the ratios of seconds stand those of processor time, with the start of the processes in
it, which say more where others use the machine, too. *Training*: the peak of resident memory of a process that opens
the corpus, checks it and trains a small student, above that of the same on a corpus of some megabytes, whose memory is
that of the models.

The text is made up: words as frequent as Zipf's law has them, of syllables, most of which the vocabulary knows whole.
"""

from __future__ import annotations

import os
import resource
import string
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import common
from benchmarks.children import answer, in_child
from benchmarks.growth import peak_resident, reset_peak, resident
from kd_env import DistillEnv, build_problem
from kd_env.core import checks
from kd_env.data.shards.corpus import Request, look
from kd_env.data.shards.making import open_corpus
from kd_env.data.text import token_facts
from kd_env.decisions.options import env_config
from kd_env.models.architecture import new_encoder
from kd_env.models.pretrained import load_tokenizer

AIM, MEMORY_AIM = 0.8, 1024.0
REFERENCES = {"library": "over the library's rate", "call": "over the call's rate"}
_BATCH = 1 << 19  # characters that are tokenised at once


@dataclass(frozen=True)
class Options(common.Options):
    """Options of this benchmark."""

    repeats: int = 1
    """Corpora that are packed, each anew; medians are reported."""
    megabytes: int = 2000
    """Size of the text."""
    small: int = 4
    """Size of the text beside which memory is measured; 0 leaves it out."""
    processes: int = 2
    """That pack it."""
    words: int = 40
    """Words of a text (a line) on average."""
    vocab: int = 30522
    """Pieces of the vocabulary."""
    max_length: int = 128
    """Tokens of a row."""
    updates: int = 300
    """Updates of the student."""
    batch: int = 8
    """Rows of a batch."""
    hidden: int = 64
    """Width of the student, which has one layer."""
    teacher_layers: int = 2
    """Layers of the random teacher."""
    teacher_hidden: int = 128
    """Width of the random teacher."""
    sample: int = 24
    """Megabytes of the text by which the tokenizer's own rate is measured."""
    after: bool = True
    """Whether that is measured once more when the text is packed."""

    RANGES: ClassVar[dict[str, checks.Check]] = {
        "megabytes": checks.whole(1),
        "small": checks.whole(0),
        "processes": checks.whole(1),
        "words": checks.whole(2),
        "vocab": checks.whole(200),
        "max_length": checks.whole(8),
        "updates": checks.whole(1),
        "batch": checks.whole(1),
        "hidden": checks.whole(8),
        "teacher_layers": checks.whole(1),
        "teacher_hidden": checks.whole(8),
        "sample": checks.whole(1),
        "after": checks.boolean,
    }


def run(options: Options) -> common.Result:
    """Make the texts, pack them, and train with both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", options)
        sizes = (*([options.small] if options.small else []), options.megabytes)
        rows = []
        for size in sizes:
            common.progress(f"corpus: {size} MB")
            text = folder / f"text{len(rows)}"
            write_text(text, options, size, seed=len(rows))
            rows.append(_measured(options, folder, text, size, timed=size == options.megabytes))
        for row in rows:
            row["above_mib"] = row["peak_mib"] - rows[0]["peak_mib"]
    return {"rows": rows, "facts": common.facts(options)}


def _measured(options: Options, folder: Path, text: Path, size: int, timed: bool) -> dict[str, Any]:
    """One text: packed several times, and trained with once; ``timed``: beside the tokenizer alone."""
    asked = {"folder": str(folder), "text": str(text)}
    own, found = [], []
    for number in range(options.repeats if timed else 1):
        cache = str(folder / f"cache-{text.name}-{number}")
        own += [_own_rates(options, asked)] if timed else []
        found.append(in_child("corpus", options, job="build", cache=cache, **asked))
    own += [_own_rates(options, asked)] if timed and options.after else []
    medians = {name: float(np.median([each[name] for each in found])) for name in found[0]}
    if timed:
        means = {name: float(np.mean([each[name] for each in own])) for name in own[0]}
        medians |= {f"{name}_rate": rate for name, rate in means.items()}
        for name in REFERENCES:
            medians[f"over_{name}"] = medians["tokens_per_second"] / means[name]
            medians[f"cpu_over_{name}"] = medians["tokens_per_cpu_second"] / means[f"{name}_cpu"]
    trained = in_child("corpus", options, job="train", cache=cache, **asked)
    spread = common.spread([each["seconds"] for each in found]) if len(found) > 1 else 0.0
    return {"megabytes": size, **medians, **trained, "spread": spread}


def _own_rates(options: Options, asked: dict[str, str]) -> dict[str, float]:
    """Tokens a second of the tokenizer alone, of all processes together; a processor's second of one of them."""

    def measured(part: int) -> dict[str, float]:
        return in_child("corpus", options, job="tokenise", part=part, **asked)

    with ThreadPoolExecutor(options.processes) as pool:
        found = list(pool.map(measured, range(options.processes)))
    return {
        name: float((np.mean if name.endswith("_cpu") else np.sum)([each[name] for each in found])) for name in found[0]
    }


def table(result: common.Result) -> str:
    """Rates, ratios and memory."""
    header = ["text, MB", "rows", "packed in, s", "MB/s", "million tokens/s", *REFERENCES.values()]
    header += [f"{name}, processor time" for name in REFERENCES.values()]
    header += ["MiB a process", "opened in, s", "an update, ms", "peak, MiB", "above the small one, MiB"]
    lines = [
        [
            f"{row['megabytes']:,}",
            f"{row['rows']:,.0f}",
            f"{row['seconds']:.1f}",
            f"{row['megabytes'] / row['seconds']:.2f}",
            f"{row['tokens_per_second'] / 1e6:.3f}",
            *(_number(row.get(f"{kind}over_{name}")) for kind in ("", "cpu_") for name in REFERENCES),
            f"{row['worker_mib']:.0f}",
            f"{row['open_seconds']:.2f}",
            common.ms(row["update_seconds"]),
            f"{row['peak_mib']:.0f}",
            f"{row['above_mib']:.0f}",
        ]
        for row in result["rows"]
    ]
    aims = f"Aims: at least {AIM} of the tokenizer's rate, and less than {MEMORY_AIM:.0f} MiB above the small corpus."
    return f"{common.markdown(header, lines)}\n\n{aims}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def plot(result: common.Result, path: Path) -> None:
    """Rates beside the tokenizer's, and memory."""
    figure = common.new_figure(7.5, 3.2)
    rate, memory = figure.subplots(1, 2)
    row = result["rows"][-1]
    names = ["packed", *REFERENCES]
    values = [row["tokens_per_second"], *(row[f"{name}_rate"] for name in REFERENCES)]
    rate.bar(names, np.array(values) / 1e6)
    rate.set_ylabel("million tokens/s")
    memory.bar([f"{each['megabytes']:,} MB" for each in result["rows"]], [each["peak_mib"] for each in result["rows"]])
    memory.set_ylabel("peak of a training, MiB")
    for axes in (rate, memory):
        axes.grid(axis="y", alpha=0.3)
    common.save_figure(figure, path)


# -- in processes of their own -----------------------------------------------------------------------------------------


def measure(options: Options, job: str, folder: str, text: str, **asked: Any) -> dict[str, float]:
    """What one process does."""
    torch.set_num_threads(options.threads)
    if job == "tokenise":
        return _tokenised(options, Path(folder), Path(text), **asked)
    if job == "build":
        return _built(options, Path(folder), text, **asked)
    return _trained(options, Path(folder), text, **asked)


def _tokenised(options: Options, folder: Path, text: Path, part: int) -> dict[str, float]:
    """The tokenizer alone, both ways: its rates on every ``processes``-th batch of the sample."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process has a core
    tokenizer = load_tokenizer(str(folder / "model"))
    with (text / "lines.txt").open(encoding="utf-8") as file:
        lines = file.read(options.sample * 1_000_000).splitlines()
    batches = list(_batches(lines))[part :: options.processes] or [lines]
    core = tokenizer.backend_tokenizer
    core.no_truncation()
    core.no_padding()

    def library(batch: list[str]) -> int:
        return sum(len(each.ids) for each in core.encode_batch_fast(batch, add_special_tokens=False))

    def call(batch: list[str]) -> int:
        return sum(map(len, tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]))

    rates = {}
    for name, count in (("library", library), ("call", call)):
        count(batches[0][:100])
        begin, used = time.perf_counter(), time.process_time()
        tokens = sum(count(batch) for batch in batches)
        rates[name] = tokens / (time.perf_counter() - begin)
        rates[f"{name}_cpu"] = tokens / (time.process_time() - used)
    return rates


def _built(options: Options, folder: Path, text: str, cache: str) -> dict[str, float]:
    tokenizer = load_tokenizer(str(folder / "model"))
    facts = token_facts(tokenizer, "the benchmark")
    begin, used = time.perf_counter(), time.process_time()
    request = Request(text, max_length=options.max_length)
    corpus = open_corpus(look(request, tokenizer, facts, Path(cache)), Path(cache), workers=options.processes)
    seconds = time.perf_counter() - begin
    packing = corpus.plan.packing
    tokens = sum(
        entry["rows"] * packing.width + entry["left_out"] + sum(entry["held"].values()) - entry["texts"]
        for entry in corpus.parts
    )
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = time.process_time() - used + children.ru_utime + children.ru_stime
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,  # without the separators, which no tokenizer has made
        "rows": sum(entry["rows"] for entry in corpus.parts),
        "texts": sum(entry["texts"] for entry in corpus.parts),
        "parts": len(corpus.parts),
        "tokens_per_cpu_second": tokens / cpu_seconds,
        "worker_mib": (children.ru_maxrss * 1024 if children.ru_maxrss else peak_resident()) / 2**20,
    }


def _trained(options: Options, folder: Path, text: str, cache: str) -> dict[str, float]:
    given = {
        "decision": "knowledge_selection",
        "objective": "text",
        "text": text,
        "packing": True,
        "cache_dir": cache,
        "teacher": str(folder / "model"),
        "student": {
            "num_hidden_layers": 1,
            "hidden_size": options.hidden,
            "num_attention_heads": common.heads(options.teacher_hidden),
        },
        "max_length": options.max_length,
        "batch_size": options.batch,
        "budget": options.updates,
        "updates_per_step": 1,
        "evaluation_rows": 32,
        "evaluate_every": 0,
        "device": options.device,
    }
    reset_peak(torch.device("cpu"))
    begin = time.perf_counter()
    problem = build_problem(env_config(**given))
    opened = time.perf_counter()
    env = DistillEnv(problem=problem)
    env.reset(seed=0)
    held = resident()
    action = np.ones(env.action_space.shape, dtype=np.int8)
    started, ended = time.perf_counter(), False
    while not ended:
        _, _, ended, _, _ = env.step(action)
    return {
        "open_seconds": opened - begin,
        "update_seconds": (time.perf_counter() - started) / options.updates,
        "begin_mib": held / 2**20,
        "peak_mib": peak_resident() / 2**20,
    }


def _batches(lines: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# -- texts and a tokenizer ---------------------------------------------------------------------------------------------


def words_of(options: Options) -> list[str]:
    """Words of two to four syllables, twice as many as the vocabulary has pieces; the frequent ones first."""
    rng = np.random.default_rng(1)
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    syllables = [first + second + last for first in consonants for second in vowels for last in ("", "n", "r", "st")]
    found: dict[str, None] = {}
    while len(found) < 2 * options.vocab:
        counts = rng.integers(1, 5, size=options.vocab)
        drawn = rng.integers(len(syllables), size=int(counts.sum()))
        ends = np.cumsum(counts).tolist()
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            found["".join(syllables[place] for place in drawn[begin:end].tolist())] = None
    return list(found)[: 2 * options.vocab]


def write_model(folder: Path, options: Options) -> None:
    """A random masked language model with a WordPiece tokenizer like BERT's, which knows the frequent words whole."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), ".", ","]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    special["mask_token"] = "[MASK]"
    pieces = [*special.values(), *letters]
    words = words_of(options)
    endings = [f"##{word}" for word in words[: options.vocab // 8] if len(word) < 5]
    pieces = list(dict.fromkeys([*pieces, *endings, *words]))[: options.vocab]
    core = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=options.teacher_hidden,
        num_hidden_layers=options.teacher_layers,
        num_attention_heads=common.heads(options.teacher_hidden),
        intermediate_size=4 * options.teacher_hidden,
        max_position_embeddings=max(128, options.max_length),
    )
    with common.no_bars():
        new_encoder(BertForMaskedLM, config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)


def write_text(folder: Path, options: Options, megabytes: int, seed: int) -> None:
    """Lines of sentences in one file of about that size."""
    folder.mkdir()
    words = words_of(options)
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(1.0 / np.arange(1, len(words) + 1))
    written = 0
    with (folder / "lines.txt").open("w", encoding="utf-8") as file:
        while written < megabytes * 1_000_000:
            lengths = rng.integers(2, 2 * options.words, size=5_000)
            drawn = np.searchsorted(cumulative, rng.random(int(lengths.sum())) * cumulative[-1]).tolist()
            ends = np.cumsum(lengths).tolist()
            lines = [
                " ".join([words[place] for place in drawn[begin:end]]).capitalize() + "."
                for begin, end in zip([0, *ends[:-1]], ends, strict=True)
            ]
            text = "\n".join(lines) + "\n"
            written += len(text)
            file.write(text)


if __name__ == "__main__":
    answer(Options, measure)
