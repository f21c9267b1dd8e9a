"""Only regular files are read; nothing else is waited for."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from okno.core.files import open_file, read_file

OKNO = Path(__file__).parents[2] / "okno"
# Rooms that open what others named; what is opened there in another way is okno's own.
OPENING = re.compile(r'\.open\("rb"|\.read_bytes\(|\.read_text\(|np\.memmap|np\.fromfile')
OWN = {
    "convert/cache.py", "convert/checkpoint.py", "convert/fetch.py", "convert/lora.py",
    "inspect/catalog.py", "inspect/hardware/maker.py", "inspect/memory.py",
}  # fmt: skip


def test_a_file_is_read_up_to_a_limit_and_links_are_followed(tmp_path):
    (tmp_path / "a").write_bytes(b"window")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "b", 3) == b"win"
    with open_file(tmp_path / "a") as file:
        assert file.read() == b"window"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
def test_what_is_no_file_is_refused_at_once_and_named(tmp_path, kind, monkeypatch):
    path = tmp_path / "model"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        socket.socket(socket.AF_UNIX).bind("model")
    with pytest.raises(OSError, match=r"No such device|not a file") as caught:
        open_file(path)
    assert kind == "socket" or caught.value.strerror == f"it is a {kind}, not a file"


def test_nothing_stays_open(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(OSError, match="pipe"):
            open_file(tmp_path / "pipe")
    assert len(os.listdir("/proc/self/fd")) == before


def test_there_is_one_door():
    rooms = (
        path for room in ("inspect", "convert", "store") for path in OKNO.glob(f"{room}/**/*.py")
    )
    found = {
        path.relative_to(OKNO).as_posix()
        for room in rooms
        for path in room.rglob("*.py")
        if OPENING.search(path.read_text(encoding="utf-8"))
    }
    assert found <= OWN
