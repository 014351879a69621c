"""What a training comes of: the data, the base and the settings that decide what is learned.

Each checkpoint says so in its manifest, and no training goes on from a checkpoint of another one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from finetune_core.config.sections import ModelConfig, TrainingConfig, rows_a_step
from finetune_core.exceptions import IncompatibleCheckpointError
from finetune_core.models.source import find_model
from finetune_core.storage import digest_file, digest_json
from finetune_core.trainers.checkpoints import Checkpoint
from finetune_core.trainers.methods import learning_rate
from finetune_core.trainers.request import TrainRequest
from finetune_core.types import TrainingMethod

Origin = dict[str, Any]

# Where checkpoints lie, how often one is made, and how a step is shared out or fits into memory.
DECIDES_NOTHING = {
    "output_dir",
    "save_steps",
    "keep_checkpoints",
    "logging_steps",
    "micro_batch_size",
    "gradient_checkpointing",
    "num_processes",
    "num_machines",
    "strategy",
}
DIGESTS = ("data", "tokenizer", "model")
SHOWN = 8  # characters of a digest
SAMPLE = 64  # bytes of each weight, by which a base is told from another

log = logging.getLogger(__name__)


def origin_of(request: TrainRequest) -> Origin:
    """What decides a training, by names that a person knows; what was eased is no part of it.

    Raises:
        ModelNotFoundError: There is no such base.
    """
    model, training, tokens = request.model, request.training, request.tokens
    found = {
        "data": tokens.digest,
        "tokenizer": tokens.tokenizer_digest,
        "template": tokens.template,
        "model": _digest_base(model),
        "model.torch_dtype": model.torch_dtype,
        **{f"training.{name}": value for name, value in _settings(training).items()},
    }
    if training.method is TrainingMethod.QLORA:
        found["model.quantization_bits"] = model.quantization_bits
    if training.method is not TrainingMethod.FULL_FINETUNING:
        lora = request.lora.model_dump(mode="json")
        found |= {f"lora.{name}": value for name, value in lora.items()}
    return found


def check_origin(checkpoint: Checkpoint, origin: Origin, *, force: bool = False) -> None:
    """Makes sure that a checkpoint comes of what the training goes on with.

    Args:
        checkpoint: The one to go on from.
        origin: What the training has now.
        force: Whether to go on all the same.

    Raises:
        IncompatibleCheckpointError: It comes of something else.
    """
    was = checkpoint.origin
    differences = [
        f"{name}: {_shown(name, was.get(name))}, now {_shown(name, origin.get(name))}"
        for name in {**was, **origin}
        if was.get(name) != origin.get(name)
    ]
    if not differences:
        return
    problem = "\n  ".join(
        [f"{checkpoint.folder.name} was trained with something else", *differences]
    )
    if force:
        log.warning("%s\ntraining goes on from it all the same", problem)
        return
    raise IncompatibleCheckpointError(
        problem,
        hint="Give back what it was trained with, or begin a new job; with --force (in Python, "
        "force=True) training goes on from it all the same.",
    )


def _settings(training: TrainingConfig) -> dict[str, Any]:
    """What of a section decides what is learned, `auto` resolved."""
    return {
        **training.model_dump(mode="json", exclude=DECIDES_NOTHING),
        "learning_rate": learning_rate(training),
        "batch_size": rows_a_step(training),
    }


def _shown(name: str, value: Any) -> str:
    return str(value)[:SHOWN] if name in DIGESTS else str(value)


def _digest_base(config: ModelConfig) -> str:
    """Tells a base from another: the commit of one on the hub, else what is in its folder."""
    folder = find_model(config)
    if folder != Path(config.name):
        return folder.name
    weights = {file.name: _digest_weights(file) for file in folder.glob("*.safetensors")}
    others = (folder / "config.json", *folder.glob("*.bin"))
    return digest_json({**weights, **{file.name: digest_file(file) for file in others}})


def _digest_weights(file: Path) -> str:
    """The sha256 of a safetensors file's header and of each weight's first bytes.

    The format: https://huggingface.co/docs/safetensors/index#format
    """
    with file.open("rb") as opened:
        header = opened.read(int.from_bytes(opened.read(8), "little"))
        digest, begin = hashlib.sha256(header), opened.tell()
        places = (
            each["data_offsets"][0] for each in json.loads(header).values() if "dtype" in each
        )
        for place in sorted(places):
            opened.seek(begin + place)
            digest.update(opened.read(SAMPLE))
    return digest.hexdigest()
