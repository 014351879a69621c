"""The training loop: transformers' Trainer, with our order of rows and our loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from finetune_core.config.sections import TrainingConfig, rows_a_step
from finetune_core.data.masks import IGNORED
from finetune_core.evaluation.token_score import aligned, score, token_sums
from finetune_core.models.loading import bf16_on_gpu
from finetune_core.models.tasks import task_of
from finetune_core.trainers.batching import LengthGroupedSampler
from finetune_core.trainers.kernels import Kernels
from finetune_core.trainers.methods import learning_rate, micro_batch_size
from finetune_core.trainers.room import Room
from finetune_core.types import Precision, Task

UNLOGGED = "Unlogged"  # a part of the trainer's state, as callbacks have them


class Loop(Trainer):  # type: ignore[misc]  # transformers is untyped
    """transformers' Trainer, but for the order of rows, and for how the loss is computed.

    Rows are grouped by optimizer step, so micro-batches of any size see the same rows.
    """

    def __init__(
        self,
        kernels: Kernels,
        optimizer_groups: Callable[[Any], Any],
        lengths: Sequence[int],
        room: Room,
        **arguments: Any,
    ) -> None:
        super().__init__(
            compute_metrics=_validation_metrics,
            **arguments,
        )
        self.room = room
        self._kernels = kernels
        self._optimizer_groups = optimizer_groups
        self._lengths = lengths
        # Tokens that were found likeliest, and all, of the steps that are in no log yet.
        self._right = torch.zeros(2, dtype=torch.int64, device=self.args.device)
        self.model_accepts_loss_kwargs = True  # the loss below is divided by all of a step's tokens

    def create_optimizer(self, model: Any = None) -> Any:
        """The optimizer of the arguments, over the method's groups of weights."""
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer: Any = kind(self._optimizer_groups(self.model), **settings)
        return self.optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validates, where rows are held out."""
        if self.eval_dataset is None:
            return {}
        measured: dict[str, float] = super().evaluate(*args, **kwargs)
        return measured

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """This micro-batch's part of the mean loss over all trained tokens of a step."""
        head, labels = self._kernels.head, inputs["labels"]
        if head is None or return_outputs:
            outputs = model(**self._seen(inputs))
            logits, targets = aligned(outputs.logits, labels, self._task)
            picked = targets != IGNORED
            loss = torch.nn.functional.cross_entropy(
                logits[picked].float(), targets[picked], reduction="sum"
            )
            trained = picked.sum()
            hits = (logits[picked].argmax(-1) == targets[picked]).sum()
        else:
            outputs = None
            with head.summing(labels):
                loss = model(**self._seen(inputs)).logits.sum()
            trained = (labels[:, 1:] != IGNORED).sum()
            hits = head.hits
        self._right += torch.stack([hits, trained])
        if num_items_in_batch is None:
            loss = loss / trained
        else:
            loss = loss / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """Scores rows over their trained tokens; no more logits are made than these need."""
        head, inputs = self._kernels.head, self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            if head is None:
                sums = token_sums(model(**self._seen(inputs)).logits, labels, self._task)
            else:
                with head.scoring(labels):
                    sums = model(**self._seen(inputs)).logits[0]
        return sums[:, 0].sum() / sums[:, 2].sum(), sums, labels

    def _seen(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the model is given: no mask where none is needed, and labels where it reads them."""
        seen = {"input_ids": inputs["input_ids"]}
        if not self._kernels.plain_attention:
            seen["attention_mask"] = inputs["attention_mask"]
        if self._task is Task.SEQ2SEQ:  # shifted by one, the answer is what its decoder reads
            seen["labels"] = inputs["labels"]
        return seen

    @cached_property
    def _task(self) -> Task:
        return task_of(self.model)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs with a loss the share of tokens that were found likeliest, of the same steps."""
        if "loss" in logs:
            right, trained = self._gathered_right()
            logs["token_accuracy"] = right / trained
            self._right.zero_()
        super().log(logs, *args, **kwargs)

    def _gathered_right(self) -> list[int]:
        """`_right` of all processes."""
        found: list[int] = self.accelerator.gather(self._right[None]).sum(0).tolist()
        return found

    def _save_checkpoint(self, *args: Any) -> None:
        """Saves with it what is in no log yet: the losses, one a process, and the accuracy."""
        step = self.state.global_step
        self.room.use(step)  # before all of the processes meet, and then write
        with self.room.watched(step):
            losses = self.accelerator.gather(self._tr_loss.reshape(1))
            self.state.stateful_callbacks[UNLOGGED] = {
                "since": self._globalstep_last_logged,
                "losses": losses.tolist(),
                "right": self._gathered_right(),
            }
            super()._save_checkpoint(*args)
        del self.state.stateful_callbacks[UNLOGGED]  # these losses are still here to be logged

    def _run_epoch(self, **kwargs: Any) -> None:
        """Goes on with that, so that the next log has the means it would have had."""
        if unlogged := self.state.stateful_callbacks.pop(UNLOGGED, None):
            losses, processes = unlogged["losses"], self.args.world_size
            alike = len(losses) == processes
            mine = losses[self.args.process_index] if alike else sum(losses) / len(losses)
            self._tr_loss += mine
            self._globalstep_last_logged = unlogged["since"]
            if self.args.process_index == 0:
                self._right += torch.tensor(unlogged["right"], device=self.args.device)
        super()._run_epoch(**kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Loads both; where the learning rate has been changed since, the new one holds."""
        rates = [group["lr"] for group in self._optimizer_groups(self.model)]
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] *= rate / group["initial_lr"]
            group["initial_lr"] = rate
        self.lr_scheduler.base_lrs = rates
        self.lr_scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        micro, processes = self.args.per_device_train_batch_size, self.args.world_size
        rows = micro * self.args.gradient_accumulation_steps
        even = micro * processes if processes > 1 else 1
        return LengthGroupedSampler(self._lengths, rows * processes, self.args.seed, even)


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
        gradient_accumulation_steps=rows_a_step(config) // (micro * config.num_processes),
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


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    total = score(torch.as_tensor(prediction.predictions))
    return {"valid_loss": total.loss, "valid_token_accuracy": total.accuracy}
