"""Train: tokens → checkpoints, through transformers' Trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

from finetune_core.child import Emit
from finetune_core.config.sections import TrainingConfig
from finetune_core.data.collate import Collator
from finetune_core.data.encode import load_tokenizer
from finetune_core.evaluation.token_score import score, token_sums
from finetune_core.exceptions import FineTuneError, TrainingError
from finetune_core.models.loading import bf16_on_gpu, load_model
from finetune_core.models.source import find_model
from finetune_core.storage import write_record
from finetune_core.trainers.batching import LengthGroupedSampler
from finetune_core.trainers.checkpoints import Checkpoints
from finetune_core.trainers.methods import METHODS, batch_size, learning_rate, micro_batch_size
from finetune_core.trainers.observers.announcer import Announcer
from finetune_core.trainers.observers.keeper import Keeper
from finetune_core.trainers.request import TrainRequest
from finetune_core.types import Precision, TrainedCheckpoints


def train(request: TrainRequest, emit: Emit) -> TrainedCheckpoints:
    """Trains from the newest whole checkpoint on, or from the start.

    Raises:
        InputError: The model or its modules are not as the config says.
        TrainingError: The loop failed.
    """
    config = request.training
    checkpoints = Checkpoints(request.output)
    checkpoints.clear_staging()
    arguments = _arguments(config, checkpoints.staging)
    transformers.set_seed(config.seed)  # before the adapter's weights are drawn
    model = METHODS[config.method].prepare(load_model(request.model), request.lora)
    model.config.use_cache = False
    tokenizer = load_tokenizer(find_model(request.model))
    validation = Dataset.from_file(str(request.tokens.validation))
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_file(str(request.tokens.train)),
        eval_dataset=validation.select(np.argsort(validation["length"], kind="stable")),
        data_collator=Collator(tokenizer),
        processing_class=tokenizer,
        compute_metrics=_validation_metrics,
        preprocess_logits_for_metrics=_row_sums,
        callbacks=[Announcer(emit), Keeper(config, checkpoints, emit)],
    )
    start = checkpoints.newest()
    try:
        trainer.train(resume_from_checkpoint=str(start.folder) if start else None)
    except FineTuneError:
        raise
    except Exception as error:
        raise TrainingError(f"training failed: {type(error).__name__}: {error}") from error
    state = trainer.state
    record = TrainedCheckpoints(
        folder=request.output,
        steps=state.global_step,
        epochs=float(state.epoch or 0),
        train_loss=[entry["loss"] for entry in state.log_history if "loss" in entry][-1],
        trained_tokens=int(state.num_input_tokens_seen),
        parameters=sum(weight.numel() for weight in model.parameters()),
        trained_parameters=sum(w.numel() for w in model.parameters() if w.requires_grad),
        batch_size=batch_size(config),
        precision="bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32",
        device=_device_name(),
    )
    write_record(request.output, record)
    return record


class _Trainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """transformers' Trainer, but for the order of rows, which has no setting.

    Rows are grouped by optimizer step, so micro-batches of any size see the same rows.
    """

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedSampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(dataset["length"][:], rows, self.args.seed)


def _arguments(config: TrainingConfig, output: Path) -> TrainingArguments:
    micro = micro_batch_size(config)
    on_gpu = bf16_on_gpu()
    return TrainingArguments(
        output_dir=str(output),
        num_train_epochs=config.epochs,
        learning_rate=learning_rate(config),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=batch_size(config) // micro,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type=config.scheduler.value,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision is Precision.BF16 or (config.precision is Precision.AUTO and on_gpu),
        fp16=config.precision is Precision.FP16,
        **({"gradient_checkpointing": True} if config.gradient_checkpointing else {}),
        seed=config.seed,
        eval_strategy="no",  # the Keeper decides when to validate and to save
        save_strategy="no",
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
    )


def _row_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return token_sums(logits, labels)


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    total = score(torch.as_tensor(prediction.predictions))
    return {"valid_loss": total.loss, "valid_token_accuracy": total.accuracy}


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
