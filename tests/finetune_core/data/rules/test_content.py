"""Content: what counts when rows are compared, and what is reached when they are rewritten."""

from __future__ import annotations

import json
import random
import unicodedata
from itertools import combinations

import pytest

from finetune_core.data.formats import Conversation, assistant, plain_text, system, user
from finetune_core.data.rules.content import fingerprint, rewrite, texts


def called(calls, content=""):
    return assistant(content) | {"tool_calls": calls}


def left(turn):
    """The turn, read and not learned."""
    return turn | {"trained": False}


ROWS = [
    Conversation([user("q"), assistant("a")]),
    Conversation([user("q"), assistant("b")]),
    Conversation([user("p"), assistant("a")]),
    Conversation([user("Q"), assistant("a")]),
    Conversation([user("qa"), assistant("")]),
    Conversation([user(""), assistant("qa")]),
    Conversation([user("q a")]),
    Conversation([user("q"), user("a")]),
    Conversation([user("q"), left(assistant("a"))]),
    Conversation([system("q"), assistant("a")]),
    Conversation([system(""), user("q"), assistant("a")]),
    Conversation([user("q"), assistant("a"), assistant("")]),
    Conversation([user("q"), assistant("a"), assistant("b")]),
    Conversation([user("q"), assistant("a")], None, [assistant("b")]),
    Conversation([user("q"), assistant("a")], None, [assistant("c")]),
    Conversation([user("q"), assistant("a")], None, [assistant("b"), assistant("c")]),
    Conversation([user("q"), assistant("a"), assistant("b")], None, [assistant("c")]),
    Conversation([user("q"), assistant("a")], None, [called("[1]", "b")]),
    Conversation([user("q"), assistant("a")], "[1]"),
    Conversation([user("q"), assistant("a")], "[2]"),
    Conversation([user("q"), called("[1]")]),
    Conversation([user("q"), called("[2]")]),
    Conversation([user("q"), called("[1]", "a")]),
    Conversation([plain_text("a")]),
    Conversation([plain_text("b")]),
    Conversation([assistant("a")]),
    Conversation([user("a")]),
    Conversation([user("q\0assistant True 1 \0a")]),
    Conversation([]),
]


def test_rows_that_differ_in_anything_have_other_fingerprints():
    pairs = list(combinations(ROWS, 2))
    assert [pair for pair in pairs if len({fingerprint(row).whole for row in pair}) == 1] == []


SPACES = " \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u2003\u2028\u3000"


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("one", "two"), [("a", "b"), ("\u00e9", "\u4f60")])
def test_one_white_space_is_as_good_as_another(one, two, space):
    def print_of(text):
        return fingerprint(Conversation([user(text), assistant(text)]))

    expected = print_of(f"{one} {two}")
    for text in (f"{one}{space}{two}", f"{space}{one} {space}{space}{two}{space * 5}"):
        assert print_of(text) == expected
    assert print_of(f"{one}{two}") != expected


def test_plain_letters_and_others_are_seen_alike():
    random_ = random.Random(1)
    for _ in range(500):
        text = "".join(random_.choices("ab" + SPACES, k=8))
        one, two = (
            fingerprint(Conversation([plain_text(each)])).whole
            for each in (text, " ".join(text.split()))
        )
        assert one == two


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_forms_of_unicode_do_not_count_but_letters_that_look_alike_do(form):
    text = "caf\u00e9 \u1e69 \ud55c\uae00"
    row = Conversation([user(unicodedata.normalize(form, text)), assistant("a")])
    assert fingerprint(row) == fingerprint(Conversation([user(text), assistant("a")]))
    for other in ("cafe \u1e69 \ud55c\uae00", "ca\ufb00\u00e9 \u1e69 \ud55c\uae00"):
        assert fingerprint(Conversation([user(other), assistant("a")])) != fingerprint(row)


def asked(*messages, tools=None, rejected=()):
    return fingerprint(Conversation([*messages], tools, rejected)).asked


def test_what_is_asked_is_all_before_the_last_trained_turn():
    known = asked(user("q"), assistant("a"), user("r"), assistant("b"))
    assert known is not None
    assert known == asked(user(" q"), assistant("a\n"), user("r"), assistant("another"))
    assert known == asked(user("q"), assistant("a"), user("r"), assistant("b"), user("thanks"))
    assert known == asked(
        user("q"), assistant("a"), user("r"), assistant("b"), rejected=[assistant("c")]
    )
    for other in (
        asked(user("p"), assistant("a"), user("r"), assistant("b")),
        asked(user("q"), assistant("c"), user("r"), assistant("b")),
        asked(user("q"), left(assistant("a")), user("r"), assistant("b")),
        asked(user("q"), assistant("a"), user("r"), assistant("b"), tools="[1]"),
        asked(user("q"), assistant("a")),
    ):
        assert other != known


@pytest.mark.parametrize(
    "messages",
    [
        [plain_text("a")],
        [assistant("a")],
        [user("q")],
        [user("q"), left(assistant("a"))],
        [],
    ],
)
def test_where_nothing_is_asked_before_an_answer_there_is_no_such_digest(messages):
    assert asked(*messages) is None


FULL = Conversation(
    [
        system("s"),
        user("u"),
        called(json.dumps([{"function": {"name": "f", "arguments": {"k": ["x", 1, None]}}}]), "a"),
    ],
    json.dumps([{"name": "f", "description": "d\n"}]),
    [called(json.dumps([{"function": {"name": "g", "arguments": {"k": "y"}}}]), "r")],
)


def test_all_of_a_rows_text_is_given():
    assert list(texts(FULL)) == [
        "s",
        "u",
        "a",
        FULL.messages[2]["tool_calls"],
        "r",
        FULL.rejected[0]["tool_calls"],
        FULL.tools,
    ]


def test_rewriting_reaches_every_text_and_no_key_and_leaves_the_row():
    before = json.dumps(FULL)
    changed = rewrite(FULL, str.upper)
    assert json.dumps(FULL) == before
    assert [m["content"] for m in changed.messages] == ["S", "U", "A"]
    assert [m["role"] for m in changed.messages] == ["system", "user", "assistant"]
    assert [m["trained"] for m in changed.messages] == [False, False, True]
    assert json.loads(changed.messages[2]["tool_calls"]) == [
        {"function": {"name": "F", "arguments": {"k": ["X", 1, None]}}}
    ]
    assert changed.rejected[0]["content"] == "R"
    assert json.loads(changed.rejected[0]["tool_calls"]) == [
        {"function": {"name": "G", "arguments": {"k": "Y"}}}
    ]
    assert json.loads(changed.tools) == [{"name": "F", "description": "D\n"}]


def test_rewriting_by_nothing_changes_nothing():
    assert rewrite(FULL, str) == FULL
