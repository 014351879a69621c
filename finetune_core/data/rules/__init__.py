"""The rules that rows must pass, each in its file, and the order in which they are asked."""

from __future__ import annotations

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.data.rules.conflict import conflict
from finetune_core.data.rules.duplicate import duplicate
from finetune_core.data.rules.empty import empty
from finetune_core.data.rules.language import language
from finetune_core.data.rules.personal_data import FINDERS, personal_data
from finetune_core.data.rules.roles import roles
from finetune_core.data.rules.unicode import unicode
from finetune_core.data.rules.verdict import Comparison, Rule


def make_rules(config: SanitizeConfig) -> dict[str, Rule]:
    """The rules for a row by itself, in order: those that change rows before those that judge."""
    rules: dict[str, Rule] = {}
    if config.unicode != "off":
        rules["unicode"] = unicode(config.unicode)
    for kind in FINDERS:
        if (action := getattr(config, kind)) != "off":
            rules[kind] = personal_data(kind, action, config)
    if config.empty != "off":
        rules["empty"] = empty(config.empty)
    if config.roles != "off":
        rules["roles"] = roles(config.roles)
    if config.language != "off":
        rules["language"] = language(config.language, config.languages)
    return rules


def make_comparisons(config: SanitizeConfig) -> dict[str, Comparison]:
    """The rules for a row among the others of its file, in order."""
    comparisons: dict[str, Comparison] = {}
    if config.duplicate != "off":
        comparisons["duplicate"] = duplicate(config.duplicate)
    if config.conflict != "off":
        comparisons["conflict"] = conflict(config.conflict)
    return comparisons
