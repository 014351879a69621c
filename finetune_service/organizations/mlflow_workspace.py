"""Workspaces: what MLflow knows of our organisations: for each a workspace, a role and a user."""

from __future__ import annotations

import logging
import secrets
import threading
from typing import Any

import httpx
from filelock import FileLock, Timeout
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from finetune_core.config.settings import Settings
from finetune_core.exceptions import FineTuneError, HubUnavailableError
from finetune_core.hub.service_user import (
    ServiceUser,
    read_service_user,
    service_user_file,
    write_service_user,
)
from finetune_service.exceptions import UnavailableError
from finetune_service.organizations.organizations import Organizations

# MANAGE, which `workspace` also knows, could make users who see every organisation.
PERMISSIONS = {"workspace": "USE", "experiment": "EDIT", "registered_model": "EDIT"}
ROLE = "organization"  # MLflow gives a new workspace an "admin" and a "user" of its own
USER_PREFIX = "org-"  # no organisation is thus called like MLflow's admin
TIMEOUT_SECONDS = 5.0
LOOKING_SECONDS = 5.0  # between two looks for organisations that have no workspace yet

log = logging.getLogger(__name__)


class _Admin(BaseSettings):
    """Who may make workspaces and users in MLflow."""

    name: str = Field("", validation_alias="MLFLOW_TRACKING_USERNAME")
    password: SecretStr = Field(SecretStr(""), validation_alias="MLFLOW_TRACKING_PASSWORD")


class Workspaces:
    """The workspaces of an installation's organisations in MLflow.

    A workspace is made when it is first needed, or by `run` before that, so an organisation can
    be made while MLflow is away. Making one again does no harm, and heals what is missing.

    Args:
        settings: Where MLflow is, and whether it has workspaces.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, ServiceUser] = {}
        self._stopped = threading.Event()

    @property
    def enabled(self) -> bool:
        """Whether organisations have workspaces: there is a server, and it keeps them apart."""
        return bool(self._settings.tracking_uri) and self._settings.mlflow_workspaces

    def known(self, organization: str) -> ServiceUser | None:
        """An organisation's user, where this process has seen that MLflow knows it."""
        return self._known.get(organization)

    def ensure(self, organization: str) -> ServiceUser:
        """An organisation's user, made with role and workspace where there is none.

        Raises:
            UnavailableError: MLflow does not answer, or refuses.
        """
        if user := self.known(organization):
            return user
        file = service_user_file(self._settings, organization)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Of two processes that come first at once, the second finds the first one's password.
            with FileLock(file.with_suffix(".lock"), TIMEOUT_SECONDS, mode=0o600):
                user = self._kept(organization)
                if not self._works(user):
                    self._make(user)
        except (httpx.HTTPError, Timeout) as error:
            raise UnavailableError(f"MLflow does not answer: {error}") from error
        self._known[organization] = user
        return user

    def forget(self, organization: str) -> None:
        """Looks again at the next use: MLflow did not know the user after all."""
        self._known.pop(organization, None)

    def run(self, organizations: Organizations) -> None:
        """Makes the workspaces that are missing, until `stop`.

        So jobs find theirs, though they cannot make it: only the API has MLflow's admin password.
        """
        while not self._stopped.is_set():
            for organization in organizations.list():
                try:
                    self.ensure(organization.name)
                except FineTuneError as error:
                    log.info("no workspace yet for %s: %s", organization.name, error)
                    break
            self._stopped.wait(LOOKING_SECONDS)

    def stop(self) -> None:
        """Ends `run`."""
        self._stopped.set()

    def _kept(self, organization: str) -> ServiceUser:
        """The user in the organisation's folder, thought of where there is none."""
        try:
            return read_service_user(self._settings, organization)
        except HubUnavailableError:
            user = ServiceUser(
                name=f"{USER_PREFIX}{organization}",
                password=secrets.token_urlsafe(32),
                workspace=organization,
            )
            write_service_user(self._settings, organization, user)
            return user

    def _works(self, user: ServiceUser) -> bool:
        """Whether MLflow lets the user into its workspace: its role is what is given last."""
        with self._client(headers=user.headers()) as client:
            answer = client.get("/api/3.0/mlflow/workspaces")
        if answer.status_code in (401, 403, 404):  # 404: no such workspace
            return False
        answer.raise_for_status()
        return user.workspace in {each["name"] for each in answer.json().get("workspaces", [])}

    def _make(self, user: ServiceUser) -> None:
        admin = _Admin()
        auth = httpx.BasicAuth(admin.name, admin.password.get_secret_value())
        with self._client(auth=auth) as client:
            _create(client, "/api/3.0/mlflow/workspaces", name=user.workspace)
            _create(client, "/api/3.0/mlflow/roles/create", name=ROLE, workspace=user.workspace)
            role = _role(client, user.workspace)
            for kind, permission in PERMISSIONS.items():
                _create(
                    client,
                    "/api/3.0/mlflow/roles/permissions/add",
                    role_id=role,
                    resource_type=kind,
                    resource_pattern="*",
                    permission=permission,
                )
            account = {"username": user.name, "password": user.password}
            if not _create(client, "/api/2.0/mlflow/users/create", **account):
                # It is of a home that was lost; nobody else has its password.
                path = "/api/2.0/mlflow/users/update-password"
                _check(client.patch(path, json=account))
            _create(client, "/api/3.0/mlflow/roles/assign", role_id=role, username=user.name)
        log.info("made the workspace %s in MLflow", user.workspace)

    def _client(self, **who: Any) -> httpx.Client:
        return httpx.Client(
            base_url=str(self._settings.tracking_uri),
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            **who,
        )


def _create(client: httpx.Client, path: str, **fields: Any) -> bool:
    """Makes something, and says whether it was not there before."""
    answer = client.post(path, json=fields)
    if answer.status_code == 400 and "RESOURCE_ALREADY_EXISTS" in answer.text:
        return False
    _check(answer)
    return True


def _role(client: httpx.Client, workspace: str) -> int:
    """The id of our role in a workspace."""
    answer = client.get("/api/3.0/mlflow/roles/list", params={"workspace": workspace})
    _check(answer)
    return next(int(each["id"]) for each in answer.json()["roles"] if each["name"] == ROLE)


def _check(answer: httpx.Response) -> None:
    """Passes on what MLflow says to no request of ours; its answer may hold what we sent."""
    if not answer.is_success:
        raise UnavailableError(
            f"MLflow answers {answer.status_code} to {answer.request.url.path}",
            hint="MLFLOW_TRACKING_USERNAME and _PASSWORD must be those of its admin.",
        )
