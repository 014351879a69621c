"""The task that combines registered adapters into one, in a child process."""

import shutil

from prefect import task

from finetune_core.child import Emit
from finetune_core.hub import open_hub
from finetune_core.hub.ports import Version
from finetune_core.models.combining import CombineRequest
from finetune_core.types import ChosenCheckpoint, Job
from tasks.stage import STAGE, run_in_child, run_stage


@task(name="combine", **STAGE)
def combine_adapters(
    job: Job, versions: list[Version], request: CombineRequest
) -> ChosenCheckpoint:
    """Registered adapters → one adapter.

    Args:
        job: Whose folder gets them.
        versions: The adapters.
        request: How they are combined; their folders are put in.
    """
    hub = open_hub(job.organization)
    parts = job.folder / "parts"

    def work(hear: Emit) -> ChosenCheckpoint:
        shutil.rmtree(parts, ignore_errors=True)
        fetched = [hub.download(each, parts / str(place)) for place, each in enumerate(versions)]
        combined = run_in_child(
            "finetune_core.models.combining:combine",
            request.model_copy(update={"adapters": fetched}),
            ChosenCheckpoint,
            final=request.output,
            job=job,
            hear=hear,
        )
        shutil.rmtree(parts, ignore_errors=True)
        return combined

    return run_stage(job, "combine", work, lambda chosen: chosen.reason)
