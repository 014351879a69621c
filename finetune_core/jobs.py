"""A job's folder: made when the job is opened, found again when it goes on."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from finetune_core.child import MODULE
from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.settings import Settings
from finetune_core.exceptions import (
    Fault,
    IncompatibleConfigError,
    InvalidConfigError,
    JobInUseError,
    JobNotFoundError,
    OutputError,
)
from finetune_core.storage import write_json
from finetune_core.trainers.control import Control
from finetune_core.types import Job, new_job_id

CONFIG = "config.yaml"
LOCK = "lock"
HOLDER = "holder.json"
LOCK_SECONDS = 120.0  # a process that ends, as after a pause, is gone by then

log = logging.getLogger(__name__)


def open_job(config: PipelineConfig, organization: str, *, job_id: str | None = None) -> Job:
    """Makes a job's folder with its config in it, or opens the one that is there.

    Args:
        config: What the job is told.
        organization: Whose job it is.
        job_id: The id of a job that goes on, or that a service has given.

    Raises:
        OutputError: The folder cannot be written.
        IncompatibleConfigError: The job began with another config.
    """
    job_id = job_id or new_job_id()
    folder = job_folder(organization, config.training.output_dir, job_id)
    job = Job(id=job_id, name=model_name(config), organization=organization, folder=folder)
    file = folder / CONFIG
    if file.exists():
        known = PipelineConfig.from_yaml(file)
        if known != config:
            problem = f"job {job_id} began with another config ({file})"
            raise IncompatibleConfigError([Fault("config", problem)])
        return job
    check_writable(folder.parent)
    folder.mkdir(exist_ok=True)  # text_to_sql has put the job's dataset there
    config.to_yaml(file)
    return job


@contextmanager
def working_on(job: Job, *, take_over: bool = False) -> Iterator[Job]:
    """Keeps other processes from working on a job while the block lasts.

    Args:
        job: The job.
        take_over: Whether one that does was taken for dead: it gives up as soon as it hears of it,
            and where it does not, on this machine, it is ended.

    Returns:
        The job with the number of this attempt.

    Raises:
        JobInUseError: Another process works on it, and has not ended in the meantime.
        JobSupersededError: In the meantime, a later attempt has taken it over from this one.
    """
    control = Control(job.control)
    attempt = control.begin_attempt() if take_over else 0
    holder = _Holder(job.folder / HOLDER)
    lock = FileLock(job.folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.warning("another process works on %s; waiting until it ends", job.id)
        if take_over:
            holder.wake()
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            if not (take_over and holder.end()):
                raise JobInUseError(
                    f"another process works on {job.id}", hint="Wait until it ends, or cancel it."
                ) from None
            lock.acquire(timeout=LOCK_SECONDS)
    try:
        job = job.model_copy(update={"attempt": attempt or control.begin_attempt()})
        Control(job.control, job.attempt).check()
        _end_orphans(job)
        holder.is_me()
        yield job
    finally:
        lock.release()


def _end_orphans(job: Job) -> None:
    """Ends what the children of a killed process still do for a job, as where they were stopped."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if MODULE in command and any(word.startswith(f"{job.logs}{os.sep}") for word in command):
            log.warning("%s: an orphan is ended, process %d", job.id, process.pid)
            with suppress(psutil.Error):
                process.kill()
                process.wait(LOCK_SECONDS)


class _Holder:
    """The process that works on a job, told by a file so that it can be found on its machine."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def is_me(self) -> None:
        """Writes down that it is this one."""
        me = psutil.Process()
        write_json(
            self._file,
            {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time()},
        )

    def wake(self) -> None:
        """Has a stopped one go on, so that it hears that it was taken for dead."""
        for process in self._family():
            with suppress(psutil.Error):
                process.resume()

    def end(self) -> bool:
        """Kills it and all below it; says whether it was there to be killed."""
        family = self._family()
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=LOCK_SECONDS)
        return bool(family)

    def _family(self) -> list[psutil.Process]:
        """It and those below it; none where it is on another machine, or has ended."""
        try:
            known = json.loads(self._file.read_text())
            process = psutil.Process(known["pid"])
            if known["host"] != socket.gethostname() or process.create_time() != known["started"]:
                return []
            return [process, *process.children(recursive=True)]
        except (OSError, ValueError, KeyError, psutil.Error):
            return []


def find_config(job_id: str, organization: str, output_dir: Path | None) -> PipelineConfig:
    """The config of a job that is to go on.

    Raises:
        JobNotFoundError: There is no such job in that folder.
    """
    file = job_folder(organization, output_dir, job_id) / CONFIG
    if not file.is_file():
        raise JobNotFoundError(
            f"there is no job {job_id} in {file.parent.parent}",
            hint="Name the folder that the job was started with by --output.",
        )
    return PipelineConfig.from_yaml(file)


def job_folder(organization: str, output_dir: Path | None, job_id: str) -> Path:
    """The folder of one job.

    Raises:
        InvalidConfigError: The id could lead out of the folder.
    """
    return jobs_folder(organization, output_dir) / _plain("job_id", job_id)


def jobs_folder(organization: str, output_dir: Path | None) -> Path:
    """The folder that gets one folder a job."""
    if output_dir is not None:
        return output_dir.expanduser().absolute()
    return organization_folder(organization) / "jobs"


def organization_folder(organization: str) -> Path:
    """Makes the folder of one organisation: its cache and its jobs, and nobody else's to read.

    Raises:
        InvalidConfigError: The name could lead out of the folder.
    """
    folder = Settings().organization_folder(_plain("organization", organization))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _plain(field: str, name: str) -> str:
    """A name that is joined to a path, and may not lead out of it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        problem = f"must be letters, digits, - and _ (got {name!r})"
        raise InvalidConfigError([Fault(field, problem)])
    return name


def check_writable(folder: Path) -> None:
    """Makes a folder and tries to write into it.

    Raises:
        OutputError: That fails.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        os.unlink(probe)
    except OSError as error:
        raise OutputError(
            f"the output folder {folder} cannot be written: {error.strerror}",
            hint="Name another by --output.",
        ) from None


def model_name(config: PipelineConfig) -> str:
    """The registered model's name: the given one, or base and dataset joined."""
    if config.registry.model_name:
        return config.registry.model_name
    base = config.model.name.rstrip("/").rpartition("/")[2]
    name = f"{base}-{Path(config.dataset.path).stem}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128]
