"""A hub's dataset comes as served, or a line says why not. The hub is a server on this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from tests.finetune_core.data.fake_hub import GATED_TO_MEMBERS, GATED_TO_STRANGERS, FakeHub, Refusal

ROWS = [{"prompt": "a, b", "completion": "1"}, {"prompt": 'say "hä"\nnow', "completion": "2"}]
TOKEN = "hf_neverToBeShown"
AWAY = "cannot be had from the hub"

# The libraries read the hub's address and their caches' folders when they are imported. What they
# sleep between tries would be most of the tests' time.
FETCH = """
import json, sys, time
from finetune_core.data.hub_dataset import fetch
from finetune_core.exceptions import FineTuneError

time.sleep = lambda seconds: None
results = []
for call in json.loads(sys.argv[1]):
    try:
        results.append([str(path) for path in fetch(**call)])
    except FineTuneError as error:
        results.append(error.to_dict())
print(json.dumps(results))
"""


def call(name, split="train", subset=None, revision=None):
    return {"name": name, "split": split, "subset": subset, "revision": revision}


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def card(**subsets):
    lines = [f"- config_name: {name}\n  data_files: {file}\n" for name, file in subsets.items()]
    return f"---\nconfigs:\n{''.join(lines)}---\n"


def fetch_all(url, home, calls, **environment):
    """What each call gives, all by one process that says nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": f"{TOKEN}\n",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps(calls)],
        env=kept | settings | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert TOKEN not in done.stdout
    return json.loads(done.stdout)


def rows_of(result):
    assert isinstance(result, list), result
    return [
        row
        for file in result
        for row in pa.ipc.open_stream(pa.memory_map(file)).read_all().to_pylist()
    ]


@contextmanager
def served(files, name="org/set"):
    hub = FakeHub()
    hub.add(name, files)
    with hub.serve() as url:
        yield hub, url


CASES = {
    "jsonl": call("org/jsonl"),
    "jsonl test": call("org/jsonl", "test"),
    "parquet": call("org/parquet"),
    "subset": call("org/subsets", subset="two"),
    "tag": call("org/tagged", revision="v1"),
    "commit": call("org/tagged", revision="{v1}"),
    "shadowed": call("org/folder"),
    "no dataset": call("org/none"),
    "no id": call("org//set"),
    "gated": call("org/gated"),
    "gated to strangers": call("org/strangers"),
    "private": call("org/private"),
    "busy": call("org/busy"),
    "no revision": call("org/jsonl", revision="v9"),
    "no commit": call("org/jsonl", revision="0" * 40),
    "no split": call("org/jsonl", "dev"),
    "two splits": call("org/jsonl", "train+test"),
    "slice": call("org/jsonl", "train[:10%]"),
    "no subset": call("org/subsets", subset="three"),
    "which subset": call("org/subsets"),
    "broken": call("org/broken"),
    "no parquet": call("org/no-parquet"),
    "columns": call("org/columns"),
    "kinds": call("org/kinds"),
    "script": call("org/script"),
    "empty file": call("org/empty"),
    "empty split": call("org/empty-test", "test"),
    "no rows": call("org/no-rows"),
    "no files": call("org/no-files"),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of `CASES` gives: one process for all."""
    hub = FakeHub()
    hub.add("org/jsonl", {"train.jsonl": jsonl(ROWS), "test.jsonl": jsonl(ROWS[1:])})
    shards = {
        f"data/train-0000{number}-of-00002.parquet": parquet([row])
        for number, row in enumerate(ROWS)
    }
    hub.add("org/parquet", {"README.md": "# Rows\n", **shards})
    files = {"a.jsonl": jsonl(ROWS), "b.jsonl": jsonl(ROWS[:1])}
    hub.add("org/subsets", {"README.md": card(one="a.jsonl", two="b.jsonl"), **files})
    v1 = hub.add("org/tagged", {"train.jsonl": jsonl(ROWS[:1])}, revision="v1")
    hub.add("org/tagged", {"train.jsonl": jsonl(ROWS)})
    hub.add("org/folder", {"train.jsonl": jsonl(ROWS)})
    hub.repos["org/gated"] = GATED_TO_MEMBERS
    hub.repos["org/strangers"] = GATED_TO_STRANGERS
    hub.repos["org/private"] = Refusal(403, "")
    hub.repos["org/busy"] = Refusal(503, "")
    hub.add("org/broken", {"train.jsonl": '{"a": 1}\n{"a": oops\n'})
    hub.add("org/no-parquet", {"train.parquet": b"no parquet at all"})
    hub.add("org/columns", {"data/train-0.jsonl": '{"a": 1}\n', "data/train-1.jsonl": '{"b": 1}\n'})
    hub.add("org/kinds", {"train.jsonl": jsonl(ROWS), "test.csv": "a,b\n1,2\n"})
    hub.add("org/script", {"train.jsonl": jsonl(ROWS), "script.py": "print('run')"})
    hub.add("org/empty", {"train.jsonl": ""})
    hub.add("org/empty-test", {"train.jsonl": jsonl(ROWS), "test.jsonl": ""})
    hub.add("org/no-rows", {"train.csv": "prompt,completion\n"})
    hub.add("org/no-files", {"README.md": "# Nothing yet\n"})
    home = tmp_path_factory.mktemp("hub")
    (home / "org/folder").mkdir(parents=True)
    (home / "org/folder/train.jsonl").write_text('{"local": true}\n')
    calls = json.loads(json.dumps(list(CASES.values())).replace("{v1}", v1))
    with hub.serve() as url:
        found = fetch_all(url, home, calls)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        ("jsonl", ROWS),
        ("jsonl test", ROWS[1:]),
        ("parquet", ROWS),
        ("subset", ROWS[:1]),
        ("tag", ROWS[:1]),
        ("commit", ROWS[:1]),
        ("shadowed", ROWS),
    ],
)
def test_a_split_has_the_rows_that_the_hub_serves(results, case, rows):
    assert rows_of(results[case]) == rows


@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("no dataset", "DatasetNotFoundError", ["org/none", "private or gated", "HF_TOKEN"]),
        ("no id", "DatasetNotFoundError", ["org//set", "like org/name"]),
        ("gated", "DatasetNotFoundError", ["org/gated", "HF_TOKEN does not open"]),
        ("gated to strangers", "DatasetNotFoundError", ["org/strangers", "ask for access"]),
        ("private", "DatasetNotFoundError", ["org/private", "HF_TOKEN does not open"]),
        ("busy", "DatasetNotFoundError", ["org/busy", AWAY]),
        ("no revision", "DatasetNotFoundError", ["org/jsonl", "no revision v9"]),
        ("no commit", "DatasetNotFoundError", ["org/jsonl", f"no revision {'0' * 40}"]),
        ("no split", "DatasetNotFoundError", ["no split dev", "There are: train, test."]),
        ("two splits", "DatasetNotFoundError", ["no split train+test", "train, test"]),
        ("slice", "DatasetFormatError", ["train[:10%]", "dataset.max_samples"]),
        ("no subset", "DatasetNotFoundError", ["no subset three", "'one', 'two'"]),
        ("which subset", "DatasetNotFoundError", ["several subsets", "'one', 'two'"]),
        ("broken", "DatasetFormatError", ["org/broken", "JSON parse error", "row 1"]),
        ("no parquet", "DatasetFormatError", ["org/no-parquet", "not a parquet file"]),
        ("columns", "DatasetFormatError", ["org/columns", "column names don't match"]),
        ("kinds", "DatasetFormatError", ["org/kinds", "same data file format"]),
        ("script", "DatasetFormatError", ["org/script", "scripts are no longer supported"]),
        ("empty file", "EmptyDatasetError", ["org/empty", "without rows"]),
        ("empty split", "EmptyDatasetError", ["org/empty-test", "split test", "no rows"]),
        ("no rows", "EmptyDatasetError", ["org/no-rows", "split train", "no rows"]),
        ("no files", "EmptyDatasetError", ["org/no-files", "no data"]),
    ],
)
def test_what_cannot_be_had_is_told_in_words(results, case, error, words):
    refusal = results[case]
    assert refusal["error"] == error
    told = f"{refusal['message']}\n{refusal['hint']}"
    assert [word for word in words if word not in told] == []
    assert "http" not in told
    assert "\n" not in refusal["message"]


def test_without_a_token_none_is_sent_though_one_was_saved_by_a_login(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    with served({"train.jsonl": jsonl(ROWS)}) as (hub, url):
        hub.repos["org/gated"] = GATED_TO_STRANGERS
        calls = [call("org/set"), call("org/gated")]
        rows, refusal = fetch_all(url, tmp_path, calls, HF_TOKEN="")
    assert rows_of(rows) == ROWS
    assert "HF_TOKEN would have to open" in refusal["message"]
    assert hub.tokens == {None}


@pytest.mark.parametrize("offline", ["0", "1"])
def test_what_was_fetched_is_there_when_the_hub_is_not(tmp_path, offline):
    files = {"train.jsonl": jsonl(ROWS), "test.jsonl": jsonl(ROWS[1:])}
    subsets = {"README.md": card(one="train.jsonl", two="test.jsonl"), **files}
    with served(files) as (hub, url):
        old = hub.add("org/set", {"train.jsonl": jsonl(ROWS[:1])}, revision="old")
        hub.add("org/subsets", subsets)
        hub.add("org/new", files)
        before = fetch_all(url, tmp_path, [call("org/set"), call("org/subsets", subset="two")])
    known, dev, revision, subset, other, whichever, new = fetch_all(
        url,
        tmp_path,
        [
            call("org/set"),
            call("org/set", "dev"),
            call("org/set", revision=old),
            call("org/subsets", subset="two"),
            call("org/subsets", subset="one"),
            call("org/subsets"),
            call("org/new"),
        ],
        HF_HUB_OFFLINE=offline,
    )
    assert rows_of(known) == ROWS
    assert [known, subset] == before
    assert dev["hint"] == "There are: train, test."
    for refusal, word in [(revision, old), (other, "'two'"), (whichever, "two"), (new, "org/new")]:
        assert refusal["error"] == "DatasetNotFoundError"
        assert AWAY in refusal["message"]
        assert word in refusal["message"]
        assert "HF_HUB_OFFLINE" in refusal["hint"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with served({"train.jsonl": jsonl(ROWS)}) as (_, url):
        (refusal,) = fetch_all(
            url, tmp_path, [call("org/set")], HF_DATASETS_CACHE=str(tmp_path / "file" / "cache")
        )
    assert "Not a directory" in refusal["message"]
    assert "HF_DATASETS_CACHE" in refusal["hint"]


def test_a_hub_that_leaves_while_it_serves_is_told(tmp_path):
    with served({"train.jsonl": jsonl(ROWS)}) as (hub, url):
        hub.broken_paths.add("train.jsonl")
        (refusal,) = fetch_all(url, tmp_path, [call("org/set")])
        assert AWAY in refusal["message"]
        hub.broken_paths.clear()
        (rows,) = fetch_all(url, tmp_path, [call("org/set")])
    assert rows_of(rows) == ROWS
