"""The probe asks directly, whatever the environment says about proxies."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from testbed import probe


class Answer(BaseHTTPRequestHandler):
    """200 at /ok, 503 elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ok" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's word
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param("http://{}/ok", "", id="http that is well"),
        pytest.param("http://{}/", "status 503", id="http that is not"),
        pytest.param("tcp://{}", "", id="a port that accepts"),
        pytest.param("http://127.0.0.1:1/", "refused", id="a port that does not"),
    ],
)
def test_answer(server: str, url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    url = url.format(server)
    answer = probe.answer(url, probe.make_opener(url))
    assert says in answer
    assert bool(says) == bool(answer)
