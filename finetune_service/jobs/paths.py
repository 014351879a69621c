"""Takes this machine's paths out of what was said for its operator, before others read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# An absolute path's folders; neither a URL's nor those of a relative path.
FOLDERS = re.compile(r"(?:(?<![\w./:…-])|(?<=file://))/(?!/)(?:[^\s/:;,'\"()<>]+/)+")


def without_paths(value: Any, home: Path) -> Any:
    """A text, or all texts in a value, without where things lie on this machine.

    Args:
        value: A text, or lists and mappings of texts.
        home: The organisation's folder: what lies in it is told from there on.
    """
    if isinstance(value, str):
        return FOLDERS.sub("…/", value.replace(f"{home}/", ""))
    if isinstance(value, dict):
        return {name: without_paths(each, home) for name, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each, home) for each in value]
    return value
