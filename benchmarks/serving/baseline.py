"""A model server as a competent engineer writes it in a day, with FastAPI and transformers.

    python baseline.py --model FOLDER --port 8000 --torch-threads 2 --workers 2 --batch 32

It has what such a server has: pictures are decoded and prepared by the model's own processor in a pool of
threads, off the event loop; one thread runs the model; with --batch above 1, requests that come within a few
milliseconds share a run. It imports nothing of Sluice and runs in an environment of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import io
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.datastructures import UploadFile
from transformers import AutoModel, AutoProcessor


class Batcher:
    """Collects what comes within `wait_s` of the first one, up to `most`, and runs it in one go."""

    def __init__(self, run: Any, most: int, wait_s: float) -> None:
        self._run = run
        self._most = most
        self._wait_s = wait_s
        self._queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()

    async def ask(self, pixels: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self._queue.put((pixels, future))
        return await future

    async def work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            ends = loop.time() + self._wait_s
            while len(batch) < self._most:
                try:
                    async with asyncio.timeout_at(ends):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    break
            try:
                rows = await self._run([pixels for pixels, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(batch, rows, strict=True):
                if not future.done():
                    future.set_result(row)


class Model:
    """The model and its processor, each in a pool of its own."""

    def __init__(self, folder: str, device: str, dtype: str, workers: int) -> None:
        self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=getattr(torch, dtype)
        )
        self._model.to(device).eval()
        self._device = device
        self._workers = ThreadPoolExecutor(workers)
        self._runner = ThreadPoolExecutor(1)

    async def prepare(self, data: bytes) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._prepare, data)

    async def run(self, pixels: list[Any]) -> list[list[float]]:
        return await asyncio.get_running_loop().run_in_executor(self._runner, self._run, pixels)

    def _prepare(self, data: bytes) -> Any:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return self._processor(images=image, return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def _run(self, pixels: list[Any]) -> list[list[float]]:
        batch = torch.cat(pixels).to(self._device, self._model.dtype)
        features = self._model.get_image_features(pixel_values=batch)
        if not isinstance(features, torch.Tensor):
            features = features.pooler_output
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu().tolist()


def make_app(options: argparse.Namespace) -> FastAPI:
    model = Model(options.model, options.device, options.dtype, options.workers)
    batcher = Batcher(model.run, options.batch, options.wait_ms / 1000)

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()

    app = FastAPI(lifespan=live)

    async def embed(data: bytes) -> list[float]:
        try:
            pixels = await model.prepare(data)
        except (OSError, ValueError) as error:
            raise HTTPException(422, "not an image") from error
        if options.batch > 1:
            return await batcher.ask(pixels)
        return (await model.run([pixels]))[0]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/embed")
    async def handle(request: Request) -> JSONResponse:
        if request.headers.get("content-type", "").startswith("multipart/"):
            form = await request.form(max_files=64)
            uploads = [one for _, one in form.multi_items() if isinstance(one, UploadFile)]
            images = [await one.read() for one in uploads]
        else:
            images = [await request.body()]
        return JSONResponse({"embeddings": await asyncio.gather(*(embed(one) for one in images))})

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python baseline.py", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--torch-threads", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True, help="threads that prepare pictures")
    parser.add_argument("--batch", type=int, default=32, help="most pictures of one run")
    parser.add_argument("--wait-ms", type=float, default=5.0, help="for company in a batch")
    options = parser.parse_args()
    torch.set_num_threads(options.torch_threads)
    uvicorn.run(make_app(options), port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
