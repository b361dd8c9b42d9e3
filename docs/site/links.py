"""Links of pages: what works in the repository works on the site."""

from __future__ import annotations

import posixpath
import re

OUTSIDE = {
    "README.md": "project/readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "examples/plugin/README.md": "project/plugin.md",
}
"""Pages of the repository that lie outside ``docs``, with their places on the site."""
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def mended(text: str, source: str, place: str) -> str:
    """Text of a page whose links are those of the site.

    Args:
        text: Markdown.
        source: the page's path in the repository, to which its links are relative.
        place: its path on the site.
    """

    def target(match: re.Match[str]) -> str:
        picture, label, link = match.groups()
        path, hash_, anchor = link.partition("#")
        if not path or "://" in link or link.startswith("mailto:"):
            return match[0]
        home = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if home in OUTSIDE:
            there = OUTSIDE[home]
        elif home.startswith("docs/"):
            there = home.removeprefix("docs/")
        else:  # another file of the repository is no page: its name is left
            return label
        there = re.sub(r"\.ipynb$", ".md", there)
        return f"{picture}[{label}]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{hash_}{anchor})"

    parts = _CODE.split(text)
    return "".join(part if place_ % 2 else _LINK.sub(target, part) for place_, part in enumerate(parts))
