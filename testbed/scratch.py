"""Folders for half-made things, and the end of what killed runs left.  Knows nothing of what is made."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def make_scratch(folder: Path, name: str) -> Iterator[Path]:
    """A folder in ``folder``, gone afterwards; gone before as well are older ones of that ``name``.

    Only while holding a lock that stands for ``name``: an older one is then a killed run's.  The
    folder may be moved away meanwhile.
    """
    for left in sorted(folder.glob(f"{name}.*")):
        if not is_mounted_below(left, Path("/proc/self/mountinfo").read_text()):
            shutil.rmtree(left)
    path = Path(tempfile.mkdtemp(dir=folder, prefix=f"{name}."))
    try:
        yield path
    finally:
        if path.exists():
            shutil.rmtree(path)


def is_mounted_below(folder: Path, mountinfo: str) -> bool:
    """Whether something is mounted in ``folder``, which then is not ours alone to remove."""
    points = (line.split()[4] for line in mountinfo.splitlines())
    return any(Path(point).is_relative_to(folder) for point in points)
