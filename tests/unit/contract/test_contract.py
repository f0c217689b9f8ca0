"""docs/contract.md is true of both images: what it lists is what the operator writes and the server reads."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sluice import labels, pods
from sluice.analysis.agreement import AGREED, DISAGREED, IGNORED
from sluice.api.inferenceservice import InferenceService
from sluice.api.modelversion import ModelVersion
from sluice.resources.comparer import make_comparer
from sluice.resources.metadata import Owner
from sluice.resources.pod import make_pod_template
from sluice.resources.revision import make_inputs
from sluice.resources.route import Split, make_route
from sluice.world import Trouble
from sluice_inference.__main__ import _make_parser
from sluice_inference.artifact.credentials import read_access
from sluice_inference.artifact.errors import PERMANENT, REASONS
from sluice_inference.compare.counts import Counts
from sluice_inference.compare.settings import read_compare_settings
from sluice_inference.errors import SettingsError
from sluice_inference.http.catalogue import Entry, Purpose
from sluice_inference.report import EXIT_OK, EXIT_PERMANENT, EXIT_TRY_AGAIN, make_report
from sluice_inference.settings import read_settings
from tests.builders import inference_service, model_version
from tests.serving import Recorder, serve

ROOT = Path(__file__).parents[3]
CONTRACT = (ROOT / "docs" / "contract.md").read_text()


def section(title: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    level, found = title.partition(" ")[0], CONTRACT.partition(f"\n{title}\n")[2]
    assert found, f"docs/contract.md has no heading {title!r}"
    return re.split(rf"\n#{{2,{len(level)}}} ", found)[0]


def rows(title: str, number: int = 0) -> list[list[str]]:
    """The cells of a table under a heading, the first unless told, its head left out."""
    tables = re.findall(r"(?:^\|.*\n)+", section(title) + "\n", re.MULTILINE)
    assert len(tables) > number, f"docs/contract.md: no table {number} under {title!r}"
    lines = tables[number].splitlines()[2:]
    assert lines, f"docs/contract.md: an empty table under {title!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    """A rendered pod of a version that says everything a version can say."""
    version = model_version().obj()
    version["spec"]["artifact"]["credentialsSecretRef"] = {"name": "registry"}
    version["spec"]["embedding"] = {"space": "pizza-1", "dimension": 64}
    version["spec"]["tasks"] = ["Classification", "ImageEmbedding", "TextEmbedding"]
    inputs = make_inputs(
        InferenceService.parse(inference_service().obj()), ModelVersion.parse(version)
    )
    template = make_pod_template("pizza", "bcdfghjklm", inputs)
    found: dict[str, Any] = template["spec"]
    return found


def containers(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in (*spec["initContainers"], *spec["containers"])}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container["env"]}


def listed(container: str) -> set[str]:
    """The variables that the contract says a container gets."""
    return {
        name
        for variables, where, *_ in rows("### Environment")
        for name in names(variables)
        if where in (container, "both")
    }


@pytest.mark.parametrize("container", ["server", "fetch"])
def test_the_operator_sets_exactly_the_listed_variables(
    spec: dict[str, Any], container: str
) -> None:
    assert set(environment(containers(spec)[container])) == listed(container)


def test_the_server_reads_every_variable_it_is_given() -> None:
    env = Recorder()
    read_settings(env)
    assert listed("server") <= env.asked


def test_what_the_operator_sets_is_what_the_server_understands(spec: dict[str, Any]) -> None:
    given = environment(containers(spec)["server"])
    settings = read_settings(given)
    assert (settings.service, settings.revision, settings.role) == (
        "pizza",
        "bcdfghjklm",
        labels.PRIMARY,
    )
    assert settings.model.title == f"{given['MODEL_NAME']}/{given['MODEL_VERSION']}"
    assert ",".join(settings.model.tasks) == given["MODEL_TASKS"]
    assert (settings.model.embedding_space, settings.model.embedding_dimension) == ("pizza-1", 64)
    assert settings.process.port == containers(spec)["server"]["ports"][0]["containerPort"]


def test_fixed_values_are_the_listed_ones(spec: dict[str, Any]) -> None:
    given = environment(containers(spec)["server"])
    for variables, where, source, _ in rows("### Environment"):
        (name, *others), fixed = names(variables), re.fullmatch(r"`([^`]+)`", source)
        if fixed and not others and where == "server" and not fixed[1].startswith("spec."):
            assert given[name] == fixed[1]


def test_the_credentials_of_fetch_are_the_listed_ones() -> None:
    env = Recorder()
    read_access(env)
    credentials = {name for name in names(section("### Environment")) if "ARTIFACT_" in name}
    assert env.asked == credentials | {"ARTIFACT_PLAIN_HTTP"}
    assert "`ARTIFACT_PLAIN_HTTP=" in section("## URIs")


def test_the_command_lines_are_the_listed_ones_and_are_understood(spec: dict[str, Any]) -> None:
    for cell, command, _ in rows("## The pod"):
        container = containers(spec)[names(cell)[0]]
        words = names(command)[0].split()
        given = [*container["command"], *container["args"]]
        assert len(given) == len(words)
        for word, value in zip(words, given, strict=True):
            assert word in (value, "URI", "DIGEST")
        options = _make_parser().parse_args(given[1:])
        if "fetch" in words:
            assert options.uri == given[words.index("URI")]
            assert options.digest == given[words.index("DIGEST")]
            assert (options.mount, options.report) == (
                Path("/artifact"),
                Path("/dev/termination-log"),
            )


def test_the_labels_are_the_listed_ones() -> None:
    written = labels.revision_labels("s", "r", "m", "v") | {labels.FRONT: "true"}
    written |= labels.comparer_labels("s", "r") | labels.checker_labels("s", "r")
    table = rows("## Labels and annotations (written by the operator)")
    keys = {key for cell, *_ in table for key in names(cell)}
    assert keys == set(written)


TEXT = {"inputs": [{"text": "x"}]}
SAYS = section("## What `fetch` says")


def test_the_reasons_are_the_listed_ones() -> None:
    sentence = SAYS.partition("`reason` is one of ")[2].partition(" `permanent` is true")[0]
    assert {word for word in names(sentence) if re.fullmatch("[A-Z][A-Za-z]+", word)} == REASONS
    permanent = SAYS.partition("trying again can't help\n(")[2].partition(")")[0]
    assert set(permanent.split(", ")) == PERMANENT


def said_reasons() -> Iterator[str]:
    """Every reason written in the code that fetches: what ArtifactError and the report are given."""
    package = ROOT / "inference" / "sluice_inference"
    for path in (*sorted((package / "artifact").glob("*.py")), package / "__main__.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            given = [*node.args[:1]] if node.func.id == "ArtifactError" else []
            given += [word.value for word in node.keywords if word.arg == "reason"]
            for one in given:
                if isinstance(one, ast.Constant):
                    yield str(one.value)


def test_the_code_says_the_listed_reasons_and_no_other() -> None:
    assert set(said_reasons()) == REASONS | {"LoadFailed"}


def make_pod(container: str, report: str, code: int) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": code, "reason": "Error", "message": report}}
    key = "initContainerStatuses" if container == "fetch" else "containerStatuses"
    metadata = {"name": "p", "namespace": "n", "uid": "1"}
    return pods.project_pod(
        {"metadata": metadata, "status": {key: [{"name": container, "lastState": ended}]}}
    )


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_the_operator_reads_what_fetch_says(reason: str) -> None:
    permanent = reason in PERMANENT
    report = make_report("Failed", reason=reason, message="m " * 4000, permanent=permanent)
    pod = make_pod("fetch", report, EXIT_PERMANENT if permanent else EXIT_TRY_AGAIN)
    verdict, trouble = pods.read_verdict(pod), pods.find_trouble(pod)
    for found in (verdict, trouble):
        assert isinstance(found, Trouble)
        assert (found.reason, found.permanent) == (reason, permanent)


def test_the_operator_reads_that_an_artifact_is_verified() -> None:
    report = make_report("Verified", digest="sha256:1", files=6, bytes=1, seconds="1.2")
    assert pods.read_verdict(make_pod("fetch", report, EXIT_OK)) is True


def test_the_operator_reads_that_a_model_can_not_be_loaded() -> None:
    report = make_report("Failed", reason="LoadFailed", message="no", permanent=True)
    trouble = pods.find_trouble(make_pod("server", report, EXIT_PERMANENT))
    assert trouble is not None
    assert (trouble.reason, trouble.permanent) == ("LoadFailed", True)


def test_the_exit_codes_are_the_listed_ones() -> None:
    codes = f"{EXIT_OK} verified, {EXIT_PERMANENT} permanent, {EXIT_TRY_AGAIN} to be tried again"
    assert f"Exit code: {codes}" in SAYS


@asynccontextmanager
async def start(spec: dict[str, Any], **env: str) -> AsyncIterator[httpx.AsyncClient]:
    """The server with what the operator sets, the test double as its model, ready."""
    given = environment(containers(spec)["server"])
    small = {"BATCH_SIZE": "1", "QUEUE_MAX_ITEMS": "8", "BACKEND": "fake"}
    async with serve(**{**given, **small, **env}) as served, served.connect() as client:
        client.app = served.app  # type: ignore[attr-defined]
        yield client


def find_inference_paths(entries: Iterable[Entry]) -> set[str]:
    """The paths that rollouts are judged by; those by version are the same ones below a prefix."""
    paths = {one.path for one in entries if one.purpose is Purpose.INFERENCE}
    versioned = {path for path in paths if path.startswith("/api/")}
    ours = {path.split("/", 3)[3] for path in versioned}
    assert {f"/{path}" for path in ours} <= paths - versioned
    return paths - versioned


async def test_answers_carry_the_listed_headers(spec: dict[str, Any]) -> None:
    given = environment(containers(spec)["server"])
    async with start(spec) as client:
        answer = await client.post("/embed", json=TEXT)
        probes = {}
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = containers(spec)["server"][name]["httpGet"]["path"]
            probes[path] = (await client.get(path)).status_code
    assert answer.status_code == 200
    own = set(answer.headers) - {"content-type", "content-length"}
    listed = {name for cell, _ in rows("## Answers") for name in names(cell)}
    assert listed - own == {"sluice-cache", "sluice-fallback-reason"}, "these have their occasions"
    assert own <= listed
    assert answer.headers["sluice-revision"] == given["SLUICE_REVISION"]
    assert answer.headers["sluice-model"] == f"{given['MODEL_NAME']}/{given['MODEL_VERSION']}"
    assert answer.headers["sluice-embedding-space"] == given["EMBEDDING_SPACE"]
    assert probes == {"/ready": 200, "/health": 200}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/ready", 200),
        ("GET", "/status", 200),
        ("GET", "/metrics", 200),
        ("GET", "/metrics/rollout", 200),
        ("GET", "/embed", 405),
        ("GET", "/nothing", 404),
        ("POST", "/embed", 500),
    ],
)
async def test_every_answer_is_stamped(
    spec: dict[str, Any], method: str, path: str, status: int
) -> None:
    async with start(spec, FAKE_ERROR_PERCENT="100") as client:
        answer = await client.request(method, path, json=TEXT)
    assert answer.status_code == status
    assert {"sluice-revision", "sluice-model", "x-request-id"} <= set(answer.headers)


def read_families(text: str) -> dict[str, Metric]:
    """Metrics by the name the contract has: a counter's with its suffix."""
    return {
        f"{one.name}_total" if one.type == "counter" else one.name: one
        for one in text_string_to_metric_families(text)
    }


def check_families(text: str, title: str, table: int) -> dict[str, Metric]:
    """Hold a text to a table of metrics: names, types, labels."""
    families = read_families(text)
    listed_metrics = {names(metric)[0]: row for metric, *row in rows(title, table)}
    assert set(families) == set(listed_metrics)
    for name, (kind, labels_cell, _) in listed_metrics.items():
        assert families[name].type == kind
        given = {label for one in families[name].samples for label in one.labels} - {"le"}
        assert given == set(names(labels_cell))
    return families


async def test_the_samples_for_rollouts_are_the_listed_ones(spec: dict[str, Any]) -> None:
    title = "## Samples for rollouts"
    async with start(spec) as client:
        await client.post("/embed", json=TEXT)
        await client.post("/embed", json=TEXT, headers={"sluice-shadow": "true"})
        await client.post("/embed", content=b"{", headers={"content-type": "application/json"})
        answer = await client.get("/metrics/rollout")
        entries = client.app.catalogue.entries  # type: ignore[attr-defined]
    assert "less than 16 KiB" in section(title)
    assert len(answer.content) < 16 * 1024
    families = check_families(answer.text, title, 0)
    answers = {
        one.labels["outcome"]: one.value
        for one in families["sluice_inference_answers_total"].samples
    }
    assert set(answers) == {names(cell)[0] for cell, _ in rows(title, 1)}
    assert answers == {"ok": 1, "client_error": 1, "error": 0, "fallback": 0}
    bounds = [
        float(one.labels["le"])
        for one in families["sluice_inference_answer_seconds"].samples
        if "le" in one.labels
    ][:-1]
    told = re.search(r"(\d+) bounds from ([\d.]+) s to (\d+) s", section(title))
    assert told is not None
    assert (len(bounds), bounds[0], bounds[-1]) == (int(told[1]), float(told[2]), float(told[3]))
    assert max(high / low for low, high in itertools.pairwise(bounds)) <= 1.1
    assert find_inference_paths(entries) == {
        path for _, cell in rows(title, 2) for path in names(cell)
    }


async def test_the_server_counts_as_split_what_the_operators_route_marks_so(
    spec: dict[str, Any],
) -> None:
    service = InferenceService.parse(inference_service().traffic().obj())
    assert service.spec.traffic is not None
    split = Split(("bcdfghjklm", "nopqrstvwx"), mix={"bcdfghjklm": 90, "nopqrstvwx": 10})
    route = make_route(Owner("vision", "pizza", "uid"), service.spec.traffic, split)
    counted = []
    for rule in route["spec"]["rules"]:
        change = rule["filters"][0]["requestHeaderModifier"]
        said = {"sluice-split": "1", "sluice-shadow": "true"}  # by a client
        headers = {name: value for name, value in said.items() if name not in change["remove"]}
        headers |= {item["name"]: item["value"] for item in change["set"]}
        async with start(spec) as client:
            await client.post("/embed", json=TEXT, headers=headers)
            families = read_families((await client.get("/metrics/rollout")).text)
        (sample,) = families["sluice_inference_split_answers_total"].samples
        counted.append(sample.value)
    assert counted == [0, 0, 1]


def test_the_comparer_is_the_described_one() -> None:
    title = "## The comparer"
    assert _make_parser().parse_args(["compare"]).run.__name__ == "_compare"
    variables = {name for cell, *_ in rows(title) for name in names(cell)}
    env = Recorder()
    with pytest.raises(SettingsError) as caught:
        read_compare_settings(env)
    assert env.asked == variables
    required = {
        name for cell, default, _ in rows(title) if default == "required" for name in names(cell)
    }
    assert {problem.partition(":")[0] for problem in caught.value.problems} == required
    settings = read_compare_settings(dict.fromkeys(required, "http://pod"))
    told = {names(cell)[0]: default for cell, default, _ in rows(title)}
    assert settings.timeout_s == float(told["COMPARE_TIMEOUT_S"])
    assert settings.max_in_flight == int(told["COMPARE_MAX_IN_FLIGHT"])
    assert settings.max_body_bytes == int(told["COMPARE_MAX_BODY_MB"]) << 20
    assert settings.max_body_bytes_in_flight == int(told["COMPARE_MAX_BODY_MB_IN_FLIGHT"]) << 20
    assert settings.min_cosine == float(told["COMPARE_MIN_COSINE"])
    assert settings.process.port == read_settings({}).process.port


def test_the_comparer_understands_what_the_operator_sets(spec: dict[str, Any]) -> None:
    owner = Owner("vision", "pizza", "uid")
    pod = make_comparer(owner, "stable", "candidate", {"spec": spec})["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = environment(container)
    settings = read_compare_settings(given)
    assert (settings.stable_url, settings.candidate_url) == (
        "http://pizza-stable",
        "http://pizza-candidate",
    )
    assert settings.process.port == container["ports"][0]["containerPort"]
    assert settings.process.drain_timeout_s < pod["terminationGracePeriodSeconds"]
    listed_ones = section("## The comparer").partition("The operator runs one")[2]
    assert set(given) == {
        "COMPARE_STABLE_URL",
        "COMPARE_CANDIDATE_URL",
        "PORT",
        "NVIDIA_VISIBLE_DEVICES",
    }
    assert "with the two URLs and `PORT`" in listed_ones
    assert f"`NVIDIA_VISIBLE_DEVICES={given['NVIDIA_VISIBLE_DEVICES']}`" in listed_ones
    assert container["command"] == ["sluice-inference"]
    _make_parser().parse_args(container["args"])


def test_the_operator_counts_the_outcomes_that_count() -> None:
    table = rows("## The comparer", 2)
    counted = {names(cell)[0] for cell, _, is_counted in table if is_counted == "yes"}
    assert counted == {AGREED, *DISAGREED}
    assert {names(cell)[0] for cell, *_ in table} - counted == set(IGNORED)


def test_the_comparers_samples_are_the_listed_ones() -> None:
    text = Counts().render_rollout().decode()
    assert "less than 4 KiB" in section("## The comparer")
    assert len(text) < 4096
    families = check_families(text, "## The comparer", 1)
    outcomes = {one.labels["outcome"] for one in families["sluice_compare_answers_total"].samples}
    assert outcomes == {names(cell)[0] for cell, *_ in rows("## The comparer", 2)}
