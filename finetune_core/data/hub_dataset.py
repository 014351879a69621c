"""Fetches a split of a hub's dataset, as the Arrow files of the `datasets` library's own cache."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetune_core.exceptions import (
    DatasetError,
    DatasetFormatError,
    DatasetNotFoundError,
    EmptyDatasetError,
)

REASON_LENGTH = 300  # characters of a library's own words


def fetch(name: str, *, subset: str | None, split: str, revision: str | None) -> list[Path]:
    """Downloads a split of a dataset, or finds it in the cache.

    The libraries read HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE; HF_TOKEN is the only token. Where
    the hub does not answer, what was fetched before is taken from the cache.

    Args:
        name: The dataset's id, like "org/name".
        subset: Which of its subsets; None for the one that it gives by itself.
        split: The name of one split.
        revision: A branch, a tag or a commit; None for the default branch.

    Returns:
        The split's files in the order of its rows, each a stream of Arrow batches.

    Raises:
        DatasetNotFoundError: There is no such dataset, revision, subset or split, HF_TOKEN does
            not open it, or the hub does not answer.
        EmptyDatasetError: There is no row.
        DatasetFormatError: Its files cannot be read, or the split is a slice.
    """
    if "[" in split:
        raise DatasetFormatError(
            f"the split {split} of the dataset {name} is a slice; only whole splits are fetched",
            hint="Name the split alone, and set dataset.max_samples.",
        )
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    # Without the end of line that is not to be sent, and that an error would quote with the token.
    token = os.environ.get("HF_TOKEN", "").strip() or False  # False: nor that of a login
    with _silent_libraries():
        try:
            commit = HfApi(token=token).resolve_revision(
                name, repo_type="dataset", revision=revision
            )
            # The prefix keeps a local folder of that name from being taken. The commit stands for
            # the revision, so that branch and files are of one moment.
            builder = load_dataset_builder(
                f"hf://datasets/{name}", subset, revision=commit.resolved, token=token
            )
        except Exception as error:
            raise _subset_refusal(error, name, subset) or _refusal(error, name, revision) from error
        if builder.name == "cache":  # the hub did not give it
            _check_cached(builder, name, subset, commit.resolved)
        splits = [str(each) for each in builder.config.data_files or builder.info.splits or ()]
        if split not in splits:
            raise DatasetNotFoundError(
                f"the dataset {name} has no split {split}", hint=f"There are: {', '.join(splits)}."
            )
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise _refusal(error, name, revision) from error
        if not builder.info.splits[split].num_examples:
            raise EmptyDatasetError(f"the split {split} of the dataset {name} has no rows")
        return [Path(file["filename"]) for file in builder.as_dataset(split=split).cache_files]


@contextmanager
def _silent_libraries() -> Iterator[None]:
    """Keeps bars and warnings from the terminal: what goes wrong is raised, and said once."""
    import datasets.utils
    import huggingface_hub.utils

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    libraries = [datasets.utils, huggingface_hub.utils]
    with_bars = [each for each in libraries if not each.are_progress_bars_disabled()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            for library in with_bars:
                library.disable_progress_bars()
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for library in with_bars:
            library.enable_progress_bars()


def _check_cached(builder: Any, name: str, subset: str | None, commit: str) -> None:
    """Refuses what the library takes from its cache for want of what was asked: its newest."""
    if builder.hash != commit:
        raise _no_answer(
            name,
            f"the revision {builder.hash}, not {commit}",
            "Set dataset.revision to the one it has.",
        )
    if subset is None and builder.config.name != "default":
        raise _no_answer(
            name,
            f"the subset {builder.config.name}, which may be another than the hub would give",
            "Set dataset.subset to it.",
        )


def _subset_refusal(error: Exception, name: str, subset: str | None) -> DatasetError | None:
    # That the subset is at fault, and which there are, the library says in its message only.
    found = isinstance(error, ValueError) and re.search(r"(?i)available.*: \[(.*)\]", str(error))
    if not found:
        return None
    problem = f"has no subset {subset}" if subset else "has several subsets"
    if "cache" in found[0]:
        return _no_answer(name, f"only the subsets {found[1]}")
    return DatasetNotFoundError(
        f"the dataset {name} {problem}", hint=f"There are: {found[1]}. Set dataset.subset."
    )


def _refusal(error: Exception, name: str, revision: str | None) -> DatasetError:
    from datasets.data_files import EmptyDatasetError as NoFilesError
    from datasets.exceptions import DatasetNotFoundError as NoDatasetError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RevisionResolutionError,
    )
    from huggingface_hub.utils import httpx

    causes = list(_causes(error))

    def caused_by(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if caused_by(HFValidationError):
        return DatasetNotFoundError(
            f"{name} is no id of a dataset on a hub",
            hint="Give one like org/name by dataset.path.",
        )
    if caused_by(RevisionNotFoundError):
        return DatasetNotFoundError(
            f"the dataset {name} has no revision {revision}",
            hint="Set dataset.revision to a branch, a tag or a commit.",
        )
    statuses = {each.response.status_code for each in causes if isinstance(each, HfHubHTTPError)}
    if caused_by(NoDatasetError, RepositoryNotFoundError) or statuses & {401, 403}:
        token = "does not open" if os.environ.get("HF_TOKEN") else "would have to open"
        return DatasetNotFoundError(
            f"the hub {_hub()} has no dataset {name}, or one that HF_TOKEN {token}",
            hint="Check the id. Where it is private or gated, ask for access on its page and set "
            "HF_TOKEN.",
        )
    if caused_by(
        httpx.HTTPError, ConnectionError, LocalEntryNotFoundError, RevisionResolutionError
    ):
        return _no_answer(name, f"nothing of it ({type(error).__name__})")
    if caused_by(NoFilesError, StopIteration):
        return EmptyDatasetError(f"the dataset {name} has no data, or a split without rows")
    reason = " ".join(str(causes[-1]).split())[:REASON_LENGTH]
    hint = "Its files should be of one kind, like JSON, CSV or Parquet, with the same columns."
    if any(isinstance(cause, OSError) and cause.errno for cause in causes):
        hint = "Check the disk, and the folders that HF_HOME and HF_DATASETS_CACHE name."
    return DatasetFormatError(f"the dataset {name} cannot be read ({reason})", hint=hint)


def _no_answer(name: str, cached: str, remedy: str = "") -> DatasetNotFoundError:
    return DatasetNotFoundError(
        f"the dataset {name} cannot be had from the hub {_hub()} now; the cache has {cached}",
        hint=f"Check the network, HF_ENDPOINT and HF_HUB_OFFLINE. {remedy}".rstrip(),
    )


def _hub() -> str:
    from huggingface_hub.constants import ENDPOINT

    return urlsplit(str(ENDPOINT)).netloc.rpartition("@")[2]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
