"""Examine: some rows of a file → conversations, and what the rules for single rows say of them.

It knows nothing of other rows, so that several processes can do it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import pyarrow as pa

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.config.sections import DatasetConfig
from finetune_core.data.formats import TEXT, Conversation, RowFault, find_format, system
from finetune_core.data.ledger import CHANGED, DROPPED, KEPT, Finding
from finetune_core.data.loading import Block
from finetune_core.data.rows import CONVERSATION_FIELDS, to_columns
from finetune_core.data.rules import make_rules
from finetune_core.data.rules.content import Fingerprint, fingerprint, texts
from finetune_core.data.rules.label_imbalance import label_of
from finetune_core.data.rules.near import Sketches, sketch
from finetune_core.data.rules.personal_data import redact_all
from finetune_core.data.rules.unicode import repair_row
from finetune_core.data.rules.verdict import Rule
from finetune_core.exceptions import DatasetFormatError


class Examined(NamedTuple):
    """What came of the rows of a block, a value a row in each list.

    Attributes:
        outcomes: kept, changed or dropped.
        findings: Of the rules that found something, in order.
        originals: A row as JSON, unless it is kept and no rule can drop it later.
        conversations: The columns of `CONVERSATION_FIELDS`, empty in dropped rows.
        fingerprints: By which a row is compared with others.
        labels: The last answer, where it is as short as a label.
        sketches: By which near rows are found, where that is wanted.
    """

    outcomes: list[str]
    findings: list[list[Finding]]
    originals: list[str | None]
    conversations: pa.RecordBatch
    fingerprints: list[Fingerprint]
    labels: list[str | None]
    sketches: Sketches | None


def examine(config: DatasetConfig, columns: tuple[str, ...], block: Block) -> Examined:
    """Examines the rows of a block.

    Args:
        config: The dataset section.
        columns: The columns of the file's first row, which decide the format.
        block: The rows.

    Raises:
        DatasetFormatError: A row cannot be read; it is named by its number.
    """
    format_ = find_format(columns, config.input_field, config.output_field, config.format)
    rules, near = _rules(config.sanitize), looks_for_near(config.sanitize)
    examined = Examined([], [], [], [], [], [], None)
    judged: list[Conversation] = []
    for row in block.rows():
        try:
            missing = [column for column in format_.columns if column not in row.values]
            if missing:
                raise RowFault(f"has no field {missing[0]!r}, which the first row has")
            conversation = format_.read(row.values)
            if config.sanitize.unicode != "change":
                _check_encodable(conversation)
            if config.system_prompt:
                _check_has_turns(conversation)
            outcome, findings, conversation = _judge(rules, conversation)
            held = near or outcome != KEPT
            examined.originals.append(original(row.values, config.sanitize) if held else None)
        except RowFault as fault:
            raise DatasetFormatError(f"{block.where(row.number)}: {fault}") from None
        except RecursionError:
            raise DatasetFormatError(f"{block.where(row.number)}: is nested too deeply") from None
        examined.outcomes.append(outcome)
        examined.findings.append(findings)
        examined.fingerprints.append(fingerprint(conversation))
        examined.labels.append(label_of(conversation.messages))
        judged.append(conversation)
    # The prompt that all rows get says nothing of one, so it comes after all comparing.
    conversations = [
        Conversation([]) if outcome == DROPPED else _with_system(config.system_prompt, conversation)
        for outcome, conversation in zip(examined.outcomes, judged, strict=True)
    ]
    return examined._replace(
        conversations=pa.RecordBatch.from_arrays(
            to_columns(conversations), schema=pa.schema(CONVERSATION_FIELDS)
        ),
        sketches=sketch(judged, config.sanitize.near_threshold) if near else None,
    )


def looks_for_near(config: SanitizeConfig) -> bool:
    """Whether rows nearly the same are looked for."""
    return config.near_duplicate != "off" or config.near_leak != "off"


def original(values: Mapping[str, Any], config: SanitizeConfig) -> str:
    """A row as JSON, with what is personal redacted."""
    redact = _redact(config)
    # Broken text can hide it from the search: then the repaired row stands for the broken one.
    repaired = repair_row(values)
    redacted = redact(repaired)
    return json.dumps(redact(values) if redacted == repaired else redacted, default=str)


@lru_cache(maxsize=1)
def _rules(config: SanitizeConfig) -> dict[str, Rule]:
    return make_rules(config)


@lru_cache(maxsize=1)
def _redact(config: SanitizeConfig) -> Callable[[Any], Any]:
    return redact_all(config)


def _judge(
    rules: dict[str, Rule], conversation: Conversation
) -> tuple[str, list[Finding], Conversation]:
    outcome, findings = KEPT, []
    for name, rule in rules.items():
        verdict = rule(conversation)
        if verdict is None:
            continue
        findings.append(Finding(name, verdict.action, verdict.detail))
        if verdict.action == "drop":
            return DROPPED, findings, conversation
        if verdict.changed is not None:
            outcome, conversation = CHANGED, verdict.changed
    return outcome, findings, conversation


def _with_system(prompt: str | None, conversation: Conversation) -> Conversation:
    if not prompt or any(message["role"] == "system" for message in conversation.messages):
        return conversation
    return conversation._replace(messages=[system(prompt), *conversation.messages])


def _check_has_turns(conversation: Conversation) -> None:
    if conversation.messages and conversation.messages[0]["role"] == TEXT:
        raise RowFault(
            "is plain text, which has no place for a system prompt; leave dataset.system_prompt out"
        )


def _check_encodable(conversation: Conversation) -> None:
    try:
        for text in texts(conversation):
            text.encode()
        for call in (conversation.tools, *map(itemgetter("tool_calls"), conversation.messages)):
            json.dumps(json.loads(call or "null"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowFault(
            "has half a character (a lone surrogate); dataset.sanitize.unicode: change puts U+FFFD "
            "in its place"
        ) from None
