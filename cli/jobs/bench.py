"""``kd-env bench``: lists the benchmarks of the source checkout, runs one or all, and writes what they found."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import shlex
import sys
import textwrap
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from kd_env.core.registry import unknown_name

NAMES = (
    *("env_step", "cached", "teacher_set", "field", "vector", "growth", "tutor_step", "influence_step", "gap"),
    *("profile_step", "precision_course", "students", "sampled_rewards", "large_data", "corpus", "gpu", "backends"),
    *("ranks", "states", "statistics", "coverage", "flows"),
)
PACKAGE = "benchmarks"
FOLDER = Path(__file__).resolve().parents[2] / PACKAGE
RESULT, TABLE, PLOT = "result.json", "table.md", "plot.png"


class Option(NamedTuple):
    """One option as its source says it."""

    name: str
    default: str
    comment: str


def bench(overrides: Sequence[str], command: str) -> object:
    """List the benchmarks (no words), run one (``<name> [key=value ...]``) or all (``all [key=value ...]``).

    Args:
        overrides: name and options; ``out=<folder>`` is where the results go.
        command: how the job was called, shown with the results.

    Returns:
        The folders that were written.

    Raises:
        ValueError: no source checkout, an unknown name or option, or a value outside its range, before any work.
    """
    _require_checkout()
    if not overrides:
        print(overview())
        return []
    name, *words = overrides
    if name not in (*NAMES, "all"):
        raise ValueError(unknown_name("benchmark", name, (*NAMES, "all")) + " See `kd-env bench`.")
    chosen = NAMES if name == "all" else (name,)
    given = _pairs(words)
    out = Path(given.pop("out", Path(os.environ.get("KD_ENV_RUNS", "runs")) / "bench" / name))
    if name == "all":
        _require_common(given)
    modules = {each: _load(each) for each in chosen}
    options = {each: parse(module.Options, given) for each, module in modules.items()}
    folders = {each: out / each if name == "all" else out for each in chosen}
    for folder in folders.values():
        _make(folder)
    for each, module in modules.items():
        _run(each, module, options[each], folders[each], command)
    return list(folders.values())


def parse(kind: Any, given: Mapping[str, str]) -> Any:
    """Options of a benchmark from texts, typed and checked.

    Args:
        kind: a frozen dataclass with a method ``check``.
        given: name to text; lists are ``[1,2]`` or ``1,2``.

    Raises:
        ValueError: an unknown name, a text of another type, or a value outside its range.
    """
    types = typing.get_type_hints(kind)
    valid = [field.name for field in fields(kind)]
    for name in given:
        if name not in valid:
            raise ValueError(unknown_name("option", name, (*valid, "out")))
    options = kind(**{name: _typed(name, text, types[name]) for name, text in given.items()})
    options.check()
    return options


def overview() -> str:
    """What there is, from the sources alone (importing them would take seconds)."""
    lines = ["kd-env bench <name> [key=value ...]", ""]
    lines += [f"  {name:<14} {summary(name)}" for name in NAMES]
    lines += [f"  {'all':<14} all of them; takes the options that they share", ""]
    lines += ["kd-env bench <name> --help lists the options of one."]
    return "\n".join(lines)


def help_text(name: str) -> str:
    """``kd-env bench <name> --help``: what it measures, and its options."""
    _require_checkout()
    if name not in NAMES:
        raise ValueError(unknown_name("benchmark", name, NAMES))
    lines = [f"kd-env bench {name} [key=value ...]", "", ast.get_docstring(_tree(name)) or "", "", "Options:"]
    shared = {option.name: option for option in option_list("common")}
    own = {option.name: option for option in option_list(name)}
    for option in {**shared, **own}.values():
        head = f"  {option.name}={option.default}  "
        lines += textwrap.wrap(option.comment, 118, initial_indent=head.ljust(40), subsequent_indent=" " * 40)
    lines += [f"  {f'out=runs/bench/{name}':<36}  Folder of {RESULT}, {TABLE} and {PLOT}."]
    return "\n".join(lines).replace("``", "")


def summary(name: str) -> str:
    """The first sentence of a benchmark's description."""
    text = ast.get_docstring(_tree(name)) or ""
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def option_list(name: str) -> list[Option]:
    """The options that one source file declares, with the text below each."""
    tree = _tree(name)
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options")
    found = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if documented:
                text = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
                found.append(Option(node.target.id, _shown(node.value), text))
    return found


def _shown(value: ast.expr) -> str:
    """A default as it is written on the command line."""
    if isinstance(value, ast.Tuple):
        return f"[{','.join(_shown(entry) for entry in value.elts)}]"
    if isinstance(value, ast.Constant):
        return str(value.value)
    return ast.unparse(value)


def _tree(name: str) -> ast.Module:
    return ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))


def _pairs(words: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r} is no option; write key=value, for example threads=2.")
        if name in given:
            raise ValueError(f"{name} is given twice, as {given[name]!r} and {text!r}.")
        given[name] = text
    return given


def _typed(name: str, text: str, kind: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        bare = text.strip().removeprefix("[").removesuffix("]")
        return tuple(_typed(name, part.strip(), inner) for part in bare.split(",")) if bare else ()
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}={text!r} must be {wanted}.") from None


def _require_checkout() -> None:
    if not (FOLDER / "common.py").is_file():
        raise ValueError(
            f"The benchmarks are part of the source checkout and are not installed with kd-env (no folder {FOLDER}). "
            "Clone the repository, install it with `pip install -e .` and run kd-env bench there."
        )


def _require_common(given: Mapping[str, str]) -> None:
    shared = [option.name for option in option_list("common")]
    for name in given:
        if name not in shared:
            raise ValueError(
                unknown_name("option of `kd-env bench all`", name, (*shared, "out"))
                + " The others belong to single benchmarks."
            )


def _load(name: str) -> ModuleType:
    """A benchmark by the path of its file: the folder is no installed package."""
    if PACKAGE not in sys.modules or getattr(sys.modules[PACKAGE], "__file__", None) != str(FOLDER / "__init__.py"):
        spec = importlib.util.spec_from_file_location(
            PACKAGE, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be made ({error.strerror}); choose another with out=..."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"The folder {folder} cannot be written to; choose another with out=...")


def _run(name: str, module: Any, options: Any, folder: Path, command: str) -> None:
    import torch

    from kd_env.core.files import atomic_write

    torch.set_num_threads(options.threads)
    result = module.run(options)
    result["facts"] = {"benchmark": name, "command": command, **result["facts"]}
    parts = [summary(name), f"```sh\n{command}\n```", module.table(result), result["facts"]["hardware"]]
    unrest = _load("common").unrest(result["rows"])
    text = "\n\n".join([*parts, unrest] if unrest else parts) + "\n"
    atomic_write(folder / RESULT, json.dumps(result, indent=1) + "\n")
    atomic_write(folder / TABLE, text)
    print(f"\n{text}\nWritten to {shlex.quote(str(folder))}: {RESULT}, {TABLE}.", flush=True)
    if importlib.util.find_spec("matplotlib") is None:  # measurements on a machine without it are not lost
        print(f"No {PLOT}: matplotlib is not installed (pip install matplotlib).", file=sys.stderr)
        return
    module.plot(result, folder / PLOT)
    print(f"Drawn: {shlex.quote(str(folder / PLOT))}", flush=True)
