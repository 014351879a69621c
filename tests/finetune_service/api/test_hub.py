"""/hub over both kinds of registry, and where MLflow is away."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest

from finetune_core.config import Settings
from finetune_core.config.sections import ModelConfig
from finetune_core.hub.bases import register_by_hand
from finetune_core.hub.mlflow_hub import MlflowHub
from finetune_core.hub.ports import NewVersion
from tests.finetune_service.api.mlflow_server import ADMIN, workspaces_server
from tests.finetune_service.api.server import served
from tests.integration.conftest import free_port
from tests.waiting import until

METHODS = [
    ("GET", "/hub/models"),
    ("GET", "/hub/models/m"),
    ("DELETE", "/hub/models/m"),
    ("GET", "/hub/adapters"),
    ("GET", "/hub/adapters/m"),
    ("DELETE", "/hub/adapters/m"),
    ("GET", "/hub/tree"),
    ("GET", "/hub/compare?first=a&second=b"),
    ("GET", "/hub/history/m"),
    ("POST", "/hub/rollback/m"),
    ("POST", "/hub/versions/m@1/promote"),
    ("POST", "/hub/versions/m@1/undelete"),
    ("DELETE", "/hub/versions/m@1"),
    ("GET", "/hub/versions/m@1/card"),
    ("GET", "/hub/versions/m@1/verification"),
    ("GET", "/hub/versions/m@1/content"),
]


@pytest.fixture(scope="module", params=["workspaces", "local"])
def place(request, tmp_path_factory):
    """An API, and the settings with which a worker finds the same registry."""
    if request.param == "workspaces":
        api = request.getfixturevalue("tracked")
        yield (
            api,
            Settings(home=api.home, MLFLOW_TRACKING_URI=api.mlflow, mlflow_workspaces=True),
        )
        return
    home = tmp_path_factory.mktemp("local") / "home"
    home.mkdir()
    with served(home) as api:
        yield api, Settings(home=home)


@pytest.fixture
def organization(place, request):
    """One a test, so that lists begin empty."""
    number = sum(map(ord, request.node.name))
    return f"org-{number}-{len(request.node.name)}"


@pytest.fixture
def ask(place, organization):
    api, _ = place
    headers = {"Authorization": f"Bearer {api.key(organization)}"}
    with httpx.Client(base_url=f"{api.url}/v1/hub", headers=headers, timeout=60) as client:
        client.get("/models").raise_for_status()
        yield client


@pytest.fixture
def register(place, organization, ask, tmp_path):
    """Registers as a worker does: with the organisation's own user, where there is one."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    hub = MlflowHub(place[1], organization)

    def register(name, kind="adapter", alias="candidate", **more):
        run = hub.start_run(name, {})
        hub.log_params(
            run,
            {
                "dataset.path": "/somewhere/orders.jsonl",
                "dataset.source": "local_file",
                "training.lora_rank": 16,
                "training.method": "lora",
                "training.target_modules": ["q", "v"],
                "training.seed": None,
            },
        )
        tags = {"base_model": "acme/tiny", f"{kind}_digest": "0" * 64, **more}
        return hub.register(run, tmp_path / "adapter", NewVersion(name, alias, "lora", tags, ""))

    return register


def test_an_adapter_is_listed_with_its_base_data_and_parameters(ask, register):
    register("orders")
    page = ask.get("/adapters").json()
    assert page["data"] == [
        {
            "id": "orders@1",
            "object": "hub.adapter",
            "model_id": "acme/tiny",
            "dataset": "orders.jsonl",
            "created_at": pytest.approx(time.time(), abs=60),
            "parameters": {
                "lora_rank": 16,
                "method": "lora",
                "target_modules": ["q", "v"],
                "seed": None,
            },
            "ref": "orders@1",
            "aliases": ["candidate"],
        }
    ]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "orders@1", "orders@1")
    for name in ("orders", "orders@1", "orders@candidate"):
        assert ask.get(f"/adapters/{name}").json() == page["data"][0]
        assert ask.get(f"/models/{name}").status_code == 404


def test_models_are_whole_ones_and_bases(ask, register):
    register("orders")
    register("whole", kind="model")
    models = ask.get("/models").json()["data"]
    assert [(each["id"], each["type"], each["origin"]) for each in models] == [
        ("whole@1", "fine-tuned", "local"),
        ("acme/tiny", "base", "remote"),
    ]
    assert ask.get("/models/whole").json() == models[0]
    assert ask.get("/models/acme/tiny").json() == models[1]
    assert ask.get("/models/acme%2Ftiny").json() == models[1]
    assert ask.get("/adapters/whole").status_code == 404
    refused = ask.delete("/models/acme/tiny?force=true")
    assert refused.status_code == 409


def test_pages_follow_each_other(ask, register):
    for _ in range(3):
        register("orders")
    first = ask.get("/adapters?limit=2").json()
    assert [each["id"] for each in first["data"]] == ["orders@3", "orders@2"]
    assert first["has_more"]
    rest = ask.get("/adapters", params={"after": first["last_id"]}).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (["orders@1"], False)
    wrong = ask.get("/adapters?after=nobody-s@1")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")
    assert ask.get("/models?after=nobody-s@1").status_code == 400
    assert ask.get("/adapters?limit=0").status_code == 400


def test_what_an_alias_points_to_is_deleted_only_by_force(ask, register):
    register("orders")
    register("orders")
    refused = ask.delete("/adapters/orders@2")
    assert refused.status_code == 409
    assert refused.headers["x-should-retry"] == "false"
    assert "candidate" in refused.json()["error"]["message"]
    assert ask.delete("/adapters/orders").status_code == 409
    gone = ask.delete("/adapters/orders@1")
    assert gone.json() == {"id": "orders@1", "object": "hub.adapter", "deleted": True}
    assert ask.get("/adapters/orders@1").status_code == 404
    assert ask.delete("/adapters/orders@1").status_code == 404
    assert ask.delete("/adapters/orders@2?force=true").status_code == 200
    assert ask.get("/adapters").json()["data"] == []
    assert register("orders").ref == "orders@3"
    assert ask.delete("/adapters/orders?force=true").status_code == 200
    assert ask.get("/adapters/orders").status_code == 404


def test_nothing_of_theirs_is_there(place, ask, register):
    register("orders")
    api, _ = place
    stranger = {"Authorization": f"Bearer {api.key('stranger')}"}
    for kind in ("models", "adapters"):
        url = f"{api.url}/hub/{kind}"
        assert httpx.get(url, headers=stranger, timeout=60).json()["data"] == []
        for name in ("orders", "orders@1", "orders@candidate", "acme/tiny"):
            for method in ("GET", "DELETE"):
                answer = httpx.request(method, f"{url}/{name}", headers=stranger, timeout=60)
                assert answer.status_code == 404
                assert answer.json()["error"]["message"] == f"there is no {kind[:-1]} {name}"
    assert ask.get("/adapters/orders").status_code == 200


@pytest.mark.parametrize("name", ["..", "a@", "@", "%00", "a" * 3000, "a'b", 'a"b', "%ff", "a@b@c"])
def test_no_name_breaks_it(ask, name):
    for kind in ("models", "adapters"):
        for method in ("GET", "DELETE"):
            answer = ask.request(method, f"/{kind}/{name}")
            assert answer.status_code in (404, 405) or name == "..", answer.text


@pytest.fixture
def silent():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def hold():
            while True:
                try:
                    held.append(server.accept())
                except OSError:
                    return

        threading.Thread(target=hold, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection, _ in held:
            connection.close()


@pytest.mark.parametrize("kind", ["dead", pytest.param("silent", marks=pytest.mark.slow)])
def test_it_answers_503_at_once_where_mlflow_is_away(tmp_path, silent, kind):
    (tmp_path / "home").mkdir()
    url = silent if kind == "silent" else "http://127.0.0.1:9"
    with served(
        tmp_path / "home", MLFLOW_TRACKING_URI=url, FINETUNE_MLFLOW_WORKSPACES="true"
    ) as api:
        headers = {"Authorization": f"Bearer {api.key('acme')}"}
        for method, path in METHODS:
            start = time.monotonic()
            answer = httpx.request(method, f"{api.url}/v1{path}", headers=headers, timeout=60)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert time.monotonic() - start < 10
        start = time.monotonic()
        answer = httpx.get(f"{api.url}/mlflow/version", headers=headers, timeout=60)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert time.monotonic() - start < 20


def test_a_workspace_is_made_by_itself_once_mlflow_is_there(tmp_path):
    """The organisation is made while MLflow is away, and nobody asks for it afterwards."""
    (tmp_path / "home").mkdir()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = Settings(home=tmp_path / "home", MLFLOW_TRACKING_URI=url, mlflow_workspaces=True)
    environment = {"MLFLOW_TRACKING_URI": url, "FINETUNE_MLFLOW_WORKSPACES": "true", **ADMIN}
    with served(tmp_path / "home", **environment) as api:
        api.organizations.create("late")
        with workspaces_server(tmp_path / "mlflow", port):

            def works():
                try:
                    return MlflowHub(settings, "late").start_run("r", {})
                except Exception:
                    return None

            until(works, "no workspace was made")


def test_champions_are_made_by_hand_rolled_back_and_remembered(ask, register):
    register("orders")
    register("orders")
    promoted = ask.post("/versions/orders@1/promote").json()
    assert (promoted["object"], promoted["ref"]) == ("hub.version", "orders@1")
    assert promoted["aliases"] == ["champion"]
    assert ask.post("/versions/orders@2/promote").json()["aliases"] == ["candidate", "champion"]
    assert ask.post("/rollback/orders").json()["ref"] == "orders@1"
    history = ask.get("/history/orders").json()["data"]
    assert [(each["ref"], each["what"]) for each in history] == [
        ("orders@2", "was rolled back to orders@1"),
        ("orders@1", "became champion: rolled back"),
        ("orders@2", "became champion: by hand"),
        ("orders@1", "became champion: by hand"),
    ]
    assert ask.get("/adapters/orders@champion").json()["ref"] == "orders@1"


def test_without_a_former_champion_nothing_is_rolled_back(ask, register):
    register("orders")
    assert ask.post("/rollback/orders").status_code == 400
    assert ask.post("/rollback/nobody").status_code == 404


def test_what_is_deleted_is_hidden_brought_back_and_at_last_forgotten(ask, register):
    register("orders")
    assert ask.delete("/adapters/orders@1").status_code == 409
    assert ask.delete("/versions/orders@1").status_code == 409  # it is not even deleted
    assert ask.delete("/adapters/orders@1", params={"force": True}).status_code == 200
    assert ask.get("/adapters").json()["data"] == []
    assert ask.get("/adapters/orders@1").status_code == 404
    assert ask.post("/versions/orders@1/promote").status_code == 404
    assert ask.post("/versions/orders@1/undelete").json()["aliases"] == []
    assert ask.get("/adapters/orders@1").status_code == 200
    assert ask.delete("/adapters/orders@1").status_code == 200
    assert ask.delete("/versions/orders@1").json()["purged"]
    assert ask.post("/versions/orders@1/undelete").status_code == 404
    assert register("orders").version == 2  # a number is not used twice


def test_the_tree_is_of_bases_and_what_was_made_of_them(ask, register):
    register("orders")
    register("songs", kind="model")
    (base,) = ask.get("/tree").json()["data"]
    assert base["name"] == "acme/tiny"
    (group,) = base["children"]
    assert {(each["name"], each["kind"]) for each in group["children"]} == {
        ("orders@1 (candidate)", "adapter"),
        ("songs@1 (candidate)", "model"),
    }


def test_what_has_no_card_can_be_neither_shown_nor_verified(ask, register):
    register("orders")
    assert ask.get("/versions/orders@1/card").status_code == 409
    assert ask.get("/versions/orders@1/verification").status_code == 409
    assert ask.get("/versions/nobody@1/card").status_code == 404


def test_a_base_is_registered_pointed_to_and_deleted_last(
    ask, register, place, organization, tiny_base, tmp_path
):
    hub, model = MlflowHub(place[1], organization), ModelConfig(name=str(tiny_base))
    base = register_by_hand(hub, model, tmp_path / "base")
    adapter = register("orders", base_model=str(tiny_base), base_ref=base.ref)
    (listed,) = ask.get("/models").json()["data"]
    assert (listed["type"], listed["ref"], listed["aliases"]) == ("base", base.ref, [])
    assert ask.get(f"/models/{base.ref}").json() == listed
    assert ask.get(f"/adapters/{base.ref}").status_code == 404
    assert [each["ref"] for each in ask.get("/adapters").json()["data"]] == [adapter.ref]
    (node,) = ask.get("/tree").json()["data"]
    assert node["name"] == f"{tiny_base} ({base.ref})"
    found = ask.get(f"/versions/{base.ref}/verification").json()
    assert {each["state"] for each in found["findings"]} == {"ok"}
    assert ask.get(f"/versions/{base.ref}/content").status_code == 200
    assert ask.get(f"/versions/{base.ref}/card").status_code == 409
    assert ask.post(f"/versions/{base.ref}/promote").status_code == 409
    refused = ask.delete(f"/models/{base.ref}?force=true")
    assert refused.status_code == 409
    assert "is the base of orders@1" in refused.json()["error"]["message"]
    assert ask.delete("/adapters/orders?force=true").status_code == 200
    assert ask.delete(f"/models/{base.ref}").status_code == 200
    assert ask.get("/models").json()["data"] == []
