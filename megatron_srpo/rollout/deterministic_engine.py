"""A deterministic engine behind SGLang's HTTP API, for tests of exactness and of faults.

    python -m megatron_srpo.rollout.deterministic_engine --model-path DIR --host 127.0.0.1 --port 30000

It answers the calls of `rollout.client` with SGLang's field names, one request at a time.  Weight calls need
`/begin_weight_update` first, as SGLang does from 0.5.21 on.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from aiohttp import web

from megatron_srpo.errors import SrpoError
from megatron_srpo.rollout.deterministic_model import DeterministicModel, RefusedError, Result, Settings
from megatron_srpo.sync.bucket import empty_bucket, unflatten
from megatron_srpo.sync.process_group import join_group, leave_group

Value = TypeVar("Value")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

GROUP_TIMEOUT_SECONDS = 600.0


class DeterministicEngine:
    """The server's state and its handlers.

    All work on the model runs in one worker thread, so that /health and /abort_request answer meanwhile.
    """

    def __init__(self, model: DeterministicModel) -> None:
        self._model = model
        self._worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self._turn = asyncio.Lock()
        self._paused = False
        self._updating = False
        self._aborted: dict[str, threading.Event] = {}
        self._groups: dict[str, dist.ProcessGroup] = {}

    def application(self) -> web.Application:
        """The HTTP application."""
        # Weight calls name every tensor of a bucket: more than aiohttp's usual megabyte.
        app = web.Application(middlewares=[_refusals_as_400], client_max_size=2**30)
        app.router.add_get("/health", self.health)
        app.router.add_get("/health_generate", self.health)
        app.router.add_get("/server_info", self.model_info)
        app.router.add_get("/model_info", self.model_info)
        calls: dict[str, Handler] = {
            "/generate": self.generate,
            "/pause_generation": self.pause_generation,
            "/continue_generation": self.continue_generation,
            "/flush_cache": self.flush_cache,
            "/abort_request": self.abort_request,
            "/begin_weight_update": self.begin_weight_update,
            "/end_weight_update": self.end_weight_update,
            "/init_weights_update_group": self.init_weights_update_group,
            "/destroy_weights_update_group": self.destroy_weights_update_group,
            "/update_weights_from_distributed": self.update_weights_from_distributed,
            "/update_weights_from_disk": self.update_weights_from_disk,
            "/weights_checker": self.weights_checker,
        }
        for path, handler in calls.items():
            app.router.add_post(path, handler)
        return app

    async def _in_worker(self, function: Callable[..., Value], *arguments: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)

    @asynccontextmanager
    async def _weights_to_ourselves(self) -> AsyncIterator[None]:
        """No generation runs meanwhile; a paused engine has none."""
        if self._paused:
            yield
        else:
            async with self._turn:
                yield

    # Generation

    async def generate(self, request: web.Request) -> web.Response:
        """Draw one response when all earlier requests have theirs."""
        body = await request.json()
        rid = body.get("rid") or f"unnamed-{id(request)}"
        if rid in self._aborted:
            raise RefusedError(f"Duplicate request ID detected: {rid}")
        settings = _settings(body.get("sampling_params") or {})
        aborted = self._aborted[rid] = threading.Event()
        try:
            async with self._turn:
                result = await self._in_worker(self._model.generate, body["input_ids"], settings, aborted)
        finally:
            del self._aborted[rid]
        experts = bool(body.get("return_routed_experts"))
        return web.json_response(_answer(rid, result, len(body["input_ids"]), experts))

    async def abort_request(self, request: web.Request) -> web.Response:
        """End the requests whose id begins with `rid`, or all."""
        body = await request.json()
        for rid, aborted in self._aborted.items():
            if body.get("abort_all") or (body.get("rid") and rid.startswith(body["rid"])):
                aborted.set()
        return web.Response()

    async def pause_generation(self, request: web.Request) -> web.Response:
        """Wait for the running request, ended early with mode abort, and hold the others back."""
        mode = (await request.json()).get("mode", "abort")
        if mode == "abort":
            for aborted in self._aborted.values():
                aborted.set()
        if not self._paused:
            await self._turn.acquire()
            self._paused = True
        return web.json_response({"message": "Generation paused successfully.", "status": "ok"})

    async def continue_generation(self, _: web.Request) -> web.Response:
        """Let the held requests go on."""
        if self._paused:
            self._paused = False
            self._turn.release()
        return web.json_response({"message": "Generation continued successfully.", "status": "ok"})

    async def flush_cache(self, _: web.Request) -> web.Response:
        """Nothing is cached between requests."""
        return web.Response(text="Cache flushed.\n")

    # State

    async def health(self, _: web.Request) -> web.Response:
        """The server is up."""
        return web.Response()

    async def model_info(self, _: web.Request) -> web.Response:
        """What is served; /server_info answers the same."""
        return web.json_response(
            {
                "model_path": str(self._model.folder),
                "weight_version": self._model.weight_version,
                "is_generation": True,
                "max_total_num_tokens": self._model.context_length,
                "version": "deterministic",
            }
        )

    # Weights

    async def begin_weight_update(self, _: web.Request) -> web.Response:
        """Open an update."""
        self._updating = True
        return _success("Weight update begun.")

    async def end_weight_update(self, _: web.Request) -> web.Response:
        """Close the update."""
        if not self._updating:
            raise RefusedError("no weight update is open: call /begin_weight_update first")
        self._updating = False
        return _success("Weight update ended.")

    async def init_weights_update_group(self, request: web.Request) -> web.Response:
        """Join the trainer's process group with the rank `rank_offset`."""
        body = await request.json()
        name = body["group_name"]
        if body.get("backend", "nccl") != "gloo":
            raise RefusedError("the deterministic engine has no GPU: backend must be gloo")
        if name in self._groups:
            raise RefusedError(f"group {name} exists already")

        def join() -> dist.ProcessGroup:
            return join_group(
                address=body["master_address"],
                port=body["master_port"],
                rank=body["rank_offset"],
                world_size=body["world_size"],
                name=name,
                backend="gloo",
                timeout=GROUP_TIMEOUT_SECONDS,
            )

        self._groups[name] = await self._in_worker(join)
        return _success("Succeeded to initialize custom process group.")

    async def destroy_weights_update_group(self, request: web.Request) -> web.Response:
        """Leave the group."""
        name = (await request.json())["group_name"]
        if name not in self._groups:
            raise RefusedError("The group to be destroyed does not exist.")
        await self._in_worker(leave_group, self._groups.pop(name))
        return _success("Succeeded to destroy custom process group.")

    async def update_weights_from_distributed(self, request: web.Request) -> web.Response:
        """Receive tensors that rank 0 broadcasts, one by one or as a flattened bucket."""
        body = await request.json()
        if not self._updating:
            raise RefusedError("no weight update is open: call /begin_weight_update first")
        if body["group_name"] not in self._groups:
            raise RefusedError(f"no group {body['group_name']}: call /init_weights_update_group first")
        if body.get("load_format") not in (None, "flattened_bucket"):
            raise RefusedError(f"unknown load_format {body['load_format']}")

        def receive() -> None:
            self._model.load(_receive(body, self._groups[body["group_name"]]))

        async with self._weights_to_ourselves():
            await self._in_worker(receive)
            self._set_version(body)
        return _success("Succeeded to update parameter online.")

    async def update_weights_from_disk(self, request: web.Request) -> web.Response:
        """Load a Hugging Face folder."""
        body = await request.json()
        async with self._weights_to_ourselves():
            await self._in_worker(self._model.load_folder, Path(body["model_path"]))
            self._set_version(body)
        return _success("Succeeded to update model weights.")

    async def weights_checker(self, request: web.Request) -> web.Response:
        """Checksums by Hugging Face name, in the form of one tensor-parallel rank."""
        if (await request.json()).get("action", "checksum") != "checksum":
            raise RefusedError("the deterministic engine knows the action checksum only")
        async with self._weights_to_ourselves():
            checksums = await self._in_worker(self._model.checksums)
        return web.json_response({"success": True, "message": "", "ranks": [{"checksums": checksums}]})

    def _set_version(self, body: Mapping[str, Any]) -> None:
        if body.get("weight_version") is not None:
            self._model.weight_version = str(body["weight_version"])


def _receive(body: Mapping[str, Any], group: dist.ProcessGroup) -> dict[str, torch.Tensor]:
    names, shapes = body["names"], body["shapes"]
    dtypes = [getattr(torch, dtype) for dtype in body["dtypes"]]
    if body.get("load_format") == "flattened_bucket":
        flat = empty_bucket(dtypes, shapes)
        dist.broadcast(flat, src=0, group=group)
        return unflatten(flat, names, dtypes, shapes)
    tensors = {}
    for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
        tensors[name] = torch.empty(shape, dtype=dtype)
        dist.broadcast(tensors[name], src=0, group=group)
    return tensors


def _settings(fields: Mapping[str, Any]) -> Settings:
    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := set(fields) - known:
        raise RefusedError(f"the deterministic engine does not know {sorted(unknown)} in sampling_params")
    return Settings(**fields)


def _answer(rid: str, result: Result, prompt_tokens: int, experts: bool) -> dict[str, Any]:
    scored = zip(result.log_probs, result.tokens, strict=True)
    answer: dict[str, Any] = {
        "text": "",
        "output_ids": result.tokens,
        "meta_info": {
            "id": rid,
            "finish_reason": result.finish_reason,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(result.tokens),
            "cached_tokens": 0,
            "weight_version": result.weight_version,
            "output_token_logprobs": [[log_prob, token, None] for log_prob, token in scored],
        },
    }
    if experts:
        chosen = [part.to(torch.int32).numpy().tobytes() for part in result.experts]
        answer["meta_info"]["routed_experts"] = base64.b64encode(b"".join(chosen)).decode()
    return answer


def _success(message: str) -> web.Response:
    return web.json_response({"success": True, "message": message})


@web.middleware
async def _refusals_as_400(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what cannot be done with SGLang's status and form."""
    try:
        return await handler(request)
    except (RefusedError, SrpoError, RuntimeError, KeyError, TypeError, ValueError) as error:
        message = f"{type(error).__name__}: {error}" if not isinstance(error, RefusedError) else str(error)
        return web.json_response({"success": False, "message": message}, status=400)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="megatron_srpo.rollout.deterministic_engine", description=__doc__)
    parser.add_argument("--model-path", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)

    async def application() -> web.Application:
        return DeterministicEngine(DeterministicModel(options.model_path)).application()

    web.run_app(application(), host=options.host, port=options.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
