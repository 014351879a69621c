"""The training loop: transformers' Trainer, with our order of rows and our loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

from finetune_core.config.sections import TrainingConfig
from finetune_core.data.masks import IGNORED
from finetune_core.evaluation.token_score import score, token_sums
from finetune_core.models.loading import bf16_on_gpu
from finetune_core.trainers.batching import LengthGroupedSampler
from finetune_core.trainers.kernels import Kernels
from finetune_core.trainers.methods import batch_size, learning_rate, micro_batch_size
from finetune_core.types import Precision


class Loop(Trainer):  # type: ignore[misc]  # transformers is untyped
    """transformers' Trainer, but for the order of rows, and for how the loss is computed.

    Rows are grouped by optimizer step, so micro-batches of any size see the same rows.
    """

    def __init__(
        self, kernels: Kernels, optimizer_groups: Callable[[Any], Any], **arguments: Any
    ) -> None:
        super().__init__(
            compute_metrics=_validation_metrics,
            preprocess_logits_for_metrics=_row_sums,
            **arguments,
        )
        self._kernels = kernels
        self._optimizer_groups = optimizer_groups
        self.model_accepts_loss_kwargs = True  # the loss below is divided by all of a step's tokens

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimizer of the arguments, over the method's groups of weights."""
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer: Any = kind(self._optimizer_groups(self.model), **settings)
        return self.optimizer

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """This micro-batch's part of the mean loss over all trained tokens of a step."""
        head = self._kernels.head
        if head is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        with head.summing(labels):
            loss = model(**self._seen(inputs)).logits.sum()
        if num_items_in_batch is None:
            return loss / (labels[:, 1:] != IGNORED).sum()
        return loss / num_items_in_batch * self.accelerator.num_processes

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """Scores rows over their trained tokens; no more logits are made than these need."""
        head = self._kernels.head
        if head is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager(), head.scoring(inputs["labels"]):
            sums = model(**self._seen(inputs)).logits[0]
        return sums[:, 0].sum() / sums[:, 2].sum(), sums, inputs["labels"]

    def _seen(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the model is given: without labels, and without a mask where none is needed."""
        masked = not self._kernels.plain_attention
        return {
            name: tensor
            for name, tensor in inputs.items()
            if name == "input_ids" or (name == "attention_mask" and masked)
        }

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedSampler:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        rows = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(dataset["length"][:], rows, self.args.seed)


def arguments(config: TrainingConfig, output: Path) -> TrainingArguments:
    """The trainer's own settings, those of a config.

    Args:
        config: How the model is trained.
        output: Where the trainer writes checkpoints, before they are published.
    """
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
        use_cpu=not torch.cuda.is_available(),  # or bf16 were refused on a CPU
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
    )


def _row_sums(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sums of a batch, where its model has given logits and not these already."""
    return token_sums(logits, labels) if logits.dim() == 3 else logits


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    total = score(torch.as_tensor(prediction.predictions))
    return {"valid_loss": total.loss, "valid_token_accuracy": total.accuracy}
