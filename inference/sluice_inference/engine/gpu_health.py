"""What the GPU's driver reports of its own accord: critical errors by Xid, through NVML.

Watching is best effort. Without the library, without the right to ask, or on a slice of a GPU that has no
events, the server runs all the same: a device that fails also fails the model's runs.
"""

from __future__ import annotations

import threading
from typing import Any

from sluice_inference.logs import log
from sluice_inference.metrics import Metrics

# Errors of the device itself, after which no process can use it: NVIDIA's Xid catalogue. The others are
# some process's own fault (13, 31, 43, 45, 94); where it is ours, its runs fail and say so.
DEVICE_XIDS = {
    48: "memory error that can't be corrected",
    62: "halt of the power controller",
    64: "memory that could not be retired",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    95: "uncontained memory error",
    119: "GPU's own processor does not answer",
    120: "error of the GPU's own processor",
    140: "memory error that was not recovered",
}
_WAIT_MS = 1000


class GpuWatch:
    """Listens for events of every visible GPU, in a thread. `problem` is empty while all is well."""

    def __init__(self, nvml: Any, metrics: Metrics) -> None:
        self.problem = ""
        self._nvml = nvml
        self._metrics = metrics
        self._stopped = threading.Event()
        self._events = nvml.nvmlEventSetCreate()
        self._thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)

    def start(self) -> None:
        """Register and listen. Raises NVML's errors."""
        nvml = self._nvml
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            nvml.nvmlDeviceRegisterEvents(device, nvml.nvmlEventTypeXidCriticalError, self._events)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; the thread ends within a second."""
        self._stopped.set()

    def note(self, xid: int) -> None:
        """Take in one critical error."""
        self._metrics.gpu_xid_total.labels(str(xid)).inc()
        log("error", "the GPU reported an error", xid=xid)
        if what := DEVICE_XIDS.get(xid):
            self.problem = f"the GPU reported Xid {xid}: {what}"

    def _watch(self) -> None:
        nvml = self._nvml
        while not self._stopped.is_set():
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, _WAIT_MS)
            except nvml.NVMLError_Timeout:
                continue
            except nvml.NVMLError as error:
                log("warning", "the GPU is no longer watched", cause=str(error))
                return
            if event.eventType & nvml.nvmlEventTypeXidCriticalError:
                self.note(int(event.eventData))


def watch_gpus(metrics: Metrics) -> GpuWatch | None:
    """A running watch, or None where there is nothing to watch with."""
    try:
        import pynvml
    except ImportError:
        return None
    return start_watch(pynvml, metrics)


def start_watch(nvml: Any, metrics: Metrics) -> GpuWatch | None:
    """`watch_gpus` on the given NVML binding."""
    try:
        nvml.nvmlInit()
        watch = GpuWatch(nvml, metrics)
        watch.start()
    except nvml.NVMLError as error:
        log("info", "the GPU is not watched", cause=str(error))
        return None
    return watch
