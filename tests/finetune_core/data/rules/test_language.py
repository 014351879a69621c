"""Language: rows that are long enough to tell, in a language that is not wanted."""

from __future__ import annotations

import pytest

from finetune_core.data.formats import Conversation, assistant, plain_text, user
from finetune_core.data.rules.language import FEWEST_LETTERS, language

TEXTS = {
    "en": "The train to the city leaves early in the morning, and nobody wants to be late for it.",
    "de": "Der Zug in die Stadt geht am Morgen ab, und niemand will zu sp\u00e4t zu ihm kommen.",
    "fr": "Le train pour la ville part t\u00f4t le matin, et personne ne veut \u00eatre en retard.",
    "zh": "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u4e00\u8d77\u53bb"
    "\u516c\u56ed\u6563\u6b65\u5427\u3002" * 3,
}


@pytest.mark.parametrize("spoken", TEXTS)
@pytest.mark.parametrize("action", ["drop", "flag"])
def test_a_language_that_is_not_wanted_is_named(spoken, action):
    others = [each for each in TEXTS if each != spoken]
    row = Conversation([plain_text(TEXTS[spoken])])
    assert language(action, others)(row) == (action, f"the language is {spoken}", None)
    assert language(action, [spoken])(row) is None
    assert language(action, list(TEXTS))(row) is None


def test_prompt_and_answer_are_told_together():
    prompt, answer = TEXTS["de"][:45], TEXTS["de"][45:]
    row = Conversation([user(prompt), assistant(answer)])
    assert language("drop", ["en"])(row).detail == "the language is de"


@pytest.mark.parametrize("text", ["", "Guten Morgen!", "12 + 30 = 42; " * 50, "a" * 39])
def test_of_what_is_too_short_to_tell_nothing_is_said(text):
    assert sum(map(str.isalpha, text)) < FEWEST_LETTERS
    assert language("drop", ["zz"])(Conversation([plain_text(text)])) is None
