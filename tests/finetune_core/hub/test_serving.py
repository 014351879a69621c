"""A registered version answers prompts, as MLflow's own server starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import peft
import pytest
import requests
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_core.config import PipelineConfig
from finetune_core.exceptions import InputError, ModelNotFoundError
from finetune_core.hub import open_hub, serving
from finetune_core.hub.ports import NewVersion
from finetune_core.hub.serving import ANSWER_TOKENS, MLMODEL, write_mlmodel
from finetune_core.models.adapters import add_lora
from finetune_core.models.loading import load_model
from finetune_core.models.tasks import write_labels
from tests.conftest import ROOT
from tests.families import LABELS, save_model

PROMPT = "Could you deliver 19 kettles to Hugo in Turin on Friday?"


def write_adapter(folder, base):
    """A package with an adapter of random weights, for a model that writes on."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.05 * torch.randn_like(weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    write_mlmodel(folder)
    return folder


def expected(package, prompt, tokens):
    """What plain transformers and peft answer."""
    config = peft.PeftConfig.from_pretrained(package)
    base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
    model = peft.PeftModel.from_pretrained(base, package)
    tokenizer = AutoTokenizer.from_pretrained(package)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def package(tiny_base, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("package"), tiny_base)


@pytest.fixture(scope="module")
def served(package):
    return serving._load_pyfunc(str(package))


def test_the_file_that_names_the_loader_is_the_same_each_time(package, tmp_path):
    write_mlmodel(tmp_path)
    assert (tmp_path / MLMODEL).read_bytes() == (package / MLMODEL).read_bytes()


def test_the_answers_are_those_of_plain_transformers(package, served):
    asked = pd.DataFrame({"prompt": [PROMPT, "Hello"], "max_tokens": [12, 5]})
    answers = [expected(package, PROMPT, 12), expected(package, "Hello", 5)]
    assert served.predict(asked) == answers
    assert answers[0] != answers[1]


def test_prompts_come_as_a_table_as_columns_or_by_themselves(served):
    [answer] = served.predict({"prompt": PROMPT, "max_tokens": 6})
    for asked in (
        {"prompt": [PROMPT], "max_tokens": 6},
        {"prompt": np.array([PROMPT]), "max_tokens": np.array([6])},
        [{"prompt": PROMPT, "max_tokens": 6}],
        pd.DataFrame([{"prompt": PROMPT, "max_tokens": 6.0, "other": None}]),
    ):
        assert served.predict(asked) == [answer]
    long = served.predict({"prompt": PROMPT, "max_tokens": ANSWER_TOKENS})
    for asked in (PROMPT, [PROMPT], np.array([PROMPT]), np.array([PROMPT], dtype=object)):
        assert served.predict(asked) == long
    mixed = pd.DataFrame([{"prompt": PROMPT, "max_tokens": 6}, {"prompt": PROMPT}])
    assert served.predict(mixed) == [answer, *long]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"text": ["Hello"]}, "there is no column prompt, only: text"),
        ([], "there is no column prompt"),
        ({"prompt": [""]}, "row 1: the prompt '' is no text"),
        ({"prompt": ["Hello", None]}, "row 2: the prompt nan is no text"),
        ({"prompt": [7]}, "row 1: the prompt 7 is no text"),
        ({"prompt": ["Hello"], "max_tokens": [0]}, "row 1: max_tokens is 0"),
        ({"prompt": ["Hello"], "max_tokens": [1.5]}, "row 1: max_tokens is 1.5"),
        ({"prompt": ["Hello"], "max_tokens": ["9"]}, "row 1: max_tokens is '9'"),
        ({"prompt": ["Hello"], "max_tokens": [float("inf")]}, "row 1: max_tokens is inf"),
        ({"prompt": ["Hello " * 3000]}, "row 1: the prompt has "),
    ],
    ids=str,
)
def test_what_cannot_be_answered_is_refused(served, asked, words):
    with pytest.raises(InputError) as caught:
        served.predict(asked)
    assert words in str(caught.value)


def test_an_answer_ends_where_the_model_has_no_more_places(served, monkeypatch):
    [short] = served.predict({"prompt": PROMPT, "max_tokens": 5})
    monkeypatch.setattr(served, "_places", len(served._encode(PROMPT, 1)) + 5)
    assert served.predict({"prompt": PROMPT, "max_tokens": 10**6}) == [short]


def test_the_template_is_that_of_the_training(package, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in package.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    base = peft.PeftConfig.from_pretrained(package).base_model_name_or_path
    values = {
        "model": {"name": base},
        "dataset": {"path": "rows.jsonl"},
        "tokenization": {"template": "plain"},
    }
    PipelineConfig.parse(values).to_yaml(folder / "config.yaml")
    served = serving._load_pyfunc(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(package)
    assert tokenizer.decode(served._encode("Hello", 1)).endswith("Hello\n")


def test_a_model_that_chooses_answers_its_labels(tmp_path):
    base = save_model("BERT", tmp_path / "base")
    config = PipelineConfig.parse({"model": {"name": str(base)}, "dataset": {"path": "x.csv"}})
    model = add_lora(load_model(config.model, LABELS), config.lora)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "classifier" in name or "lora_B" in name:
            weight.data = torch.randn_like(weight)
    folder = tmp_path / "package"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    write_labels(folder, dict(enumerate(LABELS)))
    served = serving._load_pyfunc(str(folder))
    prompts = ["the food was good", "the staff was very rude", "we came on a day"]
    answers = served.predict(prompts)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model.eval()
    with torch.inference_mode():
        chosen = [model(**tokenizer(each, return_tensors="pt")).logits.argmax() for each in prompts]
    assert answers == [LABELS[number] for number in chosen]
    with pytest.raises(InputError, match="the model has places for 62"):
        served.predict(["good " * 100])


def test_a_model_that_reads_and_then_writes(tmp_path):
    folder = save_model("T5", tmp_path / "t5")
    [answer] = serving._load_pyfunc(str(folder)).predict({"prompt": "the food", "max_tokens": 4})
    assert isinstance(answer, str)


def test_the_base_may_be_elsewhere_than_the_adapter_says(package, tiny_base, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    for file in package.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = folder / "adapter_config.json"
    values = json.loads(file.read_text()) | {"base_model_name_or_path": "/gone/base"}
    file.write_text(json.dumps(values))
    with pytest.raises(ModelNotFoundError, match="/gone/base") as caught:
        serving._load_pyfunc(str(folder))
    assert "MLFLOW_PYFUNC_INFERENCE_CONFIG" in caught.value.hint
    with pytest.MonkeyPatch.context() as patch:
        setting = json.dumps({"base_model": str(tiny_base)})
        patch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", setting)
        served = mlflow.pyfunc.load_model(str(folder))
    asked = pd.DataFrame({"prompt": [PROMPT], "max_tokens": [6]})
    assert served.predict(asked) == [expected(package, PROMPT, 6)]


@pytest.mark.slow
def test_mlflow_serves_a_registered_version(package, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    hub = open_hub("acme")
    new = NewVersion("orders", "champion", "lora", {}, "")
    hub.register(hub.start_run("r", {}), package, new)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bin_folder = Path(sys.executable).parent
    uri = "models:/orders@champion"
    store = f"sqlite:///{tmp_path}/organizations/acme/mlflow/mlflow.db"
    with (tmp_path / "serve.log").open("w+") as log:
        server = subprocess.Popen(
            [bin_folder / "mlflow", "models", "serve", "-m", uri, "-p", str(port)]
            + ["--env-manager", "local"],
            cwd=ROOT,
            env=os.environ
            | {"MLFLOW_TRACKING_URI": store, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 150
            while True:
                assert server.poll() is None, (tmp_path / "serve.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
                try:
                    requests.get(f"{address}/ping", timeout=5)
                    break
                except requests.RequestException:
                    time.sleep(0.5)
            row = {"prompt": PROMPT, "max_tokens": 12}
            answer = expected(package, PROMPT, 12)
            for asked, answered in (
                ({"dataframe_records": [row, row]}, {"predictions": [answer, answer]}),
                ({"instances": [row]}, {"predictions": [answer]}),
                (row, [answer]),
            ):
                found = requests.post(f"{address}/invocations", json=asked, timeout=60)
                assert found.status_code == 200, found.text
                assert found.json() == answered
            refused = requests.post(
                f"{address}/invocations", json={"inputs": {"text": ["Hello"]}}, timeout=60
            )
            assert refused.status_code == 400
            assert "there is no column prompt, only: text" in refused.text
        finally:
            server.terminate()
            server.wait(30)
