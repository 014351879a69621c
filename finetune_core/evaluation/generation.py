"""Answers of models: written greedily, or chosen, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from finetune_core.models.tasks import task_of
from finetune_core.types import Task


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    on_progress: Callable[[int], None],
) -> list[str]:
    """Answers prompts.

    Args:
        model: One of any task.
        tokenizer: Its tokenizer.
        prompts: The tokens up to where an answer begins.
        batch_size: Prompts at once.
        max_new_tokens: The tokens that an answer may have.
        on_progress: Is told how many more prompts are answered.

    Returns:
        The answers in the order of the prompts, without special tokens; of a model that chooses,
        the labels.
    """
    task = task_of(model)
    tokenizer.padding_side = "left" if task is Task.CAUSAL else "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = tokenizer.pad(
            {"input_ids": [list(prompts[index]) for index in batch]}, return_tensors="pt"
        ).to(model.device)
        with torch.inference_mode():
            if task is Task.CLASSIFICATION:
                chosen = model(**inputs).logits.argmax(-1).tolist()
                texts = [model.config.id2label[number] for number in chosen]
            else:
                output = model.generate(
                    **inputs,
                    do_sample=False,
                    max_new_tokens=max_new_tokens,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
                asked = inputs["input_ids"].shape[1] if task is Task.CAUSAL else 0
                texts = tokenizer.batch_decode(output[:, asked:], skip_special_tokens=True)
        for index, answer in zip(batch, texts, strict=True):
            answers[index] = answer
        on_progress(len(batch))
    return answers
