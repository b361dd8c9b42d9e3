"""Experiments as the comments of their files say what they are, and the tables of those that follow a paper."""

from __future__ import annotations

import re

from docs.house import ROOT
from docs.site.docstrings import table

FOLDER = ROOT / "configs" / "experiment"


def names() -> list[str]:
    """Every experiment."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def comments(name: str) -> list[str]:
    """The blocks of comments at the beginning of an experiment's file."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").removeprefix("# @package _global_\n")
    head = re.match(r"(?:#.*\n|\n)*", text)
    assert head is not None
    blocks = [block for block in head[0].split("\n\n") if block.strip()]
    return ["\n".join(re.sub(r"^# ?", "", line) for line in block.splitlines()) for block in blocks]


def about(name: str) -> str:
    """What an experiment is, without the commands that stand beside it."""
    words = " ".join(comments(name)[0].split())
    words = re.sub(r"[^.:;)]*?(?:python train_agent\.py|kd-env|torchrun) .*$", "", words).strip()
    return words.rstrip(":;, ").removesuffix(" (GLUE") or name


def experiments() -> str:
    """The table of experiments."""
    rows = [(f"`experiment={name}`", about(name)) for name in names()]
    return table(("experiment", "what it is"), rows)


def compared(name: str) -> str:
    """What is published and what is here, as the file of a recipe has it, in a block of its own."""
    found = [block for block in comments(name) if re.match(r"what\s+published\s+here", block)]
    if not found:
        raise ValueError(f"configs/experiment/{name}.yaml has no table of what is published and what is here.")
    return "```text\n" + found[0] + "\n```"
