"""The rules that rows must pass, in the order in which they are asked; one function a file."""

from __future__ import annotations

from collections.abc import Callable

from finetune_core.data.formats import Message
from finetune_core.data.rules.duplicate import duplicate
from finetune_core.data.rules.empty import empty

# Says why a row is dropped, or nothing. It may remember the rows that it has seen.
Rule = Callable[[int, list[Message]], "str | None"]

RULES: dict[str, Callable[[], Rule]] = {"empty": empty, "duplicate": duplicate}
