"""The one table of states and verbs."""

from __future__ import annotations

import pytest

from finetune_service.exceptions import ConflictError
from finetune_service.jobs.states import FINAL, LEADS, WAYS, Status, Verb, check, may_become


def test_the_table():
    told = {
        verb.value: {before.value: after.value for before, after in leads.items()}
        for verb, leads in LEADS.items()
    }
    assert told == {
        "cancel": dict.fromkeys(["validating_files", "queued", "running", "paused"], "cancelled"),
        "pause": dict.fromkeys(["validating_files", "queued", "running"], "paused"),
        "resume": {"paused": "queued"},
        "checkpoint": {"running": "running"},
    }


def test_each_state_has_its_ways_and_what_has_ended_has_none():
    assert set(WAYS) == set(Status)
    assert {status for status, ways in WAYS.items() if not ways} == FINAL


@pytest.mark.parametrize("status", sorted(set(Status) - FINAL))
def test_what_has_not_ended_may_end_in_every_way(status):
    assert all(may_become(status, end) for end in FINAL)


def test_what_has_ended_becomes_nothing_else_and_nothing_is_validated_twice():
    assert [(a, b) for a in FINAL for b in Status if a != b and may_become(a, b)] == []
    assert not any(may_become(each, Status.VALIDATING_FILES) for each in list(Status)[1:])


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("status", Status)
def test_each_verb_in_each_state(verb, status):
    if status in LEADS[verb]:
        assert check(verb, status, "job")
    elif status in LEADS[verb].values():  # asked again where it has led already
        assert not check(verb, status, "job")
    else:
        with pytest.raises(
            ConflictError, match=f"job is {status.value}, so it cannot {verb.value}"
        ):
            check(verb, status, "job")


@pytest.mark.parametrize("status", sorted(FINAL))
def test_what_has_ended_does_nothing_more(status):
    for verb in set(Verb) - {Verb.CANCEL}:
        with pytest.raises(ConflictError):
            check(verb, status, "job")
