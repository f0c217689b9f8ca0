"""How often a JPEG goes over its picture: a decoder takes its time for each scan, however empty.

Pure functions over bytes; no image library.
"""

from __future__ import annotations

import re

from sluice_inference.imaging.sniff import FRAMES, MAX_SEGMENTS, make_corrupt

# A progressive JPEG has about 10. Of 40 megapixels, 64 that are next to empty take 3 s.
MAX_SCANS = 64
# Neither what stands for an FF in the data (00), nor what needs no data of its own (01, D0 to D7), nor fill.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_PIECE = 1 << 20


def check_scans(jpeg: bytes) -> None:
    """Raises RequestError 422 IMAGE_CORRUPT for more than `MAX_SCANS`, or for segments without number.

    Only where decoders go on after the first scan: the frame is progressive, or the scan has some of its
    components. Of all others nothing is read but the head.
    """
    scans, position = 0, 2
    frame, components = 0, 0
    for _ in range(MAX_SEGMENTS):
        at = _find_marker(jpeg, position)
        if at is None or at + 10 > len(jpeg):
            return
        marker = jpeg[at + 1]
        if marker == _END:
            return
        if marker in FRAMES:
            frame, components = marker, jpeg[at + 9]
        elif marker == _SCAN:
            if not scans and frame not in _PROGRESSIVE and jpeg[at + 4] == components:
                return
            scans += 1
            if scans > MAX_SCANS:
                raise make_corrupt(f"the JPEG has more than {MAX_SCANS} scans")
        length = 0 if marker == _START else int.from_bytes(jpeg[at + 2 : at + 4], "big")
        position = at + 2 + length
    raise make_corrupt(f"the JPEG has more than {MAX_SEGMENTS} segments")


def _find_marker(jpeg: bytes, start: int) -> int | None:
    # In pieces: one call would hold the interpreter's lock throughout a long scan.
    for begin in range(start, len(jpeg), _PIECE):
        if found := _MARKER.search(jpeg, begin, begin + _PIECE + 1):
            return found.start()
    return None
