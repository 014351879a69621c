"""Personal data and secrets: what each kind finds, what it lets alone, and what is told of it."""

from __future__ import annotations

import json

import pytest

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.data.formats import Conversation, assistant, user
from finetune_core.data.rules.personal_data import personal_data, redact_all

A36 = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"

FOUND = {
    "email": [
        ("ann.b+c@mail.example.org.", "[EMAIL]."),
        ("mailto:a@b.io, x_y@z-1.co.uk!", "mailto:[EMAIL], [EMAIL]!"),
        ("<j\u00f6rg@m\u00fcller.de>", "<[EMAIL]>"),
    ],
    "card": [
        ("4111 1111 1111 1111 12/27", "[CARD] 12/27"),
        ("4111-1111-1111-1111", "[CARD]"),
        ("no. 5555555555554444.", "no. [CARD]."),
        ("378282246310005 or 3782 822463 10005", "[CARD] or [CARD]"),
        ("30569309025904", "[CARD]"),
    ],
    "iban": [
        ("DE89 3704 0044 0532 0130 00", "[IBAN]"),
        ("DE89370400440532013000", "[IBAN]"),
        ("to GB29 NWBK 6016 1331 9268 19 NOW", "to [IBAN] NOW"),
        ("BE68 5390 0754 7034 GB29 NWBK 6016 1331 9268 19", "[IBAN] [IBAN]"),
        ("NO93 8601 1117 947", "[IBAN]"),
    ],
    "phone": [
        ("call +1 650-253-0000 now", "call [PHONE] now"),
        ("+49 30 901820", "[PHONE]"),
    ],
    "secret": [
        ("key=sk-" + A36, "key=[SECRET]"),
        ("sk-proj-ab_cd-" + A36, "[SECRET]"),
        ("AKIA" + "IOSFODNN7EXAMPLE", "[SECRET]"),
        (f"AWS_SECRET_ACCESS_KEY={A36}/+aB", "AWS_SECRET_ACCESS_KEY[SECRET]"),
        ("ghp_" + A36, "[SECRET]"),
        ("github_pat_11ABCDEFG0" + A36, "[SECRET]"),
        ("glpat-" + A36[:20], "[SECRET]"),
        ("hf_" + A36[:34], "[SECRET]"),
        ("xoxb-1234567890-abcdef", "[SECRET]"),
        ("AIza" + A36[:35], "[SECRET]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "[SECRET]"),
        (
            "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb",
            "a\n[SECRET]\nb",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIE and no end", "[SECRET]"),
    ],
}

LET_ALONE = {
    "email": ["@app.route('/')", "user@host", "git@github.com:a/b.git", "a @ b.c", "x@y.1", "a@b"],
    "card": [
        "order 4111111111111112",  # as long as a card, but fails Luhn
        "4111 1111 1111 1112",
        "1234567890123452",  # passes Luhn, but no network begins so
        "0.4111111111111111",
        "id41111111111111110",
        "41111111111111111111",
        "4111 1111-1111 1111",
    ],
    "iban": [
        "DE89 3704 0044 0532 0130 01",
        "DE88370400440532013000",
        "AB12 CDEF",
        "MODEL XY99 ABCD EFGH IJKL",
    ],
    "phone": ["12 + 650 = 662", "2026-11-21 12:00", "order 6502530000", "+1 23", "x = 1+2345678"],
    "secret": [
        "task-" + "a" * 40,
        "sk-fading-circle-with-a-long-name",
        "import sklearn; sk-learn",
        "AKIAIOSFODNN7",
        "ghp_short",
        "eyJ is how JSON begins in base64",
        "-----BEGIN PUBLIC KEY-----\nMIIB",
        "secret_access_key = os.environ['KEY']",
        "sk-...",
        A36,
    ],
}


def pairs(cases):
    return [(kind, case) for kind, known in cases.items() for case in known]


@pytest.mark.parametrize(("kind", "case"), pairs(FOUND))
def test_what_is_personal_is_found_and_nothing_around_it(kind, case, turns):
    text, redacted = case
    verdict = personal_data(kind, "redact", SanitizeConfig())(turns(text))
    assert verdict.changed == turns(redacted)


@pytest.mark.parametrize(("kind", "text"), pairs(LET_ALONE))
def test_what_only_looks_alike_is_let_alone(kind, text, turns):
    assert personal_data(kind, "redact", SanitizeConfig())(turns(text)) is None


def test_a_region_tells_its_phone_numbers_without_the_plus(turns):
    text = "(650) 253-0000 or 650-253-0000 or +1 650-253-0000, 28980-18480 = 28980 - 18480"
    redacted = "[PHONE] or [PHONE] or [PHONE], 28980-18480 = 28980 - 18480"
    config = SanitizeConfig(phone_region="US")
    assert personal_data("phone", "redact", config)(turns(text)).changed == turns(redacted)
    assert personal_data("phone", "redact", SanitizeConfig())(turns("(650) 253-0000")) is None


@pytest.mark.parametrize("action", ["flag", "drop"])
def test_the_detail_says_how_many_and_not_what(action, turns):
    check = personal_data("email", action, SanitizeConfig())
    assert check(turns("a@b.io c@d.io", "e@f.io")) == (action, "3 of kind email", None)


def test_what_is_redacted_is_not_found_again(turns):
    check = personal_data("email", "redact", SanitizeConfig())
    verdict = check(turns("a@b.io"))
    assert verdict.detail == "1 of kind email redacted"
    assert check(verdict.changed) is None


VALUES = {
    "email": "a@b.io",
    "card": "4111 1111 1111 1111",
    "iban": "DE89370400440532013000",
    "phone": "+49 30 901820",
    "secret": "sk-" + A36,
}


def call(arguments):
    return json.dumps([{"function": {"name": "send", "arguments": arguments}}])


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("lead", ["", "to:\n", "\t", '"', "\u00e4 ", "\\"])
def test_calls_tools_and_rejected_answers_are_searched_and_stay_json(kind, lead):
    text, redacted = lead + VALUES[kind], f"{lead}[{kind.upper()}]"
    row = Conversation(
        [user("q"), assistant("") | {"tool_calls": call({"text": [text]})}],
        json.dumps([{"description": text}]),
        [assistant(text) | {"tool_calls": call(text)}],
    )
    verdict = personal_data(kind, "redact", SanitizeConfig())(row)
    assert verdict.detail == f"4 of kind {kind} redacted"
    messages, tools, (rejected,) = verdict.changed
    (each,) = json.loads(messages[1]["tool_calls"])
    assert each["function"] == {"name": "send", "arguments": {"text": [redacted]}}
    assert json.loads(tools) == [{"description": redacted}]
    assert rejected["content"] == redacted
    assert json.loads(rejected["tool_calls"])[0]["function"]["arguments"] == redacted


def test_a_cards_number_in_a_call_is_found_though_it_is_a_number():
    calls = call({"card": 4111111111111111, "amount": 12})
    row = Conversation([user("q"), assistant("") | {"tool_calls": calls}])
    verdict = personal_data("card", "redact", SanitizeConfig())(row)
    (each,) = json.loads(verdict.changed.messages[1]["tool_calls"])
    assert each["function"]["arguments"] == {"card": "[CARD]", "amount": 12}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("lead", ["", "to:\n", "\t", '"', "\u00e4 "])
def test_what_is_json_within_a_row_is_redacted_too(kind, lead):
    text = json.dumps([{"name": "f", "description": lead + VALUES[kind]}])
    row = {"tools": text, "conversations": [{"from": "function_call", "value": text}]}
    redacted = json.dumps(redact_all(SanitizeConfig(**{kind: "flag"}))(row))
    assert VALUES[kind] not in redacted
    assert redacted.count(f"[{kind.upper()}]") == 2


def test_a_whole_row_is_redacted_of_every_kind_that_has_a_rule():
    row = {"a": "x@y.io", "b": [{"c": 4111111111111111, "d": None, "e": True}], "f": 1.5}
    redact = redact_all(SanitizeConfig(email="flag", card="drop"))
    assert redact(row) == {"a": "[EMAIL]", "b": [{"c": "[CARD]", "d": None, "e": True}], "f": 1.5}
    assert redact_all(SanitizeConfig())(row) == row


@pytest.mark.timeout(5)
@pytest.mark.parametrize("piece", ["a", "a.", "4", "4 ", "AB12", "eyJ", "sk-", "a@", "ghp_", "- "])
def test_long_runs_are_searched_in_time(piece, turns):
    text = piece * (200_000 // len(piece)) + "@ AKIA eyJ sk- PRIVATE KEY"
    for kind in ("email", "card", "iban", "secret"):
        personal_data(kind, "flag", SanitizeConfig())(turns(text))
