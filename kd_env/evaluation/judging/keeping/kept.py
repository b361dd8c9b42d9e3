"""Results of single policies on the disk, so that an evaluation that is broken off goes on with the others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_env.evaluation.judging.results import Measured, PolicyResult, SplitScores, TaughtBeside
from kd_files.manifest import check_manifest
from kd_files.reading import read_json
from kd_files.tensors import read_tensors, write_tensors
from kd_files.writing import new_folder, write_json

_CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (PolicyResult, SplitScores, TaughtBeside, Measured)}
_RESULT, _ARRAYS = "result.json", "arrays.safetensors"


@dataclasses.dataclass(frozen=True)
class KeptResults:
    """A folder with a folder for each policy that is judged, exact to the last bit."""

    folder: Path
    identity: Mapping[str, Any]
    """Plain values of all that a result depends on, beside its policy; results of another identity do not count."""

    def read(self, name: str, policy: Any) -> Any | None:
        """The result of a policy; None where it has none, or one of another identity or that is damaged.

        Args:
            name: of the policy.
            policy: plain values of what it is.
        """
        place = self.place(name)
        if not place.is_dir():
            return None
        try:
            check_manifest(place, ours=False)
            saved = read_json(place / _RESULT, "", {"identity": dict, "result": dict})
            arrays = read_tensors(place / _ARRAYS, "")
            if saved["identity"] != self._identity(name, policy):
                return None
            return _restored(saved["result"], {key: value.numpy() for key, value in arrays.items()})
        except (ValueError, LookupError, TypeError):  # judged again, which costs what it would have cost without it
            return None

    def write(self, name: str, policy: Any, result: Any) -> None:
        """Keep the result of a policy."""
        arrays: dict[str, np.ndarray] = {}
        plain = _plain(result, arrays)
        with new_folder(self.place(name)) as folder:
            write_json(folder / _RESULT, {"identity": self._identity(name, policy), "result": plain})
            tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in arrays.items()}
            write_tensors(folder / _ARRAYS, tensors)

    def remove(self) -> None:
        """Give up what was kept, once the evaluation is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, name: str) -> Path:
        """Folder of a policy."""
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:16]  # names may hold anything

    def _identity(self, name: str, policy: Any) -> dict[str, Any]:
        whole = {**self.identity, "name": name, "policy": policy}
        return dict(json.loads(json.dumps(whole, default=str)))


def _plain(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Values as JSON has them, with arrays put aside under numbers."""
    if isinstance(value, np.ndarray | np.generic):
        arrays[str(len(arrays))] = np.asarray(value)
        return {"array": str(len(arrays) - 1)}
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name), arrays) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, Mapping):
        return {"mapping": {key: _plain(each, arrays) for key, each in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each, arrays) for each in value]}
    return {"value": value}


def _restored(plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """What :func:`_plain` was given."""
    if "array" in plain:
        return arrays[plain["array"]]
    if "class" in plain:
        fields = {name: _restored(each, arrays) for name, each in plain["fields"].items()}
        return _CLASSES[plain["class"]](**fields)
    if "mapping" in plain:
        return {key: _restored(each, arrays) for key, each in plain["mapping"].items()}
    if "tuple" in plain:
        return tuple(_restored(each, arrays) for each in plain["tuple"])
    return plain["value"]
