"""What an exception out of a model run means, and how few runs find the item at fault."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from sluice_inference.engine.backend import Output, Payload
from sluice_inference.engine.bisect import Shortage, Trouble, run_isolated
from sluice_inference.engine.faults import DeviceLostError, Fault, classify_fault
from sluice_inference.errors import RunError


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


class AcceleratorError(RuntimeError):
    """As torch names what a device raises."""


def make_library_error(module: str, text: str) -> Exception:
    """An exception that no builtin class is a base of, as ONNX Runtime's are."""
    return type("Fail", (Exception,), {"__module__": module})(text)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        pytest.param(ValueError("bad shape"), Fault.INPUT, id="some input"),
        pytest.param(ValueError("CUDA error: a client's words"), Fault.INPUT, id="quoted words"),
        pytest.param(RuntimeError("size mismatch"), Fault.INPUT, id="torch: shapes"),
        pytest.param(
            RuntimeError("CUDA error: device-side assert"), Fault.DEVICE, id="torch: CUDA"
        ),
        pytest.param(AcceleratorError("unknown"), Fault.DEVICE, id="torch: accelerator"),
        pytest.param(OutOfMemoryError("tried 2 GiB"), Fault.MEMORY, id="torch: CUDA memory"),
        pytest.param(RuntimeError("CUDA error: out of memory"), Fault.MEMORY, id="driver: memory"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            Fault.MEMORY,
            id="torch: RAM",
        ),
        pytest.param(MemoryError(), Fault.MEMORY, id="Python"),
        pytest.param(
            make_library_error("onnxruntime.capi", "Failed to allocate memory"),
            Fault.MEMORY,
            id="ONNX Runtime: memory",
        ),
        pytest.param(
            make_library_error("onnxruntime.capi", "CUDA failure 700"),
            Fault.DEVICE,
            id="ONNX Runtime: CUDA",
        ),
        pytest.param(make_library_error("tokenizers", "CUDA failure"), Fault.INPUT, id="tokenizer"),
    ],
)
def test_faults_are_told_apart(error: Exception, fault: Fault) -> None:
    assert classify_fault(error) is fault


@pytest.mark.parametrize(
    ("payloads", "bad", "runs"),
    [
        pytest.param("abcdefgh", "", 1, id="one run when all is well"),
        pytest.param("abcdefgh", "c", 7, id="one culprit is found in few runs"),
        pytest.param("ab", "ab", 3, id="all are bad"),
        pytest.param("a", "a", 1, id="alone and bad"),
    ],
)
def test_a_bad_item_spoils_only_itself(payloads: str, bad: str, runs: int) -> None:
    calls: list[str] = []

    def run(batch: Sequence[Payload]) -> list[Output | RunError]:
        calls.append("".join(str(one) for one in batch))
        if set(bad) & set(calls[-1]):
            raise ValueError("poison")
        return [Output(None, None) for _ in batch]

    trouble = Trouble()
    outcomes = run_isolated(run, list(payloads), trouble)
    failed = "".join(
        name for name, one in zip(payloads, outcomes, strict=True) if isinstance(one, RunError)
    )
    assert (failed, len(calls), trouble.extra_runs) == (bad, runs, runs - 1)


@pytest.mark.parametrize(
    ("room", "sizes", "smallest"),
    [
        pytest.param(8, [8], 0, id="there is room"),
        pytest.param(4, [8, 4, 4], 8, id="for half"),
        pytest.param(2, [8, 4, 2, 2, 4, 2, 2], 4, id="for a quarter"),
    ],
)
def test_what_has_no_room_is_run_in_parts(room: int, sizes: list[int], smallest: int) -> None:
    ran: list[int] = []

    def run(batch: Sequence[Payload]) -> list[Output | RunError]:
        ran.append(len(batch))
        if len(batch) > room:
            raise MemoryError
        return [Output(None, None) for _ in batch]

    trouble = Trouble()
    assert len(run_isolated(run, list("abcdefgh"), trouble)) == 8
    assert (ran, trouble.too_large) == (sizes, smallest)


@pytest.mark.parametrize(
    ("error", "runs"),
    [
        pytest.param(RuntimeError("CUDA error"), 1, id="a device that is gone is not asked again"),
        pytest.param(MemoryError(), 8, id="no memory for three single items in a row"),
    ],
)
def test_nothing_runs_on_a_lost_device(error: Exception, runs: int) -> None:
    ran: list[int] = []

    def run(batch: Sequence[Payload]) -> list[Output | RunError]:
        ran.append(len(batch))
        raise error

    with pytest.raises(DeviceLostError):
        run_isolated(run, list("abcdefgh"))
    assert len(ran) == runs


@pytest.mark.parametrize(
    ("script", "outcomes"),
    [
        pytest.param("A", "x", id="one too large"),
        pytest.param("AA", "xx", id="two in a row"),
        pytest.param("AAA", "xx!", id="three in a row"),
        pytest.param("AAaAA", "xx.xx", id="one went well between"),
        pytest.param("AAbA", "xxx!", id="what failed for itself did not go well"),
    ],
)
def test_an_item_without_memory_fails_alone_until_three_do_in_a_row(
    script: str, outcomes: str
) -> None:
    def run(batch: Sequence[Payload]) -> list[Output | RunError]:
        if "A" in batch:
            raise MemoryError
        if "b" in batch:
            raise ValueError("poison")
        return [Output(None, None) for _ in batch]

    shortage, said = Shortage(), ""
    for name in script:
        trouble = Trouble()
        try:
            (outcome,) = run_isolated(run, [name], trouble, shortage)
        except DeviceLostError:
            said += "!"
        else:
            said += "x" if isinstance(outcome, RunError) else "."
        assert (trouble.out_of_memory, trouble.too_large) == (int(name == "A"), 0)
    assert said == outcomes


def test_items_that_are_too_large_do_not_end_the_device_however_many_they_are() -> None:
    def run(batch: Sequence[Payload]) -> list[Output | RunError]:
        if len(str(batch[0])) > 2:
            raise MemoryError
        return [Output(None, None) for _ in batch]

    shortage = Shortage(shrink=lambda payload: str(payload)[:2])
    for _ in range(10):
        (outcome,) = run_isolated(run, ["large"], Trouble(), shortage)
        assert isinstance(outcome, RunError)


@pytest.mark.parametrize(
    ("small", "lost"),
    [
        pytest.param(MemoryError(), True, id="no memory for it either"),
        pytest.param(RuntimeError("CUDA error"), True, id="the device is gone"),
        pytest.param(ValueError("too small"), False, id="it had the room to refuse it"),
    ],
)
def test_after_three_without_memory_a_small_item_decides(small: Exception, lost: bool) -> None:
    def run(batch: Sequence[Payload]) -> list[Output | RunError]:
        raise small if batch == ["la"] else MemoryError()

    shortage = Shortage(shrink=lambda payload: str(payload)[:2])
    for _ in range(2):
        run_isolated(run, ["large"], Trouble(), shortage)
    with pytest.raises(DeviceLostError) if lost else nullcontext():
        run_isolated(run, ["large"], Trouble(), shortage)
