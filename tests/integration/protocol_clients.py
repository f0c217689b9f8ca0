"""What the real clients of other protocols make of a server: run by their own Python, prints one JSON object.

    python protocol_clients.py http://127.0.0.1:8080 IMAGE_FILE

Imports nothing of this repository: it runs in build/protocol-clients.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

MODEL = "pizza"


def ask_openai(url: str, image: bytes) -> dict[str, Any]:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    uri = "data:image/jpeg;base64," + base64.b64encode(image).decode()
    packed = client.embeddings.create(model=MODEL, input=["olive", uri])  # asks for base64 itself
    plain = client.embeddings.create(model=MODEL, input="olive", encoding_format="float")
    refusals = {}
    for name, kind, ask in (
        ("model", openai.NotFoundError, {"model": "other", "input": "a"}),
        ("tokens", openai.BadRequestError, {"model": MODEL, "input": [1, 2]}),
        ("url", openai.BadRequestError, {"model": MODEL, "input": "http://127.0.0.1:1/cat.jpg"}),
        ("dimensions", openai.BadRequestError, {"model": MODEL, "input": "a", "dimensions": 3}),
    ):
        try:
            client.embeddings.create(**ask)  # type: ignore[call-overload]
        except kind as error:
            refusals[name] = [error.status_code, error.code, error.type]
    return {
        "models": [one.id for one in client.models.list()],
        "model": client.models.retrieve(MODEL).id,
        "embeddings": [one.embedding for one in packed.data],
        "plain": plain.data[0].embedding,
        "tokens": packed.usage.total_tokens,
        "refusals": refusals,
    }


def ask_triton(url: str, image: bytes) -> dict[str, Any]:
    import numpy as np
    from tritonclient import http
    from tritonclient.utils import InferenceServerException

    client = http.InferenceServerClient(url.removeprefix("http://"))
    images = http.InferInput("IMAGE", [2], "BYTES")
    images.set_data_from_numpy(np.array([image, image], dtype=object), binary_data=True)
    texts = http.InferInput("TEXT", [1], "BYTES")
    texts.set_data_from_numpy(np.array([b"olive"], dtype=object), binary_data=False)
    wanted = [
        http.InferRequestedOutput("image_embeds", binary_data=True),
        http.InferRequestedOutput("text_embeds", binary_data=False),
        http.InferRequestedOutput("labels", binary_data=True),
        http.InferRequestedOutput("probs", binary_data=True, class_count=1),
    ]
    result = client.infer(MODEL, [images, texts], outputs=wanted, request_id="mine")
    whole = client.infer(MODEL, [images])
    try:
        client.infer("other", [images])
        refusal = ""
    except InferenceServerException as error:
        refusal = str(error)
    metadata = client.get_model_metadata(MODEL)
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(MODEL),
        "version_ready": client.is_model_ready(MODEL, "1.0.0"),
        "other_ready": client.is_model_ready("other"),
        "extensions": client.get_server_metadata()["extensions"],
        "inputs": [one["name"] for one in metadata["inputs"]],
        "id": result.get_response()["id"],
        "image_embeds": result.as_numpy("image_embeds").tolist(),
        "text_embeds": result.as_numpy("text_embeds").tolist(),
        "labels": [one.decode() for one in result.as_numpy("labels")],
        "best": [one.decode() for one in result.as_numpy("probs").ravel()],
        "probs": whole.as_numpy("probs").tolist(),
        "refusal": refusal,
    }


def ask_kserve(url: str, image: bytes) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    import httpx
    import numpy as np
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    async def find_refusal(call: Awaitable[Any]) -> str:
        try:
            return str(await call)
        except httpx.HTTPStatusError as error:
            return str(error)

    async def ask() -> dict[str, Any]:
        first = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
        second = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
        encoded = base64.b64encode(image).decode()
        predicted = await first.infer(
            url, {"instances": [{"b64": encoded}, {"text": "olive"}]}, model_name=MODEL
        )
        texts = InferInput("TEXT", [1], "BYTES", data=["olive"])
        images = InferInput("IMAGE", [1], "BYTES")
        images.set_data_from_numpy(np.array([image], dtype=object), binary_data=True)
        request = InferRequest(
            MODEL,
            [texts, images],
            request_id="mine",
            request_outputs=[
                RequestedOutput("text_embeds", {"binary_data": True}),
                RequestedOutput("image_embeds", {"binary_data": True}),
            ],
        )
        answer = await second.infer(url, request, model_name=MODEL)
        tensors = {one.name: one.as_numpy().tolist() for one in answer.outputs}
        return {
            "live": await second.is_server_live(url),
            "ready": await second.is_server_ready(url),
            "model_ready": [
                await first.is_model_ready(url, MODEL),
                await second.is_model_ready(url, MODEL),
            ],
            "other_ready": await find_refusal(second.is_model_ready(url, "other")),
            "refusal": await find_refusal(first.infer(url, {"instances": []}, model_name=MODEL)),
            "predictions": predicted["predictions"],
            "id": answer.id,
            "tensors": tensors,
        }

    return asyncio.run(ask())


def main(url: str, image: bytes) -> None:
    clients: dict[str, Callable[[str, bytes], dict[str, Any]]] = {
        "openai": ask_openai,
        "triton": ask_triton,
        "kserve": ask_kserve,
    }
    print(json.dumps({name: ask(url, image) for name, ask in clients.items()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).read_bytes())
