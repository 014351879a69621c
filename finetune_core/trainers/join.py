"""Join: another machine's part in a training that the first one leads.

All machines see the job's folder. The first one runs the flow; the others lend processes, which
accelerate's launcher brings together, again each time when the first machine tries again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from finetune_core.child import end, files, start
from finetune_core.exceptions import TrainingError
from finetune_core.trainers.checkpoints import finished_training
from finetune_core.trainers.launch import launcher
from finetune_core.trainers.request import MEMORY, TrainRequest
from finetune_core.trainers.supervise import TARGET
from finetune_core.types import TrainedCheckpoints

LOOK_SECONDS = 0.5


def join(job: Path, *, patience: float) -> TrainedCheckpoints:
    """Lends this machine's processes until the training is finished.

    Args:
        job: The job's folder.
        patience: Seconds for which nothing may be heard of the first machine: it begins, it
            trains, or it tries again.

    Raises:
        InvalidConfigError: The environment does not say which machine this is.
        TrainingError: Nothing was heard for longer.
    """
    request_file, events, _ = files(job / "logs", "train")
    process: subprocess.Popen[bytes] | None = None
    began = time.time()
    try:
        while time.time() - max(began, _changed(request_file), _changed(events)) < patience:
            if request_file.exists():
                request = TrainRequest.model_validate_json(request_file.read_text())
                if trained := finished_training(request.output):
                    return trained
                if process is None or process.poll() is not None:
                    process = start(
                        TARGET,
                        request_file,
                        events,
                        output=sys.stderr,
                        environment=MEMORY,
                        launcher=launcher(request.training),
                    )
            time.sleep(LOOK_SECONDS)
    finally:
        if process is not None:
            end(process)
    raise TrainingError(
        f"nothing was heard of the training of {job.name} for {patience:g} s",
        hint="Start, or resume, the job on the first machine; see FINETUNE_MAIN_ADDRESS.",
    )


def _changed(file: Path) -> float:
    """When a file was last written to, in seconds since 1970."""
    return file.stat().st_mtime if file.exists() else 0.0
