"""Base models in the registry: by reference or copied, each once, and told from what is made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import transformers

from finetune_core.config import Settings
from finetune_core.config.sections import ModelConfig
from finetune_core.exceptions import ModelNotFoundError
from finetune_core.hub import promotion
from finetune_core.hub.bases import base_name, is_copied, made_of, register_base, register_by_hand
from finetune_core.hub.export import opened
from finetune_core.hub.lineage import trace_base
from finetune_core.hub.memory_hub import MemoryHub
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.hub.ports import DELETED, NewVersion
from finetune_core.hub.verification import verify
from finetune_core.models.source import digest_weights


@pytest.fixture(params=["memory", "mlflow"])
def hub(request, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return MemoryHub() if request.param == "memory" else MlflowHub(Settings(), "local")


@pytest.fixture
def base(tmp_path, tiny_base):
    """A base of one's own, which a test may change."""
    return shutil.copytree(tiny_base, tmp_path / "models" / "tiny")


@pytest.fixture
def register(hub, base, tmp_path):
    def register(name=base, *, copy=False, **fields):
        folder = tmp_path / f"files-{len(list(tmp_path.iterdir()))}"
        return register_by_hand(hub, ModelConfig(name=str(name), **fields), folder, copy=copy)

    return register


def change(base):
    """Another config, and so another base."""
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))


def facts(base):
    return trace_base(ModelConfig(name=str(base)))


def test_a_base_is_registered_by_reference(hub, register, base, tmp_path):
    version = register()
    assert (version.ref, version.aliases, version.is_base) == ("base.tiny@1", [], True)
    assert version.tags["base_model"] == str(base)
    assert version.tags["base_digest"] == digest_weights(ModelConfig(name=str(base)))
    assert "revision" not in version.tags
    assert not is_copied(version)
    folder = hub.download(version, tmp_path / "fetched")
    assert {each.name for each in folder.iterdir()} == {"base.json", "README.md"}
    said = json.loads((folder / "base.json").read_text())
    assert (said["name"], said["model_type"]) == (str(base), "llama")
    assert said["architectures"] == ["LlamaForCausalLM"]
    assert said["digest"] == version.tags["base_digest"]


def test_the_same_base_again_is_the_version_that_is_there(hub, register, base, tmp_path):
    first = register()
    assert register() == first
    of_a_job = hub.start_run("job", {})
    assert register_base(hub, of_a_job, facts(base), tmp_path / "of-a-job") == first
    assert not (tmp_path / "of-a-job").exists()  # nothing was written
    assert hub.versions("base.tiny") == [first]


def test_what_has_changed_is_a_new_version(hub, register, base):
    register()
    change(base)
    assert register().ref == "base.tiny@2"
    assert register(revision="v2").ref == "base.tiny@3"
    assert register(revision="v2").ref == "base.tiny@3"
    assert [each.version for each in hub.versions("base.tiny")] == [3, 2, 1]


def test_two_folders_of_one_name_are_two_versions(register, base, tmp_path):
    other = shutil.copytree(base, tmp_path / "others" / "tiny")
    assert (register().ref, register(other).ref) == ("base.tiny@1", "base.tiny@2")
    assert (register().ref, register(other).ref) == ("base.tiny@1", "base.tiny@2")


def test_who_came_second_takes_back_what_was_registered_at_once(hub, register, base, tmp_path):
    """As far as two jobs come that begin at once, the later of which is killed then."""
    first = register()
    job = hub.start_run("job", {})
    new = NewVersion(first.model_name, None, "base", dict(first.tags), "")
    assert hub.register(job, tmp_path / "models", new).ref == "base.tiny@2"
    bystander = hub.start_run("another", {})
    for run_id, left in ((bystander, [2, 1]), (job, [1])):
        assert register_base(hub, run_id, facts(base), tmp_path / "again").ref == first.ref
        assert [each.version for each in hub.versions("base.tiny")] == left


AT_ONCE = """
import sys
from pathlib import Path
from finetune_core.config import Settings
from finetune_core.config.sections import ModelConfig
from finetune_core.hub.bases import register_by_hand, register_base
from finetune_core.hub.lineage import trace_base
from finetune_core.hub.mlflow_hub import MlflowHub
hub = MlflowHub(Settings(), "local")
base = trace_base(ModelConfig(name=sys.argv[1]))
run_id = hub.start_run("job", {})
print("ready", flush=True)
sys.stdin.readline()
print(register_base(hub, run_id, base, Path(sys.argv[2])).ref, flush=True)
"""


def test_jobs_that_register_one_base_at_once_agree_on_it(tmp_path, tiny_base, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", AT_ONCE, str(tiny_base)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    jobs = [
        subprocess.Popen([*command, str(tmp_path / f"job-{each}")], text=True, **pipes)
        for each in range(3)
    ]
    for job in jobs:
        assert job.stdout.readline() == "ready\n"
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    ends = [job.communicate() for job in jobs]
    hub = MlflowHub(Settings(), "local")
    (kept,) = hub.versions("base.tiny_base")
    assert [out for out, _ in ends] == [f"{kept.ref}\n"] * 3, ends


class Killed(BaseException):
    """Ends a process in the middle."""


class Dying(MemoryHub):
    """Its process is killed when it comes to register, once."""

    alive = True

    def register(self, run_id, folder, new):
        if self.alive:
            raise Killed
        return super().register(run_id, folder, new)

    def end_run(self, run_id, status):
        if self.alive:
            raise Killed
        super().end_run(run_id, status)


def test_who_was_killed_goes_on_with_the_same_run(base, tmp_path):
    hub, model = Dying(), ModelConfig(name=str(base))
    with pytest.raises(Killed):
        register_by_hand(hub, model, tmp_path / "files")
    hub.alive = False
    assert register_by_hand(hub, model, tmp_path / "files").ref == "base.tiny@1"
    assert [run.status for run in hub.runs.values()] == ["FINISHED"]


def test_a_deleted_base_comes_back_when_it_is_used_again(hub, register):
    first = register()
    hub.tag(first, DELETED, "1")
    back = register()
    assert (back.ref, back.is_deleted) == (first.ref, False)
    (happened,) = promotion.history(hub, first.model_name)
    assert happened.what == "was undeleted: it is used again"


def test_a_copy_loads_and_answers_as_the_base_does(hub, register, base, tmp_path):
    reference, copy = register(), register(copy=True)
    assert (reference.ref, copy.ref) == ("base.tiny@1", "base.tiny@2")
    assert copy.tags["base_digest"] == reference.tags["base_digest"]
    assert (register(copy=True), register()) == (copy, reference)
    folder = hub.download(copy, tmp_path / "fetched")
    assert not any(each.is_symlink() for each in folder.iterdir())
    ids = torch.tensor([[1, 2, 3]])
    one, other = (
        transformers.AutoModelForCausalLM.from_pretrained(each)(ids).logits
        for each in (base, folder)
    )
    assert torch.equal(one, other)
    text = "Ein Brot, bitte."
    tokens = [transformers.AutoTokenizer.from_pretrained(each)(text) for each in (base, folder)]
    assert tokens[0].input_ids == tokens[1].input_ids


def test_a_copy_is_a_reference_too(register):
    copy = register(copy=True)
    assert register() == copy


def test_what_is_no_whole_model_is_refused(register, hub, base, tmp_path):
    for name in (tmp_path, "acme/nobody-s", tmp_path / "nowhere"):
        with pytest.raises(ModelNotFoundError):
            register(name)
    (base / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="holds no weights"):
        register()
    assert hub.versions() == []


def test_a_job_registers_a_base_that_is_gone_by_now(hub, base, tmp_path):
    known = facts(base)
    shutil.rmtree(base)
    version = register_base(hub, hub.start_run("job", {}), known, tmp_path / "files")
    assert version.tags["base_digest"] == known.digest
    with pytest.raises(ModelNotFoundError):
        register_base(hub, hub.start_run("job", {}), known, tmp_path / "copied", copy=True)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("examples/tiny_base", "base.tiny_base"),
        ("examples/tiny_base/", "base.tiny_base"),
        ("acme/Tiny-2.5", "base.acme--Tiny-2.5"),
        ("gpt2", "base.gpt2"),
        ("acme/größer & mehr", "base.acme--gr-er-mehr"),
        ("/nowhere/tiny", "base.--nowhere--tiny"),
        ("x" * 200, "base." + "x" * 123),
        ("", "base.main"),
    ],
)
def test_a_bases_name_is_one_that_a_registered_model_may_have(name, slug, tmp_path, monkeypatch):
    if not name:  # the folder that one is in
        (tmp_path / "main").mkdir()
        monkeypatch.chdir(tmp_path / "main")
    assert base_name(name) == slug
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", slug)


def states(verification):
    return {each.what: each.state for each in verification.findings}


def test_a_base_by_reference_is_verified_where_it_is(hub, register, base, tmp_path):
    version = register()
    package = hub.download(version, tmp_path / "fetched")
    found = verify(version, package)
    assert states(found) == dict.fromkeys(["base.json", "base model", "base tokenizer"], "ok")
    assert found.verified
    change(base)
    assert verify(version, package).faults == ["base model: changed"]
    (base / "model.safetensors").unlink()
    assert states(verify(version, package))["base model"] == "not here"
    shutil.rmtree(base)
    gone = verify(version, package)
    assert gone.verified
    assert set(states(gone).values()) == {"ok", "not here"}
    (package / "base.json").write_text((package / "base.json").read_text() + " ")
    assert verify(version, package).faults == ["base.json: changed"]


def test_a_copied_base_is_verified_by_its_copy(hub, register, base, tmp_path):
    version = register(copy=True)
    package = hub.download(version, tmp_path / "fetched")
    change(base)
    found = verify(version, package)
    assert found.verified
    assert states(found)["copied model"] == "ok"
    assert states(found)["base model"] == "not as it was then"
    weights = package / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[len(whole) // 2] ^= 1
    weights.write_bytes(whole)
    assert verify(version, package).faults == ["copied model: changed"]


def test_a_reference_alone_cannot_be_opened_as_a_model(tmp_path, monkeypatch, tiny_base):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    hub = MlflowHub(Settings(), "local")
    model = ModelConfig(name=str(tiny_base))
    reference = register_by_hand(hub, model, tmp_path / "one")
    copy = register_by_hand(hub, model, tmp_path / "other", copy=True)
    with (
        pytest.raises(ModelNotFoundError, match=r"base.tiny_base@1 is registered by reference"),
        opened(reference.ref, "local"),
    ):
        pass
    with opened(copy.ref, "local") as folder:
        assert (folder / "model.safetensors").is_file()


def test_what_points_to_a_base_is_found(hub, register, base, tmp_path):
    version = register()
    run_id = hub.start_run("job", {})
    tags = {"base_model": str(base), "adapter_digest": "0" * 64, "base_ref": version.ref}
    adapter = hub.register(run_id, tmp_path / "models", NewVersion("a", "x", "lora", tags, ""))
    assert not adapter.is_base
    assert made_of(version, hub.versions()) == [adapter]


HUB = """
import sys
from pathlib import Path
from finetune_core.config.sections import ModelConfig
from finetune_core.hub.bases import register_by_hand
from finetune_core.hub.memory_hub import MemoryHub
hub = MemoryHub()
for number, revision in enumerate((None, "main", sys.argv[1])):
    model = ModelConfig(name="acme/tiny", revision=revision)
    version = register_by_hand(hub, model, Path(sys.argv[2], str(number)))
    print(version.ref, version.tags["revision"])
copy = register_by_hand(hub, model, Path(sys.argv[2], "copy"), copy=True)
hub.download(copy, Path(sys.argv[2], "fetched"))
"""


def test_a_hubs_model_is_registered_by_its_commit(tmp_path, tiny_base):
    """From the cache that the hub's client keeps, as there is no hub here."""
    commit = "0123456789abcdef" * 2 + "01234567"
    cached = tmp_path / "hub" / "models--acme--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_base, cached / "snapshots" / commit)
    outcome = subprocess.run(
        [sys.executable, "-c", HUB, commit, str(tmp_path / "files")],
        env=os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert outcome.stdout == f"base.acme--tiny@1 {commit}\n" * 3, outcome.stderr
    fetched = ModelConfig(name=str(tmp_path / "files" / "fetched"))
    assert digest_weights(fetched) == digest_weights(ModelConfig(name=str(tiny_base)))
