"""Each method and each variant trains for real, and what it saves is what it trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import torch
from datasets import Dataset
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)

from finetune_core.config import LoraConfig, ModelConfig, TrainingConfig
from finetune_core.data.collate import Collator
from finetune_core.data.formats import assistant, user
from finetune_core.data.masks import mask
from finetune_core.data.templates import make_renderer
from finetune_core.exceptions import DatasetFormatError
from finetune_core.models.loading import fit_vocabulary, load_model
from finetune_core.trainers.methods import METHODS, check_format, learning_rate, optimizer_groups
from finetune_core.types import DatasetFormat, Template, TrainingMethod

STEPS = 12
PLAIN = {"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0}
PISSA = {"initialization": "pissa"}
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lora": ("lora", {}, {}),
    "names": ("lora", {"target_modules": ["q_proj", "v_proj"]}, {}),
    "regex": ("lora", {"target_modules": r".*\.[02]\..*\.(gate|down)_proj"}, {}),
    "rslora": ("lora", {"use_rslora": True}, {}),
    "dora": ("lora", {"use_dora": True}, {}),
    "loraplus": ("lora", {"loraplus_lr_ratio": 8.0}, {}),
    "pissa": ("lora", PISSA, {}),
    "pissa rslora": ("lora", PISSA | {"use_rslora": True}, {}),
    "pissa dora": ("lora", PISSA | {"use_dora": True}, {}),
    "qlora 4": ("qlora", {}, {"quantization_bits": 4}),
    "qlora 8": ("qlora", {}, {"quantization_bits": 8}),
    "qlora 4 dora": ("qlora", {"use_dora": True}, {"quantization_bits": 4}),
    "instruction_tuning": ("instruction_tuning", {}, {}),
    "full_finetuning": ("full_finetuning", {}, {}),
}
QUANTIZED = [name for name in VARIANTS if name.startswith("qlora")]
ADAPTERS = [name for name in VARIANTS if name != "full_finetuning"]


class Trained(NamedTuple):
    """A training that has ended, and what it left."""

    model: Any
    losses: list[float]
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    folder: Path
    config: ModelConfig
    lora: LoraConfig
    method: Any

    def moved(self) -> set[str]:
        """The names of the weights that training has changed."""
        assert self.after.keys() == self.before.keys()
        return {n for n, weight in self.after.items() if not torch.equal(weight, self.before[n])}

    def reloaded(self) -> Any:
        """What anybody loads from the folder, the base as the method had it."""
        if not (self.folder / "adapter_config.json").is_file():
            return AutoModelForCausalLM.from_pretrained(self.folder).eval()
        base = self.method.load(self.config)
        fit_vocabulary(base, AutoTokenizer.from_pretrained(self.folder))
        return peft.PeftModel.from_pretrained(base, self.folder).eval()


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def rows(tokenizer, orders):
    def encode(line):
        row = json.loads(line)
        turns = [user(row["prompt"]), assistant(row["completion"])]
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False).input_ids
        return {"input_ids": ids, "labels": ids, "length": len(ids)}

    return Dataset.from_list([encode(line) for line in orders.read_text().splitlines()[:16]])


@pytest.fixture(scope="module")
def batch(tokenizer, rows):
    inputs = Collator(tokenizer)([rows[0], rows[1]])
    return {name: tensor for name, tensor in inputs.items() if name != "labels"}


def make_trainer(folder, config, method, lora, tokenizer, rows, steps=STEPS, **arguments):
    training = TrainingConfig(method=method, learning_rate=1e-3)
    set_seed(0)
    chosen = METHODS[training.method]
    model = chosen.prepare(chosen.load(config), lora, tokenizer)
    return Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            lr_scheduler_type="constant",
            per_device_train_batch_size=8,
            save_steps=steps // 2,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=True,
            **arguments,
        ),
        train_dataset=rows.remove_columns("length"),
        eval_dataset=rows.remove_columns("length").select(range(4)),
        data_collator=Collator(tokenizer),
        processing_class=tokenizer,
        optimizers=(torch.optim.AdamW(optimizer_groups(model, training, lora)), None),
    )


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_base, tokenizer, rows):
    """Trains a variant, once."""
    known: dict[str, Trained] = {}

    def train(name: str) -> Trained:
        if name not in known:
            method, adapter, base = VARIANTS[name]
            folder = tmp_path_factory.mktemp("trained")
            config, lora = ModelConfig(name=str(tiny_base), **base), LoraConfig(**PLAIN | adapter)
            trainer = make_trainer(folder, config, method, lora, tokenizer, rows)
            before = weights(trainer.model)
            trainer.train()
            known[name] = Trained(
                trainer.model.eval(),
                losses(trainer),
                before,
                weights(trainer.model),
                folder / f"checkpoint-{STEPS}",
                config,
                lora,
                METHODS[TrainingMethod(method)],
            )
        return known[name]

    return train


def logits(model, batch) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch).logits


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_falls(trained, name):
    found = trained(name).losses
    assert len(found) == STEPS
    assert sum(found[-2:]) < 0.95 * sum(found[:2])


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_saved_answers_as_what_was_trained(trained, batch, name):
    done = trained(name)
    found = logits(done.reloaded(), batch)
    torch.testing.assert_close(found, logits(done.model, batch), atol=2e-4, rtol=1e-4)
    untuned = logits(done.method.load(done.config).eval(), batch)
    assert (found - untuned).abs().max() > 0.1


@pytest.mark.parametrize("name", ADAPTERS)
def test_only_the_adapter_moves_and_all_of_it(trained, name):
    done = trained(name)
    adapter = {weight for weight in done.before if ".lora_" in weight}
    assert done.moved() == adapter
    assert adapter == {n for n, weight in done.model.named_parameters() if weight.requires_grad}
    layers = {weight.partition(".lora_")[0].rpartition("layers.")[2] for weight in adapter}
    attention = ("q", "k", "v", "o")
    everything = [f"self_attn.{part}_proj" for part in attention]
    everything += [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    expected = {
        "names": {f"{n}.self_attn.{part}_proj" for n in range(4) for part in "qv"},
        "regex": {f"{n}.mlp.{part}_proj" for n in (0, 2) for part in ("gate", "down")},
    }.get(name, {f"{n}.{part}" for n in range(4) for part in everything})
    assert layers == expected
    assert any("magnitude" in weight for weight in adapter) is done.lora.use_dora


def test_full_finetuning_moves_every_weight_and_saves_a_whole_model(trained, tiny_base):
    done = trained("full_finetuning")
    assert done.moved() == set(done.before)
    assert not isinstance(done.model, peft.PeftModel)
    names = {file.name for file in done.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any(name.startswith("adapter") for name in names)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_switched_off_adapter_leaves_the_plain_base(trained, batch, name):
    done = trained(name)
    model = done.reloaded()
    with model.disable_adapter():
        assert torch.equal(logits(model, batch), logits(done.method.load(done.config), batch))


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantised_base_is_that_small(trained, name):
    done = trained(name)
    layer = done.model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    bits = 8 * layer.weight.element_size() * layer.weight.numel() / (128 * 384)
    assert bits == done.config.quantization_bits
    if bits == 4:
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.quant_state.nested  # the constants are quantised too
        assert layer.compute_dtype is torch.float32  # here is no GPU


def test_pissa_begins_where_the_base_is_but_learns_the_main_directions(tiny_base, tokenizer, batch):
    config = ModelConfig(name=str(tiny_base))
    plain = load_model(config).eval()
    model = METHODS[TrainingMethod.LORA].prepare(
        load_model(config), LoraConfig(**PLAIN | PISSA), tokenizer
    )
    torch.testing.assert_close(logits(model.eval(), batch), logits(plain, batch), atol=1e-4, rtol=0)
    weight = plain.model.layers[1].mlp.up_proj.weight
    layer = model.get_base_model().model.layers[1].mlp.up_proj
    largest = torch.linalg.svdvals(weight)
    torch.testing.assert_close(
        torch.linalg.svdvals(layer.get_delta_weight("default"))[:4], largest[:4], rtol=0.05, atol=0
    )
    assert torch.linalg.svdvals(layer.base_layer.weight)[0] < largest[2]


@pytest.mark.parametrize("name", ["lora", "pissa", "pissa dora", "qlora 4", "full_finetuning"])
def test_a_resumed_training_ends_as_one_that_was_not_stopped(
    trained, tmp_path, tokenizer, rows, batch, name
):
    done = trained(name)
    again = make_trainer(tmp_path, done.config, VARIANTS[name][0], done.lora, tokenizer, rows)
    again.train(resume_from_checkpoint=str(done.folder.with_name(f"checkpoint-{STEPS // 2}")))
    assert losses(again) == done.losses
    assert torch.equal(logits(again.model.eval(), batch), logits(done.model, batch))


@pytest.mark.parametrize("name", ["lora", "qlora 4", "qlora 8", "full_finetuning"])
def test_a_validation_in_between_changes_nothing(trained, tmp_path, tokenizer, rows, name):
    done = trained(name)
    checked = make_trainer(
        tmp_path, done.config, VARIANTS[name][0], done.lora, tokenizer, rows,
        eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    checked.train()
    assert losses(checked) == done.losses
    assert weights(checked.model).keys() == done.after.keys()
    assert all(torch.equal(w, done.after[n]) for n, w in weights(checked.model).items())


def test_pissa_goes_on_where_other_vectors_were_found(tmp_path, tiny_base, tokenizer, rows, batch):
    config, lora = ModelConfig(name=str(tiny_base)), LoraConfig(**PLAIN | PISSA)
    first = make_trainer(tmp_path, config, "lora", lora, tokenizer, rows)
    first.train()
    set_seed(1)  # as another machine's numbers
    other = METHODS[TrainingMethod.LORA].prepare(load_model(config), lora, tokenizer)
    folder = tmp_path / f"checkpoint-{STEPS}"
    name = "model.layers.0.self_attn.q_proj.base_layer.weight"
    bases = [each.get_base_model().get_parameter(name) for each in (first.model, other)]
    assert not torch.equal(*bases)
    other.load_adapter(str(folder), "default", is_trainable=True)
    torch.testing.assert_close(*bases, atol=1e-6, rtol=0)
    found = logits(other.eval(), batch)
    torch.testing.assert_close(found, logits(first.model.eval(), batch), atol=2e-4, rtol=1e-4)
    other.save_pretrained(tmp_path / "again")
    plain = peft.PeftModel.from_pretrained(load_model(config), tmp_path / "again").eval()
    torch.testing.assert_close(logits(plain, batch), found, atol=2e-4, rtol=1e-4)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def bigger(request, tmp_path, tiny_base, tokenizer):
    """A base whose tokenizer has tokens that it does not know; the token's text, and its ids."""
    folder = tmp_path / "bigger"
    shutil.copytree(tiny_base, folder)
    if not request.param:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        set_seed(0)
        shape = LlamaConfig(
            vocab_size=2048, num_attention_heads=2, tie_word_embeddings=False, **sizes
        )
        LlamaForCausalLM(shape).save_pretrained(folder)
    more = AutoTokenizer.from_pretrained(tiny_base)
    more.add_tokens([AddedToken("<|order|>", special=True), AddedToken("<|town|>", special=True)])
    more.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["lora", "qlora", "full_finetuning"])
def test_added_tokens_are_learned_and_saved(tmp_path, bigger, method):
    tokenizer = AutoTokenizer.from_pretrained(bigger)
    rows = Dataset.from_list(
        [
            {"input_ids": ids, "labels": ids, "length": len(ids)}
            for n in range(16)
            for ids in [tokenizer(f"<|order|>{n} lamps<|town|>Bern").input_ids]
        ]
    )
    batch = {"input_ids": torch.tensor([rows[0]["input_ids"]])}
    assert {2048, 2049} <= set(rows[0]["input_ids"])
    config, lora = ModelConfig(name=str(bigger)), LoraConfig(**PLAIN)
    trainer = make_trainer(tmp_path / "out", config, method, lora, tokenizer, rows)
    before = weights(trainer.model)
    table = trainer.model.get_input_embeddings()
    known = table(torch.arange(2048)).detach().clone()
    new = table(torch.tensor([2048, 2049])).detach().clone()
    trainer.train()
    found = losses(trainer)
    assert found[-1] < found[0] - 0.1
    model = trainer.model.eval()
    folder = tmp_path / "out" / f"checkpoint-{STEPS}"
    done = Trained(
        model, found, before, weights(model), folder, config, lora, METHODS[TrainingMethod(method)]
    )
    torch.testing.assert_close(
        logits(done.reloaded(), batch), logits(model, batch), atol=2e-4, rtol=1e-4
    )
    table = model.get_input_embeddings()
    assert (table(torch.tensor([2048, 2049])) - new).abs().min(dim=1).values.gt(0).all()
    same = torch.equal(table(torch.arange(2048)), known)
    assert same is (method != "full_finetuning")


class TestOptimizerGroups:
    """What learns how fast."""

    @pytest.fixture
    def prepared(self, tiny_base, tokenizer):
        def prepare(method="lora", **lora):
            chosen, config = METHODS[TrainingMethod(method)], ModelConfig(name=str(tiny_base))
            return chosen.prepare(chosen.load(config), LoraConfig(**PLAIN | lora), tokenizer)

        return prepare

    def names(self, model, group):
        wanted = {id(weight) for weight in group["params"]}
        return {name for name, weight in model.named_parameters() if id(weight) in wanted}

    @pytest.mark.parametrize("method", ["lora", "full_finetuning"])
    def test_without_loraplus_they_are_the_trainers_own(self, tmp_path, prepared, method):
        model = prepared(method)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), weight_decay=0.1, report_to="none", use_cpu=True
        )
        theirs = Trainer(model=model, args=arguments).create_optimizer().param_groups
        training = TrainingConfig(weight_decay=0.1, learning_rate=1e-4)
        ours = optimizer_groups(model, training, LoraConfig())
        assert {group["lr"] for group in ours} == {1e-4}
        for decay in (0.1, 0.0):
            names = [
                {
                    name
                    for group in groups
                    if group["weight_decay"] == decay
                    for name in self.names(model, group)
                }
                for groups in (ours, theirs)
            ]
            assert names[0] == names[1]

    def test_loraplus_has_b_and_magnitudes_learn_faster(self, prepared):
        model = prepared(use_dora=True)
        training = TrainingConfig(weight_decay=0.1, learning_rate=1e-4)
        groups = optimizer_groups(model, training, LoraConfig(loraplus_lr_ratio=16.0))
        found = {
            (round(group["lr"], 9), group["weight_decay"]): {
                part
                for name in self.names(model, group)
                for part in ("lora_A", "lora_B", "magnitude")
                if part in name
            }
            for group in groups
        }
        assert found == {
            (1e-4, 0.1): {"lora_A"},
            (1.6e-3, 0.1): {"lora_B"},
            (1.6e-3, 0.0): {"magnitude"},
        }


@pytest.mark.parametrize("method", TrainingMethod)
def test_every_method_has_its_learning_rate(method):
    full = method is TrainingMethod.FULL_FINETUNING
    assert learning_rate(TrainingConfig(method=method)) == (5e-5 if full else 2e-4)
    assert learning_rate(TrainingConfig(method=method, learning_rate=1e-5)) == 1e-5


def test_plain_texts_teach_no_instructions():
    with pytest.raises(DatasetFormatError, match=r"instruction_tuning does not learn from .* text"):
        check_format(TrainingMethod.INSTRUCTION_TUNING, "text")
    check_format(TrainingMethod.INSTRUCTION_TUNING, DatasetFormat.ALPACA.value)
    for method in set(TrainingMethod) - {TrainingMethod.INSTRUCTION_TUNING}:
        check_format(method, "text")


class TestInstructions:
    """What instruction_tuning asks where the tokenizer has no template of its own."""

    @pytest.fixture
    def renderer(self, tiny_base):
        tokenizer = AutoTokenizer.from_pretrained(tiny_base)
        tokenizer.chat_template = None
        return make_renderer(Template.INSTRUCTION, tokenizer)

    def test_a_prompt_has_alpacas_words(self, renderer):
        # github.com/tatsu-lab/stanford_alpaca, train.py, "prompt_no_input"
        assert renderer.render([user("Say hi.")], generation_prompt=True) == (
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n### Instruction:\nSay hi.\n\n### Response:\n"
        )

    def test_every_answer_is_trained_to_its_end_and_nothing_else(self, renderer):
        turns = [user("Say hi."), assistant("Hi."), user("Again."), assistant("Hi!")]
        text, spans = mask(turns, renderer)
        assert [text[start:end] for start, end in spans] == ["Hi.<|end|>", "Hi!<|end|>"]
        assert text.count("Below is an instruction") == 1

    def test_a_system_message_takes_the_first_sentences_place(self, renderer):
        turns = [{**user("You are brief."), "role": "system"}, user("Say hi.")]
        text = renderer.render(turns, generation_prompt=True)
        assert text == "You are brief.\n\n### Instruction:\nSay hi.\n\n### Response:\n"

    def test_a_chat_template_goes_before(self, tokenizer):
        assert make_renderer(Template.INSTRUCTION, tokenizer).name == "chat"
