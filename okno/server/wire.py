"""From the bytes of a body to a typed value, or a 400 that names the field.

Parts that may hold anything (schemas, ignored fields) stay undecoded bytes, so that a hostile body
costs little more than its own size.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import re
from array import array
from itertools import accumulate
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
_STRING = re.compile(rb'"[^"]*"')
_MEMBER_KEY = re.compile(rb'\s*,?\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_ENDS = re.compile(rb"\s*[,}]")
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_NOT_NESTING = bytes(sorted(set(range(256)) - set(b'[]{}"')))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes


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
        if too_deep(body):
            raise BadRequest(f"The body is nested too deeply; {MAX_DEPTH} levels are allowed.")
        found = cast("T", _with_sane_integers(_decoder(kind).decode(body)))
        _refuse_repeated_keys(body)
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: byte {error.start} is wrong.") from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None
    except msgspec.DecodeError as error:
        raise _malformed(str(error), body) from None
    return found


def _refuse_repeated_keys(body: bytes) -> None:
    """A key that stands twice at the top level of a valid body: the decoder takes the last one.

    Walks the members, each of which must be the one that was decoded; a value is compared, never
    looked into. Only known keys can stand here, so the walk is short.
    """
    values = {key: bytes(raw) for key, raw in _MEMBERS.decode(body).items()}
    left = dict(values)
    at = body.index(b"{") + 1
    while member := _MEMBER_KEY.match(body, at):
        key = str(msgspec.json.decode(member[1]))
        value = left.pop(key, None)
        end = member.end() + len(value or b"")
        if value is None or not body.startswith(value, member.end()) or not _ENDS.match(body, end):
            raise BadRequest(f"`{key[:80]}` stands twice in the body; send it once.", param=key)
        at = end


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
        if path[1] in REFUSED and text.startswith("Expected `null`,"):
            return _unsupported(path[1])
        return BadRequest(f"`{path[1]}`: {text.split(' - at ')[0]}.", param=path[1])
    return BadRequest(f"The body is wrong: {text}.")


def _unknown_field(name: str, path: str, kind: type[msgspec.Struct]) -> BadRequest:
    shown = name[:80]
    if path:
        return BadRequest(f"`{path}.{shown}` is not known.", param=f"{path}.{shown}")
    if name in REFUSED:
        return _unsupported(name)
    known = [field for field in kind.__struct_fields__ if field not in REFUSED]
    near = difflib.get_close_matches(shown, known, n=1, cutoff=0.7)
    hint = f" The nearest known field is `{near[0]}`." if near else ""
    return BadRequest(f"`{shown}` is not a field of this request.{hint}", param=shown)


def _unsupported(name: str) -> BadRequest:
    return BadRequest(f"`{name}` is not supported: {REFUSED[name]}.", param=name)


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
    if too_deep(raw):
        raise BadRequest(f"`{param}` is nested deeper than {MAX_DEPTH} levels.", param=param)
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise BadRequest(f"`{param}` is not valid JSON: {error}.", param=param) from None


def too_deep(raw: bytes) -> bool:
    """True when the arrays and objects of `raw` are nested deeper than MAX_DEPTH."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    return depth(raw) > MAX_DEPTH


def depth(raw: bytes) -> int:
    """How deeply the arrays and objects of JSON are nested. Whole passes over the bytes: a body
    of nothing but brackets costs a second at 32 MiB, any usual one a hundredth of that."""
    text = raw.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_NESTING)
    outside_strings = _STRING.sub(b"", text.replace(b'""', b""))
    return max(accumulate(array("b", outside_strings.translate(_STEPS, b'"'))), default=0)
