"""What the gateway's image follows from, and what its objects say."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from testbed import gateway, imagearchive, stateroot
from testbed.__main__ import main
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.progress import Progress

IMAGE = "registry.testbed:5000/testbed/gateway:1"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Small programs in a cache of their own, and a library that Envoy needs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = tmp_path / "libc.so"
    library.write_text("library")
    monkeypatch.setattr(imagearchive, "find_libraries", lambda program: [library])
    return {name: make_program(tmp_path, name, "1") for name in ("envoy", "envoy-gateway")}


def make_program(folder: Path, name: str, key: str) -> Path:
    path = folder / f"{name}-{key}" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
    return path


def test_the_image_is_made_once(programs: dict[str, Path]) -> None:
    said = io.StringIO()
    first = gateway.ensure_image(programs, Progress(said))
    assert "image of the gateway" in said.getvalue()
    silent = io.StringIO()
    assert gateway.ensure_image(programs, Progress(silent)) == first
    assert silent.getvalue() == ""
    assert gateway.reference_of(first).endswith(f":{first.stem}")


@pytest.mark.parametrize("what", ["envoy", "envoy-gateway", "library"])
def test_another_program_or_library_is_another_image(
    programs: dict[str, Path], tmp_path: Path, what: str
) -> None:
    said = Progress(io.StringIO())
    first = gateway.ensure_image(programs, said)
    if what == "library":
        (tmp_path / "libc.so").write_text("changed")
    else:
        programs[what] = make_program(tmp_path, what, "2")
    assert gateway.ensure_image(programs, said) != first


def find(kind: str) -> dict[str, Any]:
    (found,) = (each for each in gateway.make_objects(IMAGE) if each["kind"] == kind)
    return found


def test_routes_of_every_namespace_may_attach() -> None:
    spec = find("Gateway")["spec"]
    assert spec["gatewayClassName"] == find("GatewayClass")["metadata"]["name"] == gateway.CLASS
    assert spec["listeners"] == [
        {
            "name": "http",
            "protocol": "HTTP",
            "port": 80,
            "allowedRoutes": {"namespaces": {"from": "All"}},
        }
    ]


def test_everything_runs_from_the_one_image_and_asks_no_registry() -> None:
    (controller,) = find("Deployment")["spec"]["template"]["spec"]["containers"]
    envoy = find("EnvoyProxy")["spec"]["provider"]["kubernetes"]
    settings = yaml.safe_load(gateway.make_settings(IMAGE)["data"]["envoy-gateway.yaml"])
    assert controller["image"] == IMAGE
    assert controller["imagePullPolicy"] == "IfNotPresent"
    assert envoy["envoyDeployment"]["container"]["image"] == IMAGE
    assert envoy["envoyService"]["type"] == "ClusterIP"
    assert settings["provider"]["kubernetes"]["shutdownManager"]["image"] == IMAGE


@pytest.mark.parametrize("name", ["envoy", "shutdown-manager"])
def test_a_slow_envoy_stays_in_its_service(name: str) -> None:
    """Envoy Gateway's own probes take Envoy out after one answer that was later than a second."""
    deployment = find("EnvoyProxy")["spec"]["provider"]["kubernetes"]["envoyDeployment"]
    containers = deployment["patch"]["value"]["spec"]["template"]["spec"]["containers"]
    (container,) = (each for each in containers if each["name"] == name)
    for probe, seconds in (("readinessProbe", 30), ("livenessProbe", 60)):
        settings = container[probe]
        assert settings["timeoutSeconds"] >= 5
        assert settings["periodSeconds"] * settings["failureThreshold"] >= seconds


def test_envoy_and_its_controller_have_cpu_time_of_their_own() -> None:
    deployment = find("EnvoyProxy")["spec"]["provider"]["kubernetes"]["envoyDeployment"]
    (controller,) = find("Deployment")["spec"]["template"]["spec"]["containers"]
    assert deployment["container"]["resources"]["requests"]["cpu"] == "500m"
    assert controller["resources"]["requests"]["cpu"] == "100m"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(stateroot, "path_of", lambda user: tmp_path / "state")
    cluster = Cluster("unit")
    cluster.prepare()
    return cluster


def test_a_gateway_that_is_not_programmed_is_waited_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [{"type": "IPAddress", "value": "10.96.0.80"}]
    statuses: list[dict[str, Any]] = [
        {},
        {"conditions": [{"type": "Accepted", "status": "True"}], "addresses": addresses},
        {"conditions": [{"type": "Programmed", "status": "False"}], "addresses": addresses},
        {"conditions": [{"type": "Programmed", "status": "True"}]},
        *[{"conditions": [{"type": "Programmed", "status": "True"}], "addresses": addresses}] * 2,
    ]
    codes = ["000", "503", "404"]
    offered: list[tuple[str, int]] = []
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(
        cluster,
        "kubectl",
        lambda *words: SimpleNamespace(stdout=json.dumps({"status": statuses.pop(0)})),
    )
    monkeypatch.setattr(cluster, "run_inside", lambda words: SimpleNamespace(stdout=codes.pop(0)))
    monkeypatch.setattr(cluster, "offer_gateway", lambda *to: offered.append(to))
    gateway.wait(cluster)
    assert (statuses, codes, offered) == ([], [], [("10.96.0.80", 80)])


def test_an_instance_without_a_gateway_says_what_to_do(cluster: Cluster) -> None:
    for ask in (cluster.gateway_address, cluster.gateway_port):
        with pytest.raises(ClusterError, match=r"no gateway: run .* up --tier node --name unit"):
            ask()


@pytest.fixture
def offered(cluster: Cluster) -> Cluster:
    cluster.remember("forwards", {"gateway": {"to": "10.96.0.80:80", "port": 4711}})
    cluster.remember("tier", "node")
    return cluster


def test_an_offered_gateway_is_found_on_both_sides(offered: Cluster) -> None:
    assert offered.gateway_address() == ("10.96.0.80", 80)
    assert offered.gateway_port() == 4711


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("env", "export TESTBED_GATEWAY=http://127.0.0.1:4711\n"),
        ("doctor", "gateway: http://127.0.0.1:4711 here, http://10.96.0.80:80 inside; "),
    ],
)
def test_commands_say_where_the_gateway_is(
    offered: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    says: str,
) -> None:
    monkeypatch.setenv("TESTBED", "local")
    assert main([command, "--name", offered.name]) == 0
    assert says in capsys.readouterr().out
