"""How a prompt shows a schema: a serializer a file, chosen by the base model's family."""

from __future__ import annotations

from typing import Protocol

from finetune_core.text_to_sql.schema import Table
from finetune_core.text_to_sql.serializers.compact import Compact
from finetune_core.text_to_sql.serializers.create_table import CreateTable
from finetune_core.text_to_sql.serializers.markdown import Markdown


class Serializer(Protocol):
    """Writes tables so that a model can read them."""

    name: str
    between: str
    """What stands between two tables."""

    def table(self, table: Table) -> str:
        """A table as text."""


SERIALIZERS: dict[str, Serializer] = {
    each.name: each for each in (CreateTable(), Compact(), Markdown())
}

# The families that were tuned on short lines, `table : column, column` (PICARD, arXiv 2109.05093);
# all others are taken for GPT-like, which read CREATE TABLE well (arXiv 2204.00498). For none is it
# known that Markdown is better: that one is for who wants it.
FAMILIES = dict.fromkeys(("t5", "mt5", "umt5", "longt5", "bart", "mbart"), "compact")
SHORT = 2048  # tokens of a row, in which CREATE TABLE takes too much of the room


def choose(wanted: str, family: str, tokens: int) -> Serializer:
    """The serializer for a model.

    Args:
        wanted: Its name, or auto.
        family: The base model's, as `model_type` in its config, or `gpt` for OpenAI's.
        tokens: That a row may have.
    """
    if wanted == "auto":
        wanted = "compact" if tokens < SHORT else FAMILIES.get(family, "create_table")
    return SERIALIZERS[wanted]
