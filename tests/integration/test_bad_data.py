"""Bad data: what is wrong is said with file and row, and nothing half-made is left behind."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from finetune_core import storage
from finetune_core.config.sections import DatasetConfig, ModelConfig, TokenizationConfig
from finetune_core.data.check import CheckRequest, CheckResult, check
from finetune_core.exceptions import InputError, TemplateError, error_from_dict
from tests.bad_data.cases import CASES, COMMANDS, Case
from tests.bad_data.made import FILES, UNREADABLE, make
from tests.conftest import ROOT

PATHS = ("validation_path", "evaluation_path")
NOBODY = 65534
LONGEST_MESSAGE = 1500  # characters that a person reads
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Outcome(NamedTuple):
    """What came of a case.

    Attributes:
        case: The case.
        result: What the check found, or the error with which it ended.
        printed: What libraries printed and warned of.
        cache: The folder that it wrote into.
    """

    case: Case
    result: CheckResult | Exception
    printed: str
    cache: Path


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A folder for files that are made, on a path that nobody is kept from."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for name in UNREADABLE:
            make(name, Path(folder)).parent.chmod(0o755)


@pytest.fixture(scope="module", params=CASES, ids=[case.id for case in CASES])
def outcome(request, made, tmp_path_factory) -> Outcome:
    case: Case = request.param
    cache = tmp_path_factory.mktemp("cache")
    printed = io.StringIO()
    with (
        redirect_stdout(printed),
        redirect_stderr(printed),
        warnings.catch_warnings(record=True) as heard,
    ):
        try:
            request = asked(case, made, cache)
            with as_nobody(case.file in UNREADABLE):
                result: CheckResult | Exception = check(request, lambda event: None)
        except Exception as error:
            result = error
    said = [str(warning.message) for warning in heard]
    return Outcome(case, result, "\n".join([printed.getvalue(), *said]).strip(), cache)


def asked(case: Case, made: Path, cache: Path) -> CheckRequest:
    settings = {
        name: str(find(value, made)) if name in PATHS else value
        for name, value in case.dataset.items()
    }
    return CheckRequest(
        dataset=DatasetConfig(path=str(find(case.file, made)), **settings),
        model=ModelConfig(name=str(find(case.model, made))) if case.model else ModelConfig(),
        tokenization=TokenizationConfig(**case.tokenization),
        cache=cache,
    )


def find(name: str, made: Path) -> Path:
    stored = {str(path.relative_to(FILES)) for path in FILES.rglob("*")}
    return FILES / name if name in stored else make(name, made)


@contextmanager
def as_nobody(wanted: bool) -> Iterator[None]:
    """Root may read everything: then another user takes its place."""
    if not (wanted and os.geteuid() == 0):
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_is_wrong_is_said(outcome):
    case, result = outcome.case, outcome.result
    if case.refused:
        assert isinstance(result, InputError), brief(result)
        check_words(case, str(result))
        return
    assert isinstance(result, CheckResult), brief(result)
    check_reasons(case, result.report.reasons)
    assert result.report.verdict == ("doubtful" if case.says else "good")
    check_fates(case, result)
    if case.answers:
        assert result.report.dropped == 0
        check_answers(case, result)


def test_nothing_half_made_is_left(outcome):
    case, result = outcome.case, outcome.result
    late = case.late or isinstance(result, TemplateError) or not isinstance(result, InputError)
    check_whole(outcome.cache, succeeded=isinstance(result, CheckResult), late=late)


def test_no_library_has_a_word_to_say(outcome):
    assert outcome.printed == ""


def brief(result: CheckResult | Exception) -> str:
    """What came instead of what was expected."""
    if isinstance(result, CheckResult):
        return f"accepted as {result.report.verdict}: {result.report.reasons}"
    return ascii(result)[:LONGEST_MESSAGE]


def check_reasons(case: Case, reasons: list[str]) -> None:
    """The verdict says what is asked for, and where nothing is, it says nothing."""
    assert bool(reasons) == bool(case.says), reasons
    for words in case.says:
        assert re.search(words, "; ".join(reasons), re.IGNORECASE), (words, reasons)


def check_whole(cache: Path, *, succeeded: bool, late: bool) -> None:
    """Each folder is whole, and a stage that has failed has left none."""
    folders = [path for stage in cache.glob("*") for path in stage.iterdir()]
    for folder in folders:
        assert not folder.name.startswith(".")
        storage.verify(folder)
    left = {folder.parent.name for folder in folders}
    if succeeded:
        assert left == {"data", "tokens"}
    else:
        assert left <= ({"data"} if late else set())


def check_words(case: Case, message: str) -> None:
    """An error names the file, says what is asked for, and is fit to be read."""
    for words in case.says:
        found = re.search(words, message, re.IGNORECASE)
        assert found, f"{words!r} is not in {ascii(message)[:LONGEST_MESSAGE]}"
    # Where rows are whole already, the paths are forgotten; which of the files it is must be said.
    kind = "validation" if case.named and "validation" in str(case.dataset) else "training"
    names = [case.named or case.file, *([f"{kind} file"] if case.late else [])]
    assert any(name in message for name in names), f"{names} is not in {message!a}"
    assert len(message) <= LONGEST_MESSAGE, len(message)
    assert not CONTROL.search(message), ascii(message)


def check_fates(case: Case, result: CheckResult) -> None:
    """The ledger says of each row that is not as it was what has become of it."""
    ledger = {
        (row["file"], row["row"]): row
        for row in pq.read_table(result.ledger).to_pylist()
        if row["rule"]
    }
    assert set(ledger) == {("training", fate.row) for fate in case.fates}
    for fate in case.fates:
        row = ledger["training", fate.row]
        assert (row["rule"], row["action"]) == (fate.rule, fate.action)
        assert re.search(fate.detail, row["detail"], re.IGNORECASE), row["detail"]


def check_answers(case: Case, result: CheckResult) -> None:
    """The rows that are shown train their answer and its end, and nothing else."""
    assert result.report.samples
    for pieces in result.report.samples:
        trained = [piece.text.removesuffix("<|end|>") for piece in pieces if piece.trained]
        assert len(trained) == 1, pieces
        assert trained[0] in case.answers
        assert pieces[-2 if not pieces[-1].trained else -1].text.endswith("<|end|>")


class Spoken(NamedTuple):
    """What the command said, and the folder that it wrote into."""

    case: Case
    code: int
    out: str
    err: str
    home: Path


@pytest.fixture(scope="module")
def commands(made, tmp_path_factory) -> dict[str, Spoken]:
    """The command on each of its files, two at a time."""

    def run(case: Case) -> Spoken:
        home = tmp_path_factory.mktemp("home")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "finetune_service.cli", "data", "check"),
                *(find(case.file, made), "--json"),
            ],
            cwd=ROOT,
            env={**os.environ, "FINETUNE_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Spoken(case, done.returncode, done.stdout, done.stderr, home)

    with ThreadPoolExecutor(2) as pool:
        return {done.case.id: done for done in pool.map(run, COMMANDS)}


@pytest.fixture(params=[case.id for case in COMMANDS])
def spoken(request, commands) -> Spoken:
    return commands[request.param]


def test_the_command_says_it_too(spoken):
    case, answer = spoken.case, json.loads(spoken.out)  # nothing else may stand there
    assert "Traceback" not in spoken.out + spoken.err
    if not case.refused:
        assert (spoken.code, spoken.err) == (0, "")
        check_reasons(case, answer["reasons"])
        return
    assert spoken.code == 2, spoken.err
    message = str(error_from_dict(answer["error"]))
    assert spoken.err == f"error: {message}\n"
    check_words(case, message)


def test_the_command_leaves_nothing_half_made(spoken):
    cache = spoken.home / "organizations" / "local" / "cache"
    check_whole(cache, succeeded=spoken.code == 0, late=spoken.case.late)
