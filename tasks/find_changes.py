"""The task that finds the rows that came and went since a version was made."""

import tempfile
from pathlib import Path

from prefect import get_run_logger, task

from finetune_core import child
from finetune_core.config import PipelineConfig
from finetune_core.data.changes import Changes
from finetune_core.data.changes import find_changes as find
from finetune_core.data.sanitize import SanitizeRequest
from finetune_core.exceptions import VersionNotFoundError
from finetune_core.hub import open_hub
from finetune_core.hub.lineage import ROWS
from finetune_core.hub.ports import Version
from finetune_core.jobs import organization_folder
from finetune_core.storage import finished
from finetune_core.types import CleanData
from tasks.stage import STAGE


@task(name="find changes", **STAGE)
def find_changes(
    organization: str, config: PipelineConfig, version: Version, folder: Path
) -> Changes | None:
    """The data as it is now, and the rows of a version → what changed; none where it kept no rows.

    The sanitized rows are kept in the cache: the job that learns from them finds them there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = organization_folder(organization) / "cache" / "data"
    request = SanitizeRequest(dataset=config.dataset, cache=cache)
    clean = finished(request.folder, CleanData) or child.run(
        "finetune_core.data.sanitize:sanitize", request, CleanData, folder=folder / "logs"
    )
    with tempfile.TemporaryDirectory() as temporary:
        try:
            before = open_hub(organization).fetch(version, ROWS, Path(temporary))
        except VersionNotFoundError:
            get_run_logger().warning("%s does not say which rows it was made from", version.ref)
            return None
        changes = find(before, clean, folder / "changes.parquet")
    get_run_logger().info(
        "%s rows came and %s went since %s, %s stayed",
        changes.added,
        changes.removed,
        version.ref,
        changes.kept,
    )
    return changes
