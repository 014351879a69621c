"""Serving: a registered version, as `mlflow models serve` starts and asks it.

A package's MLmodel file names this module, which then loads what lies beside that file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from finetune_core.config.pipeline import PipelineConfig
from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import InputError, ModelNotFoundError
from finetune_core.hub.export import is_adapter
from finetune_core.models.merging import base_of, read_adapter
from finetune_core.models.source import find_model, tokenizer_folder
from finetune_core.models.tasks import read_labels
from finetune_core.types import Task, Template, TrainingMethod

MLMODEL = "MLmodel"
CONFIG = "config.yaml"
BASE = "base_model"  # what may be set by MLFLOW_PYFUNC_INFERENCE_CONFIG, as JSON
PROMPT, MAX_TOKENS = "prompt", "max_tokens"
ANSWER_TOKENS = 256  # that an answer may have where nobody says
BATCH = 8  # prompts at once

# MLflow takes a setting from the environment only where there is one of that name.
FLAVOR = f"""\
flavors:
  python_function:
    config:
      {BASE}: null
    loader_module: finetune_core.hub.serving
"""


def write_mlmodel(package: Path) -> None:
    """Writes the file by which MLflow knows how to load a package; the same bytes each time."""
    (package / MLMODEL).write_text(FLAVOR)


class Answering:
    """A loaded model that answers prompts.

    Args:
        model: One of any task.
        tokenizer: Its tokenizer.
        template: How a prompt becomes text, for a model that writes on.
    """

    def __init__(self, model: Any, tokenizer: Any, template: Template = Template.AUTO) -> None:
        from finetune_core.data.templates import make_renderer
        from finetune_core.models.tasks import task_of

        self._model = model
        self._tokenizer = tokenizer
        self._task = task_of(model)
        causal = self._task is Task.CAUSAL
        self._renderer = make_renderer(template, tokenizer) if causal else None
        places = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        most = [each for each in (places, tokenizer.model_max_length) if each]
        self._places = min(most) if most else math.inf

    def predict(self, model_input: Any) -> list[str]:
        """Answers prompts, greedily; of a model that chooses, the answers are its labels.

        Args:
            model_input: A table with a column `prompt`, and `max_tokens` where answers shall have
                another length than 256 tokens; or the columns, or a list of prompts.

        Raises:
            InputError: There is no prompt, or one is longer than the model reads.
        """
        from finetune_core.evaluation.generation import generate

        rows = list(_rows(model_input))
        prompts = [self._encode(prompt, row) for row, (prompt, _) in enumerate(rows, start=1)]
        limits = [
            self._limit(asked, len(prompt))
            for prompt, (_, asked) in zip(prompts, rows, strict=True)
        ]
        answers = [""] * len(rows)
        for limit in sorted(set(limits)):
            places = [place for place, each in enumerate(limits) if each == limit]
            found = generate(
                self._model,
                self._tokenizer,
                [prompts[place] for place in places],
                batch_size=BATCH,
                max_new_tokens=limit,
                on_progress=lambda _: None,
            )
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _encode(self, prompt: str, row: int) -> list[int]:
        """A prompt's tokens, as a training reads them."""
        from finetune_core.data.formats import user

        begin: list[int] = []
        if self._renderer:
            text = self._renderer.render([user(prompt)], generation_prompt=True)
            if self._renderer.begin:  # some tokenizers must not see it as text
                text = text.removeprefix(self._renderer.begin)
                begin = [self._tokenizer.bos_token_id]
            ids = begin + self._tokenizer(text, add_special_tokens=False).input_ids
        else:
            ids = self._tokenizer(prompt).input_ids
        writes = self._task is Task.CAUSAL  # behind what it reads
        if len(ids) + writes > self._places:
            raise InputError(
                f"row {row}: the prompt has {len(ids):,} tokens, and the model has places for "
                f"{self._places:,}"
            )
        return list(ids)

    def _limit(self, asked: int, length: int) -> int:
        """The tokens that an answer may have, and has places for."""
        return int(min(asked, self._places - length)) if self._task is Task.CAUSAL else asked


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Answering:
    """Loads a package, as MLflow asks it of a loader module.

    Args:
        path: The package.
        model_config: `base_model`: where the base is, if not where the adapter says.

    Raises:
        ModelNotFoundError: The base is not there.
        ModelLoadError: It does not load.
    """
    import torch

    from finetune_core.data.encode import load_tokenizer
    from finetune_core.models.loading import load_model

    folder = Path(path)
    config = PipelineConfig.from_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else None
    base = (model_config or {}).get(BASE)
    if is_adapter(folder):
        found = _find_base(folder, config, base)
        tokenizer = load_tokenizer(tokenizer_folder(folder, find_model(found)))
        method = config.training.method if config else None
        model = _adapted(found, folder, tokenizer, method is TrainingMethod.QLORA)
    else:
        found = config.model if config else ModelConfig(name=path)
        tokenizer = load_tokenizer(folder)
        model = load_model(found.model_copy(update={"name": path, "revision": None}))
    template = config.tokenization.template if config else Template.AUTO
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Answering(model.to(device).eval(), tokenizer, template)


def _find_base(folder: Path, config: PipelineConfig | None, base: str | None) -> ModelConfig:
    found = config.model if config else base_of(read_adapter(folder))
    if base:
        found = found.model_copy(update={"name": base, "revision": None})
    try:
        find_model(found)
    except ModelNotFoundError as error:
        error.hint = (
            "Start the server where the base is found by that name, or say where it is: "
            f'MLFLOW_PYFUNC_INFERENCE_CONFIG=\'{{"{BASE}": "FOLDER_OR_ID"}}\'.'
        )
        raise
    return found


def _adapted(config: ModelConfig, folder: Path, tokenizer: Any, quantized: bool) -> Any:
    """The base as it was trained, with the adapter on it."""
    import peft

    from finetune_core.models.loading import fit_vocabulary, load_model, load_quantized

    base = (load_quantized if quantized else load_model)(config, read_labels(folder))
    fit_vocabulary(base, tokenizer)
    return peft.PeftModel.from_pretrained(base, folder)


def _rows(asked: Any) -> list[tuple[str, int]]:
    """Prompts, each with the tokens that its answer may have.

    Raises:
        InputError: There are none.
    """
    import pandas as pd

    if isinstance(asked, pd.DataFrame):
        table = asked
    elif isinstance(asked, Mapping):
        columns = any(pd.api.types.is_list_like(value) for value in asked.values())
        table = pd.DataFrame(asked if columns else [asked])
    else:
        one = [asked] if isinstance(asked, str) else list(asked)
        table = pd.DataFrame(
            [each if isinstance(each, Mapping) else {PROMPT: each} for each in one]
        )
    if PROMPT not in table.columns:
        raise InputError(
            f"there is no column {PROMPT}, only: {', '.join(map(str, table.columns)) or 'nothing'}"
        )
    limits = table[MAX_TOKENS] if MAX_TOKENS in table.columns else [None] * len(table)
    return [
        (_prompt(prompt, row), _max_tokens(limit, row))
        for row, (prompt, limit) in enumerate(zip(table[PROMPT], limits, strict=True), start=1)
    ]


def _prompt(value: Any, row: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"row {row}: the prompt {value!r} is no text")
    return value


def _max_tokens(value: Any, row: int) -> int:
    if value is None or value != value:  # NaN, where only other rows have one
        return ANSWER_TOKENS
    number = float(value) if isinstance(value, Real) else math.nan
    if number % 1 == 0 and number >= 1:
        return int(number)
    raise InputError(f"row {row}: {MAX_TOKENS} is {value!r}, and must be a whole number from 1")
