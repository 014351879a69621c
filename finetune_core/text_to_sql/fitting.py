"""Which tables a prompt shows: those that the gold SQL needs, then the most relevant ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rank_bm25 import BM25Okapi

from finetune_core.text_to_sql.schema import Schema, Table
from finetune_core.text_to_sql.serializers import Serializer

WORD = re.compile(r"[a-z]+|\d+")
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Count = Callable[[str], int]  # the tokens of a text


class Fitted(NamedTuple):
    """What a prompt shows of a schema, and the tables that it has no room for."""

    text: str
    cut: list[str]


class Shelf:
    """A schema's tables, written once, from which each question takes what fits.

    Args:
        schema: The schema.
        serializer: Writes a table.
        count: Tells the tokens of a text.
    """

    def __init__(self, schema: Schema, serializer: Serializer, count: Count) -> None:
        self._tables = schema.tables
        self._between = serializer.between
        self._texts = [serializer.table(table) for table in schema.tables]
        self._tokens = [count(f"{text}{self._between}") for text in self._texts]
        self._relevance = BM25Okapi([_words(_told(table)) or [""] for table in schema.tables])

    def fit(
        self, question: str, needed: set[str], budget: int, fits: Callable[[str], bool]
    ) -> Fitted | None:
        """Takes the tables that are needed, and the most relevant others while there is room.

        Args:
            question: What is asked.
            needed: The names of the tables that stay, in lower case.
            budget: The tokens that there are for a schema, about: the tables' own are added up.
            fits: Whether a schema's text really has room.

        Returns:
            The tables in the schema's order; none where not even the needed ones fit.
        """
        everything = range(len(self._tables))
        names = [table.name for table in self._tables]
        kept = [place for place in everything if names[place].lower() in needed]
        scores = self._relevance.get_scores(_words(question))
        left = budget - sum(self._tokens[place] for place in kept)
        # By relevance; among equals, the shorter one leaves more room.
        for place in sorted(
            set(everything) - set(kept), key=lambda at: (-scores[at], self._tokens[at])
        ):
            if self._tokens[place] <= left:
                kept.append(place)
                left -= self._tokens[place]
        while not fits(self._text(kept)):
            if not kept or names[kept[-1]].lower() in needed:
                return None
            kept.pop()
        return Fitted(self._text(kept), [names[at] for at in everything if at not in kept])

    def _text(self, places: Sequence[int]) -> str:
        return self._between.join(self._texts[place] for place in sorted(places))


def _told(table: Table) -> str:
    columns = (
        f"{column.name} {column.description} {' '.join(column.values)}" for column in table.columns
    )
    return f"{table.name} {table.description} {' '.join(columns)}"


def _words(text: str) -> list[str]:
    """The words of a text, names in snake or camel case taken apart, without a plural's s."""
    found = WORD.findall(CAMEL.sub(" ", text).lower())
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found]
