"""Finds personal data and secrets: a rule for each kind, all made alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.data.formats import Conversation
from finetune_core.data.rules.content import map_leaves, rewrite, texts
from finetune_core.data.rules.verdict import Rule, Verdict

# Gives the spans of a text that are of a kind.
Finder = Callable[[str], Iterator[tuple[int, int]]]

# Secrets tell by how they begin, so a text is only searched for what it can have. Only shapes that
# an issuer marks as its own: what is merely random may be a digest or an id.
_AWS_SECRET = re.compile(
    r"(?i)(?<=secret_access_key)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[A-Za-z0-9/+]{40}(?![\w/+])"
)
_AWS_KEY = re.compile(r"\bA[KS]IA[A-Z0-9]{16}\b")
_GITHUB = re.compile(r"\bgh[opsur]_[A-Za-z0-9]{36,255}\b")
SECRETS = {
    "sk-": re.compile(
        r"(?<![\w-])sk-(?:[A-Za-z0-9]{20,}|(?:admin|ant|or|proj|svcacct)-[\w-]{20,})(?![\w-])"
    ),
    "k_live_": re.compile(r"\b[rs]k_live_[A-Za-z0-9]{16,}\b"),
    "AKIA": _AWS_KEY,
    "ASIA": _AWS_KEY,
    "secret_access_key": _AWS_SECRET,
    "SECRET_ACCESS_KEY": _AWS_SECRET,
    "gho_": _GITHUB,
    "ghp_": _GITHUB,
    "ghr_": _GITHUB,
    "ghs_": _GITHUB,
    "ghu_": _GITHUB,
    "github_pat_": re.compile(r"\bgithub_pat_\w{22,255}\b"),
    "glpat-": re.compile(r"\bglpat-[\w-]{20,}"),
    "hf_": re.compile(r"\bhf_[A-Za-z0-9]{34,}\b"),
    "npm_": re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"),
    "pypi-": re.compile(r"\bpypi-AgE[\w-]{50,}"),
    "AIza": re.compile(r"\bAIza[\w-]{35}(?![\w-])"),
    "xox": re.compile(r"\bxox[abeoprs]-\d[\w-]{10,}"),
    "eyJ": re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),  # a JSON web token
    "PRIVATE KEY": re.compile(
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
        re.DOTALL,
    ),
}
# The marks by a sign that they have, for most texts have none of the signs.
MARKS: dict[str, list[str]] = {}
for _mark in SECRETS:
    MARKS.setdefault(next((sign for sign in "_-" if sign in _mark), ""), []).append(_mark)
# What stands before the @ has 64 characters at most (RFC 5321), which also bounds the search.
# git@host is how repositories are named.
EMAIL = re.compile(r"(?<![\w.%+-])(?!git@)[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b")
# In fours, as IBANs are printed, or in one.
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# The lengths and first digits of the networks, ISO/IEC 7812: 16, American Express 15, Diners 14.
CARD = re.compile(
    r"(?<![\w.])(?:[2-6]\d{15}|3[47]\d{13}|3[068]\d{12}"
    r"|[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -])\d{6}\2\d{5})(?!\w|\.\d)"
)


def personal_data(
    kind: str, action: Literal["flag", "redact", "drop"], config: SanitizeConfig
) -> Rule:
    """Makes the rule of a kind. Its detail says how many there are, never what they are."""
    redact, may_hold = _redactor(kind, config), MAY_HOLD[kind]

    def check(conversation: Conversation) -> Verdict | None:
        if not any(map(may_hold, texts(conversation))):
            return None
        count = 0

        def change(text: str) -> str:
            nonlocal count
            redacted, found = redact(text)
            count += found
            return redacted

        redacted = rewrite(conversation, change)
        if not count:
            return None
        detail = f"{count} of kind {kind}"
        if action == "redact":
            return Verdict("change", f"{detail} redacted", redacted)
        return Verdict(action, detail)

    return check


def redact_all(config: SanitizeConfig) -> Callable[[Any], Any]:
    """Gives a function that makes a copy of a row without what any rule of these looks for."""
    redactors = [_redactor(kind, config) for kind in FINDERS if getattr(config, kind) != "off"]

    def change(leaf: Any) -> Any:
        if isinstance(leaf, str) and leaf[:1] in ("{", "["):  # JSON, whose escapes hide borders
            try:
                held = json.loads(leaf)
            except (ValueError, RecursionError):
                pass
            else:
                redacted = map_leaves(held, change)
                return leaf if redacted == held else json.dumps(redacted)
        text = str(leaf)  # a card's number may stand there as a number
        for redact in redactors:
            text, count = redact(text)
            leaf = text if count else leaf
        return leaf

    return lambda row: map_leaves(row, change) if redactors else row


def _redactor(kind: str, config: SanitizeConfig) -> Callable[[str], tuple[str, int]]:
    """Gives a function that puts `[KIND]` in place of what it finds, and counts it."""
    find = FINDERS[kind](config)

    def redact(text: str) -> tuple[str, int]:
        parts, end, count = [], 0, 0
        for start, stop in sorted(find(text)):
            if start >= end:
                parts += [text[end:start], f"[{kind.upper()}]"]
                count += 1
            end = max(end, stop)
        return ("".join([*parts, text[end:]]), count) if count else (text, 0)

    return redact


def _may_hold_secrets(text: str) -> bool:
    for sign, marks in MARKS.items():
        if sign in text:
            for mark in marks:
                if mark in text:
                    return True
    return False


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    for pattern in {pattern for mark, pattern in SECRETS.items() if mark in text}:
        for match in pattern.finditer(text):
            yield match.span()


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for match in EMAIL.finditer(text):
        yield match.span()


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    position = 0
    while match := IBAN.search(text, position):
        position = match.start() + 1
        candidate = match[0]
        # What follows an IBAN may look like one more four of it.
        while not _is_iban(candidate) and " " in candidate:
            candidate = candidate.rpartition(" ")[0]
        if _is_iban(candidate):
            position = match.start() + len(candidate)
            yield match.start(), position


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in CARD.finditer(text):
        if _luhn(re.sub(r"\D", "", match[0])):
            yield match.span()


def _phones(region: str | None) -> Finder:
    from phonenumbers import Leniency, PhoneNumberMatcher  # large, and seldom asked for

    def find(text: str) -> Iterator[tuple[int, int]]:
        if "+" in text:
            for match in PhoneNumberMatcher(text, None):
                yield match.start, match.end
        if region:  # without the plus only as the country groups digits, or sums were taken for it
            for match in PhoneNumberMatcher(text, region, Leniency.STRICT_GROUPING):
                yield match.start, match.end

    return find


def _is_iban(text: str) -> bool:
    """ISO 13616: with its head moved to its end and letters as 10 to 35, it leaves 1 by 97."""
    compact = text.replace(" ", "")
    moved = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right doubled, the digits' sum ends in 0."""
    doubled = (int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(digits[::-1]))
    return sum(number // 10 + number % 10 for number in doubled) % 10 == 0


# In the order in which they are asked: a card's digits can look like a phone number.
FINDERS: dict[str, Callable[[SanitizeConfig], Finder]] = {
    "secret": lambda config: _secrets,
    "email": lambda config: _emails,
    "iban": lambda config: _ibans,
    "card": lambda config: _cards,
    "phone": lambda config: _phones(config.phone_region),
}
_DIGITS = re.compile(r"\d.*\d", re.DOTALL)
# What a text must at least have, so that most are passed over quickly.
MAY_HOLD: dict[str, Callable[[str], object]] = {
    "secret": _may_hold_secrets,
    "email": lambda text: "@" in text,
    "iban": _DIGITS.search,
    "card": _DIGITS.search,
    "phone": _DIGITS.search,
}
