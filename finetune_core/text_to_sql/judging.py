"""What becomes of a question: a row with the schema that it needs, or why it is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.data.formats import RowFault
from finetune_core.data.ledger import Finding
from finetune_core.text_to_sql.fitting import Shelf
from finetune_core.text_to_sql.prompts import Messages, messages
from finetune_core.text_to_sql.questions import GoldenQuestion
from finetune_core.text_to_sql.serializers import Serializer
from finetune_core.text_to_sql.sources import Source
from finetune_core.text_to_sql.statements import (
    RefusedQuery,
    alternatives,
    parse_select,
    tables_of,
    write,
)

SHOWN_CUTS = 5  # of the tables that a prompt has no room for

CountTokens = Callable[[Sequence[Mapping[str, str]]], int]


class Usable(NamedTuple):
    """A question with all that its row needs.

    Attributes:
        row: The row.
        database: The database that is asked.
        queries: The gold queries, any of which is right; the first one is the row's answer.
        tokens: Of the row.
        answer_tokens: Of its answer.
    """

    row: Messages
    database: str
    queries: list[str]
    tokens: int
    answer_tokens: int


class Judged(NamedTuple):
    """What became of a question; the last finding says why where it is not usable."""

    usable: Usable | None
    findings: list[Finding]


class Judge:
    """Judges questions, and makes rows of those that can be used.

    Args:
        config: What is asked for.
        sources: The databases.
        serializer: Writes their schemas.
        count: Tells the tokens of messages.
    """

    def __init__(
        self,
        config: PipelineConfig,
        sources: Sequence[Source],
        serializer: Serializer,
        count: CountTokens,
    ) -> None:
        self._config = config
        self._count = count
        self._sources = {source.name: source for source in sources}
        self._shelves = {
            source.name: Shelf(source.schema, serializer, self._text_tokens(source))
            for source in sources
        }

    def __call__(self, question: GoldenQuestion | RowFault) -> Judged:
        """What becomes of a question."""
        if isinstance(question, RowFault):
            return Judged(None, [Finding("fields", "drop", str(question))])
        name = question.database or next(iter(self._sources))
        source = self._sources.get(name)
        if source is None or (question.database is None and len(self._sources) > 1):
            which = f"names the database {name}" if source is None else "names no database"
            detail = f"{which}, of {', '.join(self._sources)}"
            return Judged(None, [Finding("database", "drop", detail)])
        findings: list[Finding] = []
        queries = list(self._queries(question, source, findings))
        if not queries or any(each.action == "drop" for each in findings):
            last = findings[-1]
            return Judged(None, [*findings[:-1], last._replace(action="drop")])
        usable = self._fit(question, source, queries, findings)
        return Judged(usable, findings)

    def _queries(
        self, question: GoldenQuestion, source: Source, findings: list[Finding]
    ) -> Iterator[str]:
        """The gold queries that run, in the database's dialect."""
        own = source.schema.dialect
        asked = self._config.sql.dialect or own
        try:
            found = alternatives(question.query, asked)
            if not found:
                raise RefusedQuery("syntax", "holds no statement")
        except RefusedQuery as refused:
            findings.append(Finding(refused.rule, "change", str(refused)))
            return
        known = set()
        for number, sql in enumerate(found, 1):
            which = f"query {number} of {len(found)}: " if len(found) > 1 else ""
            try:
                text = write(parse_select(sql, asked), own)
                if text in known:
                    continue
                if source.database and not source.database.query(text).rows:
                    findings.append(Finding("no_rows", "flag", f"{which}gives no rows"))
            except RefusedQuery as refused:
                findings.append(Finding(refused.rule, "change", f"{which}{refused}"))
                if refused.rule == "not_select":  # whoever wrote that is not believed the rest
                    findings[-1] = findings[-1]._replace(action="drop")
                    return
                continue
            known.add(text)
            yield text

    def _fit(
        self,
        question: GoldenQuestion,
        source: Source,
        queries: Sequence[str],
        findings: list[Finding],
    ) -> Usable | None:
        """The row, with as much of the schema as there is room for."""
        schema, sql = source.schema, queries[0]
        most, cap = self._config.tokenization.max_length, self._config.sql.schema_tokens

        def row(text: str) -> Messages:
            return messages(schema, text, question.question, sql, question.instructions)

        bare = self._count(row(""))
        budget = most - bare if cap is None else min(cap, most - bare)

        def fits(text: str) -> bool:
            return self._count(row(text)) <= bare + budget

        needed = {
            table for query in queries for table in tables_of(parse_select(query, schema.dialect))
        }
        fitted = self._shelves[source.name].fit(question.question, needed, budget, fits)
        if fitted is None:
            detail = (
                f"question {question.number} does not fit: the {len(needed)} tables of its gold "
                f"SQL have no room in {max(budget, 0):,} tokens"
            )
            findings.append(Finding("too_long", "drop", detail))
            return None
        if fitted.cut:
            shown = ", ".join(fitted.cut[:SHOWN_CUTS])
            more = len(fitted.cut) - SHOWN_CUTS
            detail = f"no room for {shown}{f' and {more} more' if more > 0 else ''}"
            findings.append(Finding("schema_cut", "flag", detail))
        whole = row(fitted.text)
        empty = [*whole[:-1], {"role": "assistant", "content": "x"}]
        tokens = self._count(whole)
        return Usable(whole, source.name, list(queries), tokens, tokens - self._count(empty))

    def _text_tokens(self, source: Source) -> Callable[[str], int]:
        """Tells the tokens that a text adds to a prompt."""
        bare = self._count(messages(source.schema, "", "?", "x"))
        return lambda text: self._count(messages(source.schema, text, "?", "x")) - bare
