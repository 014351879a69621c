"""Events are read from the newest back, whatever their lengths are."""

from __future__ import annotations

import json
import random

import pytest

from finetune_core.child import EventFile
from finetune_service.jobs import lines
from finetune_service.jobs.lines import backwards


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 16])
@pytest.mark.parametrize("ends", ["", '{"torn": ', "\n\n"])
def test_every_event_once_and_in_order(tmp_path, monkeypatch, block, ends):
    monkeypatch.setattr(lines, "BLOCK", block)
    lengths = random.Random(block)
    file = tmp_path / "events.jsonl"
    for number in range(40):
        EventFile(file).append({"number": number, "text": "é" * lengths.randrange(50)})
    with file.open("a") as torn:
        torn.write(ends)
    found = list(backwards(file))
    assert [event["number"] for _, event in found] == list(range(39, -1, -1))
    content = file.read_bytes()
    for position, event in found:
        assert json.loads(content[position:].split(b"\n")[0]) == event
    for index, (position, _) in enumerate(found):  # a page may begin anywhere
        assert list(backwards(file, position)) == found[index + 1 :]


def test_a_torn_line_in_between_is_passed_over(tmp_path):
    file = tmp_path / "events.jsonl"
    EventFile(file).append({"number": 0})
    with file.open("a") as torn:
        torn.write('{"number": 1, "te')
    EventFile(file).append({"number": 2})
    assert [event["number"] for _, event in backwards(file)] == [2, 0]


def test_no_file_has_no_events(tmp_path):
    assert list(backwards(tmp_path / "nothing")) == []
