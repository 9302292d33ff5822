"""Client of one inference engine: SGLang's own HTTP API (0.5.15 to 0.5.23), tokens in and tokens out.

Generation is retried, because a lost sample costs nothing but time.  Weight calls are never retried: the
trainer's side of a collective runs once, and a repeated call would wait for it for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
from numpy.typing import NDArray

from megatron_srpo.errors import SrpoError
from megatron_srpo.rollout.routed_experts import RoutingShape

FinishReason = Literal["stop", "length", "abort"]
PauseMode = Literal["abort", "retract", "in_place"]

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
# How much of a server's own words goes into an error message.
QUOTED_CHARACTERS = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    The engine's log-probs are of the distribution after temperature and before top_p and top_k: with
    `top_p < 1` or `top_k > 0` they are not renormalised over the tokens that could still be drawn.
    `temperature=0` is greedy.  `seed` fixes the tokens only on an engine that can be deterministic.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()

    def as_request(self) -> dict[str, Any]:
        """The `sampling_params` of a /generate request."""
        fields: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
        if self.seed is not None:
            fields["sampling_seed"] = self.seed
        if self.stop_token_ids:
            fields["stop_token_ids"] = list(self.stop_token_ids)
        return fields


@dataclass(frozen=True)
class Generation:
    """One response.

    `tokens` and `log_probs` (natural logarithm) have the same length and hold the end-of-sequence token if
    one was drawn.  `weight_version` is that of the first token, the oldest one that took part.  `seconds` is
    the time between sending the request that succeeded and its answer.  `routed_experts` are the experts chosen
    for prompt and response, all but the last token, [tokens - 1, layers, chosen]; none where not asked for.
    """

    tokens: list[int]
    log_probs: list[float]
    finish_reason: FinishReason
    weight_version: int
    prompt_tokens: int
    seconds: float
    routed_experts: NDArray[Any] | None = None


class _RetryableError(Exception):
    """A failure that another attempt may not meet; its text is the cause."""


class EngineClient:
    """Speaks with one engine.  Use as an async context manager, or call `close()`.

    `timeout` is the limit of one generation request, `control_timeout` of every other call, in seconds.
    `retries` counts the attempts after the first.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 1800.0,
        control_timeout: float = 600.0,
        retries: int = 3,
        first_backoff: float = FIRST_BACKOFF_SECONDS,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._control_timeout = control_timeout
        self._retries = retries
        self._first_backoff = first_backoff
        self._session: aiohttp.ClientSession | None = None
        self._has_update_sessions: bool | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # Generation

    async def generate(
        self, *, rid: str, input_ids: Sequence[int], sampling: Sampling, routing: RoutingShape | None = None
    ) -> Generation:
        """Draw one response to the prompt `input_ids`; `rid` names the request in the engine and in errors.

        With `routing` the engine tells which experts it used, for which it must have been started.
        Raises SrpoError when the engine refuses the request, answers nonsense, or fails `1 + retries` times.
        """
        attempts = 1 + self._retries
        for attempt in range(attempts):
            # The engine refuses an id that it still holds, so each attempt has its own; and it aborts every
            # id that begins with the given one, so ids end in a mark (aborting r-1 must not abort r-10).
            wire_rid = f"{rid}/{attempt}/"
            try:
                return await self._generate_once(wire_rid, list(input_ids), sampling, routing)
            except _RetryableError as error:
                await self._abort_after_failure(wire_rid)
                if attempt + 1 == attempts:
                    raise SrpoError(
                        f"engine {self.url}: request {rid} failed {attempts} times, last: {error}; "
                        f"see the engine's log"
                    ) from error
                _log.warning("engine %s: request %s: %s; trying again", self.url, rid, error)
            await asyncio.sleep(min(self._first_backoff * 2**attempt, LONGEST_BACKOFF_SECONDS))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _generate_once(
        self, wire_rid: str, input_ids: list[int], sampling: Sampling, routing: RoutingShape | None
    ) -> Generation:
        request: dict[str, Any] = {
            "rid": wire_rid,
            "input_ids": input_ids,
            "sampling_params": sampling.as_request(),
            "return_logprob": True,
            "stream": False,
        }
        if routing is not None:
            request["return_routed_experts"] = True
        started = time.monotonic()
        status, text = await self._send("POST", "/generate", request, self._timeout)
        if status == 429 or status >= 500:
            raise _RetryableError(f"HTTP {status}: {_words_of(text)}")
        if status >= 400:
            raise SrpoError(f"engine {self.url} refused request {wire_rid}: HTTP {status}: {_words_of(text)}")
        try:
            return _read_generation(json.loads(text), time.monotonic() - started, len(input_ids), routing)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise SrpoError(
                f"engine {self.url} answered request {wire_rid} in a form that is not SGLang's "
                f"({type(error).__name__}: {error}): use SGLang 0.5.15 to 0.5.23"
            ) from error

    async def _abort_after_failure(self, wire_rid: str) -> None:
        """Free the engine of a request whose answer nobody awaits; the next attempt shows what is wrong."""
        try:
            await self._send("POST", "/abort_request", {"rid": wire_rid}, min(5.0, self._control_timeout))
        except _RetryableError as error:
            _log.warning("engine %s: cannot abort request %s: %s", self.url, wire_rid, error)

    # State and control

    async def health(self) -> bool:
        """Whether the engine is up and answers."""
        try:
            status, _ = await self._send("GET", "/health", None, min(10.0, self._control_timeout))
        except _RetryableError:
            return False
        return status == 200

    async def server_info(self) -> dict[str, Any]:
        """The engine's settings and state (`max_total_num_tokens`, `version`, ...)."""
        return await self._call("GET", "/server_info")

    async def model_info(self) -> dict[str, Any]:
        """The model it serves: `model_path`, `weight_version`, ..."""
        return await self._call("GET", "/model_info")

    async def pause(self, mode: PauseMode = "retract") -> None:
        """Stop generating: requests are ended (abort), put back (retract) or left as they are (in_place)."""
        await self._call("POST", "/pause_generation", {"mode": mode})

    async def resume(self) -> None:
        """Go on after `pause`."""
        await self._call("POST", "/continue_generation", {})

    async def flush_cache(self) -> None:
        """Forget all cached prefixes; refused while requests run."""
        await self._call("POST", "/flush_cache", {})

    async def abort(self, rid: str | None = None) -> None:
        """End one request (all attempts of it), or every request; they return what they have so far."""
        if rid is None:
            await self._call("POST", "/abort_request", {"abort_all": True})
            return
        for attempt in range(1 + self._retries):
            await self._call("POST", "/abort_request", {"rid": f"{rid}/{attempt}/"})

    # Weights

    async def begin_update(self) -> None:
        """Open a weight update; engines before SGLang 0.5.21 have no such call and need none."""
        if self._has_update_sessions is False:
            return
        status, text = await self._send_control("POST", "/begin_weight_update", {})
        self._has_update_sessions = status != 404
        if self._has_update_sessions:
            self._read_answer("/begin_weight_update", status, text)

    async def end_update(self) -> None:
        """Close the weight update that `begin_update` opened."""
        if self._has_update_sessions:
            await self._call("POST", "/end_weight_update", {})

    async def init_group(
        self,
        *,
        address: str,
        port: int,
        rank_offset: int,
        world_size: int,
        name: str,
        backend: str,
        timeout: float | None = None,
    ) -> None:
        """Join the process group `name` with the ranks from `rank_offset` on; the trainer is rank 0.

        Returns when every rank has joined, so it runs beside `sync.process_group.join_group` in the trainer.
        """
        request = {
            "master_address": address,
            "master_port": port,
            "rank_offset": rank_offset,
            "world_size": world_size,
            "group_name": name,
            "backend": backend,
        }
        await self._call("POST", "/init_weights_update_group", request, timeout)

    async def update_from_distributed(
        self,
        *,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        group: str,
        weight_version: int,
        flush_cache: bool = True,
        load_format: str | None = "flattened_bucket",
    ) -> None:
        """Receive one bucket of tensors that the trainer broadcasts at the same time (see `sync.bucket`).

        `flush_cache` belongs on the last bucket of an update.  Engines answer with an error when it is set
        while requests run: `pause` first.
        """
        request: dict[str, Any] = {
            "names": list(names),
            "dtypes": list(dtypes),
            "shapes": [list(shape) for shape in shapes],
            "group_name": group,
            "weight_version": str(weight_version),
            "flush_cache": flush_cache,
        }
        if load_format is not None:
            request["load_format"] = load_format
        await self._call("POST", "/update_weights_from_distributed", request)

    async def destroy_group(self, name: str) -> None:
        """Leave the process group `name`."""
        await self._call("POST", "/destroy_weights_update_group", {"group_name": name})

    async def update_from_disk(self, path: str, weight_version: int) -> None:
        """Load the weights of the Hugging Face folder `path`, which the engine must see under this name."""
        request = {"model_path": path, "weight_version": str(weight_version), "flush_cache": True}
        await self._call("POST", "/update_weights_from_disk", request)

    async def weight_checksums(self) -> list[dict[str, str]]:
        """Checksum of every tensor by the engine's own (fused) name, one mapping a tensor-parallel rank."""
        answer = await self._call("POST", "/weights_checker", {"action": "checksum"})
        try:
            return [dict(rank["checksums"]) for rank in answer["ranks"]]
        except (KeyError, TypeError) as error:
            raise SrpoError(
                f"engine {self.url}: /weights_checker answered without checksums: use SGLang 0.5.15 to 0.5.23"
            ) from error

    # Transport

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """One control call, once; SrpoError unless it succeeded.  An answer that is not JSON reads as {}."""
        status, text = await self._send_control(method, path, body, timeout)
        return self._read_answer(path, status, text)

    async def _send_control(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None
    ) -> tuple[int, str]:
        try:
            return await self._send(method, path, body, timeout or self._control_timeout)
        except _RetryableError as error:
            raise SrpoError(f"engine {self.url}: {path} failed: {error}; see the engine's log") from error

    def _read_answer(self, path: str, status: int, text: str) -> dict[str, Any]:
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {}  # /flush_cache and /abort_request answer in plain words or with nothing
        failed = isinstance(answer, dict) and answer.get("success") is False
        if status >= 400 or failed:
            raise SrpoError(f"engine {self.url}: {path} failed: HTTP {status}: {_words_of(text)}")
        return answer if isinstance(answer, dict) else {}

    async def _send(self, method: str, path: str, body: dict[str, Any] | None, timeout: float) -> tuple[int, str]:
        """Status and text of one exchange.  Raises _RetryableError when there is no whole answer."""
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            exchange = self._connections().request(method, self.url + path, json=body, timeout=limit)
            async with exchange as answer:
                return answer.status, await answer.text()
        except TimeoutError as error:
            raise _RetryableError(f"no answer within {timeout:g} seconds") from error
        except aiohttp.ClientError as error:
            raise _RetryableError(f"{type(error).__name__}: {error}") from error

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            # No limit of connections: the recipe's max_concurrent_requests is the limit.  No connection is
            # used twice: servers close idle ones, and a weight call lost in that race cannot be repeated.
            connector = aiohttp.TCPConnector(limit=0, force_close=True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def _read_generation(answer: Any, seconds: float, prompt_tokens: int, routing: RoutingShape | None) -> Generation:
    """Check and convert a /generate answer.  Raises KeyError, TypeError, ValueError or IndexError."""
    meta = answer["meta_info"]
    tokens = list(answer["output_ids"])
    scored = meta["output_token_logprobs"]
    if len(scored) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens but {len(scored)} log-probs")
    if not all(type(token) is int for token in tokens):
        raise TypeError("output_ids holds something that is not an integer")
    if [entry[1] for entry in scored] != tokens:
        raise ValueError("the log-probs are of other tokens than output_ids")
    finish = meta["finish_reason"]["type"]
    if finish not in ("stop", "length", "abort"):
        raise ValueError(f"finish reason {finish!r}")
    spans = meta.get("weight_versions")
    length = prompt_tokens + len(tokens)
    return Generation(
        tokens=tokens,
        log_probs=[float(entry[0]) for entry in scored],
        finish_reason=finish,
        weight_version=version_number(spans[0]["version"] if spans else meta["weight_version"]),
        prompt_tokens=int(meta["prompt_tokens"]),
        seconds=seconds,
        routed_experts=None if routing is None else routing.decode(meta["routed_experts"], length),
    )


def version_number(text: str) -> int:
    """A weight version as a number; raises ValueError when it is none.

    SGLang calls the weights that it was started with `default`, unless it is told another name.
    """
    return 0 if text == "default" else int(text)


def _words_of(text: str) -> str:
    """The message in an engine's error answer, whichever of its forms it has, cut to a readable length."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = text
    for key in ("error", "message", "detail"):
        if isinstance(answer, dict) and key in answer:
            answer = answer[key]
    words = answer if isinstance(answer, str) else json.dumps(answer)
    return " ".join(words.split())[:QUOTED_CHARACTERS] or "(no words)"
