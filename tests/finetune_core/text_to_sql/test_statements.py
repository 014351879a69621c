"""What is a query that only reads, and what is not."""

from __future__ import annotations

import pytest

from finetune_core.text_to_sql.statements import (
    RefusedQuery,
    alternatives,
    answered,
    is_ordered,
    normalised,
    parse_select,
    tables_of,
)


def same(first: str, second: str, dialect: str = "sqlite") -> bool:
    return normalised(parse_select(first, dialect), dialect) == normalised(
        parse_select(second, dialect), dialect
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT a FROM t WHERE b LIKE '%;DROP TABLE t;%'",
        "WITH x AS (SELECT a FROM t) SELECT a FROM x",
        "SELECT a FROM t UNION SELECT b FROM u ORDER BY 1",
        "SELECT a FROM t -- ; DROP TABLE t",
        "SELECT count(*), lower(a), strftime('%Y', d) FROM t GROUP BY 2",
    ],
)
def test_queries_that_read_are_taken(sql):
    assert parse_select(sql, "sqlite")


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("DROP TABLE t", "not_select"),
        ("SELECT 1; DROP TABLE t", "syntax"),
        ("DELETE FROM t", "not_select"),
        ("UPDATE t SET a = 1", "not_select"),
        ("INSERT INTO t VALUES (1)", "not_select"),
        ("CREATE TABLE u AS SELECT * FROM t", "not_select"),
        ("SELECT * INTO u FROM t", "not_select"),
        ("WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x", "not_select"),
        ("SELECT a FROM t FOR UPDATE", "not_select"),
        ("TRUNCATE TABLE t", "not_select"),
        ("ALTER TABLE t ADD COLUMN b INT", "not_select"),
        ("SET search_path = x", "not_select"),
        ("ATTACH DATABASE 'x' AS y", None),
        ("PRAGMA writable_schema = 1", "not_select"),
        ("VACUUM", "not_select"),
        ("COPY t TO '/tmp/x'", "not_select"),
        ("SELECT pg_read_file('/etc/passwd')", "not_select"),
        ("SELECT pg_sleep(100)", "not_select"),
        ("SELECT set_config('a', 'b', false)", "not_select"),
        ("SELECT lo_import('/etc/passwd')", "not_select"),
        ("SELECT load_extension('x')", "not_select"),
        ("SELECT query_to_xml('DROP TABLE t', true, true, '')", "not_select"),
        ("SELECT * FROM dblink('x', 'DROP TABLE t') AS t(a int)", "not_select"),
        ("", "syntax"),
        ("SELEC a FROM t", None),
        ("SELECT FROM WHERE", None),
    ],
)
def test_everything_else_is_refused_before_a_database_sees_it(sql, rule, dialect):
    with pytest.raises(RefusedQuery) as refused:
        parse_select(sql, dialect)
    assert refused.value.rule in ({rule} if rule else {"syntax", "not_select"}), refused.value


def test_a_refusal_says_what_was_there():
    with pytest.raises(RefusedQuery, match="DROP"):
        parse_select("DROP TABLE t", "sqlite")


def test_alternatives_are_divided_by_semicolons_outside_of_texts():
    assert alternatives("SELECT ';' ; SELECT 2;", "sqlite") == ["SELECT ';'", "SELECT 2"]


def test_braces_are_columns_that_may_be_left_out():
    found = alternatives("SELECT {a.x, max(b, c)} FROM t", "sqlite")
    assert found == [
        "SELECT a.x, max(b, c) FROM t",
        "SELECT a.x FROM t",
        "SELECT max(b, c) FROM t",
    ]


def test_braces_in_a_text_are_a_text():
    assert alternatives("SELECT '{a, b}' FROM t", "sqlite") == ["SELECT '{a, b}' FROM t"]


def test_many_optional_columns_do_not_make_thousands_of_queries():
    columns = ", ".join(f"c{number}" for number in range(20))
    assert len(alternatives(f"SELECT {{{columns}}} FROM t", "sqlite")) == 64


def test_case_spaces_and_comments_tell_nothing():
    assert same("select A from T where b='x' -- why", "SELECT a FROM t  WHERE b = 'x'")
    assert not same("SELECT a FROM t WHERE b = 'x'", "SELECT a FROM t WHERE b = 'X'")


def test_the_tables_are_those_that_are_read():
    sql = (
        "WITH recent AS (SELECT * FROM Orders) SELECT * FROM recent JOIN public.customers USING (x)"
    )
    assert tables_of(parse_select(sql, "postgres")) == {"orders", "customers"}


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a) AS x", False),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", True),
    ],
)
def test_only_the_outermost_order_counts(sql, ordered):
    assert is_ordered(parse_select(sql, "sqlite")) is ordered


@pytest.mark.parametrize(
    "answer",
    ["SELECT 1;", " SELECT 1 ", "```sql\nSELECT 1;\n```", "Here it is:\n```\nSELECT 1\n```\nDone."],
)
def test_the_sql_is_found_in_an_answer(answer):
    assert answered(answer) == "SELECT 1"
