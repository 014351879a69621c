"""Combine: several adapters of one base → one adapter, by peft's ways."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from finetune_core.child import Emit
from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import AdapterError, Fault, InvalidConfigError
from finetune_core.models.merging import ADAPTER_CONFIG, read_adapter
from finetune_core.models.source import TOKENIZER_FILES, digest_tokenizer
from finetune_core.storage import digest_folder, once
from finetune_core.types import ChosenCheckpoint, Record

Way = Literal["cat", "linear", "ties", "dare_linear", "dare_ties"]
"""cat: the sum of the updates, exactly, its rank the sum of the ranks. linear: the weighted sum of
the factors, in the same rank. ties: of each weight only the larger updates, and of those only the
ones whose sign most have (arXiv 2306.01708). dare: updates dropped by chance, the rest made larger
(arXiv 2311.03099), before linear or ties."""

THINNED = ("ties", "dare_linear", "dare_ties")  # ways that keep a share of the updates
COMBINED = "combined"


class CombineRequest(Record):
    """What combining needs.

    Attributes:
        adapters: Their folders.
        refs: What they are called, in the same order.
        weights: How much each counts.
        way: How they are combined.
        density: The share of updates that is kept, by the ways that drop some.
        seed: Decides which ones DARE drops.
        model: The base.
        output: Gets the adapter.
    """

    adapters: list[Path]
    refs: list[str]
    weights: list[float]
    way: Way
    density: float
    seed: int
    model: ModelConfig
    output: Path


def combine(request: CombineRequest, emit: Emit) -> ChosenCheckpoint:
    """Combines adapters into one, which loads as each of them does.

    Raises:
        AdapterError: They are not of one base and one kind, or their ranks do not fit.
    """
    check_alike(request.adapters, request.refs)
    return once(request.output, ChosenCheckpoint, lambda folder: _write(request, folder))


def check_asked(refs: Sequence[str], weights: Sequence[float], density: float) -> None:
    """Refuses what cannot be asked, before anything is fetched.

    Raises:
        InvalidConfigError: There are too few adapters, or not as many weights.
    """
    faults = []
    if len(refs) < 2:
        faults.append(Fault("adapters", f"needs two or more (got {len(refs)})"))
    faults += [
        Fault("adapters", f"{each!r} is not NAME@VERSION") for each in refs if "@" not in each
    ]
    if len(weights) != len(refs):
        faults.append(Fault("weights", f"needs {len(refs)}, one an adapter"))
    if not 0 < density <= 1:
        faults.append(Fault("density", f"must be above 0 and at most 1 (got {density:g})"))
    if faults:
        raise InvalidConfigError(faults)


def check_alike(adapters: Sequence[Path], refs: Sequence[str]) -> None:
    """Refuses adapters that are not of one base and one tokenizer.

    Raises:
        AdapterError: They are not.
    """
    first = read_adapter(adapters[0])
    for folder, ref in zip(adapters[1:], refs[1:], strict=True):
        other = read_adapter(folder)
        for name in ("base_model_name_or_path", "peft_type", "task_type"):
            if first.get(name) != other.get(name):
                raise AdapterError(
                    f"{refs[0]} and {ref} do not combine: {name} is {first.get(name)} of the one "
                    f"and {other.get(name)} of the other"
                )
        if digest_tokenizer(folder) != digest_tokenizer(adapters[0]):
            raise AdapterError(f"{refs[0]} and {ref} do not combine: their tokenizers differ")


def _write(request: CombineRequest, folder: Path) -> ChosenCheckpoint:
    import peft
    import torch

    from finetune_core.data.encode import load_tokenizer
    from finetune_core.models.loading import fit_vocabulary, load_as_stored

    base = load_as_stored(request.model)
    fit_vocabulary(base, load_tokenizer(request.adapters[0]))
    names = [f"adapter{number}" for number in range(len(request.adapters))]
    torch.manual_seed(request.seed)
    options: dict[str, Any] = {"density": request.density} if request.way in THINNED else {}
    try:
        model = peft.PeftModel.from_pretrained(base, request.adapters[0], adapter_name=names[0])
        for name, path in zip(names[1:], request.adapters[1:], strict=True):
            model.load_adapter(path, adapter_name=name)
        model.add_weighted_adapter(
            names, request.weights, COMBINED, combination_type=request.way, **options
        )
        model.save_pretrained(folder, selected_adapters=[COMBINED])
    except (ValueError, TypeError, RuntimeError) as error:  # what peft refuses, it refuses so
        raise AdapterError(
            f"{', '.join(request.refs)} do not combine by {request.way}: {error}",
            hint="Adapters of unlike ranks combine by cat.",
        ) from error
    for path in (folder / COMBINED).iterdir():
        path.rename(folder / path.name)
    (folder / COMBINED).rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # peft's own; registering writes another
    _sort_lists(folder / ADAPTER_CONFIG)
    for file in TOKENIZER_FILES:
        if (request.adapters[0] / file).is_file():
            shutil.copy2(request.adapters[0] / file, folder)
    told = ", ".join(
        f"{ref} x {weight:g}" for ref, weight in zip(request.refs, request.weights, strict=True)
    )
    return ChosenCheckpoint(
        folder=folder,
        digest=digest_folder(folder),
        step=0,
        valid_loss=None,
        reason=f"{request.way} of {told}",
    )


def _sort_lists(file: Path) -> None:
    """Puts a config's lists of modules in order: peft writes sets, in any."""
    values = json.loads(file.read_text())
    for name in ("target_modules", "modules_to_save"):
        if isinstance(values.get(name), list):
            values[name] = sorted(values[name])
    file.write_text(json.dumps(values, indent=2, sort_keys=True))
