"""What the rules of sanitizing do. The numbers' defaults and limits stand in defaults.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from finetune_core.config.defaults import setting
from finetune_core.config.section import Section

Off = BeforeValidator(lambda value: "off" if value is False else value)  # as YAML reads `off`
Filter = Annotated[Literal["off", "flag", "drop"], Off]
Privacy = Annotated[Literal["off", "flag", "redact", "drop"], Off]


class SanitizeConfig(Section):
    """What each rule does with a row that it meets: nothing, flag, change or drop it.

    A flagged row stays as it is; the ledger names it, and the record counts it.
    """

    unicode: Annotated[Literal["off", "flag", "change"], Off] = "change"
    """Text decoded wrongly, control characters, terminal escapes, lone surrogates."""

    secret: Privacy = "flag"  # noqa: S105
    """Keys and tokens that tell by their shape: OpenAI, AWS, GitHub, private keys and so on."""

    email: Privacy = "off"
    """E-mail addresses."""

    iban: Privacy = "off"
    """Bank accounts: IBANs whose check digits are right."""

    card: Privacy = "off"
    """Payment cards: numbers of their lengths whose check digit (Luhn) is right."""

    phone: Privacy = "off"
    """Phone numbers: international ones, and those of phone_region where it is given."""

    phone_region: str | None = Field(None, pattern="^[A-Z]{2}$")
    """The country whose phone numbers are also known without +, as ISO 3166 writes it: US."""

    empty: Filter = "drop"
    """Rows without a prompt, or with an answer to be learned that says nothing."""

    roles: Filter = "flag"
    """Turns out of order: an answer before a question, two of one role, a late system turn."""

    language: Filter = "off"
    """Rows in another language than `languages` name."""

    languages: tuple[str, ...] = ()
    """The languages that rows may have, as ISO 639-1 writes them: en, de."""

    duplicate: Filter = "drop"
    """Rows that say what an earlier row said, but for white space and forms of Unicode."""

    conflict: Filter = "flag"
    """Rows that answer what an earlier row asked, otherwise."""

    near_duplicate: Filter = "off"
    """Rows nearly the same as an earlier one."""

    leak: Filter = "drop"
    """Training rows that also stand in the validation or the evaluation file."""

    near_leak: Filter = "off"
    """Training rows nearly the same as one of these files."""

    near_threshold: float = setting("sanitize.near_threshold")
    """How much two rows share that are nearly the same: of their runs of five words, so much."""

    label_imbalance: float | None = setting("sanitize.label_imbalance")
    """Warn where a label stands so many times as often as another; null never warns."""
