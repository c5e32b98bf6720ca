"""Twirp v7 over LiveKit's own service descriptors: routes, both encodings, errors. Knows no method by name.

https://twitchtv.github.io/twirp/docs/spec_v7.html; JSON in the dialect of LiveKit's Go server: proto names, unset
fields written out (wire contract 7.1).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from google.protobuf import json_format, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtoMessage
from livekit.protocol import agent_dispatch, connector, egress, ingress, room, sip

from tertulia.protocol.errors import RequestError
from tertulia.protocol.token import Claims
from tertulia.signal.backend import Command
from tertulia.signal.counts import Counts, Drop
from tertulia.signal.grants import RULES, check
from tertulia.signal.http import JSON, BodyError, Header, Receive, Scope, Send, read_body, respond
from tertulia.signal.settings import DoorSettings

log = structlog.get_logger(__name__)

PREFIX = "/twirp/"
MAX_JSON_BYTES = 2 << 20
LARGE_JSON_BYTES = 64 << 10
"""protobuf's JSON parser is a hundred times slower than the binary one: longer bodies must not hold up the calls."""
PROTOBUF = b"application/protobuf"

STATUS = {
    "canceled": 408,
    "unknown": 500,
    "invalid_argument": 400,
    "malformed": 400,
    "deadline_exceeded": 408,
    "not_found": 404,
    "bad_route": 404,
    "already_exists": 409,
    "permission_denied": 403,
    "unauthenticated": 401,
    "resource_exhausted": 429,
    "failed_precondition": 412,
    "aborted": 409,
    "out_of_range": 400,
    "unimplemented": 501,
    "internal": 500,
    "unavailable": 503,
    "dataloss": 500,
}

BODY_DROPS = {400: Drop.BAD_HTTP, 408: Drop.BODY_TIMEOUT, 413: Drop.BODY_BYTES}

Handler = Callable[[Command], Awaitable[ProtoMessage]]


@dataclass(frozen=True, slots=True)
class Method:
    service: str
    name: str
    request_class: type[ProtoMessage]
    response_class: type[ProtoMessage]


def _methods() -> dict[str, Method]:
    """Every method of every service that has grant rules, by its route."""
    routes = {}
    for module in (room, agent_dispatch, egress, ingress, sip, connector):
        for service in module.DESCRIPTOR.services_by_name.values():
            assert service.name in RULES, service.name
            for method in service.methods:
                routes[f"{service.full_name}/{method.name}"] = Method(
                    service.name,
                    method.name,
                    message_factory.GetMessageClass(method.input_type),
                    message_factory.GetMessageClass(method.output_type),
                )
    return routes


METHODS = _methods()


class Twirp:
    """Answers POST /twirp/livekit.<Service>/<Method>."""

    def __init__(self, handler: Handler, settings: DoorSettings, counts: Counts) -> None:
        self._handler = handler
        self._counts = counts
        self._settings = settings

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, path: str, claims: Claims | None, address: str
    ) -> None:
        """`path` is normalised; `claims` None when the request carried no token."""
        headers: tuple[Header, ...] = ()
        try:
            status, content_type, body = await self._answer(scope, receive, path, claims, address)
        except RequestError as error:
            status, content_type, body = failure(error)
        except BodyError as error:
            # Twirp knows no 413; LiveKit answers it as such, so the status is HTTP's and the code Twirp's nearest.
            self._counts[BODY_DROPS[error.status]] += 1
            status, content_type, body = error.status, JSON, error_json("malformed", error.text)
            headers = ((b"connection", b"close"),)
        await respond(scope, send, status, body, content_type, headers)

    async def _answer(
        self, scope: Scope, receive: Receive, path: str, claims: Claims | None, address: str
    ) -> tuple[int, bytes, bytes]:
        if scope["method"] != "POST":
            raise RequestError("bad_route", f"unsupported method {scope['method']!r} (only POST is allowed)")
        content_type = dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type not in (PROTOBUF, JSON):
            shown = content_type.decode("latin-1")[:64]
            raise RequestError("bad_route", f"unexpected Content-Type: {shown!r} (application/json or /protobuf)")
        method = METHODS.get(path.removeprefix(PREFIX))
        if method is None:
            raise RequestError("bad_route", f"no handler for path {path[:256]!r}")
        checked = check(method.service, method.name, claims, None)
        limit = self._settings.body_bytes
        if content_type == JSON:
            limit = min(limit, MAX_JSON_BYTES) if limit else MAX_JSON_BYTES
        body = await read_body(receive, limit, self._settings.body_timeout_s)
        if content_type == JSON and len(body) > LARGE_JSON_BYTES:
            request = await asyncio.to_thread(_decode, method, content_type, body)
        else:
            request = _decode(method, content_type, body)
        check(method.service, method.name, checked, request)
        command = Command(method.service, method.name, checked, request, address)
        return 200, content_type, _encode(content_type, await self._carry_out(command, method))

    async def _carry_out(self, command: Command, method: Method) -> ProtoMessage:
        timeout_s = self._settings.command_timeout_s
        try:
            async with asyncio.timeout(timeout_s or None):
                response = await self._handler(command)
            assert isinstance(response, method.response_class), f"{method.name} answered {type(response)}"
            return response
        except RequestError:
            raise
        except TimeoutError:
            raise RequestError("deadline_exceeded", f"{method.name} did not finish within {timeout_s:g} s") from None
        except Exception:
            log.exception("command_failed", service=method.service, method=method.name)
            raise RequestError("internal", "internal error") from None


def _decode(method: Method, content_type: bytes, body: bytes) -> ProtoMessage:
    request = method.request_class()
    try:
        if content_type == PROTOBUF:
            request.ParseFromString(body)
        else:
            json_format.Parse(body.decode() or "{}", request, ignore_unknown_fields=True)
    except DecodeError:
        raise RequestError("malformed", "the protobuf request could not be decoded") from None
    except json_format.ParseError as error:
        raise RequestError("malformed", f"the json request could not be decoded: {str(error)[:200]}") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        # json_format raises these for documents of the wrong shape.
        raise RequestError("malformed", "the json request could not be decoded") from None
    return request


def _encode(content_type: bytes, response: ProtoMessage) -> bytes:
    if content_type == PROTOBUF:
        return response.SerializeToString()
    return json_format.MessageToJson(
        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
    ).encode()


def failure(error: RequestError) -> tuple[int, bytes, bytes]:
    """Status, content type and body of a Twirp error."""
    code = error.code if error.code in STATUS else "internal"
    return STATUS[code], JSON, error_json(code, error.message)


def error_json(code: str, message: str) -> bytes:
    return json.dumps({"code": code, "msg": message}).encode()
