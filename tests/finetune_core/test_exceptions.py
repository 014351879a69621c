"""Errors reach a person, another process and the shell unchanged."""

from __future__ import annotations

import json
import pickle

import pytest

from finetune_core.exceptions import (
    ConfigError,
    Fault,
    FineTuneError,
    InputError,
    JobInterruptedError,
    error_from_dict,
)


def tree(root):
    return [root] + [found for child in root.__subclasses__() for found in tree(child)]


def make(kind):
    if issubclass(kind, ConfigError):
        faults = [Fault("training.epochs", "is 11"), Fault("lora.lora_rank", "is 2")]
        return kind(faults, source="job.yaml")
    return kind("the row 7 is wrong", hint="Mend the row.")


def facts(error):
    extra = (error.faults, error.source) if isinstance(error, ConfigError) else ()
    return type(error), error.message, error.hint, str(error), extra


ERRORS = tree(FineTuneError)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_survives_pickle(kind):
    error = make(kind)
    assert facts(pickle.loads(pickle.dumps(error))) == facts(error)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_survives_json(kind):
    error = make(kind)
    assert facts(error_from_dict(json.loads(json.dumps(error.to_dict())))) == facts(error)


@pytest.mark.parametrize("kind", ERRORS)
def test_the_exit_code_says_whose_fault_it_is(kind):
    if issubclass(kind, InputError):
        expected = 2
    elif issubclass(kind, JobInterruptedError):
        expected = 130  # 128 + SIGINT, as shells have it
    else:
        expected = 1
    assert make(kind).exit_code == expected


def test_the_text_holds_message_and_hint():
    assert str(FineTuneError("what", hint="do this")) == "what\ndo this"
    assert str(FineTuneError("what")) == "what"


def test_a_config_error_lists_every_fault_under_its_source():
    error = ConfigError([Fault("a.b", "is 1"), Fault("c.d", "is 2")], source="job.yaml")
    assert str(error).splitlines() == [
        "Invalid config in job.yaml: 2 faults",
        "  a.b: is 1",
        "  c.d: is 2",
    ]
