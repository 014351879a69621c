"""Which tables of a large schema a prompt shows."""

from __future__ import annotations

from finetune_core.text_to_sql.fitting import Shelf
from finetune_core.text_to_sql.schema import Column, Schema, Table
from finetune_core.text_to_sql.serializers import SERIALIZERS

TABLES = {
    "employees": ["name", "salary"],
    "hotel_rooms": ["floor", "beds"],
    "FlightPlans": ["pilot", "departure"],
    "invoices": ["amount", "due"],
}


def words(text: str) -> int:
    return len(text.split())


def shelf() -> Shelf:
    tables = [
        Table(name=name, columns=[Column(name=each, type="TEXT") for each in columns])
        for name, columns in TABLES.items()
    ]
    schema = Schema(name="s", dialect="sqlite", tables=tables)
    return Shelf(schema, SERIALIZERS["compact"], words)


def fit(question: str, needed: set[str], budget: int):
    return shelf().fit(question, needed, budget, lambda text: words(text) <= budget)


def test_all_tables_are_shown_where_there_is_room():
    fitted = fit("Who?", set(), 100)
    assert fitted.cut == []
    assert [line.partition("(")[0] for line in fitted.text.splitlines()] == list(TABLES)


def test_what_the_gold_sql_needs_stays_and_relevance_fills_the_rest():
    fitted = fit("Which pilots have a flight?", {"invoices"}, 9)
    assert fitted.cut == ["employees", "hotel_rooms"]


def test_relevance_knows_plurals_and_names_of_two_words():
    assert fit("How many rooms have two beds?", set(), 4).cut == [
        "employees",
        "FlightPlans",
        "invoices",
    ]
    assert "FlightPlans" not in fit("the plan of each flight", set(), 4).cut


def test_what_is_needed_and_has_no_room_is_not_cut_silently():
    assert fit("Who?", {"employees", "invoices"}, 5) is None


def test_a_count_that_adds_up_wrongly_still_fits():
    """Tokens of a whole are not the sum of those of its parts."""
    fitted = shelf().fit("Who?", set(), 100, lambda text: words(text) <= 8)
    assert words(fitted.text) <= 8
