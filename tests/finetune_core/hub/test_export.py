"""What vLLM takes is exported with the command that serves it; what it does not is listed."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_core.exceptions import ExportError, ModelNotFoundError, OutputError
from finetune_core.hub import open_hub
from finetune_core.hub.export import (
    export_adapter,
    export_whole,
    is_adapter,
    least_max_rank,
    opened,
)
from finetune_core.hub.ports import NewVersion
from tests.families import save_model
from tests.integration.command import cli

LAYERS = ["q_proj", "v_proj", "down_proj"]


def write_adapter(folder, base, **options):
    """An adapter with random weights."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    options = {"target_modules": LAYERS, "r": 4, "task_type": "CAUSAL_LM", **options}
    model = peft.get_peft_model(model, peft.LoraConfig(**options))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.02 * torch.randn_like(weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def change(folder, **values):
    """Changes an adapter's own config."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def faults_of(folder, output, **options):
    """What is wrong with an adapter, each without the words behind its name."""
    with pytest.raises(ExportError) as caught:
        export_adapter(folder, output, "m", **options)
    assert not output.exists()
    head, *lines = caught.value.message.splitlines()
    assert head.endswith(f"{len(lines)} fault{'s' if len(lines) > 1 else ''}")
    assert "--format safetensors" in caught.value.hint
    return lines


@pytest.fixture(scope="module")
def plain(tiny_base, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("plain"), tiny_base)


@pytest.fixture
def adapter(plain, tmp_path):
    """A copy that a test may change."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_the_copy_has_the_adapter_and_its_tokenizer_and_nothing_else(adapter, tmp_path):
    (adapter / "config.yaml").write_text("dataset: {path: /srv/rows.jsonl}")
    report = export_adapter(adapter, tmp_path / "out", "orders", base="acme/base")
    copied = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} < copied
    assert not copied & {"config.yaml", "README.md"}
    for name in copied - {"manifest.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (adapter / name).read_bytes()
    assert report.max_lora_rank == 8
    assert report.command == (
        "vllm serve acme/base --enable-lora "
        f"--lora-modules orders={tmp_path / 'out'} --max-lora-rank 8"
    )


@pytest.mark.parametrize(
    ("rank", "least"), [(1, 8), (8, 8), (9, 16), (64, 64), (65, 128), (300, 320), (512, 512)]
)
def test_the_least_rank_that_vllm_may_be_told(rank, least):
    assert least_max_rank(rank) == least


@pytest.mark.parametrize(
    "options",
    [{"use_rslora": True, "r": 9}, {"target_modules": "all-linear"}, {"init_lora_weights": False}],
    ids=str,
)
def test_what_is_plain_lora_is_taken(tiny_base, tmp_path, options):
    folder = write_adapter(tmp_path / "adapter", tiny_base, **options)
    report = export_adapter(folder, tmp_path / "out", "m")
    assert report.max_lora_rank == (16 if "r" in options else 8)
    assert report.base == str(tiny_base)


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"use_dora": True}, ["use_dora", "adapter_model.safetensors holds"]),
        ({"bias": "lora_only"}, ["bias"]),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save", "adapter_model.safetensors holds"]),
        ({"target_modules": ["q_proj", "lm_head"]}, ["target_modules: lm_head"]),
        (
            {"trainable_token_indices": [5, 6]},
            ["trainable_token_indices", "adapter_model.safetensors holds"],
        ),
        ({"rank_pattern": {"q_proj": 8}}, ["rank_pattern"]),
        ({"alpha_pattern": {"q_proj": 8}}, ["alpha_pattern"]),
    ],
    ids=str,
)
def test_what_vllm_does_not_take_is_named(tiny_base, tmp_path, options, faults):
    folder = write_adapter(tmp_path / "adapter", tiny_base, **options)
    found = faults_of(folder, tmp_path / "out")
    assert [line.strip()[: len(fault)] for line, fault in zip(found, faults, strict=True)] == faults


def test_all_faults_are_told_at_once(adapter, tmp_path):
    change(
        adapter,
        r=600,
        bias="all",
        use_dora=True,
        init_lora_weights="pissa",
        modules_to_save=["score", "embed_tokens"],
        base_model_name_or_path=None,
    )
    found = [line.strip().partition(":")[0] for line in faults_of(adapter, tmp_path / "out")]
    expected = ["r", "bias", "use_dora", "init_lora_weights", "modules_to_save", "r"]
    assert found == [*expected, "it names no base; give it by --base-model"]


def test_names_of_tensors_are_read_as_vllm_reads_them(adapter, tmp_path):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(iter(tensors))
    layer = "base_model.model.model.layers.0"
    strange = {
        f"{layer}.mlp.up_proj.lora_A.default.weight": tensors[first].clone(),
        f"{layer}.mlp.turnip.lora_A.weight": tensors[first].clone(),
        "base_model.model.lm_head.base_layer.weight": tensors[first].clone(),
    }
    save_file(tensors | strange, file)
    assert faults_of(adapter, tmp_path / "out") == [
        "  adapter_model.safetensors holds what is no part of a LoRA: "
        f"{layer}.mlp.up_proj.lora_A.default.weight",
        "  target_modules: no layer of vLLM's is called turnip",
    ]


def test_adapters_on_tokens_can_be_let_through(tiny_base, tmp_path):
    targets = ["q_proj", "embed_tokens"]
    folder = write_adapter(tmp_path / "adapter", tiny_base, target_modules=targets)
    [fault] = faults_of(folder, tmp_path / "out")
    assert "--allow-embeddings" in fault
    export_adapter(folder, tmp_path / "out", "m", embeddings=True)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors"])
def test_weights_that_are_missing_or_broken_are_a_fault(adapter, tmp_path, content):
    file = adapter / "adapter_model.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    [fault] = faults_of(adapter, tmp_path / "out")
    assert "adapter_model.safetensors" in fault


def test_adapters_of_other_kinds_are_refused(tmp_path, tiny_base):
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    ia3 = peft.IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    )
    peft.get_peft_model(model, ia3).save_pretrained(tmp_path / "ia3")
    [fault] = faults_of(tmp_path / "ia3", tmp_path / "out")
    assert fault.startswith("  peft_type: is IA3")


def test_an_output_that_is_there_is_left_alone(adapter, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(OutputError):
        export_adapter(adapter, tmp_path / "out", "m")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_whole_model_is_served_as_it_is(tmp_path):
    folder = save_model("Llama", tmp_path / "whole")
    with pytest.raises(ExportError, match="holds a whole model"):
        export_adapter(folder, tmp_path / "out", "m")
    report = export_whole(folder, tmp_path / "out", "m")
    assert report.command == f"vllm serve {tmp_path / 'out'} --served-model-name m"
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


class TestOpened:
    def test_of_a_jobs_folder_the_package_is_meant(self, plain, tmp_path):
        for name in ("adapter", "package"):
            (tmp_path / "ftjob-1").mkdir(exist_ok=True)
            (tmp_path / "ftjob-1" / name).symlink_to(plain)
        with opened(str(tmp_path / "ftjob-1"), "local") as found:
            assert found == tmp_path / "ftjob-1" / "package"

    def test_a_version_is_fetched_and_gone_afterwards(self, plain, tmp_path, monkeypatch):
        monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
        hub = open_hub("acme")
        new = NewVersion("orders", "candidate", "lora", {}, "")
        hub.register(hub.start_run("r", {}), plain, new)
        for ref in ("orders@1", "orders@candidate"):
            with opened(ref, "acme") as found:
                assert is_adapter(found)
            assert not found.exists()

    @pytest.mark.parametrize("name", ["nothing", "examples"])
    def test_a_name_that_leads_nowhere_is_refused(self, name):
        with pytest.raises(ModelNotFoundError), opened(name, "local") as found:
            is_adapter(found)


def test_the_command_for_vllm(plain, tmp_path):
    done = cli("export", plain, tmp_path / "my orders", "--format", "vllm", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["name"] == "my-orders"
    assert f"'my-orders={tmp_path / 'my orders'}'" in report["command"]
    again = cli("export", plain, tmp_path / "my orders", "--format", "vllm")
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")


def test_the_command_for_a_whole_model(plain, tiny_base, tmp_path):
    done = cli("export", plain, tmp_path / "whole", "--format", "safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"serve     vllm serve {tmp_path / 'whole'}" in done.stdout
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    tuned = peft.PeftModel.from_pretrained(base, Path(plain))
    ids = torch.tensor([[1, 100, 200, 300]])
    with torch.inference_mode():
        assert torch.allclose(merged(ids).logits, tuned(ids).logits, atol=1e-4)
