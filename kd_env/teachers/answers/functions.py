"""Functions of texts as teachers: asked once for every row, and kept; models with ``predict_proba`` the same way.

A function takes a list of texts (of pairs: of tuples of two) and gives probabilities ``[rows, labels]`` in the order of
the task's labels, or a mapping with ``probabilities`` or ``logits`` and ``labels``, whose names tell the order. In a
task of scores it gives ``[rows]``. A function without parameters makes a model: fitted already (it has ``classes_``),
or to be fitted on the train rows here.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kd_env.data.rows import ProblemRows
from kd_env.data.tasks import Rows, Task
from kd_env.teachers.answers.values import KINDS, Answers, as_logits
from kd_env.teachers.cache import stored_arrays

logger = logging.getLogger("kd_env")

ROWS_AT_ONCE = 128
"""Texts of one call, a chunk of the cache."""
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FILE = "logits.npy"
_told: set[str] = set()
"""Teachers of which this process has said what is not hashed of them."""


def is_function(source: str) -> bool:
    """Whether a source is written as ``package.module:function``."""
    return _NAME.fullmatch(source) is not None


def function_of(source: str) -> Any:
    """What stands under ``package.module:function``.

    Raises:
        ValueError: no such module or name, or something that can be neither called nor asked.
    """
    module_name, _, name = source.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does as it is imported; the cause is kept
        raise ValueError(
            f"The module {module_name!r} of the teacher {source!r} cannot be imported ({type(error).__name__}: "
            f"{error}). It must be on Python's path: PYTHONPATH=<its folder>, or install it."
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"The teacher {source!r} is not there: {found!r} has no {part!r}.")
        found = getattr(found, part)
    if inspect.isclass(found) or not (callable(found) or _is_model(found)):
        raise ValueError(
            f"The teacher {source!r} is a {type(found).__name__}; give a function of texts, a function that makes a "
            "model with predict_proba, or such a model."
        )
    return found


class AskedFunction:
    """A function, or the model that it makes, as a teacher.

    Args:
        source: ``package.module:function``.
        task: gives the labels.
        rows: of the problem; a model that is not fitted is fitted on its train rows.
        cache_dir: folder of the disk cache; None asks once in each process.

    Raises:
        ValueError: nothing under that name, or a model that does not fit the task.
    """

    def __init__(self, source: str, task: Task, rows: ProblemRows, cache_dir: str | None) -> None:
        self.source = f"The teacher {source!r}"
        self._task, self._cache_dir = task, cache_dir
        self._ask = function_of(source)
        self._model: Any = None
        self._fit: tuple[Any, Any] | None = None
        self._known: dict[str, np.ndarray] = {}
        self.fitted_here = False
        if not _is_model(self._ask) and not _takes_texts(self._ask):
            self._ask = _run(self.source, self._ask)
            if not _is_model(self._ask):
                raise ValueError(
                    f"{self.source} takes no texts, and gives a {type(self._ask).__name__} without predict_proba "
                    "(for scores: predict); give a function of texts, or one that makes a model."
                )
        code = _code_of(source)
        content = {"function": source, "code": code, "version": str(getattr(self._ask, "version", ""))}
        if _is_model(self._ask):
            self._model = self._ask
            self.fitted_here = not _is_fitted(self._model, task, self.source)
            if self.fitted_here:
                labels = rows.train_labels[rows.splits.train].tolist()
                named = labels if task.regression else [task.labels[label] for label in labels]
                self._fit = (_texts(rows.texts, rows.splits.train), named)
                content["fit"] = hashlib.sha256(json.dumps(self._fit).encode()).hexdigest()
        self._content = {**content, "labels": list(task.labels)}
        self._tell(code)

    def logits(self, rows: Rows, split: str, index: np.ndarray) -> np.ndarray:
        """Answers ``[R, C]`` to rows ``index [R]`` of a split, asked for once.

        Args:
            rows: all rows of the split.
            split: its name; the same text has the same answer everywhere.
            index: numbers of the rows.

        Raises:
            ValueError: answers as :func:`as_logits` refuses them, or a function that fails.
        """
        texts = _texts(rows, index)
        key = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        if key not in self._known:
            self._known[key] = self._computed(texts, key)
        return self._known[key]

    def _computed(self, texts: Sequence[Any], key: str) -> np.ndarray:
        def fill(arrays: Mapping[str, np.ndarray], start: int) -> Iterator[int]:
            for number, first in enumerate(range(0, len(texts), ROWS_AT_ONCE)):
                if number >= start:
                    part = texts[first : first + ROWS_AT_ONCE]
                    arrays[_FILE][first : first + len(part)] = self._asked(part)
                    yield number + 1

        shape = (len(texts), self._task.num_labels)
        if self._cache_dir is None or self._content["code"] is None:
            held = {_FILE: np.zeros(shape, np.float32)}
            for _ in fill(held, 0):
                pass
            return held[_FILE]
        stored = stored_arrays(
            self._cache_dir,
            {**self._content, "texts": key},
            {_FILE: shape},
            "float32",
            fill,
            rows=len(texts),
            rows_at_once=ROWS_AT_ONCE,
        )
        return np.array(stored[_FILE])

    def _asked(self, texts: Sequence[Any]) -> np.ndarray:
        if self._model is None:
            answers = _given(_run(self.source, self._ask, list(texts)), self.source)
        else:
            answers = self._from_model(texts)
        if answers.values.shape[:1] != (len(texts),):
            shape = list(answers.values.shape)
            raise ValueError(
                f"{self.source} was asked about {len(texts)} texts and gave an array of the shape {shape}."
            )
        return as_logits(
            answers, self._task, self.source, lambda rows: [repr(texts[row])[:60] for row in rows.tolist()]
        )

    def _from_model(self, texts: Sequence[Any]) -> Answers:
        if self._fit is not None:
            _run(self.source, self._model.fit, *self._fit)
            self._fit = None
        if self._task.regression:
            return Answers("scores", None, np.asarray(_run(self.source, self._model.predict, list(texts))))
        labels = tuple(str(label) for label in self._model.classes_)
        return Answers("probabilities", labels, np.asarray(_run(self.source, self._model.predict_proba, list(texts))))

    def _tell(self, code: str | None) -> None:
        if self.source in _told:
            return
        _told.add(self.source)
        if code is None:
            logger.warning(
                "%s: the code of its module cannot be read, so that nothing is kept on the disk: it is asked once in "
                "each process. Put it into a file of its own.",
                self.source,
            )
        elif self._cache_dir is not None:
            logger.warning(
                "%s is kept in %s by its name, the code of its module, its attribute version and the texts. What it "
                "calls or reads elsewhere is not hashed: give it another version when that changes.",
                self.source,
                self._cache_dir,
            )


def _run(source: str, function: Callable[..., Any], *given: Any) -> Any:
    try:
        return function(*given)
    except Exception as error:  # whatever the user's code raises; the cause is kept
        raise ValueError(f"{source} failed ({type(error).__name__}: {error}).") from error


def _takes_texts(function: Any) -> bool:
    """Whether a function has a parameter without a default."""
    given = inspect.signature(function).parameters.values()
    return any(one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in given)


def _given(answers: Any, source: str) -> Answers:
    if not isinstance(answers, Mapping):
        values = np.asarray(answers)
        return Answers("scores" if values.ndim == 1 or values.shape[-1:] == (1,) else "probabilities", None, values)
    kinds = [kind for kind in KINDS if kind in answers]
    unknown = sorted(set(answers) - {*KINDS, "labels"})
    if len(kinds) != 1 or unknown:
        raise ValueError(
            f"{source} gave a mapping with {sorted(answers)}; it needs one of {', '.join(KINDS)}, and labels."
        )
    labels = answers.get("labels")
    return Answers(kinds[0], None if labels is None else tuple(map(str, labels)), np.asarray(answers[kinds[0]]))


def _is_model(value: Any) -> bool:
    return any(callable(getattr(value, name, None)) for name in ("predict_proba", "predict"))


def _is_fitted(model: Any, task: Task, source: str) -> bool:
    """Whether a model says that it is fitted, as scikit-learn's do: by an attribute that ends in an underscore."""
    asked = "predict" if task.regression else "predict_proba"
    if not callable(getattr(model, asked, None)):
        raise ValueError(f"{source} is a {type(model).__name__} without {asked}, which the task {task.name!r} needs.")
    told = getattr(model, "__sklearn_is_fitted__", None)
    fitted = bool(told()) if callable(told) else any(name.endswith("_") and name[0] != "_" for name in vars(model))
    if not task.regression and hasattr(model, "classes_"):
        return True
    if fitted and not task.regression:
        raise ValueError(f"{source} is fitted and has no classes_, which tell the order of its labels.")
    if not fitted and not callable(getattr(model, "fit", None)):
        raise ValueError(f"{source} has neither classes_ nor fit: the order of its labels cannot be established.")
    return fitted


def _texts(rows: Rows, index: np.ndarray) -> list[Any]:
    """Texts of rows, of pairs as tuples."""
    if rows.second is None:
        return [rows.first[row] for row in index.tolist()]
    return [(rows.first[row], rows.second[row]) for row in index.tolist()]


def _code_of(source: str) -> str | None:
    """SHA-256 of the code of a module; None where it has no file."""
    try:
        code = inspect.getsource(importlib.import_module(source.partition(":")[0]))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(code.encode()).hexdigest()
