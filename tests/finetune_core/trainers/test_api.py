"""The trainers that Python code calls with a model in hand, on the model that the repo ships."""

from __future__ import annotations

import json
import re
import shutil

import datasets
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForMaskedLM

from finetune_core import (
    Dataset,
    FullFineTuner,
    InstructionTrainer,
    LoRATrainer,
    QLoRATrainer,
    TrainerFactory,
    TrainingResult,
    load_model_and_tokenizer,
    prepare_dataset,
)
from finetune_core.config import (
    DatasetConfig,
    LoraConfig,
    ModelConfig,
    TokenizationConfig,
    TrainingConfig,
)
from finetune_core.exceptions import (
    DatasetFormatError,
    DatasetNotFoundError,
    EmptyDatasetError,
    IncompatibleConfigError,
    InvalidConfigError,
    ModelLoadError,
    ModelNotFoundError,
    NoTextColumnsError,
    OutputError,
    TargetModulesError,
    TrainingError,
)
from finetune_core.storage import digest_file
from tests.families import LABELS, reviews, save_model, write_csv

BASE = "examples/tiny_base"
PROMPT = torch.tensor([[1, 5, 9, 40, 41, 42, 7]])
ADAPTERS = ("lora", "qlora", "instruction_tuning")


@pytest.fixture(scope="module")
def rows(orders):
    return [json.loads(line) for line in orders.read_text().splitlines()[:32]]


@pytest.fixture(scope="module")
def tokens(orders):
    dataset = DatasetConfig(path=str(orders), max_samples=32)
    return prepare_dataset(dataset, TokenizationConfig(), load()[1])


@pytest.fixture
def config(tmp_path):
    def make(**fields):
        settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
        return TrainingConfig(**{"output_dir": tmp_path / "out"} | settings | fields)

    return make


def load(**fields):
    return load_model_and_tokenizer(ModelConfig(name=BASE, **fields))


def lora(**fields):
    return LoraConfig(**{"lora_rank": 4, "lora_dropout": 0.0} | fields)


def train(dataset, training, kind=LoRATrainer, **options) -> TrainingResult:
    model, tokenizer = load()
    return kind(model, tokenizer, training, lora(), **options).train(dataset)


def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=PROMPT).logits


def weights(folder):
    return digest_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("method", [*ADAPTERS, "full_finetuning"])
def test_each_method_learns_and_what_it_writes_answers_as_the_model_in_memory(rows, config, method):
    model, tokenizer = load(**({"quantization_bits": 4} if method == "qlora" else {}))
    before, events = logits(model), []
    result = TrainerFactory.train(
        model,
        tokenizer,
        datasets.Dataset.from_list(rows),
        config(method=method, epochs=2),
        lora(),
        emit=events.append,
    )
    losses = [event["train_loss"] for event in events if event["type"] == "step"]
    assert losses[-1] < losses[0] - 0.5
    assert (result.train_loss, result.steps_completed) == (losses[-1], len(losses))
    assert result.valid_loss == min(
        event["valid_loss"] for event in events if event["type"] == "validation"
    )
    assert result.trained_tokens > 0
    assert result.elapsed_seconds > 0
    if method == "full_finetuning":
        plain = AutoModelForCausalLM.from_pretrained(result.output_dir)
    else:
        base = load(quantization_bits=4)[0] if method == "qlora" else load()[0]
        plain = peft.PeftModel.from_pretrained(base, result.output_dir)
    after = logits(model)
    torch.testing.assert_close(logits(plain), after, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-2)
    assert AutoTokenizer.from_pretrained(result.output_dir).get_vocab() == tokenizer.get_vocab()


def test_the_model_is_the_kept_one_afterwards_and_writes_as_a_plain_one(tokens, config):
    model, tokenizer = load()
    own = model.config._attn_implementation
    asked = {"input_ids": PROMPT, "max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    # The more it learns, the less it is of the mind that it was of.
    said = datasets.Dataset.from_dict({"input_ids": model.generate(**asked).tolist()})
    splits = {"train": tokens["train"], "validation": said}
    result = LoRATrainer(model, tokenizer, config(epochs=4), lora()).train(splits)
    assert result.kept_step < result.steps_completed, "else this shows nothing"
    assert model.config._attn_implementation == own
    assert model.config.use_cache
    plain = peft.PeftModel.from_pretrained(load()[0], result.output_dir).eval()
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-4, atol=1e-4)
    assert torch.equal(model.generate(**asked), plain.generate(**asked))


def test_rows_in_memory_teach_what_the_same_rows_teach_in_a_file(rows, config, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        Dataset("orders", rows),
        datasets.Dataset.from_list(rows),
        file,
        str(file),
        DatasetConfig(path=str(file)),
        prepare_dataset(DatasetConfig(path=str(file)), TokenizationConfig(), load()[1]),
    ]
    results = [
        train(dataset, config(output_dir=tmp_path / str(number)))
        for number, dataset in enumerate(given)
    ]
    assert len({weights(result.output_dir) for result in results}) == 1
    assert len({result.valid_loss for result in results}) == 1


@pytest.mark.parametrize(
    "row",
    [
        {"text": "item: desk; count: {n}"},
        {"messages": [{"role": "user", "content": "{n}"}, {"role": "assistant", "content": "ok"}]},
        {"instruction": "write down", "input": "{n} desks", "output": "item: desk; count: {n}"},
    ],
    ids=["text", "messages", "alpaca"],
)
def test_rows_of_every_format_are_learned(config, row):
    filled = [json.loads(json.dumps(row).replace("{n}", str(n))) for n in range(12)]
    result = train(datasets.Dataset.from_list(filled), config())
    assert result.steps_completed == 2
    assert result.valid_loss > 0


def test_instructions_are_in_alpacas_words_where_there_is_no_chat_template(config):
    model, tokenizer = load()
    tokenizer.chat_template = None
    raw = [{"instruction": f"Say {n}.", "input": "", "response": f"{n}"} for n in range(8)]
    trainer = InstructionTrainer(model, tokenizer, config(), lora())
    splits = trainer._splits(datasets.Dataset.from_list(raw))
    said = tokenizer.decode(splits.train[0]["input_ids"])
    assert said.startswith("Below is an instruction that describes a task.")
    assert "### Instruction:\nSay " in said
    assert re.search(r"### Response:\n[0-7]<\|end\|>$", said)


def test_without_rows_held_out_the_last_checkpoint_is_kept(tokens, rows, config, tmp_path):
    ready = train(tokens["train"], config(epochs=2))
    assert (ready.valid_loss, ready.kept_step) == (None, ready.steps_completed)
    every = train(Dataset("all", rows), config(output_dir=tmp_path / "all"), validation_ratio=0)
    assert (every.valid_loss, every.kept_step) == (None, every.steps_completed)
    share = config(output_dir=tmp_path / "share")
    assert train(tokens["train"], share, validation_ratio=0.25).valid_loss > 0
    with pytest.raises(IncompatibleConfigError, match="early_stopping_patience: needs rows"):
        train(tokens["train"], config(early_stopping_patience=1))


def test_padding_is_taken_out_of_tokens_and_without_labels_all_are_learned(tokens, config):
    ids = tokens["train"][0]["input_ids"]
    padded = datasets.Dataset.from_list(
        [{"input_ids": ids + [0] * 3, "attention_mask": [1] * len(ids) + [0] * 3}]
    )
    model, tokenizer = load()
    (row,) = LoRATrainer(model, tokenizer, config())._splits(padded).train
    assert row == {"input_ids": ids, "labels": ids, "length": len(ids)}


def test_a_stopped_training_goes_on_and_an_ended_one_gives_its_result(tokens, config, tmp_path):
    def stop(event):
        if event["type"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    training = config(epochs=2, save_steps=3)
    model, tokenizer = load()
    stopped = LoRATrainer(model, tokenizer, training, lora(), emit=stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(tokens)
    with pytest.raises(TrainingError, match="has been trained already"):
        stopped.train(tokens)
    events = []
    result = train(tokens, training, emit=events.append)
    assert events[0]["step"] > 0
    whole = train(tokens, config(epochs=2, save_steps=3, output_dir=tmp_path / "whole"))
    assert weights(result.output_dir) == weights(whole.output_dir)
    events.clear()
    again = train(tokens, training, emit=events.append)
    assert again == result.model_copy(update={"elapsed_seconds": again.elapsed_seconds})
    assert not events


def test_a_folder_of_another_training_is_refused(tokens, rows, config, tmp_path):
    train(tokens, config())
    with pytest.raises(OutputError, match=r"another training, which differs in: training\n"):
        train(tokens, config(learning_rate=5e-4))
    with pytest.raises(OutputError, match="differs in: train, validation"):
        train(Dataset("few", rows[:9]), config())
    model, tokenizer = load()
    model.lm_head.weight.data[0] += 1
    with pytest.raises(OutputError, match="differs in: model"):
        LoRATrainer(model, tokenizer, config(), lora()).train(tokens)
    (tmp_path / "job" / "adapter").mkdir(parents=True)
    with pytest.raises(OutputError, match="differs in: training, lora, model, train, validation"):
        train(tokens, config(output_dir=tmp_path / "job"))


def test_without_an_output_folder_each_training_has_its_own(tokens, config):
    training = config(output_dir=None)
    folders = {train(tokens, training).output_dir for _ in range(2)}
    assert len(folders) == 2
    assert all((folder / "adapter_config.json").is_file() for folder in folders)


@pytest.mark.parametrize(
    ("dataset", "error", "problem"),
    [
        ("no/such.jsonl", DatasetNotFoundError, "there is no dataset file no/such.jsonl"),
        (Dataset("none", []), EmptyDatasetError, "^the train dataset has no rows"),
        (Dataset("odd", [{"a": "b"}]), NoTextColumnsError, "^the train dataset: no format fits"),
        (
            Dataset("gap", [{"prompt": "a", "completion": "b"}, {"prompt": "c"}]),
            DatasetFormatError,
            "^the train dataset, row 2: has no field 'completion'",
        ),
        ([{"text": "a"}], DatasetFormatError, "of the type list, which is not known"),
        ({"test": "a.jsonl"}, DatasetFormatError, r"has no train \(found: test\)"),
        (
            datasets.Dataset.from_dict({"input_ids": [[1, 99_999]]}),
            DatasetFormatError,
            "have the token 99999",
        ),
        (
            datasets.Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, -100]]}),
            EmptyDatasetError,
            "nothing is learned",
        ),
        (
            datasets.Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1]]}),
            DatasetFormatError,
            "not as many labels as input_ids",
        ),
        (
            datasets.Dataset.from_dict({"input_ids": []}),
            EmptyDatasetError,
            "the train dataset of tokens",
        ),
        (
            {"train": datasets.Dataset.from_dict({"input_ids": [[1, 2]]}), "validation": "a.csv"},
            DatasetFormatError,
            "one is tokens",
        ),
    ],
)
def test_rows_that_cannot_be_learned_are_refused(config, dataset, error, problem):
    with pytest.raises(error, match=problem):
        train(dataset, config())


def test_a_method_refuses_rows_that_it_does_not_learn_from(config):
    texts = datasets.Dataset.from_list([{"text": f"desk {n}"} for n in range(4)])
    with pytest.raises(DatasetFormatError, match="does not learn from rows of the format text"):
        train(texts, config(), InstructionTrainer)


def test_a_method_refuses_a_model_that_it_cannot_train(config):
    model, tokenizer = load()
    with pytest.raises(IncompatibleConfigError, match=r"load_model_and_tokenizer\(ModelConfig"):
        QLoRATrainer(model, tokenizer, config())
    quantized, _ = load(quantization_bits=8)
    with pytest.raises(IncompatibleConfigError, match="model: is quantised"):
        FullFineTuner(quantized, tokenizer, config())
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    for given in (adapted, model):
        with pytest.raises(IncompatibleConfigError, match="model: has an adapter already"):
            LoRATrainer(given, tokenizer, config())
    small = BertConfig(
        vocab_size=64,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    with pytest.raises(IncompatibleConfigError, match="is a BertForMaskedLM, which has no head"):
        LoRATrainer(BertForMaskedLM(small), tokenizer, config())


def test_settings_that_do_not_go_together_are_refused(config):
    model, tokenizer = load()
    with pytest.raises(IncompatibleConfigError, match=r"lora.lora_dropout: must be 0 with pissa"):
        LoRATrainer(model, tokenizer, config(), LoraConfig(initialization="pissa"))
    with pytest.raises(IncompatibleConfigError, match="num_processes: is for jobs"):
        LoRATrainer(model, tokenizer, config(num_processes=2))
    with pytest.raises(InvalidConfigError, match=r"dataset\.validation_ratio"):
        LoRATrainer(model, tokenizer, config(), validation_ratio=0.9)
    with pytest.raises(IncompatibleConfigError, match="float16 is too coarse"):
        FullFineTuner(load(torch_dtype="float16")[0], tokenizer, config())


def test_a_failing_training_says_why(tokens, config):
    model, tokenizer = load()
    with pytest.raises(TargetModulesError, match="no module named c_attn"):
        LoRATrainer(model, tokenizer, config(), lora(target_modules=["c_attn"])).train(tokens)
    assert train(tokens, config()).steps_completed, "nothing was there to be mixed up"
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan"):
        LoRATrainer(model, tokenizer, config(output_dir=None), lora()).train(tokens)


def test_training_all_of_a_large_model_warns(tokens, config, monkeypatch):
    monkeypatch.setattr("finetune_core.models.adapters.LARGE", 1_000_000)
    trainer = FullFineTuner(*load(), config())
    with pytest.warns(ResourceWarning, match="billion parameters are trained"):
        trainer.train(tokens)


def test_what_is_loaded_is_quantised_where_that_is_asked_and_can_be_padded(tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("pad_token")
    file.write_text(json.dumps(settings))
    model, tokenizer = load_model_and_tokenizer(ModelConfig(name=str(folder)))
    assert tokenizer.pad_token == tokenizer.eos_token
    assert not getattr(model, "is_quantized", False)
    assert load(quantization_bits=4)[0].is_loaded_in_4bit
    config = ModelConfig(name=BASE, quantization_bits=8)
    assert load_model_and_tokenizer(config)[0].is_loaded_in_8bit
    assert load_model_and_tokenizer(config, method="lora")[0].dtype is torch.float32
    with pytest.raises(ModelNotFoundError):
        load_model_and_tokenizer(ModelConfig(name=str(tmp_path)))
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelLoadError, match="does not load"):
        load_model_and_tokenizer(ModelConfig(name=str(folder)))


@pytest.mark.parametrize(("family", "labels"), [("T5", ()), ("BERT", LABELS)])
def test_models_that_transform_or_choose_are_trained_alike(tmp_path, config, family, labels):
    base = ModelConfig(name=str(save_model(family, tmp_path / "base")))
    file = write_csv(tmp_path / "rows.csv", reviews(96))
    model, tokenizer = load_model_and_tokenizer(base, labels=labels)
    losses = []
    trainer = LoRATrainer(
        model,
        tokenizer,
        config(epochs=4, batch_size=8, learning_rate=1e-3, output_dir=tmp_path / "out"),
        LoraConfig(lora_dropout=0),
        emit=lambda event: losses.append(event.get("valid_loss")),
    )
    result = trainer.train(file)
    measured = [loss for loss in losses if loss is not None]
    assert len(measured) == 4
    assert measured[-1] < measured[0]
    saved = peft.PeftConfig.from_pretrained(result.output_dir)
    assert saved.task_type == ("SEQ_CLS" if labels else "SEQ_2_SEQ_LM")


def test_a_model_that_chooses_from_other_labels_is_told_how_it_is_loaded(tmp_path, config):
    base = ModelConfig(name=str(save_model("BERT", tmp_path / "base")))
    file = write_csv(tmp_path / "rows.csv", reviews(32))
    model, tokenizer = load_model_and_tokenizer(base, labels=["no", "yes"])
    with pytest.raises(IncompatibleConfigError, match=r"labels=\['negative', 'positive'\]"):
        LoRATrainer(model, tokenizer, config()).train(file)
