"""Families of models, each trained for real by the engine: what docs/models.md says was run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import torch
import transformers
from datasets import Dataset

from finetune_core.config import (
    DatasetConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    TokenizationConfig,
    TrainingConfig,
)
from finetune_core.data.collate import Collator
from finetune_core.data.encode import load_tokenizer
from finetune_core.data.sanitize import SanitizeRequest, sanitize
from finetune_core.data.tokenize import TokenizeRequest, tokenize
from finetune_core.evaluation.evaluate import evaluate
from finetune_core.evaluation.evaluator import Evaluator
from finetune_core.evaluation.request import EvaluateRequest
from finetune_core.models.merging import MergeRequest, merge
from finetune_core.models.tasks import KINDS, find_task
from finetune_core.trainers.checkpoints import Checkpoints, choose, finished_training
from finetune_core.trainers.engine import make_loop, run
from finetune_core.trainers.request import TrainRequest
from finetune_core.types import Task, TokenizedData, TrainingMethod
from tests.families import CHOOSING, FAMILIES, LABELS, reviews, save_model, write_csv

SEQ2SEQ = ("T5",)
Case = tuple[str, str, int]  # method, family, bits
LORA: list[Case] = [("lora", family, 8) for family in FAMILIES]
QUICK: list[Case] = [
    *(("full_finetuning", family, 8) for family in ("T5", "BERT")),
    *(("qlora", family, bits) for family, bits in (("T5", 4), ("BERT", 8), ("DistilBERT", 4))),
]
SLOW: list[Case] = [
    *(("full_finetuning", family, 8) for family in ("Llama", "DistilBERT")),
    *(("qlora", family, bits) for family, bits in (("T5", 8), ("BERT", 4), ("DistilBERT", 8))),
]


def name_of(case: Case) -> str:
    method, family, bits = case
    return f"{family} {method}{f' {bits}' if method == 'qlora' else ''}"


RUNS = [
    *(pytest.param(case, id=name_of(case)) for case in [*LORA, *QUICK]),
    *(pytest.param(case, id=name_of(case), marks=pytest.mark.slow) for case in SLOW),
]


class Trained(NamedTuple):
    """A training that has ended, and what it left."""

    model: Any
    losses: list[float]
    gradients: list[float]
    moved: set[str]
    request: TrainRequest

    @property
    def folder(self) -> Path:
        newest = Checkpoints(self.request.output).newest()
        assert newest is not None
        return newest.folder

    def batch(self) -> dict[str, torch.Tensor]:
        tokens = self.request.tokens
        rows = Dataset.from_file(str(tokens.validation)).select(range(4))
        collate = Collator(load_tokenizer(self.folder), tokens.task)
        batch = collate(list(rows))
        if tokens.task is not Task.SEQ2SEQ:
            del batch["labels"]
        return batch

    def reloaded(self) -> Any:
        """What anybody loads by transformers and peft alone, with the file of labels."""
        kind = KINDS[self.request.tokens.task]
        loader = getattr(transformers, kind.loader)
        if not (self.folder / "adapter_config.json").is_file():
            return loader.from_pretrained(self.folder).eval()
        assert self.request.training.method is not TrainingMethod.QLORA
        options = {}
        if (self.folder / "labels.json").is_file():
            names = json.loads((self.folder / "labels.json").read_text())
            options = {"id2label": dict(enumerate(names))}
        transformers.set_seed(99)  # what is not saved would be another
        base = loader.from_pretrained(self.request.model.name, **options)
        return peft.PeftModel.from_pretrained(base, self.folder).eval()


def ignore(event):
    """An observer that does nothing."""


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    def model_of(family):
        return (
            folder / family if (folder / family).is_dir() else save_model(family, folder / family)
        )

    return model_of


@pytest.fixture(scope="module")
def tokens_of(tmp_path_factory, model_of):
    folder = tmp_path_factory.mktemp("data")
    rows = reviews(256)
    dataset = DatasetConfig(
        path=str(write_csv(folder / "train.csv", rows[:192])),
        validation_path=str(write_csv(folder / "held.csv", rows[192:])),
    )
    clean = sanitize(SanitizeRequest(dataset=dataset, cache=folder / "clean"), ignore)

    def tokens_of(family) -> TokenizedData:
        request = TokenizeRequest.for_model(
            ModelConfig(name=str(model_of(family))),
            TokenizationConfig(),
            clean=clean,
            sanitize=dataset.sanitize,
            cache=folder / "tokens",
        )
        return tokenize(request, ignore)

    return tokens_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_of, tokens_of):
    """Trains a family by a method, once."""
    known: dict[Any, Trained] = {}

    def train(case) -> Trained:
        method, family, bits = case
        if case not in known:
            request = TrainRequest(
                tokens=tokens_of(family),
                model=ModelConfig(name=str(model_of(family)), quantization_bits=bits),
                training=TrainingConfig(
                    method=method, epochs=4, batch_size=8, logging_steps=1, learning_rate=1e-3
                ),
                lora=LoraConfig() if method == "full_finetuning" else LoraConfig(lora_dropout=0.0),
                output=tmp_path_factory.mktemp("trained"),
            )
            events: list[dict[str, Any]] = []
            loop = make_loop(request, events.append)
            before = {name: w.detach().clone() for name, w in loop.model.named_parameters()}
            run(loop, request.training, request.output)
            steps = [event for event in events if event["type"] == "step"]
            known[case] = Trained(
                loop.model.eval(),
                [step["train_loss"] for step in steps],
                [step["grad_norm"] for step in steps],
                {n for n, w in loop.model.named_parameters() if not torch.equal(w, before[n])},
                request,
            )
        return known[case]

    return train


def logits(model, batch) -> torch.Tensor:
    with torch.inference_mode():
        found = model(**batch).logits
    # What a causal model would say behind a row's end means nothing, and depends on its attention.
    return found if "labels" in batch or found.dim() == 2 else found[batch["attention_mask"] > 0]


def test_a_familys_task_is_found(model_of):
    found = {family: find_task(ModelConfig(name=str(model_of(family)))) for family in FAMILIES}
    assert {family for family, task in found.items() if task is Task.CLASSIFICATION} == set(
        CHOOSING
    )
    assert {family for family, task in found.items() if task is Task.SEQ2SEQ} == set(SEQ2SEQ)


@pytest.mark.parametrize("case", RUNS)
def test_the_loss_falls(trained, case):
    done = trained(case)
    assert len(done.losses) == 4 * 192 / 8
    assert sum(done.losses[-8:]) < 0.9 * sum(done.losses[:8])
    assert all(norm > 0 for norm in done.gradients)


@pytest.mark.parametrize("case", RUNS)
def test_only_what_is_to_be_trained_moves_and_all_of_it(trained, case):
    done = trained(case)
    wanted = {name for name, weight in done.model.named_parameters() if weight.requires_grad}
    assert done.moved == wanted
    if case[0] == "full_finetuning":
        assert wanted == {name for name, _ in done.model.named_parameters()}
        return
    whole = {name.split("modules_to_save")[0] for name in wanted if ".lora_" not in name}
    parts = {
        "BERT": ["bert.pooler", "classifier"],
        "DistilBERT": ["pre_classifier", "classifier"],
        "RoBERTa": ["classifier"],
    }.get(case[1], [])
    assert whole == {f"base_model.model.{part}." for part in parts}


@pytest.mark.parametrize("case", RUNS)
def test_what_is_saved_loads_in_plain_transformers_and_answers_alike(trained, case):
    if case[0] == "qlora":
        pytest.skip("tests/integration/test_kinds.py loads one as its card says")
    done = trained(case)
    batch = done.batch()
    model = done.reloaded()
    torch.testing.assert_close(
        logits(model, batch), logits(done.model, batch), atol=2e-4, rtol=1e-4
    )
    if case[1] in CHOOSING:
        assert model.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("case", RUNS)
def test_base_and_tuned_are_measured_by_what_fits_the_task(trained, tmp_path, case):
    done = trained(case)
    finished = finished_training(done.request.output)
    assert finished is not None
    request = EvaluateRequest(
        tokens=done.request.tokens,
        chosen=choose(finished, tmp_path / "chosen"),
        model=done.request.model,
        method=done.request.training.method,
        evaluation=EvaluationConfig(num_samples=64, generation_max_length=4),
        output=tmp_path / "report",
    )
    report = evaluate(request, ignore)
    assert report.tuned["loss"] == pytest.approx(request.chosen.valid_loss, rel=2e-2)
    assert report.tuned["loss"] < report.base["loss"]
    samples = report.read_samples()
    if case[1] in CHOOSING:
        assert set(report.tuned) == {"loss", "perplexity", "token_accuracy", "accuracy", "f1"}
        assert report.tuned["accuracy"] == report.tuned["token_accuracy"]
        assert {sample["tuned"] for sample in samples} <= set(LABELS)
    right = report.tuned["accuracy" if case[1] in CHOOSING else "exact_match"]
    expected = [sample["expected"] for sample in samples]
    majority = max(map(expected.count, LABELS)) / len(expected)
    loss = f"{report.base['loss']:.3f} → {report.tuned['loss']:.3f}"
    sys.stdout.write(  # the table of docs/models.md, by pytest -s
        f"| {case[1]} | {done.request.tokens.task.value} | {name_of(case).partition(' ')[2]} | "
        f"{loss} | {right:.3f} | {majority:.3f} |\n"
    )
    assert right > majority


@pytest.mark.parametrize("family", ["Llama", *SEQ2SEQ, *CHOOSING])
def test_merged_it_loads_without_peft_and_answers_alike(trained, tmp_path, family):
    done = trained(("lora", family, 8))
    request = MergeRequest(adapter=done.folder, output=tmp_path / "merged")
    report = merge(request, ignore)
    assert report.equal_greedy_tokens == 1.0
    loader = getattr(transformers, KINDS[done.request.tokens.task].loader)
    model = loader.from_pretrained(tmp_path / "merged").eval()
    batch = done.batch()
    torch.testing.assert_close(
        logits(model, batch), logits(done.model, batch), atol=2e-4, rtol=1e-4
    )
    if family in CHOOSING:
        assert model.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("family", [*SEQ2SEQ, "BERT"])
def test_adapter_and_merged_model_are_measured_by_their_names(trained, tmp_path, family):
    done = trained(("lora", family, 8))
    merge(MergeRequest(adapter=done.folder, output=tmp_path / "merged"), ignore)
    # A label that was not learned is left out, and so is nothing else.
    rows = [*reviews(24, seed=1), ("the food was nice", "mixed")]
    file = write_csv(tmp_path / "rows.csv", rows)
    evaluator = Evaluator(metrics=["accuracy", "loss"], generation_max_length=4)
    found = evaluator.compare([done.folder, tmp_path / "merged"], file).results
    adapter, merged = found.values()
    assert adapter.samples_evaluated == (24 if family == "BERT" else 25)
    assert adapter.metrics == pytest.approx(merged.metrics, rel=1e-4)
    assert adapter.metrics["accuracy"] > 0.7


def test_micro_batches_of_any_size_give_the_same_loss(trained, tmp_path):
    for family in (*SEQ2SEQ, "BERT"):
        whole = trained(("lora", family, 8))
        training = whole.request.training.model_copy(update={"micro_batch_size": 2})
        parts = whole.request.model_copy(update={"training": training, "output": tmp_path / family})
        events: list[dict[str, Any]] = []
        run(make_loop(parts, events.append), training, parts.output)
        found = [event["train_loss"] for event in events if event["type"] == "step"]
        assert found[:8] == pytest.approx(whole.losses[:8], rel=1e-4)
