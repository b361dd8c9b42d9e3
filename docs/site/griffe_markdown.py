"""An extension of Griffe: docstrings come to mkdocstrings without Sphinx's roles and tables."""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

from docs.site.docstrings import piped, roles


class Markdown(griffe.Extension):
    """Rewrites every docstring; Google's sections stay as they are for mkdocstrings."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute that was read."""
        if not obj.is_alias and obj.docstring is not None:
            lines = piped(inspect.cleandoc(obj.docstring.value).splitlines())
            # Its headings are of a page; here they would stand above the page's own.
            lines = [re.sub(r"^#+ (.*)$", r"**\1**", line) for line in lines]
            obj.docstring.value = re.sub(r"``([^`]+)``", r"`\1`", roles("\n".join(lines)))
