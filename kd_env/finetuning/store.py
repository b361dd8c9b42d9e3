"""Files of fine-tuning: checkpoints beside the output, and the finished folder. Everything is renamed into place."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kd_env.core.records import RECORD, read_record
from kd_env.finetuning.contents import ENCODERS, ROWS, Contents, changed
from kd_files.manifest import check_manifest, write_manifest
from kd_files.reading import read_json
from kd_files.tensors import read_tensors, write_tensors
from kd_files.writing import new_folder, write_json

logger = logging.getLogger("kd_env")

_MODEL, _OPTIMIZER, _STATE, _IDENTITY = "model.safetensors", "optimizer.safetensors", "state.json", "identity.json"


def finished(
    output: Path,
    identity: Mapping[str, Any],
    contents: Contents,
    fingerprint: Callable[[], str],
    what: str = "teacher",
    read: Callable[[Path], dict[str, Any] | None] = read_record,
) -> bool:
    """Whether ``output`` already holds what ``identity`` describes; an absent or empty folder does not.

    Args:
        output: folder.
        identity: options.
        contents: of what it is made from (:mod:`kd_env.finetuning.contents`).
        fingerprint: gives that of the split, where the files of the rows are others than they were.
        what: ``teacher`` or ``teacher set``, for messages.
        read: gives the record in a folder, or None.

    Raises:
        ValueError: something else lies there, with what differs.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    record = read(output) if output.is_dir() else None
    if record is None:
        raise ValueError(
            f"The output {str(output)!r} exists and is no {what} made here; choose another output or delete it."
        )
    _refuse_other(
        f"The {what} in {str(output)!r}", record.get("config", {}), identity, "choose another output or delete it"
    )
    others = changed(record, contents)
    if ROWS in others and fingerprint() == record.get("fingerprint"):  # the same rows in other files
        others.remove(ROWS)
    if others:
        raise ValueError(
            f"The {what} in {str(output)!r} was made from other {' and '.join(others)} than there are now under the "
            "same names; choose another output, or delete it to make it again."
        )
    return True


@contextmanager
def becoming(output: Path) -> Iterator[Path]:
    """A new folder beside ``output`` that is renamed to it at the end; a crash leaves nothing half-written there."""
    shutil.rmtree(output.with_name(f".{output.name}.tmp"), ignore_errors=True)  # of earlier versions
    with new_folder(output) as folder:
        yield folder


def write_record(folder: Path, record: Mapping[str, Any], name: str = RECORD) -> None:
    """Write a record into a folder, and bring its manifest up to date."""
    write_json(folder / name, record)
    write_manifest(folder)


def versions() -> dict[str, str]:
    """Of Python and the libraries, for records."""
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def source_record(name_or_path: str, had_head: bool) -> dict[str, Any] | None:
    """Which rows the encoder had seen before; None for one that was only pre-trained.

    Args:
        name_or_path: of the encoder.
        had_head: whether it comes with prediction layers of some task; without a record of its own nobody knows on
            which rows they were trained.
    """
    record = read_record(name_or_path)
    if record is None:
        return {"trained_on": "unknown"} if had_head else None
    return {key: record[key] for key in ("task", "trained_on", "fingerprint", "source") if key in record}


def chained(sources: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Sources one behind the other, as if each had been made from the next; equal ones once.

    The provenance of a teacher is as clean as every record in its chain, whatever their order.
    """
    links: list[dict[str, Any]] = []
    for source in sources:
        link: Any = source
        while link is not None:
            known = link if isinstance(link, Mapping) else {"trained_on": "unknown"}  # a foreign record, or none
            alone = {key: value for key, value in known.items() if key != "source"}
            if alone not in links:
                links.append(alone)
            link = known.get("source")
    chain: dict[str, Any] | None = None
    for alone in reversed(links):
        chain = {**alone, "source": chain}
    return chain


class Checkpoints:
    """The folder ``<output>.partial``: one sub-folder for each evaluation that is still needed.

    Args:
        output: where the finished teacher will lie.
        identity: what an interrupted run must agree on to be continued (options and split).
        resume: continue what lies there; otherwise it is deleted.

    Raises:
        ValueError: a checkpoint of another identity lies there.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = output.with_name(output.name + ".partial")
        self._remedy = f"to start afresh set resume=false, or delete {self.folder}"
        if self.folder.exists() and not resume:
            shutil.rmtree(self.folder)
        if not (self.folder / _IDENTITY).is_file():
            _fresh(self.folder)
            write_json(self.folder / _IDENTITY, identity)
        recorded = read_json(self.folder / _IDENTITY, self._remedy)
        # Those that were interrupted in earlier versions do not say which encoders they began with.
        identity = {key: value for key, value in identity.items() if key != ENCODERS or key in recorded}
        remedy = "continue with those options, choose another output, or set resume=false to start afresh"
        _refuse_other(f"The interrupted run in {str(self.folder)!r}", recorded, identity, remedy)

    def latest(self) -> dict[str, Any] | None:
        """The state of the newest checkpoint that is whole, as that of its best step is; None where there is none.

        Raises:
            ValueError: every one that there is is damaged.
        """
        fault: ValueError | None = None
        for step in sorted(self._steps(), reverse=True):
            try:
                state = read_json(self._at(step) / _STATE, self._remedy, {"step": int, "best_step": int})
                for each in (step, state["best_step"]):
                    check_manifest(self._at(each), self._remedy, ours=False)
                    if not (self._at(each) / _MODEL).is_file():
                        raise ValueError(f"{self._at(each) / _MODEL} is missing; {self._remedy}.")
            except ValueError as error:
                fault = fault or error
                continue
            if fault is not None:
                logger.warning("%s Going on from the older checkpoint of step %d.", fault, step)
            return state
        if fault is not None:
            raise fault
        return None

    def save(self, state: Mapping[str, Any], model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Save after the update ``state["step"]`` and drop what neither resuming nor ``state["best_step"]`` needs."""
        from safetensors.torch import save_model

        names = {parameter: name for name, parameter in model.named_parameters()}
        moments = {
            f"{key}.{names[parameter]}": value
            for parameter, values in optimizer.state.items()
            for key, value in values.items()
        }
        with new_folder(self._at(state["step"])) as folder:
            save_model(model, str(folder / _MODEL))
            write_tensors(folder / _OPTIMIZER, moments)
            write_json(folder / _STATE, state)
        for step in self._steps():
            if step not in (state["step"], state["best_step"]):
                shutil.rmtree(self._at(step))

    def load_model(self, step: int, model: Any) -> None:
        """Put the weights of a saved step into the model."""
        from safetensors.torch import load_model

        load_model(model, str(self._at(step) / _MODEL))

    def load_optimizer(self, step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Put the moments and step counts of a saved step into the optimiser."""
        names = {parameter: name for name, parameter in model.named_parameters()}
        saved: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in read_tensors(self._at(step) / _OPTIMIZER, self._remedy).items():
            kind, name = key.split(".", 1)
            saved.setdefault(name, {})[kind] = value
        order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state = {index: saved[names[parameter]] for index, parameter in enumerate(order) if names[parameter] in saved}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def remove(self) -> None:
        """Delete all of it, once the teacher is written."""
        shutil.rmtree(self.folder)

    def _at(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def _steps(self) -> list[int]:
        return [int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*")]


def _fresh(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def _refuse_other(what: str, recorded: Mapping[str, Any], options: Mapping[str, Any], remedy: str) -> None:
    wanted = json.loads(json.dumps(options))  # tuples become lists, as they did in the file
    differing = [key for key in sorted({*recorded, *wanted}) if recorded.get(key) != wanted.get(key)]
    if differing:
        words = ", ".join(f"{key} ({recorded.get(key)!r} there, {wanted.get(key)!r} here)" for key in differing)
        raise ValueError(f"{what} was made with other options: {words}; {remedy}.")
