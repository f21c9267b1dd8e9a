"""A file behind HTTP, read in ranges. Nothing the server says is trusted beyond a bound."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import okno
from okno.core.errors import (
    AccessDenied,
    ModelNotFound,
    ModelUnusable,
    OknoError,
    SourceUnreachable,
)
from okno.inspect.source import FIRST_BLOCK_BYTES, MAX_READ_BYTES, too_much_read

if TYPE_CHECKING:
    import httpx

MAX_WHOLE_BYTES = 16 * 1024 * 1024  # taken from a server that does not answer range requests
MAX_REDIRECTS = 10
CONNECT_S, SILENCE_S, DEADLINE_S = 10.0, 30.0, 600.0  # DEADLINE_S: for all reads together
PARTIAL, WHOLE, BAD_RANGE = 206, 200, 416


@dataclass(frozen=True, slots=True)
class Access:
    """token: sent to `origin` (scheme and host, as origin_of gives it) alone, and never to where
    that redirects."""

    origin: str = ""
    token: str = ""


def origin_of(url: str) -> str:
    """`https://huggingface.co` of an address there: what tells one server from another."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class HttpSource:
    """A file at `url`. The first range is read at once: it tells the size and the version.

    Raises ModelNotFound (404), AccessDenied (401, 403), SourceUnreachable (no network, a server
    that answers in another way), ModelUnusable (too large).
    """

    def __init__(self, url: str, access: Access | None = None) -> None:
        self._url = url
        self._access = access or Access()
        self._client = _client()
        self._read_bytes = 0
        self._version: str | None = None
        self._ends = time.monotonic() + DEADLINE_S
        self.size_bytes = 0
        try:
            self._head = self._fetch(0, FIRST_BLOCK_BYTES, first=True)
        except OknoError:
            self._client.close()
            raise

    @property
    def name(self) -> str:
        return urlsplit(self._url).path.rsplit("/", 1)[-1]

    @property
    def where(self) -> str:
        """The address without what may be secret (user, query)."""
        parts = urlsplit(self._url)
        return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))

    def read(self, offset: int, count: int) -> bytes:
        end = min(offset + count, self.size_bytes)
        if end <= len(self._head):
            return self._head[offset:end]
        return self._fetch(offset, end - offset)

    def sibling(self, name: str) -> HttpSource:
        parts = urlsplit(self._url)
        path = f"{parts.path.rsplit('/', 1)[0]}/{quote(name)}"
        return HttpSource(urlunsplit(parts._replace(path=path)), self._access)

    def close(self) -> None:
        self._client.close()

    def _fetch(self, offset: int, count: int, *, first: bool = False) -> bytes:
        import httpx

        if count <= 0:
            return b""
        headers = {"Range": f"bytes={offset}-{offset + count - 1}", "Accept-Encoding": "identity"}
        try:
            with self._client.stream("GET", self._url, headers=headers | self._secret()) as answer:
                return self._body(answer, offset, count, first=first)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceUnreachable(
                f"{self.where} cannot be read: {_reason(error)}. Check the address and the "
                "network, or give a file on this machine."
            ) from None

    def _secret(self) -> dict[str, str]:
        if not self._access.token or origin_of(self._url) != self._access.origin:
            return {}
        return {"Authorization": f"Bearer {self._access.token}"}

    def _body(self, answer: httpx.Response, offset: int, count: int, *, first: bool) -> bytes:
        if answer.status_code == WHOLE and first:
            return self._whole(answer)
        if answer.status_code == BAD_RANGE and first:
            return b""  # an empty file has no first byte
        if answer.status_code != PARTIAL:
            raise self._refused(answer)
        start, end, total = self._range_of(answer)
        if start != offset or not start <= end < total or end - start >= count:
            raise self._odd(f"sends bytes {start}-{end} of {total} when asked for {offset}")
        self._check_version(answer, total, first=first)
        data = self._bounded(answer, end - start + 1)
        if len(data) != end - start + 1:
            raise self._odd(f"sends {len(data)} bytes and announced {end - start + 1}")
        return data

    def _whole(self, answer: httpx.Response) -> bytes:
        """The body of a server that ignores ranges, if the file is small."""
        announced = answer.headers.get("Content-Length", "0")
        too_large = announced.isdecimal() and int(announced) > MAX_WHOLE_BYTES
        data = b"" if too_large else self._bounded(answer, MAX_WHOLE_BYTES + 1)
        if too_large or len(data) > MAX_WHOLE_BYTES:
            raise self._odd(
                f"does not answer range requests, and the file has more than "
                f"{MAX_WHOLE_BYTES >> 20} MiB"
            )
        self.size_bytes = len(data)
        return data

    def _range_of(self, answer: httpx.Response) -> tuple[int, int, int]:
        found = re.fullmatch(
            r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", answer.headers.get("Content-Range", "")
        )
        if found is None:
            raise self._odd("sends a part without saying which")
        start, end, total = map(int, found.groups())
        return start, end, total

    def _check_version(self, answer: httpx.Response, total: int, *, first: bool) -> None:
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if first:
            self.size_bytes, self._version = total, version
        elif total != self.size_bytes or version != self._version:
            raise ModelUnusable(
                f"{self.where} was changed by its publisher while it was read. Try again."
            )

    def _bounded(self, answer: httpx.Response, most_bytes: int) -> bytes:
        """The body up to `most_bytes`, in bounded time."""
        data = bytearray()
        for piece in answer.iter_raw():
            data += piece
            self._read_bytes += len(piece)
            if self._read_bytes > MAX_READ_BYTES:
                raise too_much_read(self.where)
            if time.monotonic() > self._ends:
                raise self._odd(f"needs more than {DEADLINE_S:.0f} s for a header")
            if len(data) >= most_bytes:
                break
        return bytes(data[:most_bytes])

    def _refused(self, answer: httpx.Response) -> OknoError:
        status, said = answer.status_code, answer.headers.get("X-Error-Code", "")
        if said == "GatedRepo" or (status == 403 and "gated" in said.lower()):
            return AccessDenied(
                f"{self.where} is gated: its publisher shows it after you accept the licence on "
                "the model's page. Do that, and give your access token as HF_TOKEN."
            )
        if status in (401, 403):
            return AccessDenied(
                f"{self.where} may not be read ({status}): it is private, or there is no such "
                "repository. Check the name, or give your access token as HF_TOKEN."
            )
        if status in (404, 410):
            return ModelNotFound(f"There is no file {self.where} ({said or status}).")
        return self._odd(f"answers with status {status}")

    def _odd(self, what: str) -> SourceUnreachable:
        return SourceUnreachable(
            f"{self.where} {what}, so its header cannot be read from there. Try again later, or "
            "download the file."
        )


def _client() -> httpx.Client:
    import httpx

    return httpx.Client(
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
        headers={"User-Agent": f"okno/{okno.__version__}"},
    )


def _reason(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    return text[:200] if text else type(error).__name__
