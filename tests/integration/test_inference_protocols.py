"""The real clients of other protocols, and a fuzzer with our OpenAPI document, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.test_inference_drain import find_port, make_jpeg, start_server
from tests.integration.test_inference_faults import end

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "protocol_clients.txt"
CLIENTS = ROOT / "build" / "protocol-clients"
BIN = Path(sys.executable).parent
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def client_python() -> Path:
    """The Python of the clients' own environment, made where it is missing or of other versions."""
    python, stamp = CLIENTS / "bin" / "python", CLIENTS / "installed"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(CLIENTS, ignore_errors=True)
        uv = [str(BIN / "uv"), "--quiet"]
        subprocess.run([*uv, "venv", "--python", sys.executable, str(CLIENTS)], check=True)
        install = ("pip", "install", "--python", str(python), "-r", str(REQUIREMENTS))
        subprocess.run([*uv, *install], check=True)
        stamp.write_text(wanted)
    return python


@asynccontextmanager
async def serving(folder: Path, **env: str) -> AsyncIterator[str]:
    """The URL of a real server with the test double."""
    port = find_port()
    names = {"MODEL_NAME": "pizza", "MODEL_VERSION": "1.0.0"}
    process = await start_server(port, folder / "log", DRAIN_LINGER_S="0", **names, **env)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        assert await end(process) == 0


async def run(*command: str, **env: str) -> str:
    """What a command wrote; fails with it where the command does."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()[-8000:]
    return out.decode()


async def test_the_real_clients_get_what_they_ask_for(tmp_path: Path, client_python: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(make_jpeg())
    async with serving(tmp_path) as url:
        out = await run(str(client_python), str(HERE / "protocol_clients.py"), url, str(image))
    found: dict[str, Any] = json.loads(out)
    openai, triton, kserve = found["openai"], found["triton"], found["kserve"]

    text, picture = openai["embeddings"]
    assert (openai["models"], openai["model"], openai["tokens"]) == (["pizza"], "pizza", 0)
    assert np.allclose(openai["plain"], text)
    invalid = [400, "body_invalid", "invalid_request_error"]
    assert openai["refusals"] == {
        "model": [404, "model_not_found", "invalid_request_error"],
        "tokens": invalid,
        "url": invalid,
        "dimensions": invalid,
    }

    said = [triton[key] for key in ("live", "ready", "model_ready", "version_ready", "other_ready")]
    assert said == [True, True, True, True, False]
    assert (triton["inputs"], triton["id"]) == (["IMAGE", "TEXT"], "mine")
    assert triton["extensions"] == ["binary_tensor_data", "classification"]
    assert np.allclose(triton["image_embeds"], [picture, picture])
    assert np.allclose(triton["text_embeds"], [text])
    assert triton["labels"] == ["fake", "fake"]
    assert [one.split(":")[1:] for one in triton["best"]] == [["0", "fake"]] * 2
    assert np.allclose(np.sum(triton["probs"], axis=1), 1)
    assert triton["refusal"].startswith("[404] MODEL_NOT_FOUND: ")

    assert (kserve["live"], kserve["ready"]) == (True, True)
    assert (kserve["model_ready"], kserve["other_ready"]) == ([True, True], "False")
    assert "BODY_INVALID" in kserve["refusal"]
    first, second = kserve["predictions"]
    assert first["label"] == "fake"
    assert np.allclose(first["embedding"], picture)
    assert np.allclose(second["embedding"], text)
    assert kserve["id"] == "mine"
    assert np.allclose(kserve["tensors"]["image_embeds"], [picture])
    assert np.allclose(kserve["tensors"]["text_embeds"], [text])


async def test_no_request_that_the_document_allows_or_forbids_is_a_500(tmp_path: Path) -> None:
    """/api is left out: those are the same handlers once more."""
    async with serving(tmp_path) as url:
        await run(
            str(BIN / "schemathesis"),
            "run",
            f"{url}/openapi.json",
            *("--checks", ",".join(CHECKS)),
            *("--phases", "coverage,fuzzing"),
            *("--max-examples", "10"),
            *("--exclude-path-regex", "^/api/"),
            "--no-color",
        )
