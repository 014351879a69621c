"""A merged model answers as base and adapter do, whatever the adapter; or there is none."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from finetune_core.exceptions import (
    AdapterError,
    DatasetFormatError,
    ModelNotFoundError,
    OutputError,
    ParityError,
)
from finetune_core.models.merging import (
    REPORT,
    MergeRequest,
    compare,
    logits,
    merge,
    tolerance,
)
from finetune_core.storage import verify

PROMPTS = [[1, 5, 9, 300, 7], [1, *range(40, 2040, 100)]]
LAYERS = ["q_proj", "v_proj", "down_proj"]


def ignore(_):
    pass


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def write_adapter(folder, base, *, scale=0.02, tokens=0, **options):
    """An adapter with random weights, as a training could have left it; gives its logits."""
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained("examples/tiny_base")
    model = load(base, dtype="auto")
    if tokens:
        tokenizer.add_tokens([f"<|new{number}|>" for number in range(tokens)])
        options["trainable_token_indices"] = list(range(2048, 2048 + tokens))
        model.resize_token_embeddings(2048 + tokens)
    options = {"target_modules": LAYERS, "r": 4, "task_type": "CAUSAL_LM", **options}
    model = peft.get_peft_model(model, peft.LoraConfig(**options))
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_A" not in name:
            weight.data += scale * torch.randn_like(weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prompts = [*PROMPTS, [1, 2048, 5]] if tokens else PROMPTS
    return prompts, logits(model, prompts)


def same_answers(folder, prompts, expected, atol=1e-4):
    torch.testing.assert_close(logits(load(folder), prompts), expected, rtol=1e-4, atol=atol)


@pytest.fixture(scope="module")
def bases(tiny_base, tmp_path_factory):
    """Bases of several kinds; all have the tiny base's tokens."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=2048, num_hidden_layers=2, **sizes)
    LlamaForCausalLM(config).save_pretrained(folder / "untied")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "bfloat16")
    gpt2 = GPT2Config(vocab_size=2048, n_embd=64, n_layer=2, n_head=4, bos_token_id=1)
    GPT2LMHeadModel(gpt2).save_pretrained(folder / "gpt2")
    return {"tied": tiny_base, **{path.name: path for path in folder.iterdir()}}


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("tied", {}),
        ("tied", {"use_dora": True}),
        ("tied", {"use_rslora": True, "r": 8}),
        ("tied", {"target_modules": "all-linear", "use_dora": True, "use_rslora": True}),
        ("tied", {"modules_to_save": ["embed_tokens"]}),
        ("tied", {"modules_to_save": ["lm_head"]}),
        ("tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
        ("tied", {"target_modules": ["q_proj", "lm_head"]}),
        ("tied", {"target_modules": ["embed_tokens"]}),
        ("tied", {"tokens": 3}),
        ("untied", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("untied", {"target_modules": ["embed_tokens", "lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ],
    ids=str,
)
def test_the_merged_model_gives_the_adapters_logits(bases, tmp_path, base, options):
    prompts, expected = write_adapter(tmp_path / "adapter", bases[base], **options)
    report = merge(MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged"), ignore)
    same_answers(tmp_path / "merged", prompts, expected)
    plain = logits(load(bases[base]), PROMPTS)
    assert compare(plain, expected[: len(plain), :2048]).max_logit_difference > 0.1
    assert report.max_logit_difference <= report.tolerance < 0.01
    assert report.equal_greedy_tokens == 1
    assert (report.base, report.dtype) == (str(bases[base]), "float32")
    assert report.parameters == load(tmp_path / "merged").num_parameters()
    verify(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / REPORT).read_text()) == report.model_dump(mode="json")


@pytest.mark.parametrize(("adapted", "stays"), [(LAYERS, True), (["lm_head"], False)])
def test_embeddings_stay_tied_where_the_adapter_leaves_them_equal(bases, tmp_path, adapted, stays):
    write_adapter(tmp_path / "adapter", bases["tied"], target_modules=adapted)
    merge(MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged"), ignore)
    merged = load(tmp_path / "merged")
    assert merged.config.tie_word_embeddings is stays
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) is stays


def test_the_folder_has_all_that_goes_with_a_model(bases, tmp_path):
    write_adapter(tmp_path / "adapter", bases["tied"])
    merge(MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged"), ignore)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == (bases["tied"] / "chat_template.jinja").read_text()
    base, merged = load(bases["tied"]), load(tmp_path / "merged")
    assert merged.generation_config.to_dict() == base.generation_config.to_dict()


def test_the_bases_own_precision_is_kept(bases, tmp_path):
    prompts, expected = write_adapter(tmp_path / "adapter", bases["bfloat16"])
    report = merge(MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged"), ignore)
    assert report.dtype == "bfloat16"
    assert {weight.dtype for weight in load(tmp_path / "merged").parameters()} == {torch.bfloat16}
    same_answers(tmp_path / "merged", prompts, expected, atol=report.tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_precision_is_written_where_it_is_asked_for(bases, tmp_path, dtype):
    prompts, expected = write_adapter(tmp_path / "adapter", bases["tied"])
    request = MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged", dtype=dtype)
    report = merge(request, ignore)
    merged = load(tmp_path / "merged")
    assert {weight.dtype for weight in merged.parameters()} == {getattr(torch, dtype)}
    assert compare(expected, logits(merged, prompts)).max_logit_difference <= report.tolerance
    assert report.max_logit_difference > 1e-4


def test_a_base_of_four_bits_is_merged_in_sixteen(bases, tmp_path):
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    quantized = load(bases["bfloat16"], quantization_config=quantization, device_map={"": "cpu"})
    quantized.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(bases["tied"]).save_pretrained(tmp_path / "base")
    write_adapter(tmp_path / "adapter", bases["bfloat16"])
    request = MergeRequest(
        adapter=tmp_path / "adapter", output=tmp_path / "merged", base=str(tmp_path / "base")
    )
    assert merge(request, ignore).dtype == "bfloat16"
    merged = load(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")
    unpacked = quantized.dequantize(torch.bfloat16)
    expected = peft.PeftModel.from_pretrained(unpacked, tmp_path / "adapter")
    difference = compare(logits(expected, PROMPTS), logits(merged, PROMPTS))
    assert difference.max_logit_difference < 0.1


def test_a_models_own_rows_can_be_compared_too(bases, tmp_path, orders):
    write_adapter(tmp_path / "adapter", bases["tied"])
    fields = {"adapter": tmp_path / "adapter"}
    without = merge(MergeRequest(**fields, output=tmp_path / "one"), ignore)
    more = merge(MergeRequest(**fields, output=tmp_path / "two", prompts=orders), ignore)
    assert more.prompts == without.prompts + 32
    assert more.tokens > without.tokens + 32
    assert more.adapter_digest == without.adapter_digest
    assert more.base_digest == without.base_digest != more.adapter_digest


def test_another_bases_answers_are_beyond_the_tolerance(bases, tmp_path):
    prompts, expected = write_adapter(tmp_path / "adapter", bases["tied"])
    other = load(bases["tied"])
    other.model.layers[2].mlp.up_proj.weight.data[5] += 0.05  # as after another hour of training
    other.save_pretrained(tmp_path / "other")
    request = MergeRequest(
        adapter=tmp_path / "adapter", output=tmp_path / "merged", base=str(tmp_path / "other")
    )
    merge(request, ignore)
    parity = compare(expected, logits(load(tmp_path / "merged"), prompts))
    limit = tolerance(expected, eps=torch.finfo(torch.float32).eps, layers=4, width=128)
    assert parity.max_logit_difference > 10 * limit


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e6, "float16"), (float("nan"), None)], ids=["overflow", "nan"]
)
def test_a_merge_that_loses_the_adapter_fails_and_leaves_nothing(bases, tmp_path, scale, dtype):
    write_adapter(tmp_path / "adapter", bases["tied"], scale=scale)
    request = MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged", dtype=dtype)
    with pytest.raises(ParityError, match="does not answer as base and adapter do") as caught:
        merge(request, ignore)
    assert caught.value.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_is_no_adapter_is_refused(tiny_base, tmp_path):
    with pytest.raises(AdapterError, match=r"holds no adapter: it has no readable adapter_config"):
        merge(MergeRequest(adapter=tiny_base, output=tmp_path / "merged"), ignore)
    for text, problem in [("{", "is not JSON"), ("[]", "is not the config of an adapter")]:
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(AdapterError, match=problem):
            merge(MergeRequest(adapter=tmp_path, output=tmp_path / "merged"), ignore)


def test_an_adapter_without_weights_for_the_base_is_refused(tiny_base, tmp_path):
    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    peft.get_peft_model(load(tiny_base), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="is PROMPT_TUNING, which has no weights to merge"):
        merge(MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged"), ignore)


def test_a_base_that_does_not_fit_or_is_not_there_is_refused(bases, tmp_path):
    write_adapter(tmp_path / "adapter", bases["tied"])
    fields = {"adapter": tmp_path / "adapter", "output": tmp_path / "merged"}
    for base in ("gpt2", "untied"):
        with pytest.raises(AdapterError, match="does not fit the base"):
            merge(MergeRequest(**fields, base=str(bases[base])), ignore)
    with pytest.raises(ModelNotFoundError) as caught:
        merge(MergeRequest(**fields, base=str(tmp_path / "nowhere")), ignore)
    assert "--base-model" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_with_something_in_it_is_not_written_to(bases, tmp_path):
    write_adapter(tmp_path / "adapter", bases["tied"])
    output = tmp_path / "merged"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        merge(MergeRequest(adapter=tmp_path / "adapter", output=output), ignore)
    assert [path.name for path in output.iterdir()] == ["notes.txt"]
    (output / "notes.txt").unlink()
    assert merge(MergeRequest(adapter=tmp_path / "adapter", output=output), ignore).tokens > 0


def test_rows_that_are_not_of_the_first_ones_format_are_named(bases, tmp_path):
    write_adapter(tmp_path / "adapter", bases["tied"])
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": ["a"], "completion": "b"}\n')
    request = MergeRequest(adapter=tmp_path / "adapter", output=tmp_path / "merged", prompts=file)
    with pytest.raises(DatasetFormatError, match="row 2"):
        merge(request, ignore)
