import io
import json
import logging

from sluice.runtime.logs import configure_logs

logger = logging.getLogger("sluice.test")


def write_lines(form: str) -> list[str]:
    stream = io.StringIO()
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    try:
        configure_logs("info", form, stream)  # type: ignore[arg-type]
        logger.debug("not shown")
        logger.info("moved", extra={"key": "Thing n/a", "weight": 5})
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("failed")
        logging.getLogger("kopf.objects").info("chatter")
    finally:
        root.handlers[:] = kept
        root.setLevel(level)
    return stream.getvalue().splitlines()


def test_json_is_one_object_a_line() -> None:
    moved, failed = (json.loads(line) for line in write_lines("json"))
    assert (moved["level"], moved["message"]) == ("info", "moved")
    assert (moved["key"], moved["weight"]) == ("Thing n/a", 5)
    assert "ValueError: broken" in failed["exception"]


def test_text_is_for_reading() -> None:
    moved, failed, *trace = write_lines("text")
    assert moved.endswith(' INFO moved key="Thing n/a" weight=5')
    assert failed.endswith(" ERRO failed")
    assert trace[-1] == "ValueError: broken"
