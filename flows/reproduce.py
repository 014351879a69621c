"""The reproduce flow: a registered version's card, run again, and both adapters compared."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from prefect import flow

from finetune_core.config.settings import Settings
from finetune_core.exceptions import IrreproducibleError
from finetune_core.hub import open_hub
from finetune_core.hub.lineage import read_lineage
from finetune_core.hub.ports import Version
from finetune_core.hub.reproduction import Reproduction, compare
from finetune_core.hub.tracking import Tracking
from finetune_core.hub.verification import verify
from finetune_core.jobs import open_job, organization_folder, working_on
from tasks.choose_checkpoint import choose_checkpoint
from tasks.sanitize_data import sanitize_data
from tasks.tokenize_data import tokenize_data
from tasks.train_model import train_model


@flow(name="reproduce")
def reproduce(model_name: str, version: int, organization: str = "local") -> Reproduction:
    """Makes a registered version again from its card, and compares the two.

    Nothing is registered. What it is made of must be here as it was: the data, and the base.

    Args:
        model_name: The registered model.
        version: Its version.
        organization: Whose it is.

    Returns:
        The digests of both, and whether they are the same.

    Raises:
        UnverifiedError: The version is not what its card says.
        IrreproducibleError: The data or the base is not here, or not as it was.
    """
    hub = open_hub(organization, Settings())
    found = hub.get(model_name, version)
    folder = organization_folder(organization) / "reproductions"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        package = hub.download(found, Path(temporary) / "registered")
        card = read_lineage(package)
        _check(found, package)
        if card.combined:
            raise IrreproducibleError(
                f"{found.ref} was not trained, but combined of {', '.join(card.combined)}",
                hint="Those can be made again, each by its own card.",
            )
        config = card.pipeline_config()
        training = config.training.model_copy(update={"output_dir": folder})
        config = config.model_copy(update={"training": training})
        with working_on(open_job(config, organization)) as job:
            tracking = Tracking(hub, job)
            try:
                clean = sanitize_data(job, config)
                tokens = tokenize_data(job, config, clean)
                trained = train_model(job, config, tokens)
                chosen = choose_checkpoint(job, trained)
            except BaseException:
                tracking.end("FAILED")
                raise
            tracking.end("FINISHED")
        result = compare(found.ref, job.id, card, package, chosen.folder)
    shutil.rmtree(job.folder, ignore_errors=True)  # of one that fails, the logs are of use
    return result


def _check(version: Version, package: Path) -> None:
    """Refuses what cannot come out the same, before anything is trained."""
    verification = verify(version, package)
    verification.insist()
    gone = [f"the {each.what} is {each.state}" for each in verification.findings if each.is_gone]
    if gone:
        raise IrreproducibleError(
            f"what {version.ref} was made of is gone: {', '.join(gone)}",
            hint="Put it where the card says, as `finetune-cli hub card` shows it.",
        )
