"""Unicode: what is broken is repaired, what is only unusual stays."""

from __future__ import annotations

import json
import random
import re
from itertools import product

import ftfy.badness
import pytest
from ftfy import fix_text
from ftfy.chardata import CHARMAP_ENCODINGS

from finetune_core.data.formats import Conversation, assistant, user
from finetune_core.data.rules.unicode import REPAIRS, repair, repair_row, unicode


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("sch\u00c3\u00b6n", "sch\u00f6n"),
        ("don\u00e2\u20ac\u2122t", "don\u2019t"),
        ("a\x00b\x08c\x7f", "abc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\ufeffstart", "start"),
        ("\ud83d\ude00", "\U0001f600"),  # a pair of surrogates, as JavaScript cuts characters
        ("half \ud83d", "half \ufffd"),
        ("voil\u00c3 le travail", "voil\u00e0 le travail"),
    ],
)
def test_broken_text_is_repaired(broken, repaired):
    assert repair(broken) == repaired


@pytest.mark.parametrize(
    "text",
    [
        "def f(x: dict):\r\n\treturn f\"{x['a']!r} {{}}\"  # \u03bb \u2192 \u2200x\u2208\u211d",
        '{"a": "&lt;b&gt; &amp; &quot;"}',
        "\u201ccurly\u201d \u2018quotes\u2019 \u2014 dashes\u2026",
        "\uff21\uff22\uff23 \uff76\uff85 \ufb01ne x\u00b2 \u2460",
        "cafe\u0301 and caf\u00e9",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u0645\u06cc\u200c\u062e\u0648",
        "\u251c\u2500\u2500 src\n\u2514\u2500\u2500 a.py",
        "\u043f\u0440\u0438\u0432\u0435\u0442 \u4f60\u597d \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "C:\\new\\x00 \\u00e9 {{name}} $x$ \f",
        "line\u2028separator\u00a0space",
        "S\u00c3O PAULO, \u00c5ngstr\u00f6m",
    ],
)
def test_what_is_only_unusual_stays(text):
    assert repair(text) == text


def passed_over(texts):
    """The texts that are not repaired as ftfy repairs them."""
    return [text for text in texts if repair(text) != fix_text(text, REPAIRS)]


def known_characters():
    """Every character that ftfy's heuristic names, and all bytes of the encodings that it knows."""
    named = set(ftfy.badness.BADNESS_RE.pattern) - set(map(chr, range(128)))
    for first, last in re.findall(r"(.)-(.)", "".join(ftfy.badness.MOJIBAKE_CATEGORIES.values())):
        named |= {chr(code) for code in range(ord(first), ord(last) + 1)}
    for encoding in CHARMAP_ENCODINGS:
        named |= set(bytes(range(128, 256)).decode(encoding, errors="ignore"))
    return sorted(named)


KNOWN = known_characters()


def test_ftfy_finds_nothing_in_a_single_character_that_is_passed_over():
    assert len(KNOWN) > 400
    sides = ["a", "Z", " ", "", "\n", "?", ".", "\u00a0"]
    assert passed_over(a + each + b for a, each, b in product(sides, KNOWN, sides)) == []


def test_ftfy_finds_nothing_in_any_character_of_the_first_plane_that_is_passed_over():
    assert passed_over(f"a {chr(code)}b {chr(code)} c" for code in range(0x10000)) == []


def test_ftfy_finds_nothing_between_two_apart_that_is_passed_over():
    random_ = random.Random(3)
    marks = [*" azAZ?.,-\t\n\r\f\"'\\/&<1", "  ", "xy", ""]
    texts = (
        "".join(random_.choice(KNOWN) + random_.choice(marks) for _ in range(random_.randrange(7)))
        for _ in range(20_000)
    )
    assert passed_over(texts) == []


# A byte that was lost may stand there as a blank or as a question mark.
@pytest.mark.parametrize("lost", [" ", "?"])
def test_ftfy_finds_nothing_around_a_lost_byte_that_is_passed_over(lost):
    letters = sorted({*bytes(range(128, 256)).decode("cp1252", errors="ignore")})
    assert passed_over(a + lost + b + " " for a, b in product(letters, letters)) == []


@pytest.mark.parametrize("encoding", CHARMAP_ENCODINGS)
def test_text_that_was_decoded_wrongly_is_never_passed_over(encoding):
    random_ = random.Random(encoding)
    letters = "\u00e4\u00e9\u00c0\u00df\u0153\u0152\u00c2\u00c3\u2019\u201c\u20ac\u2026\u00a0"
    letters += "\u010d\u043f\u03b1\U0001f600"
    broken = []
    for _ in range(2000):
        text = "".join(random_.choices("ab c." + letters, k=random_.randrange(1, 9)))
        broken.append(text.encode().decode(encoding, errors="replace"))
        broken.append(text.encode().decode("latin-1"))
    assert passed_over(broken) == []
    assert sum(fix_text(text, REPAIRS) != text for text in broken) > 1000


def test_control_characters_are_never_passed_over():
    random_ = random.Random(1)
    controls = [*map(chr, range(0xA0)), *"\u206a\u206f\ufeff\ufff9\ufffc\ud800\udfff\u200b\u2066"]
    assert passed_over("".join(random_.choices(controls, k=4)) for _ in range(5000)) == []
    assert passed_over(a + b + c for a, b, c in product("a\u00e9", controls, "a\u00e9")) == []


def test_the_change_says_in_how_many_places(turns):
    verdict = unicode("change")(turns("a\x00", "b"))
    assert (verdict.action, verdict.detail) == ("change", "broken text in 1 place repaired")
    assert verdict.changed == turns("a", "b")
    assert unicode("change")(turns("a", "b")) is None


def test_a_flag_leaves_the_row(turns):
    assert unicode("flag")(turns("a\x00", "b\x00")) == ("flag", "broken text in 2 places", None)


def call(text):
    return json.dumps([{"function": {"name": "f", "arguments": {"q": text, "n": 2}}}])


ESCAPED = ["\x00", "\x08", "\x1b[31m", "\x7f", "\u00c3\u00b6", "\ud83d", "\ufeff"]


@pytest.mark.parametrize("broken", ESCAPED)
def test_text_in_calls_and_tools_is_repaired_and_they_stay_json(broken):
    text = f"a\n{broken} \\n"
    row = Conversation(
        [user("q"), assistant("") | {"tool_calls": call(text)}],
        json.dumps([{"description": text}]),
        [assistant("") | {"tool_calls": call(text)}],
    )
    verdict = unicode("change")(row)
    assert verdict.detail == "broken text in 3 places repaired"
    messages, tools, (rejected,) = verdict.changed
    repaired = fix_text(text, REPAIRS)
    for turn in (messages[1], rejected):
        (each,) = json.loads(turn["tool_calls"])
        assert each["function"]["arguments"] == {"q": repaired, "n": 2}
    assert json.loads(tools) == [{"description": repaired}]


@pytest.mark.parametrize("text", ["\u00e9\n\f\t\r", "\\u0000", "\U0001f600"])
def test_sound_text_in_calls_is_let_alone(text):
    row = Conversation([user("q"), assistant("") | {"tool_calls": call(text)}], call(text))
    assert unicode("change")(row) is None


def test_a_rejected_answer_is_repaired(turns):
    row = turns("q")._replace(rejected=[assistant("sch\u00c3\u00b6n")])
    assert unicode("change")(row).changed.rejected == [assistant("sch\u00f6n")]


def test_a_whole_row_is_repaired_and_left():
    row = {"a": "x\x00", "b": [{"c": "\u00c3\u00b6", "d": None, "e": 1.5}], "f": True}
    assert repair_row(row) == {"a": "x", "b": [{"c": "\u00f6", "d": None, "e": 1.5}], "f": True}
    assert row["a"] == "x\x00"
