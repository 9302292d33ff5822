"""EngineClient against a small server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from megatron_srpo.errors import SrpoError
from megatron_srpo.rollout.client import EngineClient, Sampling
from megatron_srpo.rollout.fleet import EngineFleet
from megatron_srpo.rollout.routed_experts import RoutingShape

SAMPLING = Sampling(max_new_tokens=3, temperature=0.7, seed=5, stop_token_ids=(9,))


def answer(**changes: Any) -> dict[str, Any]:
    """A /generate answer with two tokens."""
    meta = {
        "finish_reason": {"type": "length", "length": 2},
        "prompt_tokens": 3,
        "weight_version": "4",
        "output_token_logprobs": [[-0.5, 7, None], [-1.5, 8, None]],
    }
    return {"output_ids": [7, 8], "meta_info": meta} | changes


class FakeEngine:
    """Answers /generate from a list (a status, an answer or seconds of silence) and records every call."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.calls: list[tuple[str, Any]] = []
        self.weight_replies: dict[str, web.Response] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.calls.append((request.path, body))
        if request.path != "/generate":
            return self.weight_replies.get(request.path, web.json_response({"success": True}))
        reply = self.replies.pop(0)
        if isinstance(reply, float):
            await asyncio.sleep(reply)
            reply = answer()
        if isinstance(reply, int):
            return web.json_response({"error": {"message": f"made to fail with {reply}"}}, status=reply)
        if isinstance(reply, str):
            return web.Response(text=reply)
        return web.json_response(reply)

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]


MakeClient = Callable[..., Awaitable[EngineClient]]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client_of(engine: FakeEngine) -> AsyncIterator[MakeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.handle)
    server = TestServer(app)
    await server.start_server()
    clients = []

    async def make(**options: Any) -> EngineClient:
        client = EngineClient(str(server.make_url("")), first_backoff=0.001, **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()
    await server.close()


async def test_generate_sends_and_reads_sglang_fields(engine: FakeEngine, client_of: MakeClient) -> None:
    engine.replies = [answer()]
    client = await client_of()
    generation = await client.generate(rid="r", input_ids=[1, 2, 3], sampling=SAMPLING)
    assert (generation.tokens, generation.log_probs) == ([7, 8], [-0.5, -1.5])
    assert (generation.finish_reason, generation.weight_version, generation.prompt_tokens) == ("length", 4, 3)
    [(_, sent)] = engine.calls
    assert sent["input_ids"] == [1, 2, 3] and sent["return_logprob"] is True
    assert sent["sampling_params"] == {
        "max_new_tokens": 3,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": -1,
        "sampling_seed": 5,
        "stop_token_ids": [9],
    }


async def test_the_weights_that_a_server_was_started_with_are_version_0(
    engine: FakeEngine, client_of: MakeClient
) -> None:
    engine.replies = [answer(meta_info=answer()["meta_info"] | {"weight_version": "default"})]
    client = await client_of()
    assert (await client.generate(rid="r", input_ids=[1], sampling=SAMPLING)).weight_version == 0


async def test_weight_version_is_the_oldest_span(engine: FakeEngine, client_of: MakeClient) -> None:
    spans = [{"version": "3", "start": 0, "end": 1}, {"version": "4", "start": 1, "end": 2}]
    engine.replies = [answer(meta_info=answer()["meta_info"] | {"weight_versions": spans})]
    client = await client_of()
    assert (await client.generate(rid="r", input_ids=[1], sampling=SAMPLING)).weight_version == 3


@pytest.mark.parametrize("failure", [500, 503, 429, 5.0])
async def test_failed_attempt_is_aborted_and_repeated(
    engine: FakeEngine, client_of: MakeClient, failure: int | float
) -> None:
    engine.replies = [failure, answer()]
    client = await client_of(timeout=0.3)
    assert (await client.generate(rid="r", input_ids=[1], sampling=SAMPLING)).tokens == [7, 8]
    assert engine.paths() == ["/generate", "/abort_request", "/generate"]
    first, abort, second = (body["rid"] for _, body in engine.calls)
    assert first == abort != second


async def test_no_request_id_is_the_beginning_of_another(engine: FakeEngine, client_of: MakeClient) -> None:
    engine.replies = [answer(), answer()]
    client = await client_of()
    for rid in ("r-1", "r-10"):
        await client.generate(rid=rid, input_ids=[1], sampling=SAMPLING)
    short, long = (body["rid"] for _, body in engine.calls)
    assert not long.startswith(short)


async def test_gives_up_after_the_retries(engine: FakeEngine, client_of: MakeClient) -> None:
    engine.replies = [500, 503, 500]
    client = await client_of(retries=2)
    with pytest.raises(SrpoError, match=rf"{client.url}: request r failed 3 times.*made to fail with 500"):
        await client.generate(rid="r", input_ids=[1], sampling=SAMPLING)


async def test_refused_request_is_not_repeated(engine: FakeEngine, client_of: MakeClient) -> None:
    engine.replies = [400, answer()]
    client = await client_of()
    with pytest.raises(SrpoError, match="made to fail with 400"):
        await client.generate(rid="r", input_ids=[1], sampling=SAMPLING)
    assert engine.paths() == ["/generate"]


async def test_engine_that_is_not_there() -> None:
    async with EngineClient("http://127.0.0.1:1", retries=1, first_backoff=0.001) as client:
        assert not await client.health()
        with pytest.raises(SrpoError, match=r"127\.0\.0\.1:1: request r failed 2 times.*Connect"):
            await client.generate(rid="r", input_ids=[1], sampling=SAMPLING)
        with pytest.raises(SrpoError, match="pause_generation failed"):
            await client.pause()


META = answer()["meta_info"]


@pytest.mark.parametrize(
    "malformed",
    [
        "no JSON",
        [],
        answer(output_ids=[7]),
        answer(output_ids=["7", "8"]),
        answer(output_ids=[7.0, 8.0]),
        answer(output_ids=[8, 7]),
        {"output_ids": [7, 8]},
        answer(meta_info=META | {"finish_reason": None}),
        answer(meta_info=META | {"finish_reason": {"type": "tired"}}),
        answer(meta_info=META | {"weight_version": "newest"}),
        answer(meta_info=META | {"output_token_logprobs": [[None, 7], [None, 8]]}),
    ],
)
async def test_malformed_answer_names_engine_and_request(
    engine: FakeEngine, client_of: MakeClient, malformed: Any
) -> None:
    engine.replies = [malformed]
    client = await client_of()
    with pytest.raises(SrpoError, match=rf"{client.url} answered request r/0/"):
        await client.generate(rid="r", input_ids=[1], sampling=SAMPLING)


async def test_experts_are_asked_for_and_read(engine: FakeEngine, client_of: MakeClient) -> None:
    routing = RoutingShape(layers=2, chosen=1, experts=300)
    chosen = np.arange(8, dtype=np.int32) + 290
    meta = answer()["meta_info"] | {"routed_experts": base64.b64encode(chosen.tobytes()).decode()}
    engine.replies = [answer(meta_info=meta), answer(), answer(meta_info=meta)]
    client = await client_of()
    found = await client.generate(rid="r", input_ids=[1, 2, 3], sampling=SAMPLING, routing=routing)
    assert engine.calls[0][1]["return_routed_experts"] is True
    assert found.routed_experts is not None and found.routed_experts.dtype == np.uint16
    assert found.routed_experts.tolist() == chosen.reshape(4, 2, 1).tolist()
    for why, ids in (("'routed_experts'", [1, 2, 3]), ("8 choices of experts, expected 2 x 2 x 1", [1])):
        with pytest.raises(SrpoError, match=why):
            await client.generate(rid="r", input_ids=ids, sampling=SAMPLING, routing=routing)


async def test_update_session_is_probed_once(engine: FakeEngine, client_of: MakeClient) -> None:
    engine.weight_replies["/begin_weight_update"] = web.Response(status=404)
    client = await client_of()
    for _ in range(2):
        await client.begin_update()
        await client.end_update()
    assert engine.paths() == ["/begin_weight_update"]


async def test_update_session_is_used_where_it_exists(engine: FakeEngine, client_of: MakeClient) -> None:
    client = await client_of()
    await client.begin_update()
    await client.end_update()
    assert engine.paths() == ["/begin_weight_update", "/end_weight_update"]


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_failed_weight_call_is_an_error_and_not_repeated(
    engine: FakeEngine, client_of: MakeClient, status: int
) -> None:
    reply = web.json_response({"success": False, "message": "shape mismatch"}, status=status)
    engine.weight_replies["/update_weights_from_distributed"] = reply
    client = await client_of()
    with pytest.raises(SrpoError, match=r"update_weights_from_distributed failed.*shape mismatch"):
        await client.update_from_distributed(
            names=["w"], dtypes=["float32"], shapes=[(2, 2)], group="g", weight_version=1
        )
    [(_, sent)] = engine.calls
    assert sent["shapes"] == [[2, 2]] and sent["weight_version"] == "1"
    assert sent["load_format"] == "flattened_bucket" and sent["flush_cache"] is True


async def test_fleet_spreads_groups_and_calls_all(engine: FakeEngine, client_of: MakeClient) -> None:
    fleet = EngineFleet([await client_of(), await client_of()])
    assert fleet.for_group(0) is fleet.for_group(2) is not fleet.for_group(1)
    await fleet.all(lambda client: client.resume())
    assert engine.paths() == ["/continue_generation"] * 2


async def test_fleet_stops_the_others_when_one_fails(client_of: MakeClient) -> None:
    fleet = EngineFleet([await client_of(), await client_of()])
    waiting = asyncio.Event()
    cancelled = asyncio.Event()

    async def call(client: EngineClient) -> None:
        if client is fleet.clients[0]:
            await waiting.wait()
            raise SrpoError("engine 0 failed")
        waiting.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(SrpoError, match="engine 0 failed"):
        await fleet.all(call)
    assert cancelled.is_set()
