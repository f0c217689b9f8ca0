"""What the driver reports about a GPU, with NVML's documented answers through a double of its binding."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

import pytest

from sluice_inference.engine.gpu_health import start_watch
from sluice_inference.metrics import Metrics


@dataclass
class Event:
    eventType: int  # noqa: N815 - as the binding names it
    eventData: int  # noqa: N815


class NVMLError(Exception):
    """The binding's base."""


class NVMLTimeoutError(NVMLError):
    """No event within the time."""


class Nvml:
    """The part of `pynvml` that is used; events come from a list, then the watch loses its device."""

    nvmlEventTypeXidCriticalError = 8  # noqa: N815
    NVMLError = NVMLError
    NVMLError_Timeout = NVMLTimeoutError

    def __init__(self, events: list[Event | NVMLError], init: NVMLError | None = None) -> None:
        self._events: queue.SimpleQueue[Event | NVMLError] = queue.SimpleQueue()
        for event in events:
            self._events.put(event)
        self._init = init
        self.registered: list[tuple[str, int]] = []
        self.drained = threading.Event()

    def nvmlInit(self) -> None:  # noqa: N802
        if self._init:
            raise self._init

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        return "set"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"gpu{index}"

    def nvmlDeviceRegisterEvents(self, device: str, types: int, _: str) -> None:  # noqa: N802
        self.registered.append((device, types))

    def nvmlEventSetWait_v2(self, _set: str, _ms: int) -> Event:  # noqa: N802
        if self._events.empty():
            self.drained.set()
            raise NVMLError("GPU is lost")
        event = self._events.get()
        if isinstance(event, NVMLError):
            raise event
        return event


@pytest.mark.parametrize(
    ("events", "problem", "counted"),
    [
        pytest.param([NVMLTimeoutError()], "", {}, id="silence"),
        pytest.param([NVMLTimeoutError(), Event(8, 79)], "Xid 79", {"79": 1}, id="off the bus"),
        pytest.param([Event(8, 31)], "", {"31": 1}, id="a process's own fault"),
        pytest.param([Event(8, 48), Event(8, 13)], "Xid 48", {"48": 1, "13": 1}, id="first counts"),
        pytest.param([Event(1, 48)], "", {}, id="an event of another type"),
    ],
)
def test_errors_of_the_device_make_it_unhealthy(
    events: list[Event | NVMLError], problem: str, counted: dict[str, int]
) -> None:
    metrics, nvml = Metrics(), Nvml(events)
    watch = start_watch(nvml, metrics)
    assert watch is not None
    assert nvml.drained.wait(10)
    assert problem in watch.problem
    assert bool(watch.problem) == bool(problem)
    for xid, count in counted.items():
        sample = metrics.registry.get_sample_value("sluice_inference_gpu_xid_total", {"xid": xid})
        assert sample == count
    assert nvml.registered == [("gpu0", 8), ("gpu1", 8)]
    watch.close()


def test_without_the_driver_nothing_is_watched() -> None:
    assert start_watch(Nvml([], init=NVMLError("Driver Not Loaded")), Metrics()) is None
