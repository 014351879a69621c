"""Which jobs have a registered model, as every hub says that they may be registered in."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from finetune_core.config.settings import Settings
from finetune_core.exceptions import HubError
from finetune_core.hub import open_hub
from finetune_core.hub.ports import Version
from finetune_core.hub.service_user import service_user_file
from finetune_service.jobs.record import Outcome
from finetune_service.jobs.store import DELETED
from finetune_service.upkeep.settings import stack_settings


class RegisteredJobs:
    """The jobs of an organisation whose models are registered. The hubs are asked once, and late.

    Args:
        organization: Whose.
        settings: Where this installation keeps things.
    """

    def __init__(self, organization: str, settings: Settings) -> None:
        self._organization, self._settings = organization, settings
        self._error: HubError | None = None

    def has(self, folder: Path, outcome: Outcome) -> bool:
        """Whether a version in some hub was made by a job.

        Raises:
            HubError: A hub that may know does not answer.
        """
        if (folder / DELETED).exists():
            return False
        run = folder / "tracking" / "run_id"
        run_id = json.loads(run.read_text()) if run.exists() else None
        if run_id is None and outcome.registered is None:
            return False  # registering opens a run first
        named = outcome.registered and (outcome.registered.model_name, outcome.registered.version)
        if self._error:  # it is not waited for again
            raise self._error
        return any(
            each.run_id == run_id or (each.model_name, each.version) == named
            for each in self._versions
            if not each.is_base  # which a job registers with its own run, and which outlives it
        )

    @cached_property
    def _versions(self) -> list[Version]:
        try:
            return [
                version
                for settings in self._hubs()
                for version in open_hub(self._organization, settings).versions()
            ]
        except HubError as error:
            self._error = error
            raise

    def _hubs(self) -> list[Settings]:
        """The local file, the server of the environment, and that of the stack, where they are."""
        found = []
        own = self._settings
        if (own.organization_folder(self._organization) / "mlflow" / "mlflow.db").exists():
            local = {"tracking_uri": None, "mlflow_workspaces": False}
            found.append(own.model_copy(update=local))
        servers = {own.tracking_uri: own} if own.tracking_uri else {}
        if stack := stack_settings(own.home.expanduser()):
            address = stack.address(stack.mlflow_port)
            told = {"tracking_uri": address, "mlflow_workspaces": True}
            servers[address] = own.model_copy(update=told)
        # Without a user in its workspace, an organisation has registered nothing there.
        has_user = service_user_file(own, self._organization).exists()
        found += [each for each in servers.values() if has_user or not each.mlflow_workspaces]
        return found
