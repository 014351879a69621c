"""Upload: an adapter or a model → a repository of the Hugging Face hub, fit for other machines.

What goes: weights, tokenizer and the configs of both as they are; README.md without paths of this
machine; other texts where they name none. What stays: what only this installation reads, what
tells of the data's rows, what a training left to go on from, and files that nobody knows.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from finetune_core.config.settings import Settings
from finetune_core.exceptions import (
    FineTuneError,
    HubError,
    HubUnavailableError,
    UploadError,
)
from finetune_core.hub.export import is_adapter, model_files
from finetune_core.hub.lineage import CARD, ROWS, SIGNATURE
from finetune_core.hub.serving import MLMODEL
from finetune_core.models.merging import ADAPTER_CONFIG, REPORT, read_adapter
from finetune_core.storage import MANIFEST, RECORD
from finetune_core.types import Record

README = "README.md"
BASE, REVISION = "base_model_name_or_path", "revision"
TEXTS = (".json", ".md", ".txt", ".yaml", ".yml")

# Not that of an address on the web, nor a relative one.
PATH = re.compile(
    r"file:/+\S+|(?<![\w/.<>~])~?/(?!/)(?:[\w.@+=~-]+/)*[\w.@+=~-]+|\b[A-Za-z]:\\[^\s|\"']+"
)
RELATIVE = re.compile(r"(?<![\w/.:<>~-])[\w.@+=~-]+(?:/[\w.@+=~-]+)+")
CELL = re.compile(r"(?<=\| )~?/[^|\n]*/([^|\n/]+)/?(?= \|)")  # of a table: its path may have blanks

# The hub's answers.
REFUSALS = {
    401: "does not know the token",
    403: "does not let this token write there",
    404: "does not know the place, or hides it from this token",
    409: "says that something else changes the repository just now",
    412: "says that somebody else has changed the repository meanwhile",
    429: "has had too many requests",
}
PASSING = (409, 412, 429)
TOKEN_HINT = "Give a token that may write, by HF_TOKEN or `hf auth login`."  # noqa: S105


class UploadReport(Record):
    """What was uploaded.

    Attributes:
        base: The base that the copy names; none where none is known.
        files: What was uploaded.
        left_out: What was not, and why.
    """

    repo_id: str
    url: str
    commit: str
    kind: str
    base: str | None
    files: list[str]
    left_out: dict[str, str]


class Prepared(Record):
    """A folder as it will be uploaded; the fields are as those of `UploadReport`."""

    folder: Path
    kind: str
    base: str | None
    left_out: dict[str, str]

    @property
    def files(self) -> list[str]:
        """The names of its files."""
        return sorted(path.name for path in self.folder.iterdir())


def prepare(
    source: Path, folder: Path, repo_id: str, *, base: str | None = None, merged: bool = False
) -> Prepared:
    """Makes a folder fit to be uploaded; what need not change is linked, not copied.

    Args:
        source: An adapter, a job's package, or a whole model.
        folder: Gets the files; empty.
        repo_id: Where they will be.
        base: The base's id on the hub, which the copy names.
        merged: Whether the source was made of an adapter and that base just now.

    Raises:
        ModelNotFoundError: The source is no model.
        UploadError: The adapter names a base that only this machine has, or `base` is no id.
    """
    if base is not None:
        check_repo_id(base, "--base-model")
        if Path(base).exists():
            raise UploadError(
                f"--base-model {base} is a folder here; it must be the base's id on the hub"
            )
    kind = "adapter" if is_adapter(source) else "merged model" if merged else "model"
    named = read_adapter(source).get(BASE) if kind == "adapter" else _base_of_card(source)
    target = base or (named if named and not is_local(named) else None)
    if kind == "adapter" and target is None:
        raise UploadError(
            f"the adapter names the base {named!r}, which only this machine has",
            hint="Say by --base-model what the base is called on the hub.",
        )
    own = {path.name for path in model_files(source)}
    left_out: dict[str, str] = {}
    for path in sorted(source.iterdir()):
        if path.name in own:
            _put_model_file(path, folder / path.name, base)
        elif path.name == README and not merged:
            text = path.read_text(encoding="utf-8")
            (folder / README).write_text(_readme(text, repo_id, named, target), encoding="utf-8")
        elif path.name not in (CARD, SIGNATURE):
            why = _why_not(path)
            if why is None:
                (folder / path.name).symlink_to(path.absolute())
            else:
                left_out[path.name] = why
    if not (folder / README).exists():
        text = _plain_readme(repo_id, kind)
        (folder / README).write_text(_readme(text, repo_id, named, target), encoding="utf-8")
    left_out |= _put_card(source, folder)
    return Prepared(folder=folder, kind=kind, base=target, left_out=left_out)


def upload(
    prepared: Prepared,
    repo_id: str,
    *,
    token: str,
    private: bool = False,
    message: str | None = None,
    endpoint: str | None = None,
) -> UploadReport:
    """Uploads a folder in one commit, into a repository that is made where there is none.

    Args:
        prepared: What `prepare` has made.
        repo_id: `NAMESPACE/NAME`.
        token: One that may write there; it goes into no log and no error.
        private: Whether a new repository is private; one that is there stays as it is.
        message: The commit's.
        endpoint: The hub's address; without it, HF_ENDPOINT's.

    Raises:
        UploadError: The hub refuses.
        HubError: It refuses for a while.
        HubUnavailableError: The hub does not answer, or has a fault of its own.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    with _quiet(), _translated(repo_id, api.endpoint, token):
        made = api.create_repo(repo_id, private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=prepared.folder,
            commit_message=message or f"Upload {prepared.kind}",
        )
    return UploadReport(
        repo_id=made.repo_id,
        url=str(made),
        commit=commit.oid,
        kind=prepared.kind,
        base=prepared.base,
        files=prepared.files,
        left_out=prepared.left_out,
    )


def find_token() -> str:
    """The token that huggingface_hub has: HF_TOKEN, or the file that `hf auth login` wrote.

    Raises:
        UploadError: It has none.
    """
    import huggingface_hub

    token = huggingface_hub.get_token()
    if not token:
        raise UploadError("there is no token for the hub", hint=TOKEN_HINT)
    return str(token)


def check_repo_id(name: str, what: str) -> None:
    """Refuses what cannot be an id on the hub.

    Raises:
        UploadError: It cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UploadError(
            f"{what} {name!r} is no id on the hub", hint="An id is NAMESPACE/NAME."
        ) from None


def is_local(name: str) -> bool:
    """Whether a model's name leads to a folder of this machine, or can lead to nothing else."""
    path = Path(name).expanduser()
    if path.is_absolute() or name.startswith(".") or path.exists():
        return True
    try:
        check_repo_id(name, "")
    except UploadError:
        return True
    return False


def _put_model_file(path: Path, target: Path, base: str | None) -> None:
    """Links a file of the model, or writes a copy of a config that names a folder of this machine.

    The texts of tokenizers are not looked into: some of their tokens look like paths.
    """
    if path.name not in (ADAPTER_CONFIG, "config.json", "tokenizer_config.json"):
        target.symlink_to(path.absolute())
        return
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    changed = dict(values)
    for name in ("_name_or_path", "name_or_path"):
        if isinstance(found := changed.get(name), str) and is_local(found):
            del changed[name]
    if path.name == ADAPTER_CONFIG and base is not None and base != values.get(BASE):
        changed |= {BASE: base, REVISION: None}
    if changed == values:
        target.symlink_to(path.absolute())
    else:
        target.write_text(json.dumps(changed, indent=2, ensure_ascii=False), encoding="utf-8")


def _why_not(path: Path) -> str | None:
    """Why a file that is no part of the model is not uploaded."""
    if not path.is_file():
        return "is a folder"
    if path.name in (MANIFEST, RECORD, MLMODEL, REPORT, "registered_model_meta"):
        return "only this installation reads it"
    if path.name in ("evaluation.md", "gate.md", ROWS):
        return "it tells of the data's rows"
    if path.name in ("trainer_state.json", "training_args.bin") or path.suffix in (".pt", ".pth"):
        return "only a training goes on from it"
    if path.suffix not in TEXTS or path.name.startswith("."):
        return "it is no part of a model"
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "it is no text"
    return "it names folders of this machine" if _without_paths(text) != text else None


def _put_card(source: Path, folder: Path) -> dict[str, str]:
    """Links the lineage card, where it is true of what is uploaded and names no path."""
    card = source / CARD
    if not card.is_file():
        return {}
    names = [name for name in (CARD, SIGNATURE) if (source / name).is_file()]
    why = _why_not(card)
    if why is None:
        named = json.loads(card.read_text(encoding="utf-8")).get("files", {})
        same = all((folder / name).is_symlink() for name in named)
        why = None if same else "it has digests of files that are not uploaded as they are"
    if why is not None:
        return dict.fromkeys(names, why)
    for name in names:
        (folder / name).symlink_to((source / name).absolute())
    return {}


def _plain_readme(repo_id: str, kind: str) -> str:
    library = "peft" if kind == "adapter" else "transformers"
    made = "An adapter" if kind == "adapter" else "A model"
    how = ", its adapter merged into it" if kind == "merged model" else ""
    return f"---\nlibrary_name: {library}\n---\n\n# {repo_id}\n\n{made}{how}.\n"


def _base_of_card(source: Path) -> str | None:
    """The base that a model card names, if there is one and it does."""
    from huggingface_hub import ModelCard

    if not (source / README).is_file():
        return None
    text = (source / README).read_text(encoding="utf-8")
    named = ModelCard(text, ignore_metadata_errors=True).data.base_model
    return named if isinstance(named, str) else None


def _readme(text: str, repo_id: str, named: str | None, base: str | None) -> str:
    """A model card that names the base on the hub, the repository, and no path of this machine."""
    from huggingface_hub import ModelCard

    if named and base and named != base:
        text = re.sub(rf"(?<![\w/.-]){re.escape(named)}(?![\w/-])", lambda _: base, text)
    text = _without_paths(CELL.sub(lambda found: found[1], text))
    text = text.replace("FOLDER_OF_THIS_FILE", repo_id)
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data.base_model = base  # or nothing: what it had may be a folder
    return str(card)


def _without_paths(text: str) -> str:
    """A text that has the names of files and folders of this machine, but not where they are.

    A relative path that leads nowhere from here may be anything, an id on a hub for one.
    """

    def name(found: re.Match[str]) -> str:
        return re.split(r"[/\\]", found[0].rstrip("/\\"))[-1]

    def name_if_there(found: re.Match[str]) -> str:
        return name(found) if Path(found[0]).exists() else found[0]

    return RELATIVE.sub(name_if_there, PATH.sub(name, text))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps addresses out of logs: those that large files are sent to are keys to a store.

    Bars are for a person at a terminal.
    """
    from huggingface_hub.utils import disable_progress_bars

    watched = Settings().progress and sys.stderr.isatty()
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with nullcontext() if watched else disable_progress_bars():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _translated(repo_id: str, endpoint: str, token: str) -> Iterator[None]:
    """Makes the hub's errors ours: one line each, and nothing of theirs, which may name a token."""
    # HTTPError is the root of what the HTTP client raises, whichever that is.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    def one_line(said: object) -> str:
        return " ".join(str(said).replace(token, "***").split())

    try:
        yield
    except Exception as error:
        causes: list[BaseException] = [error]  # an upload by threads wraps what has happened
        while (cause := causes[-1].__cause__) is not None:
            causes.append(cause)
        for each in causes:
            if isinstance(each, HfHubHTTPError):
                said = one_line(each.server_message or "")
                raise _refused(each.response.status_code, said, repo_id, endpoint) from None
            if isinstance(each, OfflineModeIsEnabled):
                problem = "huggingface_hub is told to stay offline"
                raise UploadError(problem, hint="Unset HF_HUB_OFFLINE.") from None
            if isinstance(each, (HTTPError, ConnectionError, TimeoutError)):
                problem = f"the hub at {endpoint} does not answer: {one_line(each)}"
                raise HubUnavailableError(problem) from None
        raise UploadError(f"{repo_id} was not uploaded: {one_line(error)}") from None


def _refused(code: int, said: str, repo_id: str, endpoint: str) -> FineTuneError:
    """The error of an answer that is no success."""
    said = f": {said}" if said else ""
    if code >= 500:
        return HubUnavailableError(f"the hub at {endpoint} has a fault of its own ({code}){said}")
    problem = f"{repo_id}: the hub {REFUSALS.get(code, 'refuses')} ({code}){said}"
    if code in PASSING:
        return HubError(problem, hint="Try again in a while.")
    return UploadError(problem, hint=TOKEN_HINT if code in REFUSALS else None)
