"""Deploys what prefect.yaml lists: pools first, then Prefect's own command."""

from __future__ import annotations

import os
import subprocess
import sys

import yaml

from finetune_core.exceptions import OutputError
from finetune_service.stack.automations import LOST_RUNS
from finetune_service.stack.exceptions import StackError
from finetune_service.stack.parts import client_environment
from finetune_service.stack.prefect_api import PrefectApi
from finetune_service.stack.settings import StackSettings

SECONDS = 120.0


def deployments(settings: StackSettings) -> list[dict[str, str]]:
    """The deployments that prefect.yaml lists, each with its work pool.

    Raises:
        OutputError: There is no such file.
    """
    file = settings.source / "prefect.yaml"
    try:
        listed = yaml.safe_load(file.read_text())["deployments"]
    except OSError as error:
        raise OutputError(
            f"cannot read {file}: {error.strerror}",
            hint="Set FINETUNE_SOURCE to the folder of prefect.yaml and flows/.",
        ) from None
    return [{"name": each["name"], "pool": each["work_pool"]["name"]} for each in listed]


def create_pools(settings: StackSettings) -> None:
    """Makes the work pools that workers and deployments name."""
    named = {each["pool"] for each in deployments(settings)} | set(settings.pools)
    with PrefectApi(settings) as prefect:
        for name in sorted(named):
            prefect.create_pool(name)


def deploy(settings: StackSettings) -> None:
    """Deploys everything in prefect.yaml; what is there already is brought up to date.

    With it goes the automation that finds lost runs. A schedule that somebody has activated stays
    active: the file's `active` is where it begins.

    Raises:
        StackError: Prefect refuses some of it.
        PrefectUnavailableError: It does not answer.
    """
    with PrefectApi(settings) as prefect:
        before = {each["id"] for each in prefect.schedules() if each["active"]}
        _run(settings)
        prefect.keep_automation(LOST_RUNS)
        for schedule in prefect.schedules():
            if schedule["id"] in before and not schedule["active"]:
                prefect.activate(schedule)


def _run(settings: StackSettings) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    }
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=settings.source,
        env=environment | client_environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    (settings.folder / "logs" / "deploy.log").write_text(done.stdout)
    if done.returncode:
        raise StackError(
            f"prefect.yaml is not deployed:\n{done.stdout.strip()[-2000:]}",
            hint=f"The whole log: {settings.folder / 'logs' / 'deploy.log'}",
        )
