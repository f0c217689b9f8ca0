"""The project's images: built, kept by their content, pushed to the instance's registry.

    references = images.ensure(Cluster.load(), ["operator", "inference-cpu"])
    references["operator"]   # registry.testbed:5000/sluice/operator:<key>, for a pod's `image:`

Nothing is built or pushed twice: the tag is a key over everything that goes into an image.
"""

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import addons, base, buildah, netns, scratch
from testbed.cluster import Cluster
from testbed.errors import ClusterError
from testbed.progress import Progress

REPOSITORY = Path(__file__).resolve().parent.parent
_MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json"
# The registry is on this machine, whatever proxy the environment names for the world.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Image:
    """One image: its Dockerfile, the target in it, and what its content follows from.

    Paths are relative to the repository.
    """

    name: str
    dockerfile: str
    requirements: str
    source: str
    target: str = ""


IMAGES: dict[str, Image] = {
    each.name: each
    for each in (
        Image("operator", "Dockerfile.operator", "requirements/operator.txt", "operator/sluice"),
        Image(
            "inference-cpu",
            "Dockerfile.inference",
            "requirements/inference-cpu.txt",
            "inference/sluice_inference",
            "cpu",
        ),
        Image(
            "inference-gpu",
            "Dockerfile.inference",
            "requirements/inference-gpu.txt",
            "inference/sluice_inference",
            "gpu",
        ),
    )
}


def find(names: Sequence[str]) -> list[Image]:
    """The images of that name."""
    unknown = [name for name in names if name not in IMAGES]
    if unknown:
        raise ClusterError(f"no image {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    return [IMAGES[name] for name in names]


def key_of(image: Image, repository: Path, base_image: str) -> str:
    """16 hex digits over everything that ``image`` is made of, and the base it stands on."""
    digest = hashlib.sha256(f"{image.target}\0{base_image}\0".encode())
    for path in _inputs(image, repository):
        digest.update(f"{path.relative_to(repository)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def ensure(
    cluster: Cluster, names: Sequence[str], progress: Progress | None = None
) -> dict[str, str]:
    """Build what is missing of the images ``names`` and push it; the reference for pods by name."""
    progress = progress or Progress()
    if cluster.tier != "node":
        raise ClusterError(
            f"testbed {cluster.name!r} has no node to load images into: "
            f"run `python -m testbed up --tier node --name {cluster.name}` as root"
        )
    host = f"127.0.0.1:{cluster.forward('registry', netns.BRIDGE_ADDRESS, 5000)}"
    references = {}
    for image in find(names):
        path = f"sluice/{image.name}"
        key = key_of(image, REPOSITORY, base.reference())
        if not _is_pushed(host, path, key):
            key = _build_and_push(image, host, path, progress)
        references[image.name] = f"{addons.REGISTRY}/{path}:{key}"
    return references


def _build_and_push(image: Image, host: str, path: str, progress: Progress) -> str:
    """Build where the storage lacks it, push, and say the key of what was really built."""
    with (
        buildah.locked(image.name),
        # Built from a copy, so that an edit during the build can't end up under another key.
        scratch.make_scratch(buildah.folder(), f"context-{image.name}") as context,
    ):
        for file in _inputs(image, REPOSITORY):
            copy = context / file.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        key = key_of(image, context, base.reference())
        local = _build(image, key, context, progress)
        if not _is_pushed(host, path, key):
            with progress.step(f"push {image.name}"):
                # Packed as little as possible: it is unpacked on this very machine again.
                packing = ["--compression-format=zstd", "--compression-level=1"]
                target = f"docker://{host}/{path}:{key}"
                buildah.run("push", "--quiet", "--tls-verify=false", *packing, local, target)
    return key


def _build(image: Image, key: str, context: Path, progress: Progress) -> str:
    """Build ``image`` from ``context`` where the storage lacks it; its name there."""
    local = f"localhost/sluice-{image.name}:{key}"
    if buildah.is_there(local):
        return local
    base_image = base.ensure(progress)
    log = buildah.folder() / "logs" / f"{image.name}.log"
    with progress.step(f"build image {image.name}"):
        buildah.run(
            "build",
            "--isolation=chroot",
            "--layers",
            "--pull-never",
            "--timestamp=0",
            f"--build-arg=BASE={base_image}",
            f"--build-arg=REVISION={key}",
            f"--file={context / image.dockerfile}",
            *([f"--target={image.target}"] if image.target else []),
            *buildah.registry_access(),
            f"--tag={local}",
            str(context),
            log=log,
        )
    return local


def _inputs(image: Image, repository: Path) -> list[Path]:
    """The files that go into ``image``, in a fixed order, without what Python left beside them."""
    named = [image.dockerfile, image.requirements, ".dockerignore", "LICENSE"]
    folder = repository / image.source
    if not folder.is_dir():
        raise ClusterError(f"{folder}: the package that goes into the image is not there")
    sources = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.suffix not in (".pyc", ".pyo")
    )
    return [*(repository / each for each in named), *sources]


def _is_pushed(host: str, path: str, key: str) -> bool:
    request = urllib.request.Request(
        f"http://{host}/v2/{path}/manifests/{key}",
        headers={"Accept": _MANIFEST_TYPES},
        method="HEAD",
    )
    try:
        with _DIRECT.open(request, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise ClusterError(
            f"the registry answers {error.code} for {path}:{key}; "
            "its log is in the folder that `python -m testbed doctor` names"
        ) from error
