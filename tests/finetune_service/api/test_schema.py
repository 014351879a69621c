"""The API's own page, taken at its word: schemathesis makes requests of it, good and bad ones.

What fails is printed as a curl command. The requests are the same in every run.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from urllib.parse import quote

import httpx
import openai
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from schemathesis import Case, GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from finetune_service.files import FileStore, Uploads
from finetune_service.jobs.creation import KEY
from tests.conftest import ROOT
from tests.finetune_service.api.seeded import STEP, finished_job
from tests.finetune_service.api.server import Server
from tests.finetune_service.api.stack import Stack

ORGANIZATIONS = ("acme", "other")
SEED = 5
FEW, MANY = 6, 60  # the examples that are drawn for each operation
AT_LEAST = 2000
# Fields whose values must be of something that is there, or go with each other, or are whole
# numbers, for which a schema also takes 1.0.
MEANING = (
    "after", "part_ids", "md5", "project_ids", "config.", "hyperparameters.", "method", "lora_",
    "seed", KEY,
)  # fmt: skip

FAILURES = (AssertionError, FailureGroup, Flaky)  # of a check, of several, of one now and then
load_all_checks()
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.allow_header_conformance,
]


class Service:
    """The served API, those who ask it, and what they may ask of."""

    def __init__(self, stack: Stack, server: Server) -> None:
        self.stack, self.server = stack, server
        self.clients = {each: server.client(each, max_retries=0) for each in ORGANIZATIONS}
        # A key of each organisation in turn; now and then a wrong one, or none.
        keys = [client.api_key for client in self.clients.values()]
        self.callers = [*keys * 6, "sk-ft-nobody", None]
        self.session = requests.Session()
        self.answers: Counter[int] = Counter()
        self.operations: Counter[str] = Counter()
        self.known = {each: self._fill(each, client) for each, client in self.clients.items()}

    def _fill(self, organization: str, client: openai.OpenAI) -> dict[str, list[str]]:
        home = self.stack.home
        data = ROOT / "examples" / "data" / "validation.jsonl"
        files = FileStore(home)
        training = client.files.create(file=data, purpose="fine-tune").id
        jobs = [
            client.fine_tuning.jobs.create(model="tiny", training_file=training).id
            for _ in range(3)
        ]
        client.fine_tuning.jobs.cancel(jobs[1])
        client.post(f"/fine_tuning/jobs/{jobs[2]}/pause", cast_to=object)
        ended = [finished_job(home, organization, status) for status in ("succeeded", "failed")]
        model = ended[0].fine_tuned_model
        return {
            "training_file": [training],
            "file_id": [training, self.new_file(organization)],
            "upload_id": [Uploads(files, 1000).create(
                organization, filename="a", purpose="user_data", size=1000
            ).id],
            "job_id": [*jobs, *(each.id for each in ended), "orders"],
            "model": ["tiny", model],
            "checkpoint": [f"{model}:ckpt-step-{STEP}"],
        }  # fmt: skip

    def new_file(self, organization: str) -> str:
        files = FileStore(self.stack.home)
        with files.incoming(organization) as incoming:
            incoming.write(b"x")
            return files.add(organization, incoming, filename="a.txt", purpose="user_data").id

    def ask(self, case: Case) -> Response:
        """Sends a request, mostly about what there is; who asks is told by the request itself."""
        number = zlib.crc32(case.as_curl_command().encode("utf-8", "surrogatepass"))
        secret = self.callers[number % len(self.callers)]
        known = self.known[ORGANIZATIONS[number // 7 % 2]]  # one's own, or the other's
        if number % 4:
            for name in case.path_parameters or {}:
                if ids := known.get(name):
                    each = ids[number % len(ids)]
                    case.path_parameters[name] = quote(each, safe="")
        good = case.meta.generation.mode.is_positive
        if good and isinstance(case.body, dict) and "training_file" in case.body:
            there = {"training_file": known["training_file"][0], "validation_file": None}
            case.body |= {"model": "tiny", **there}
        if good and case.headers and KEY in case.headers:
            case.headers[KEY] = str(number)
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        answer = case.call(
            base_url=self.server.url, session=self.session, headers=headers, timeout=60
        )
        self.answers[answer.status_code] += 1
        self.operations[case.operation.label] += 1
        return answer

    def summary(self) -> str:
        said = ", ".join(f"{count:,} of {status}" for status, count in sorted(self.answers.items()))
        count = self.answers.total()
        return f"{len(self.operations)} operations, {count:,} examples: {said}"


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Stack:
    return Stack(tmp_path_factory.mktemp("schema"))


@pytest.fixture(scope="module")
def service(stack) -> Iterator[Service]:
    with ExitStack() as parts:
        parts.enter_context(stack.prefect())
        deploy(stack.prefect_url)
        server = parts.enter_context(stack.api(FINETUNE_RATE_LIMIT="1000000/second"))
        yield Service(stack, server)


def deploy(prefect: str) -> None:
    """Makes a deployment whose runs nobody starts."""
    with httpx.Client(base_url=prefect) as client:

        def make(path: str, **fields: str) -> str:
            while (answer := client.post(path, json=fields)).status_code == 503:
                """On SQLite, Prefect answers so while it writes something else."""
            made: str = answer.raise_for_status().json()["id"]
            return made

        make("/work_pools/", name="cpu", type="process")
        flow = make("/flows/", name="finetune")
        make("/deployments/", name="cpu", flow_id=flow, work_pool_name="cpu")


def judge(case: Case, service: Service) -> None:
    """Whether an answer is within the contract, and what the page says."""
    answer = service.ask(case)
    try:
        case.validate_response(answer, checks=CHECKS)
        # A model's id may have slashes in it, so what is behind it may be a part of it.
        if not case.operation.path.startswith("/v1/models/{model}/"):
            case.validate_response(answer, checks=[checks.unsupported_method])
        if not depends_on_the_store(answer):
            case.validate_response(answer, checks=[checks.positive_data_acceptance])
        within_contract(answer)
    except FAILURES as error:
        request = case.as_curl_command(headers=dict(answer.request.headers))
        error.add_note(f"{request}\n{answer.status_code} {answer.text[:500]}")
        raise


def depends_on_the_store(answer: Response) -> bool:
    """Whether something is refused for what no schema can say."""
    if answer.status_code == 413:
        return True
    return answer.status_code == 400 and str(answer.json()["error"]["param"]).startswith(MEANING)


def within_contract(answer: Response) -> None:
    """Whether what holds for every answer holds."""
    headers = {name.lower(): each for name, each in answer.headers.items()}
    assert headers["x-request-id"][0].startswith("req_")
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        (error,) = answer.json().values()
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


def drawn(operation: APIOperation, service: Service, examples: int) -> None:
    """Draws requests of an operation, good ones and bad ones, and shrinks what fails."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*(operation.as_strategy(mode) for mode in GenerationMode)))
    def asked(case: Case) -> None:
        judge(case, service)

    asked()


def covered(operation: APIOperation, service: Service) -> Iterator[Callable[[], None]]:
    """Each limit of each field, each thing left out, each type wrong, each other method."""
    for case in operation.schema.iter_coverage_cases(
        operation,
        generation_modes=list(GenerationMode),
        generation_config=operation.schema.config.generation,
    ):
        yield lambda case=case: judge(case, service)


def exercise(service: Service, examples: int, *, cover: bool = False) -> None:
    """Asks for every operation of the page, and tells of all that fail."""
    schema = schemathesis.openapi.from_url(f"{service.server.url}/openapi.json")
    schema.config.seed = SEED
    schema.config.generation.update(with_security_parameters=False, allow_x00=False)
    service.answers.clear()
    service.operations.clear()
    wrong: list[str] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        tests: Iterable[Callable[[], None]] = [partial(drawn, operation, service, examples)]
        for test in chain(tests, covered(operation, service) if cover else ()):
            try:
                test()
            except FAILURES as error:
                wrong += [f"{operation.label}: {each}" for each in causes(error)]
    print(f"\nschemathesis: {service.summary()}")  # noqa: T201
    assert not wrong, "\n\n".join(dict.fromkeys(wrong))


def causes(error: BaseException) -> list[str]:
    """What is wrong, however deep it lies, each with its request."""
    if inside := getattr(error, "exceptions", ()):
        notes = getattr(error, "__notes__", [])
        return ["\n".join([each, *notes]) for inner in inside for each in causes(inner)]
    return ["\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])]


def test_a_few_requests_of_every_operation(service, capsys):
    with capsys.disabled():
        exercise(service, FEW)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_requests_of_every_operation(service, capsys):
    with capsys.disabled():
        exercise(service, MANY, cover=True)
    assert service.answers.total() >= AT_LEAST
