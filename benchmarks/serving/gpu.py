"""How busy the first GPU was while a server was measured, as its driver tells it. Nothing without one."""

from __future__ import annotations

import shutil
import subprocess
from statistics import fmean

_QUERY = "--query-gpu=name,utilization.gpu,memory.used"


class GpuWatch:
    """Asks nvidia-smi every 200 ms between `start` and `stop`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        program = shutil.which("nvidia-smi")
        if program is None:
            return
        self._process = subprocess.Popen(
            [program, "-i", "0", _QUERY, "--format=csv,noheader,nounits", "-lms", "200"],
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> dict[str, float | str] | None:
        """Name, mean utilization in percent and greatest memory in MB; None without a GPU."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.terminate()
        output, _ = process.communicate()
        return summarize(output)


def summarize(output: str) -> dict[str, float | str] | None:
    """From lines of "NAME, PERCENT, MB"; None where there is none. A line cut off is left out."""
    rows = [[part.strip() for part in line.split(",")] for line in output.splitlines()]
    rows = [row for row in rows if len(row) == 3 and row[1].isdecimal() and row[2].isdecimal()]
    if not rows:
        return None
    return {
        "name": rows[0][0],
        "busy_pct": round(fmean(int(row[1]) for row in rows), 1),
        "memory_mb": max(int(row[2]) for row in rows),
    }
