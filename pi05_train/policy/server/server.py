"""The websocket server. On connecting a client gets one frame, the robot's description; then every binary frame with an
observation gets one frame with `actions`, or a text frame with the sentence that refuses it. What is known of a robot
lives as long as its connection.

Source of the protocol: openpi src/openpi/serving/websocket_policy_server.py and packages/openpi-client.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import secrets
import time
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from pi05_train.errors import UserError
from pi05_train.policy.hierarchy import RobotState, Turn
from pi05_train.policy.robot import RobotInterface
from pi05_train.policy.server.batcher import Act, Answer, Batcher
from pi05_train.policy.server.events import Events
from pi05_train.policy.server.kept import KeptRequests
from pi05_train.policy.server.limits import Limits, Rate
from pi05_train.policy.server.wire import pack, unpack

INTERNAL_ERROR, POLICY_VIOLATION, GOING_AWAY = 1011, 1008, 1001


class PolicyServer:
    """Serves one robot interface from one policy until it is asked to stop."""

    def __init__(
        self,
        robot: RobotInterface,
        act: Act,
        events: Events,
        *,
        mode: str = "flat",
        limits: Limits | None = None,
        api_key: str | None = None,
        metadata: dict[str, Any] | None = None,
        kept: KeptRequests | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`act` is of a hierarchy in `mode`; in the mode hierarchical clients hear of subtasks and may correct them.

        `metadata`: what clients are told beside the robot's description. `kept`: where requests are kept, if so.
        `clock`: the seconds by which subtasks live.
        """
        self._robot, self._events, self._api_key = robot, events, api_key
        self.limits = limits or Limits()
        self._kept, self._clock = kept, clock
        self._hierarchical = mode == "hierarchical"
        self._greeting = pack(robot.description() | {"mode": mode} | (metadata or {}))
        self._batcher = Batcher(act, self.limits.batch_samples)
        self._clients = itertools.count(1)
        self._connected = 0
        self._stopping = False
        self._idle: set[ServerConnection] = set()

    async def run(self, host: str, port: int, stop: asyncio.Event, started: Callable[[int], None]) -> None:
        """Serve until `stop` is set, then answer what is at work and close; `started` gets the port (0: a free one)."""
        server = await self._listen(host, port)
        batcher = asyncio.create_task(self._batcher.run())
        try:
            started(int(server.sockets[0].getsockname()[1]))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([stopping, batcher], return_when=asyncio.FIRST_COMPLETED)
            if batcher.done():
                batcher.result()
            await self._close(server)
        finally:
            batcher.cancel()
            await asyncio.gather(batcher, return_exceptions=True)

    async def _listen(self, host: str, port: int) -> Server:
        try:
            return await serve(
                self._client,
                host,
                port,
                origins=[None],  # robots send no Origin; the pages of a browser on this machine do
                process_request=self._admit,
                compression=None,
                max_size=int(self.limits.message_megabytes * 1e6),
                max_queue=1,
                server_header=None,
                logger=self._events.logger(),
            )
        except OSError as error:
            expected = "a free address of this machine"
            raise UserError(f"{host}, port {port}", got=error, expected=expected, do="choose another") from error

    async def _close(self, server: Server) -> None:
        self._stopping = True
        server.close(close_connections=False)
        await asyncio.gather(*(connection.close(GOING_AWAY, "the server stops") for connection in self._idle))
        await server.wait_closed()

    def _admit(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """The answer to what is no websocket, or is not let in; None lets in."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self._api_key is not None and not _has_key(request, self._api_key):
            self._events("turned_away", why="API key")
            return connection.respond(HTTPStatus.UNAUTHORIZED, "Send the header Authorization: Api-Key KEY.\n")
        if self._connected >= self.limits.clients:
            self._events("turned_away", why="too many clients")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.limits.clients} clients are here.\n")
        return None

    async def _client(self, connection: ServerConnection) -> None:
        number, requests = next(self._clients), 0
        self._connected += 1
        self._events("connected", client=number, address=str(connection.remote_address))
        closed = asyncio.create_task(connection.wait_closed())
        rate, total_ms, state = Rate(self.limits.requests_per_second), None, RobotState()
        try:
            await connection.send(self._greeting)
            while not self._stopping and (frame := await self._frame(connection)) is not None:
                start = time.perf_counter()
                if not rate.take():
                    await connection.send(f"More than {self.limits.requests_per_second:g} requests a second.")
                    await connection.close(POLICY_VIOLATION, "rate")
                    break
                requests += 1
                who = {"client": number, "request": requests}
                state = await self._answer(connection, closed, frame, state, who, previous_ms=total_ms)
                total_ms = (time.perf_counter() - start) * 1e3
            await connection.close(GOING_AWAY, "the server stops")
        except ConnectionClosed:
            pass
        finally:
            self._connected -= 1
            self._events("disconnected", client=number, requests=requests, code=connection.close_code)

    async def _frame(self, connection: ServerConnection) -> bytes | str | None:
        """The client's next frame; None where it was idle for too long and its connection has been closed."""
        self._idle.add(connection)
        try:
            async with asyncio.timeout(self.limits.idle_seconds):
                return await connection.recv()
        except TimeoutError:
            await connection.close(reason=f"no request for {self.limits.idle_seconds:g} seconds")
            return None
        finally:
            self._idle.discard(connection)

    async def _answer(
        self,
        connection: ServerConnection,
        closed: asyncio.Task[None],
        frame: bytes | str,
        state: RobotState,
        who: dict[str, int],
        *,
        previous_ms: float | None,
    ) -> RobotState:
        """Send a frame with actions or the sentence that refuses; nothing to a client that has gone.

        Returns the robot's new state: the former one where there are no actions.
        """
        try:
            observation = _unpacked(frame)
            asked = self._robot.request(observation, corrections=self._hierarchical)
            seed = secrets.randbits(31) if asked.seed is None else asked.seed
            turn = Turn(asked.sample, state, self._clock(), seed, asked.correction, asked.remainder)
            answering = self._batcher.submit(turn)
            if not self._hierarchical:
                await self._keep(observation, seed, "", **who)
            either: list[asyncio.Future[Any]] = [answering, closed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
                return state
            answer = answering.result()
            if self._hierarchical:  # only now is it known what is done
                await self._keep(observation, seed, answer.state.subtask, **who)
            reply = pack(self._reply(answer, seed, previous_ms))
        except UserError as refusal:
            self._events("refused", **who, why=str(refusal))
            await connection.send(str(refusal))
        except Exception as error:
            self._events("failed", **who, error=repr(error), traceback=traceback.format_exc())
            await connection.send(f"The server failed ({type(error).__name__}); its log has request {who}.")
            await connection.close(INTERNAL_ERROR, "the server failed")
        else:
            costs = {name: round(getattr(answer, name), 3) for name in ("queue_ms", "infer_ms", "batch_samples")}
            self._events("answered", **who, seed=seed, **self._told(answer), **costs)
            await connection.send(reply)
            return answer.state
        return state

    async def _keep(self, observation: object, seed: int, subtask: str, *, client: int, request: int) -> None:
        """A robot is served even where its requests cannot be kept."""
        if self._kept is None:
            return
        assert isinstance(observation, Mapping), "what the robot's card let through"
        try:
            await asyncio.to_thread(self._kept.keep, observation, seed, subtask, client=client, request=request)
        except OSError as error:
            self._events("warning", client=client, request=request, why=f"the request could not be kept: {error}")

    def _reply(self, answer: Answer, seed: int, previous_ms: float | None) -> dict[str, Any]:
        """Every array has the chunk's steps first: openpi's ActionChunkBroker takes one step of each."""
        timing = {"infer_ms": answer.queue_ms + answer.infer_ms}
        return {
            "actions": self._robot.commands(answer.chunk),
            "seed": seed,
            **self._told(answer),
            "policy_timing": {"infer_ms": answer.infer_ms, "batch_samples": answer.batch_samples},
            "server_timing": timing | ({} if previous_ms is None else {"prev_total_ms": previous_ms}),
        }

    def _told(self, answer: Answer) -> dict[str, str]:
        return {"subtask": answer.state.subtask} if self._hierarchical else {}


def _has_key(request: HttpRequest, key: str) -> bool:
    """Whether the request has openpi-client's header with the key; takes as long for any other key."""
    given = request.headers.get_all("Authorization")
    sent = given[0].encode(errors="surrogateescape") if len(given) == 1 else b""
    return hmac.compare_digest(sent, f"Api-Key {key}".encode())


def _unpacked(frame: bytes | str) -> object:
    if isinstance(frame, str):
        raise UserError("frame", got="text", expected="a binary msgpack frame", do="send it as openpi-client does")
    return unpack(frame)
