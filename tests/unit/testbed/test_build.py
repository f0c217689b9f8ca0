"""What a cached program's key depends on, and that versions are written down consistently."""

import re
from dataclasses import replace

import pytest

from testbed import build, versions
from testbed.errors import ClusterError
from testbed.progress import Progress

KWOK = build.COMPONENTS["kwok"]


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder of one local module, in place of testbed/go."""
    monkeypatch.setattr(build, "GO_SOURCES", tmp_path)
    folder = tmp_path / "tool"
    folder.mkdir()
    for name in ("main.go", "go.mod", "go.sum", "README"):
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    ("change", "go"),
    [
        pytest.param({"version": "9.9.9"}, "go1", id="another version of the module"),
        pytest.param({"stamps": (("main.version", "x"),)}, "go1", id="another linker flag"),
        pytest.param({"package": "example.org/other"}, "go1", id="another package"),
        pytest.param({}, "go2", id="another Go"),
    ],
)
def test_a_new_key_for(change, go):
    assert build.key_of(replace(KWOK, **change), go) != build.key_of(KWOK, "go1")


@pytest.mark.parametrize(
    ("name", "matters"), [("main.go", True), ("go.mod", True), ("go.sum", True), ("README", False)]
)
def test_an_own_module_is_built_anew_when_its_sources_change(sources, name, matters):
    tool = build.Component("tool", "local")
    before = build.key_of(tool, "go1")
    (sources / name).write_text("changed")
    assert (build.key_of(tool, "go1") != before) is matters


def test_the_same_inputs_give_the_same_place_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = build.path_of(KWOK, "go1")
    assert path == build.path_of(KWOK, "go1")
    assert path.is_relative_to(tmp_path / "sluice" / "testbed")


@pytest.mark.parametrize(
    ("module", "requirement", "version"),
    [
        ("kubernetes", "k8s.io/kubernetes", versions.KUBERNETES),
        ("etcd", "go.etcd.io/etcd/server/v3", versions.ETCD),
    ],
)
def test_go_mod_names_the_version_that_versions_does(module, requirement, version):
    text = (build.GO_SOURCES / module / "go.mod").read_text()
    assert re.search(
        rf"^\s*(?:require )?{re.escape(requirement)} v{re.escape(version)}$", text, re.M
    )


def test_every_replaced_staging_module_has_the_kubernetes_minor_and_patch():
    text = (build.GO_SOURCES / "kubernetes" / "go.mod").read_text()
    replaced = re.findall(r"^\s*(?:replace )?k8s\.io/\S+ => k8s\.io/\S+ v0\.(\S+)$", text, re.M)
    assert len(replaced) >= 30
    assert set(replaced) == {versions.KUBERNETES.removeprefix("1.")}


def test_a_clone_of_another_user_builds():
    """Without the flag Go asks git, which refuses to speak of a stranger's work tree."""
    assert "-buildvcs=false" in build.flags_of(KWOK)


def test_linking_offers_every_name_of_a_multi_call_binary(tmp_path):
    program = tmp_path / "kubernetes"
    program.write_text("")
    build.link({"kubernetes": program}, tmp_path)
    build.link({"kubernetes": program}, tmp_path)
    assert (tmp_path / "kubectl").resolve() == program
    assert (tmp_path / "kube-apiserver").resolve() == program


@pytest.mark.parametrize(
    ("component", "change"),
    [
        pytest.param("envoy", {"version": "9.9.9"}, id="another version of the wheel"),
        pytest.param("envoy", {"wheel": "other"}, id="another file of the wheel"),
        pytest.param("gateway-api", {"manifests": "other"}, id="another folder of the module"),
    ],
)
def test_what_is_fetched_has_a_new_key_for(component, change):
    fetched = build.COMPONENTS[component]
    assert build.key_of(replace(fetched, **change), "go1") != build.key_of(fetched, "go1")


def test_what_is_fetched_is_not_fetched_again_for_another_go():
    assert len({build.key_of(build.COMPONENTS["envoy"], go) for go in ("go1", "go2")}) == 1


def test_manifests_are_no_program(tmp_path):
    file = tmp_path / "kinds"
    file.write_text("")
    folder = tmp_path / "bin"
    folder.mkdir()
    build.link({"gateway-api": file}, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "is_enough"),
    [
        ("go1.26.6", True),
        ("go1.26.8", True),
        ("go1.27rc1", True),
        ("go2.0", True),
        ("go1.26.5", False),
        ("go1.26", False),
        ("go1.9.9", False),
        ("devel +abc", False),
    ],
)
def test_a_go_that_is_new_enough(version, is_enough):
    assert build.is_new_enough(version) is is_enough


def test_an_unknown_component_is_refused_with_the_known_ones():
    with pytest.raises(ClusterError, match=r"no component nope; there are etcd"):
        build.ensure(["nope"], Progress())
