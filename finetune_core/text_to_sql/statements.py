"""SQL as text: told apart, checked that it only reads, and normalised; by sqlglot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, islice, product

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlglot.tokenizer_core import Token, TokenType

MOST_VARIANTS = 64  # of one query with optional columns

# What stands in a query and is more than reading. A read-only connection refuses most of it too.
WRITING = (exp.DDL, exp.DML, exp.Command, exp.Into, exp.Lock, exp.Set, exp.Pragma)
# Functions that reach beyond the database's tables: its server's files, settings and sessions,
# other servers, or SQL in a string.
REACHING = re.compile(
    r"pg_(?!typeof$)\w+|lo_\w+|dblink\w*|set_config|current_setting|query_to_xml\w*|\w*_to_xml\w*"
    r"|nextval|setval|load_extension|readfile|writefile|edit|fts3_tokenizer|zipfile\w*|sqlar_\w+",
    re.IGNORECASE,
)
FENCE = re.compile(r"```[a-zA-Z]*\s*(.*?)(?:```|\Z)", re.DOTALL)


class RefusedQuery(Exception):
    """SQL that is not executed, or that the database does not execute.

    Args:
        rule: What it breaks: syntax, not_select, fails, too_slow, too_many_rows.
        message: What is wrong with it.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def parse_select(sql: str, dialect: str) -> exp.Query:
    """The one query that a text holds.

    Args:
        sql: The text.
        dialect: As sqlglot names it.

    Raises:
        RefusedQuery: It is not one query, or does more than read.
    """
    try:
        found = [each for each in sqlglot.parse(sql, read=dialect) if each is not None]
    except (SqlglotError, RecursionError) as error:
        raise RefusedQuery("syntax", _first_line(error)) from None
    if len(found) != 1:
        problem = f"holds {len(found)} statements" if found else "holds no statement"
        raise RefusedQuery("syntax", problem)
    tree = found[0]
    if not isinstance(tree, exp.Query):
        raise RefusedQuery("not_select", f"is no SELECT but {tree.key.upper()}")
    for node in tree.walk():
        if isinstance(node, WRITING):
            raise RefusedQuery("not_select", f"holds {node.key.upper()}, which does more than read")
        if isinstance(node, exp.Func) and REACHING.fullmatch(name := _name(node)):
            raise RefusedQuery("not_select", f"calls {name}, which reaches beyond the tables")
    return tree


def write(tree: exp.Query, dialect: str) -> str:
    """A query as text, in a dialect."""
    return tree.sql(dialect=dialect, comments=False)


def normalised(tree: exp.Query, dialect: str) -> str:
    """A query as text that is the same where only case, spaces and comments differ."""
    return write(normalize_identifiers(tree.copy(), dialect=dialect), dialect)


def tables_of(tree: exp.Query) -> set[str]:
    """The names of the tables that a query reads, in lower case."""
    own = {each.alias_or_name.lower() for each in tree.find_all(exp.CTE)}
    return {each.name.lower() for each in tree.find_all(exp.Table)} - own


def is_ordered(tree: exp.Query) -> bool:
    """Whether the order of a query's rows is asked for."""
    return tree.args.get("order") is not None


def alternatives(sql: str, dialect: str) -> list[str]:
    """The gold queries that a field holds: divided by `;`, with optional columns in braces.

    `SELECT {a, b} FROM t` stands for `SELECT a, b`, `SELECT a` and `SELECT b`.

    Args:
        sql: The field.
        dialect: As sqlglot names it.

    Returns:
        The queries, those with all optional columns first of theirs.

    Raises:
        RefusedQuery: The field is no SQL at all.
    """
    try:
        tokens = sqlglot.tokenize(sql, read=dialect)
    except SqlglotError as error:
        raise RefusedQuery("syntax", _first_line(error)) from None
    found, start = [], 0
    for token in tokens:
        if token.token_type is TokenType.SEMICOLON:
            found.append((start, token.start))
            start = token.end + 1
    found.append((start, len(sql)))
    return [
        variant
        for begin, end in found
        if sql[begin:end].strip()
        for variant in islice(_variants(sql, begin, end, tokens), MOST_VARIANTS)
    ]


def answered(text: str) -> str:
    """The SQL of a model's answer: what stands between fences, if there are any."""
    fenced = FENCE.search(text)
    return (fenced[1] if fenced else text).strip().rstrip(";").strip()


def _variants(sql: str, begin: int, end: int, tokens: list[Token]) -> Iterator[str]:
    """A query once for each choice of the columns that its braces leave open."""
    inside = [token for token in tokens if begin <= token.start < end]
    pieces: list[list[str]] = []
    opened: Token | None = None
    commas: list[int] = []
    position, depth = begin, 0
    for token in inside:
        kind = token.token_type
        if kind is TokenType.L_BRACE and opened is None:
            opened, commas, depth = token, [], 0
        elif opened is not None and kind in (TokenType.L_PAREN, TokenType.R_PAREN):
            depth += 1 if kind is TokenType.L_PAREN else -1
        elif opened is not None and kind is TokenType.COMMA and not depth:
            commas.append(token.start)
        elif opened is not None and kind is TokenType.R_BRACE:
            ends = [*commas, token.start]
            starts = [opened.end + 1, *(comma + 1 for comma in commas)]
            columns = [sql[a:b].strip() for a, b in zip(starts, ends, strict=True)]
            chosen = [
                ", ".join(each)
                for count in range(len(columns), 0, -1)
                for each in combinations(columns, count)
            ]
            pieces += [[sql[position : opened.start]], chosen]
            position, opened = token.end + 1, None
    pieces.append([sql[position:end]])
    for parts in product(*pieces):
        yield "".join(parts).strip()


def _name(node: exp.Func) -> str:
    return node.name if isinstance(node, exp.Anonymous) else node.sql_name()


def _first_line(error: Exception) -> str:
    """What a parser complains of, without the marks of a terminal."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    return text.partition("\n")[0]
