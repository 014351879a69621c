"""HubVersions: the registered versions of an organisation, over the REST API."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from finetune_core.hub.lineage import Lineage
from finetune_core.hub.verification import Verification
from finetune_core.storage import check_free
from finetune_service.hub.versions import (
    HistoryEntry,
    TreeNode,
    VersionComparison,
    VersionRecord,
)
from finetune_service.sdk.transport import Transport, part

ARCHIVE = "content.zip"


class HubVersions:
    """The versions, asked as `finetune_service.hub.Versions` is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def promote(self, ref: str) -> VersionRecord:
        """Makes a version the champion by hand."""
        return _version(self._ask("POST", f"versions/{part(ref)}/promote"))

    def rollback(self, model_name: str) -> VersionRecord:
        """Makes the champion before this one the champion again."""
        return _version(self._ask("POST", f"rollback/{part(model_name)}"))

    def history(self, model_name: str) -> list[HistoryEntry]:
        """What happened to a model's versions, the last thing first."""
        found = self._ask("GET", f"history/{part(model_name)}")
        return [HistoryEntry.model_validate(each) for each in found["data"]]

    def undelete(self, ref: str) -> VersionRecord:
        """Brings a deleted version back."""
        return _version(self._ask("POST", f"versions/{part(ref)}/undelete"))

    def purge(self, ref: str) -> None:
        """Forgets a deleted version for good."""
        self._ask("DELETE", f"versions/{part(ref)}")

    def compare(self, first: str, second: str) -> VersionComparison:
        """Two versions beside each other."""
        found = self._ask("GET", "compare", params={"first": first, "second": second})
        return VersionComparison.model_validate(found)

    def tree(self) -> list[TreeNode]:
        """The bases, and what was made of each."""
        return [TreeNode.model_validate(each) for each in self._ask("GET", "tree")["data"]]

    def card(self, ref: str) -> Lineage:
        """A version's lineage card, without where things lie on the server."""
        return Lineage.model_validate(self._ask("GET", f"versions/{part(ref)}/card"))

    def verify(self, ref: str) -> Verification:
        """Has the server recompute every digest of a version's card."""
        found = self._ask("GET", f"versions/{part(ref)}/verification")
        return Verification.model_validate(found)

    def download(self, ref: str, output: Path) -> Path:
        """Fetches a version's files.

        Args:
            ref: The version.
            output: The folder that gets them; not there yet, or empty.
        """
        check_free(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        path = f"/hub/versions/{part(ref)}/content"
        with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
            archive, folder = Path(temporary) / ARCHIVE, Path(temporary) / "package"
            self._transport.save(path, archive)
            with zipfile.ZipFile(archive) as files:
                files.extractall(folder)
            if output.exists():
                output.rmdir()
            shutil.move(folder, output)
        return output

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._transport.request(method, f"/hub/{path}", **options)


def _version(found: dict[str, Any]) -> VersionRecord:
    return VersionRecord(**{name: found[name] for name in VersionRecord.model_fields})
