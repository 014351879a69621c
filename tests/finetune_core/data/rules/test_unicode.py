"""Unicode: what is broken is repaired, what is only unusual stays."""

from __future__ import annotations

import json

import pytest

from finetune_core.data.formats import Message
from finetune_core.data.rules.unicode import repair, unicode


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


def test_the_change_says_in_how_many_messages(turns):
    verdict = unicode("change")(1, turns("a\x00", "b"))
    assert (verdict.action, verdict.detail) == ("change", "broken text in 1 message repaired")
    assert verdict.messages == turns("a", "b")
    assert unicode("change")(1, turns("a", "b")) is None


def test_a_flag_leaves_the_row(turns):
    verdict = unicode("flag")(1, turns("a\x00", "b\x00"))
    assert verdict == ("flag", "broken text in 2 messages", None)


def test_text_in_tool_calls_is_repaired_and_they_stay_json():
    calls = [{"function": {"name": "f", "arguments": {"q": "a\x00\n\u00c3\u00b6", "n": 2}}}]
    message = Message(role="assistant", content="", trained=True, tool_calls=json.dumps(calls))
    (changed,) = unicode("change")(1, [message]).messages
    assert json.loads(changed["tool_calls"])[0]["function"]["arguments"] == {
        "q": "a\n\u00f6",
        "n": 2,
    }
