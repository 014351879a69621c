"""The rules that rows must pass, each in its file, and the order in which they are asked."""

from __future__ import annotations

from finetune_core.config.sanitizing import SanitizeConfig
from finetune_core.data.rules.conflict import conflict
from finetune_core.data.rules.duplicate import duplicate
from finetune_core.data.rules.empty import empty
from finetune_core.data.rules.leak import Leak, NearLeak
from finetune_core.data.rules.near_duplicate import near_duplicate
from finetune_core.data.rules.personal_data import FINDERS, personal_data
from finetune_core.data.rules.unicode import unicode
from finetune_core.data.rules.verdict import Rule


def make_rules(config: SanitizeConfig) -> dict[str, Rule]:
    """The rules for one file, in order: those that change rows come before those that judge."""
    rules: dict[str, Rule] = {}
    if config.unicode != "off":
        rules["unicode"] = unicode(config.unicode)
    for kind in FINDERS:
        if (action := getattr(config, kind)) != "off":
            rules[kind] = personal_data(kind, action, config)
    if config.empty != "off":
        rules["empty"] = empty(config.empty)
    if config.duplicate != "off":
        rules["duplicate"] = duplicate(config.duplicate)
    if config.conflict != "off":
        rules["conflict"] = conflict(config.conflict)
    if config.near_duplicate != "off":
        rules["near_duplicate"] = near_duplicate(config.near_duplicate, config.near_threshold)
    return rules


def make_leaks(config: SanitizeConfig) -> dict[str, Leak | NearLeak]:
    """The rules that compare the training file with the validation file, which is read first."""
    leaks: dict[str, Leak | NearLeak] = {}
    if config.leak != "off":
        leaks["leak"] = Leak(config.leak)
    if config.near_leak != "off":
        leaks["near_leak"] = NearLeak(config.near_leak, config.near_threshold)
    return leaks
