"""What an exception out of a model run means: a bad item, too little memory, or a device that is gone.

Decides by type and text, so that it needs neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import enum

# After one of these every later call on the device fails until the process is another one.
_DEVICE_SIGNS = (
    "cuda error",
    "cuda failure",
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "ecc error",
    "cublas_status_execution_failed",
    "cudnn_status_execution_failed",
)
_MEMORY_SIGNS = ("out of memory", "allocate memory", "bad_alloc", "bad allocation")
_LIBRARIES = ("torch", "onnxruntime")


class Fault(enum.Enum):
    """What to do about a failed run."""

    INPUT = "input"  # one of the items: find it, answer the others
    MEMORY = "memory"  # run fewer at once
    DEVICE = "device"  # nothing will run any more in this process


class DeviceLostError(Exception):
    """The device can't run anything any more; only another process can."""


def classify_fault(error: Exception) -> Fault:
    """Which of the three it is.

    The text of an error that isn't a runtime library's is not looked at: a tokenizer may quote the
    client's words in it, and no client's words may end the process.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Fault.MEMORY
    if not (isinstance(error, RuntimeError) or type(error).__module__.startswith(_LIBRARIES)):
        return Fault.INPUT
    text = str(error).lower()
    if any(sign in text for sign in _MEMORY_SIGNS):
        return Fault.MEMORY
    if type(error).__name__ == "AcceleratorError" or any(sign in text for sign in _DEVICE_SIGNS):
        return Fault.DEVICE
    return Fault.INPUT
