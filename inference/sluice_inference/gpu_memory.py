"""How much of the GPUs' memory is in use, by NVML. Nothing where there is no GPU or no library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def find_gpu_memory() -> Callable[[], float] | None:
    """A function that gives the bytes in use on all visible GPUs, by all processes; None without one."""
    try:
        import pynvml
    except ImportError:
        return None
    return make_meter(pynvml)


def make_meter(nvml: Any) -> Callable[[], float] | None:
    """`find_gpu_memory` on the given NVML binding."""
    try:
        nvml.nvmlInit()
        devices = [
            nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        ]
        if not devices:
            return None
        _measure(nvml, devices)
    except nvml.NVMLError:
        return None

    def measure() -> float:
        try:
            return _measure(nvml, devices)
        except nvml.NVMLError:
            return float("nan")  # a device that is lost; whoever watches it says so

    return measure


def _measure(nvml: Any, devices: list[Any]) -> float:
    return float(sum(nvml.nvmlDeviceGetMemoryInfo(device).used for device in devices))
