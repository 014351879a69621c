"""What people read of a job does not say where things lie on the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_service.jobs.paths import without_paths

HOME = Path("/srv/home/organizations/acme")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"Its log: {HOME}/jobs/ftjob-1/logs/train.log", "Its log: jobs/ftjob-1/logs/train.log"),
        ("cannot read /srv/models/tiny/config.json.", "cannot read …/config.json."),
        ("/usr/lib/python3/x.py:12: UserWarning: no", "…/x.py:12: UserWarning: no"),
        ("File '/a/b.py', line 1; path=/a/c", "File '…/b.py', line 1; path=…/c"),
        ("file:///etc/ssl/key", "file://…/key"),
        ("https://example.org/a/b?c=/d/e/f", "https://example.org/a/b?c=…/f"),
        ("registered as models:/orders/1", "registered as models:/orders/1"),
        ("step 3/6 of a/b, 1/2/3, and/or", "step 3/6 of a/b, 1/2/3, and/or"),
        ("", ""),
    ],
)
def test_folders_are_left_out(said, shown):
    assert without_paths(said, HOME) == shown
    assert without_paths(shown, HOME) == shown


def test_all_texts_in_a_value_are_looked_at():
    said = {"error": {"message": "no /a/b", "step": 3}, "files": ["/a/c", None]}
    assert without_paths(said, HOME) == {
        "error": {"message": "no …/b", "step": 3},
        "files": ["…/c", None],
    }
