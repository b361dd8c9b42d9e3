"""Hooks of MkDocs: pages that are made from the code join the site, facts fill theirs, links are those of the site."""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# mkdocs runs as a script: the checkout whose pages are built is not on its path.
sys.path.insert(0, str(ROOT))

from docs.site import generate, links  # noqa: E402


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add pages that are no files of ``docs``, and name them all where the navigation has a pattern."""
    for place, text in generate.pages().items():
        files.append(File.generated(config, place, content=text))
    for source, place in links.OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    config.nav = _expanded(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Fill the facts, and mend the links."""
    place = page.file.src_uri
    home = {there: source for source, there in links.OUTSIDE.items()}.get(place, f"docs/{place}")
    return links.mended(generate.filled(markdown), home, place)


def _expanded(nav: Any, places: list[str]) -> Any:
    """The navigation with patterns (``terms/*.md``) replaced by the pages that fit, in alphabetical order."""
    if isinstance(nav, dict):
        return {title: _expanded(entry, places) for title, entry in nav.items()}
    if isinstance(nav, list):
        found = []
        for entry in nav:
            if isinstance(entry, str) and "*" in entry:
                found += sorted(fnmatch.filter(places, entry))
            else:
                found.append(_expanded(entry, places))
        return found
    return nav
