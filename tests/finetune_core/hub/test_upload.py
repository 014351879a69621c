"""What is uploaded loads elsewhere and tells nothing of this machine, and nobody sees the token.

The hub is one of our own (`stand_in`), the client the real one.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import huggingface_hub
import peft
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_core.exceptions import (
    HubError,
    HubUnavailableError,
    ModelNotFoundError,
    UploadError,
)
from finetune_core.hub import open_hub
from finetune_core.hub.ports import NewVersion
from finetune_core.hub.serving import write_mlmodel
from finetune_core.hub.upload import check_repo_id, find_token, is_local, prepare, upload
from finetune_core.storage import digest_file
from tests.conftest import ROOT
from tests.families import save_model
from tests.finetune_core.hub.stand_in import SIGNATURE, TOKEN, stand_in

CARD = """---
base_model: {base}
library_name: peft
tags: [finetune, lora]
---

# orders

The lora adapter for {base}; see https://example.org/docs/lora and a/b.

```python
base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "FOLDER_OF_THIS_FILE")
```

| setting | value |
| --- | --- |
| model.name | {base} |
| dataset.path | {folder}/my rows/rows.jsonl |
| dataset.evaluation_path | examples/data/validation.jsonl |
| other | file:{folder}/x, ~/y/z.txt, or C:\\data\\w.csv |
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of this machine, whose name must not be seen elsewhere."""
    return tmp_path_factory.mktemp("secret-place")


@pytest.fixture(scope="module")
def base(here):
    return save_model("Llama", here / "base")


@pytest.fixture(scope="module")
def package(here, base):
    """An adapter as a job leaves it, with all that lies beside it."""
    folder = here / "package"
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(base=base, folder=here))
    (folder / "config.yaml").write_text(f"model: {{name: {base}}}\n")
    (folder / "evaluation.md").write_text("**Row 3** the customer's own words")
    (folder / "rows.parquet").write_bytes(b"")
    (folder / "notes.txt").write_text("Trained on a Sunday, see https://example.org/a/b.")
    (folder / "curve.bin").write_bytes(b"\x00")
    (folder / "manifest.json").write_text("{}")
    (folder / "card.json").write_text(json.dumps({"files": {"README.md": "0"}}))
    (folder / "card.sig").write_text("{}")
    (folder / "logs").mkdir()
    write_mlmodel(folder)
    return folder


@pytest.fixture
def ready(tmp_path):
    """Where `prepare` puts what is to be uploaded."""
    (tmp_path / "ready").mkdir()
    return tmp_path / "ready"


class TestPrepare:
    def test_what_tells_of_this_machine_or_of_the_data_stays(self, package, ready):
        prepared = prepare(package, ready, "acme/orders", base="acme/base")
        assert prepared.kind == "adapter"
        assert prepared.base == "acme/base"
        assert prepared.files == [
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "notes.txt",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        own = "only this installation reads it"
        assert prepared.left_out == {
            "MLmodel": own,
            "card.json": "it has digests of files that are not uploaded as they are",
            "card.sig": "it has digests of files that are not uploaded as they are",
            "config.yaml": "it names folders of this machine",
            "curve.bin": "it is no part of a model",
            "evaluation.md": "it tells of the data's rows",
            "logs": "is a folder",
            "manifest.json": own,
            "rows.parquet": "it tells of the data's rows",
        }

    def test_the_copy_names_the_base_on_the_hub_and_the_source_stays_as_it_is(self, package, ready):
        before = {path.name: digest_file(path) for path in package.iterdir() if path.is_file()}
        prepare(package, ready, "acme/orders", base="acme/base")
        config = json.loads((ready / "adapter_config.json").read_text())
        mine = json.loads((package / "adapter_config.json").read_text())
        assert config == mine | {"base_model_name_or_path": "acme/base"}
        after = {path.name: digest_file(path) for path in package.iterdir() if path.is_file()}
        assert after == before

    def test_the_model_card_has_no_path_of_this_machine(self, package, here, ready):
        prepare(package, ready, "acme/orders", base="acme/base")
        text = (ready / "README.md").read_text()
        _, front, body = text.split("---\n", 2)
        assert yaml.safe_load(front) == {
            "base_model": "acme/base",
            "library_name": "peft",
            "tags": ["finetune", "lora"],
        }
        assert str(here) not in text
        assert 'base = AutoModelForCausalLM.from_pretrained("acme/base")' in body
        assert 'PeftModel.from_pretrained(base, "acme/orders")' in body
        assert "| dataset.path | rows.jsonl |" in body
        assert "| dataset.evaluation_path | validation.jsonl |" in body
        assert "| other | x, z.txt, or w.csv |" in body
        assert "see https://example.org/docs/lora and a/b." in body

    def test_a_base_that_only_this_machine_has_is_refused(self, package, ready):
        with pytest.raises(UploadError, match="which only this machine has") as caught:
            prepare(package, ready, "acme/orders")
        assert "--base-model" in caught.value.hint

    @pytest.mark.parametrize("name", ["examples/tiny_base", "/srv/base", "a b", "x/y/z"])
    def test_a_base_that_is_no_id_on_the_hub_is_refused(self, package, ready, name):
        with pytest.raises(UploadError, match="--base-model"):
            prepare(package, ready, "acme/orders", base=name)

    def test_a_card_goes_with_files_that_go_as_they_are(self, package, tmp_path, ready):
        folder = tmp_path / "adapter"
        folder.mkdir()
        config = json.loads((package / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "acme/base"
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "config.yaml").write_text("model: {name: acme/base}\n")
        digests = {name: digest_file(folder / name) for name in os.listdir(folder)}
        (folder / "card.json").write_text(json.dumps({"files": digests}))
        (folder / "card.sig").write_text("{}")
        prepared = prepare(folder, ready, "acme/orders")
        assert prepared.left_out == {}
        assert {"card.json", "card.sig", "config.yaml", "README.md"} < set(prepared.files)
        for name, digest in digests.items():
            assert digest_file(ready / name) == digest

    def test_a_whole_model_needs_no_base(self, base, here, tmp_path, ready):
        folder = tmp_path / "whole"
        folder.mkdir()
        for file in base.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        for name, key in (
            ("config.json", "_name_or_path"),
            ("tokenizer_config.json", "name_or_path"),
        ):
            values = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(values | {key: str(here / "base")}))
        (folder / "optimizer.pt").write_bytes(b"")
        prepared = prepare(folder, ready, "acme/whole")
        assert (prepared.kind, prepared.base) == ("model", None)
        assert prepared.left_out == {"optimizer.pt": "only a training goes on from it"}
        AutoModelForCausalLM.from_pretrained(ready)
        for path in ready.iterdir():
            assert str(here).encode() not in path.read_bytes()

    @pytest.mark.parametrize("told", [None, "acme/base"])
    def test_the_card_of_a_whole_model_names_no_folder_as_its_base(
        self, base, tmp_path, ready, told
    ):
        folder = tmp_path / "whole"
        folder.mkdir()
        for file in base.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "README.md").write_text(f"---\nbase_model: {base}\n---\n\nTuned from {base}.\n")
        assert prepare(folder, ready, "acme/whole", base=told).base == told
        card = huggingface_hub.ModelCard.load(ready / "README.md")
        assert card.data.base_model == told
        assert card.text.strip() == f"Tuned from {told or 'base'}."

    def test_a_folder_without_a_model_is_refused(self, tmp_path, ready):
        with pytest.raises(ModelNotFoundError):
            prepare(tmp_path, ready, "acme/orders")


@pytest.mark.parametrize(
    ("name", "local"),
    [("examples/tiny_base", True), ("/x", True), ("./x", True), ("~/x/y", True), ("a/b/c", True),
     ("acme/base", False), ("gpt2", False)],
)  # fmt: skip
def test_what_is_a_name_of_this_machine(name, local):
    assert is_local(name) is local


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, and a client that may go online."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with stand_in() as hub:
        yield hub


@pytest.fixture
def send(hub, package, ready):
    prepared = prepare(package, ready, "acme/orders", base="acme/base")

    def send(token=TOKEN, endpoint=hub.url, **options):
        return upload(prepared, "acme/orders", token=token, endpoint=endpoint, **options)

    return send


class TestUpload:
    def test_the_repository_has_the_files_byte_by_byte(self, hub, send, ready):
        report = send(private=True, message="Orders, first version")
        assert hub.files("acme/orders") == {
            path.name: path.read_bytes() for path in ready.iterdir()
        }
        assert hub.repos["acme/orders"]["visibility"] == "private"
        [commit] = hub.commits["acme/orders"]
        assert commit.message == "Orders, first version"
        assert (report.url, report.base) == (f"{hub.url}/acme/orders", "acme/base")
        assert len(report.commit) == 40

    def test_a_second_upload_is_a_second_commit(self, hub, send):
        send()
        send()
        assert [commit.message for commit in hub.commits["acme/orders"]] == ["Upload adapter"] * 2

    @pytest.mark.parametrize(
        ("part", "status", "kind", "words"),
        [
            ("repos/create", 403, UploadError, "does not let this token write there (403)"),
            ("preupload", 403, UploadError, "does not let this token write there (403)"),
            ("preupload", 404, UploadError, "does not know the place"),
            ("/commit/", 400, UploadError, "refuses (400)"),
            ("/commit/", 409, HubError, "something else changes the repository"),
            ("/commit/", 412, HubError, "somebody else has changed the repository"),
            ("/large/", 403, UploadError, "does not let this token write there (403)"),
            ("repos/create", 500, HubUnavailableError, "has a fault of its own (500)"),
            ("repos/create", 503, HubUnavailableError, "has a fault of its own (503)"),
        ],
    )
    def test_a_refusal_is_one_line(self, hub, send, part, status, kind, words, caplog):
        caplog.set_level(logging.INFO)
        hub.refusals[part] = (status, f"because {TOKEN} of it")
        with pytest.raises(kind) as caught:
            send()
        assert type(caught.value) is kind
        assert words in caught.value.message
        assert caught.value.message.endswith(": because *** of it")
        assert "\n" not in caught.value.message
        assert caught.value.__suppress_context__
        assert hub.commits == {}
        assert TOKEN not in caplog.text
        assert SIGNATURE not in caplog.text

    def test_a_token_that_the_hub_does_not_know(self, send):
        with pytest.raises(UploadError, match="does not know the token \\(401\\)") as caught:
            send(token="hf_other")
        assert "hf_other" not in str(caught.value)
        assert "HF_TOKEN" in caught.value.hint

    def test_a_hub_that_is_away(self, send):
        with pytest.raises(HubUnavailableError, match="does not answer: "):
            send(endpoint="http://127.0.0.1:9")

    def test_a_client_that_stays_offline(self, send, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UploadError, match="stay offline"):
            send()

    def test_no_key_to_the_store_is_logged(self, hub, send, caplog):
        caplog.set_level(logging.INFO)
        send()
        assert any(SIGNATURE in asked for asked in hub.asked)
        assert SIGNATURE not in caplog.text
        assert logging.getLogger("httpx2").level == logging.NOTSET


def test_the_token_is_huggingface_hubs_own(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UploadError, match="there is no token"):
        find_token()
    (tmp_path / "token").write_text("hf_of_the_file\n")
    assert find_token() == "hf_of_the_file"
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    assert find_token() == "hf_of_the_environment"


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "-/x"])
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(UploadError, match="is no id on the hub"):
        check_repo_id(name, "REPO_ID")


@pytest.mark.slow
class TestCommand:
    @pytest.fixture
    def run(self, hub, tmp_path, monkeypatch):
        """`finetune-cli upload`, as a person runs it; gives what it said and what it logged."""
        monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))

        def run(*arguments, **environment):
            online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
            online |= {"HF_TOKEN": TOKEN, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
            done = subprocess.run(
                [sys.executable, "-m", "finetune_service.cli", "upload", *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, **online, **environment},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=120,
            )
            written = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
            assert any(path.name == "finetune.log" for path in written)
            seen = [done.stdout, done.stderr, *(path.read_text("latin-1") for path in written)]
            for secret in (TOKEN, SIGNATURE, "hf_wrong"):
                assert not any(secret in text for text in seen)
            return done

        return run

    def test_a_registered_version_goes_to_the_hub(self, run, hub, here, package):
        registry = open_hub("acme")
        new = NewVersion("orders", "candidate", "lora", {}, "")
        registry.register(registry.start_run("r", {}), package, new)
        there = ("orders@candidate", "acme/orders", "--organization", "acme")
        done = run(*there, "--base-model", "acme/base", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        report = json.loads(done.stdout)
        assert report["url"] == f"{hub.url}/acme/orders"
        assert report["files"] == sorted(hub.files("acme/orders"))
        for name, content in hub.files("acme/orders").items():
            assert str(here).encode() not in content, name
        refused = run(*there, "--base-model", "acme/base", HF_TOKEN="hf_wrong")
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: acme/orders: the hub does not know the token")

    def test_an_adapter_goes_as_a_whole_model(self, run, hub, here, package, base, tmp_path):
        done = run(package, "acme/merged", "--merge-adapter", "-b", "acme/base", "--token", TOKEN)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"uploaded  {hub.url}/acme/merged, merged model, commit ")
        fetched = tmp_path / "fetched"
        fetched.mkdir()
        for name, content in hub.files("acme/merged").items():
            assert str(here).encode() not in content, name
            (fetched / name).write_bytes(content)
        front = (fetched / "README.md").read_text().split("---\n")[1]
        assert yaml.safe_load(front) == {"library_name": "transformers", "base_model": "acme/base"}
        merged = AutoModelForCausalLM.from_pretrained(fetched)
        expected = AutoModelForCausalLM.from_pretrained(base)
        assert merged.num_parameters() == expected.num_parameters()

    def test_what_is_wrong_is_said_before_anything_is_done(self, run, hub, package, base):
        for arguments, words in (
            ((package, "acme/x"), "which only this machine has"),
            ((package, "a b c"), "REPO_ID 'a b c' is no id on the hub"),
            ((base, "acme/x", "--merge-adapter"), "holds no adapter"),
        ):
            done = run(*arguments)
            assert done.returncode == 2
            assert words in done.stderr
            assert "Traceback" not in done.stderr
        assert hub.asked == []
