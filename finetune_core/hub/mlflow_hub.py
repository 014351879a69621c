"""The hub on MLflow: the one file that imports mlflow."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_TRACKING_AUTH
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from mlflow.tracking.request_auth.registry import _request_auth_provider_registry
from sqlalchemy.exc import SQLAlchemyError

from finetune_core.config.settings import Settings
from finetune_core.exceptions import (
    Fault,
    HubError,
    HubUnavailableError,
    InvalidConfigError,
    VersionNotFoundError,
)
from finetune_core.hub.ports import NewVersion, Point, Version
from finetune_core.hub.service_user import ServiceUser, read_service_user
from finetune_core.storage import from_here

# What MLflow says where its server is away, answers nonsense, or has not got our user yet.
AWAY = {
    "INTERNAL_ERROR",
    "REQUEST_LIMIT_EXCEEDED",
    "TEMPORARILY_UNAVAILABLE",
    "UNAUTHENTICATED",
}
NOT_IN_A_NAME = re.compile(r"[./:%\"']")  # of a LoggedModel; registered models may have dots
NO_ALIAS = "Registered model alias"  # MLflow calls an unknown one an invalid parameter
PARAMS_PER_CALL, POINTS_PER_CALL = 100, 1000  # the server's limits
PARAM_LENGTH = 6000
SHORT_DIGEST = 12  # a dataset's digest has room for 36 characters; the whole is a tag
PAGE = 1000  # what a search gives at once
SAMPLING_SECONDS = 5.0


class _ServiceUsers(RequestAuthProvider):
    """Gives every request the password and the workspace of the user that its URL names.

    MLflow's client takes both from the environment, which all organisations of a process share,
    and works in threads of its own, which a context variable does not follow. The URL of the
    server reaches them all, and the user's name in it is no secret.
    """

    NAME = "finetune"

    def __init__(self) -> None:
        self._users: dict[str, ServiceUser] = {}

    def add(self, address: str, user: ServiceUser) -> str:
        """Gives the URL with which a client speaks as a user."""
        parts = urlsplit(address)
        parts = parts._replace(netloc=f"{user.name}@{parts.netloc}")
        self._users[parts.netloc] = user
        os.environ[MLFLOW_TRACKING_AUTH.name] = self.NAME
        return parts.geturl()

    def get_name(self) -> str:
        """What MLFLOW_TRACKING_AUTH calls this."""
        return self.NAME

    def get_auth(self) -> _ServiceUsers:
        """What requests calls with each request."""
        return self

    def __call__(self, request: Any) -> Any:
        """Adds the headers; a URL without a user of ours goes out as it came."""
        if user := self._users.get(urlsplit(request.url).netloc):
            request.headers.update(user.headers())
        return request


_SERVICE_USERS = _ServiceUsers()
# The registry makes what it is given; ours is to know the users.
_request_auth_provider_registry.register(lambda: _SERVICE_USERS)  # type: ignore[no-untyped-call]


class MlflowHub:
    """Runs, artifacts and versions in MLflow: on a server, or in a file without one.

    Args:
        settings: Where the server is; without one, an SQLite file and a folder of artifacts
            lie under the organisation's own.
        organization: Its runs lie in an experiment of its name, and in a workspace of its own
            where the server has workspaces.
    """

    def __init__(self, settings: Settings, organization: str) -> None:
        self._settings = settings
        self._experiment = organization
        self._artifacts: str | None = None
        self._address = settings.tracking_uri or ""
        if "@" in urlsplit(self._address).netloc:
            problem = "holds a password; use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            raise InvalidConfigError([Fault("MLFLOW_TRACKING_URI", problem)])
        if self._address:
            return
        folder = settings.organization_folder(organization) / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        self._address = f"sqlite:///{folder / 'mlflow.db'}"
        self._artifacts = (folder / "artifacts").as_uri()
        # Two jobs that come first at once would both make the tables of a new file.
        with FileLock(folder / "mlflow.lock"), _translated():
            self._experiment_id()

    @cached_property
    def _uri(self) -> str:
        """The address as MLflow's client takes it; asked for late, as a user may be made late."""
        if self._artifacts or not self._settings.mlflow_workspaces:
            return self._address
        user = read_service_user(self._settings, self._experiment)
        return _SERVICE_USERS.add(self._address, user)

    @cached_property
    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self._uri, self._uri)

    def look(self) -> str:
        """The server's address, or the command that starts one on the local file."""
        if self._artifacts is None:
            return self._address
        file = Path(self._address.removeprefix("sqlite:///"))
        return f"mlflow ui --backend-store-uri sqlite:///{from_here(file)}"

    def start_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Opens a run in the organisation's experiment."""
        with _translated():
            run = self._client.create_run(self._experiment_id(), run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def find_run(self, tag: str, value: str) -> str | None:
        """Searches the organisation's experiment."""
        with _translated():
            found = self._client.search_runs(
                [self._experiment_id()],
                f"tags.{tag} = {json.dumps(value)}",
                max_results=1,
                order_by=["attributes.start_time ASC"],
            )
        return str(found[0].info.run_id) if found else None

    def end_run(self, run_id: str, status: str) -> None:
        """Closes a run."""
        with _translated():
            self._client.set_terminated(run_id, status)

    def tag_run(self, run_id: str, name: str, value: str) -> None:
        """Changes a tag."""
        with _translated():
            self._client.set_tag(run_id, name, value)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Adds params, a hundred a call."""
        entries = [Param(name, str(value)[:PARAM_LENGTH]) for name, value in params.items()]
        with _translated():
            for start in range(0, len(entries), PARAMS_PER_CALL):
                self._client.log_batch(run_id, params=entries[start : start + PARAMS_PER_CALL])

    def params(self, run_id: str) -> dict[str, str]:
        """The params of a run."""
        with _translated():
            return dict(self._client.get_run(run_id).data.params)

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Adds values of metrics, a thousand a call."""
        entries = [Metric(p.name, p.value, int(p.time * 1000), p.step) for p in points]
        with _translated():
            for start in range(0, len(entries), POINTS_PER_CALL):
                self._client.log_batch(run_id, metrics=entries[start : start + POINTS_PER_CALL])

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Keeps a file as an artifact."""
        if not path.is_file():
            raise FileNotFoundError(path)
        with _translated():
            self._client.log_artifact(run_id, str(path), folder)

    def log_table(self, run_id: str, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Keeps rows as MLflow's table artifact."""
        with _translated():
            self._client.log_table(run_id, pd.DataFrame(list(rows)), file)

    def log_dataset(
        self, run_id: str, *, name: str, source: str, digest: str, context: str
    ) -> None:
        """Adds a dataset input."""
        origin = resolve_dataset_source(source)
        # MLflow's own class is abstract only to a type checker.
        dataset = MetaDataset(origin, name=name, digest=digest[:SHORT_DIGEST])  # type: ignore[abstract]
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", digest)]
        with _translated():
            self._client.log_inputs(run_id, [DatasetInput(dataset._to_mlflow_entity(), tags)])

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Runs MLflow's own monitor, which samples in a thread and outlives a dead server."""
        with _translated():
            monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
                run_id,
                sampling_interval=SAMPLING_SECONDS,
                resume_logging=True,
                tracking_uri=self._uri,
            )
            monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def register(self, run_id: str, folder: Path, new: NewVersion) -> Version:
        """Logs the folder's own files as a LoggedModel and makes a version of it.

        MLflow's transformers flavour is not used: for an adapter on a local base it writes
        weights under wrapped names, and reloads random ones with only a log line.
        """
        with _translated():
            self._create_model(new.model_name)
            known = self._client.search_model_versions(f"run_id = '{run_id}'")
            version = next((each for each in known if each.name == new.model_name), None)
            if version is None:
                model = self._client.create_logged_model(
                    self._experiment_id(),
                    name=NOT_IN_A_NAME.sub("-", new.model_name),
                    source_run_id=run_id,
                    tags=dict(new.tags),
                    model_type=new.model_type,
                )
                self._client.log_model_artifacts(model.model_id, str(folder))
                self._client.finalize_logged_model(model.model_id, "READY")
                version = self._client.create_model_version(
                    new.model_name,
                    source=model.artifact_location,
                    run_id=run_id,
                    tags=dict(new.tags),
                    description=new.description,
                    model_id=model.model_id,
                )
            if new.alias:
                self._client.set_registered_model_alias(new.model_name, new.alias, version.version)
            self._client.log_batch(
                run_id, tags=[RunTag("registered", f"{new.model_name}@{version.version}")]
            )
        return self.get(new.model_name, int(version.version))

    def versions(self, model_name: str | None = None) -> list[Version]:
        """The versions of a model or of all, the newest first."""
        wanted = None if model_name is None else f"name = {json.dumps(model_name)}"
        with _translated():
            # MLflow's search for versions leaves their aliases out.
            aliases: dict[tuple[str, str], list[str]] = {}
            for model in _all(self._client.search_registered_models, wanted):
                for alias, number in model.aliases.items():
                    aliases.setdefault((model.name, str(number)), []).append(alias)
            found = [
                _version(each)._replace(aliases=aliases.get((each.name, str(each.version)), []))
                for each in _all(self._client.search_model_versions, wanted)
            ]
        return sorted(found, key=lambda each: (each.created_at, each.version), reverse=True)

    def get(self, model_name: str, version: int | str) -> Version:
        """One version, by its number or by an alias."""
        with _translated():
            return _version(self._get(model_name, str(version)))

    def _get(self, model_name: str, version: str) -> ModelVersion:
        try:
            if version.isdigit():
                return self._client.get_model_version(model_name, version)
            return self._client.get_model_version_by_alias(model_name, version)
        except MlflowException as error:
            # A server with users refuses so what is not there: an organisation may see all it has.
            if error.error_code != "PERMISSION_DENIED":
                raise
            raise VersionNotFoundError(f"the hub has no {model_name}@{version}") from None

    def set_alias(self, version: Version, alias: str) -> None:
        """Points an alias to a version."""
        with _translated():
            self._client.set_registered_model_alias(version.model_name, alias, str(version.version))

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Forgets an alias."""
        with _translated():
            self._client.delete_registered_model_alias(model_name, alias)

    def tag(self, version: Version, name: str, value: str | None) -> None:
        """Changes a tag."""
        number = str(version.version)
        with _translated():
            if value is not None:
                self._client.set_model_version_tag(version.model_name, number, name, value)
            elif name in version.tags:
                self._client.delete_model_version_tag(version.model_name, number, name)

    def delete(self, model_name: str, version: int | None = None) -> None:
        """Forgets a version, or a model with all that it has."""
        with _translated():
            if version is None:
                self._client.delete_registered_model(model_name)
            else:
                self._client.delete_model_version(model_name, str(version))

    def fetch(self, version: Version, file: str, folder: Path) -> Path:
        """Fetches one file of a version."""
        with _translated():
            uri = self._client.get_model_version_download_uri(
                version.model_name, str(version.version)
            )
            known = mlflow.artifacts.list_artifacts(artifact_uri=uri, tracking_uri=self._uri)
        if file not in {Path(each.path).name for each in known}:
            # Asked for it, a server says that it has a fault of its own.
            raise VersionNotFoundError(f"{version.ref} has no file {file}")
        return self._fetch(uri, folder, f"/{file}")

    def download(self, version: Version, folder: Path) -> Path:
        """Fetches a version's files."""
        with _translated():
            uri = self._client.get_model_version_download_uri(
                version.model_name, str(version.version)
            )
        return self._fetch(uri, folder)

    def _fetch(self, uri: str, folder: Path, below: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with _translated():
            path = mlflow.artifacts.download_artifacts(
                f"{uri}{below}", dst_path=str(folder), tracking_uri=self._uri
            )
        return Path(path)

    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            try:
                return str(
                    self._client.create_experiment(
                        self._experiment, artifact_location=self._artifacts
                    )
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another job was faster
                    raise
                return self._experiment_id()
        return str(experiment.experiment_id)

    def _create_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _version(found: ModelVersion) -> Version:
    return Version(
        model_name=found.name,
        version=int(found.version),
        uri=f"models:/{found.name}/{found.version}",
        run_id=found.run_id or "",
        tags=dict(found.tags),
        aliases=list(found.aliases),
        created_at=(found.creation_timestamp or 0) // 1000,
    )


def _all(search: Callable[..., Any], wanted: str | None) -> Iterator[Any]:
    """What a search finds, page by page."""
    token: str | None = None
    while True:
        found = search(wanted, max_results=PAGE, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


@contextmanager
def _translated() -> Iterator[None]:
    """Makes MLflow's errors ours."""
    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or NO_ALIAS in str(error.message):
            raise VersionNotFoundError(f"the hub has no such thing: {error.message}") from error
        if error.error_code in AWAY:
            raise HubUnavailableError(f"MLflow does not answer: {error.message}") from error
        raise HubError(f"MLflow refuses: {error.message}") from error
    except (OSError, SQLAlchemyError) as error:
        raise HubUnavailableError(f"MLflow does not answer: {error}") from error
