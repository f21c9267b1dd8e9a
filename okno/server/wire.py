"""From the bytes of a body to a typed value, or a 400 that names the field.

Parts that may hold anything (schemas, ignored fields) stay undecoded bytes, so that a hostile body
costs little more than its own size.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import re
from typing import TypeVar, cast

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.types import Receive

from okno.core.errors import BadRequest
from okno.server.errors import BodyTimeout, ClientGone
from okno.server.schemas import IGNORED, REFUSED

T = TypeVar("T", bound=msgspec.Struct)

MAX_DEPTH = 64
_UNKNOWN = re.compile(r"unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")
_PATH = re.compile(r"`\$\.([^`]*)`")
_BYTE = re.compile(r"\(byte (\d+)\)")
_KEY = re.compile(rb'"(\w+)"\s*:')


async def read_body(receive: Receive, timeout_s: float) -> bytes:
    """The whole body. Raises ClientGone, BodyTimeout, BodyTooLarge (see security.limited)."""
    chunks = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunks.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise BodyTimeout(f"The body did not arrive within {timeout_s:g} s.") from None


async def read(request: Request, kind: type[T], timeout_s: float) -> T:
    return parse(await read_body(request.receive, timeout_s), kind)


def parse(body: bytes, kind: type[T]) -> T:
    """`body` as `kind`; BadRequest names what is wrong and where."""
    try:
        body.decode()
        return cast("T", _with_sane_integers(_decoder(kind).decode(body)))
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: byte {error.start} is wrong.") from None
    except RecursionError:
        raise BadRequest(
            f"The body is nested too deeply; {MAX_DEPTH} levels are allowed."
        ) from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None
    except msgspec.DecodeError as error:
        raise _malformed(str(error), body) from None


def _with_sane_integers(body: msgspec.Struct) -> msgspec.Struct:
    """Integers beyond 64 bits mean nothing in any field, and overflow what they are given to."""
    for name in body.__struct_fields__:
        value = getattr(body, name)
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise BadRequest(f"`{name}` is out of any range.", param=name)
    return body


@functools.cache
def _decoder(kind: type[msgspec.Struct]) -> msgspec.json.Decoder[msgspec.Struct]:
    return msgspec.json.Decoder(kind)


def _invalid(text: str, kind: type[msgspec.Struct]) -> BadRequest:
    if unknown := _UNKNOWN.search(text):
        path = _PATH.search(text)
        return _unknown_field(unknown[1].split("` - at")[0], path[1] if path else "", kind)
    if missing := _MISSING.search(text):
        path = _PATH.search(text)
        name = f"{path[1]}.{missing[1]}" if path else missing[1]
        return BadRequest(f"`{name}` is missing.", param=name)
    if path := _PATH.search(text):
        return BadRequest(f"`{path[1]}`: {text.split(' - at ')[0]}.", param=path[1])
    return BadRequest(f"The body is wrong: {text}.")


def _unknown_field(name: str, path: str, kind: type[msgspec.Struct]) -> BadRequest:
    shown = name[:80]
    if path:
        return BadRequest(f"`{path}.{shown}` is not known.", param=f"{path}.{shown}")
    if name in REFUSED:
        return BadRequest(f"`{shown}` is not supported: {REFUSED[name]}.", param=shown)
    near = difflib.get_close_matches(shown, kind.__struct_fields__, n=1, cutoff=0.5)
    hint = f" The nearest known field is `{near[0]}`." if near else ""
    return BadRequest(f"`{shown}` is not a field of this request.{hint}", param=shown)


def _malformed(text: str, body: bytes) -> BadRequest:
    """Not JSON (NaN and Infinity neither): name the last field before the wrong byte."""
    at = _BYTE.search(text)
    keys = _KEY.findall(body[: int(at[1])][-1000:]) if at else []
    name = keys[-1].decode() if keys else None
    where = f" The last field before it is `{name}`." if name else ""
    return BadRequest(f"The body is not valid JSON: {text}.{where}", param=name)


def given(raw: Raw) -> bytes:
    """The JSON of a field kept as bytes; b"" when it is absent or null."""
    text = bytes(raw)
    return b"" if text == b"null" else text


def ignored_fields(body: msgspec.Struct) -> list[str]:
    """The names in `body` that have no effect here."""
    return [name for name in IGNORED if given(getattr(body, name, Raw()))]


def decode_any(raw: bytes, param: str, limit_chars: int) -> object:
    """Free-form JSON as Python values: bounded in size and in depth, then decoded."""
    if len(raw) > 4 * limit_chars:
        raise BadRequest(
            f"`{param}` has {len(raw):,} bytes; at most {limit_chars:,} characters are accepted.",
            param=param,
        )
    if depth(raw) > MAX_DEPTH:
        raise BadRequest(f"`{param}` is nested deeper than {MAX_DEPTH} levels.", param=param)
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise BadRequest(f"`{param}` is not valid JSON: {error}.", param=param) from None


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def depth(raw: bytes) -> int:
    """How deeply the arrays and objects of valid JSON are nested."""
    deepest = now = 0
    for byte in _STRING.sub(b"", raw):
        if byte in b"[{":
            now += 1
            deepest = max(deepest, now)
        elif byte in b"]}":
            now -= 1
    return deepest
