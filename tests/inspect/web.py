"""A small web server on a real socket that serves files in ranges, and misbehaves when told to."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """A request the server got."""

    path: str
    range: str | None
    authorization: str | None


@dataclass
class Site:
    """files by path. etag: of every file. redirects: path to address. refused: path to (status,
    X-Error-Code). misbehave: may change status, headers and body of an answer."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"1"'
    redirects: dict[str, str] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    ignores_ranges: bool = False
    misbehave: Callable[[Answer], Answer] = field(default=lambda answer: answer)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up early is no error here."""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """`site` on a free port of this machine; its url is set."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = self.headers
            site.asked.append(Asked(self.path, headers["Range"], headers["Authorization"]))
            answer = site.misbehave(answer_of(site, self.path, headers["Range"]))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.headers.get("Transfer-Encoding") == "chunked":
                self.end_headers()
                self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))
                return
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            if answer.headers.get("Content-Length", str(len(answer.body))) != str(len(answer.body)):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer_of(site: Site, path: str, asked_range: str | None) -> Answer:
    """The proper answer."""
    path = path.partition("?")[0]
    if path in site.redirects:
        return Answer(302, {"Location": site.redirects[path]}, b"")
    if path in site.refused:
        status, code = site.refused[path]
        return Answer(status, {"X-Error-Code": code} if code else {}, b"")
    if path not in site.files:
        return Answer(404, {"X-Error-Code": "EntryNotFound"}, b"")
    data = site.files[path]
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked_range or "")
    if site.ignores_ranges or not found:
        return Answer(200, {"ETag": site.etag}, data)
    start, end = int(found[1]), min(int(found[2]), len(data) - 1)
    if start >= len(data):
        return Answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
    headers = {"ETag": site.etag, "Content-Range": f"bytes {start}-{end}/{len(data)}"}
    return Answer(206, headers, data[start : end + 1])
