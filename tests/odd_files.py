"""Things that may be in place of a file: they hang their reader, never end, or are not files."""

import os
import shutil
import socket
from pathlib import Path

ODD = ("folder", "pipe", "socket", "link to a device", "link to a folder", "link to itself")


def make_odd(path: Path, kind: str) -> None:
    """Puts one in place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        place = os.open(path.parent, os.O_RDONLY)  # a socket's name has at most a hundred bytes
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"/proc/self/fd/{place}/{path.name}")
        finally:
            os.close(place)
    else:
        path.symlink_to(
            {"link to a device": "/dev/zero", "link to a folder": "/tmp", "link to itself": path.name}[kind]
        )
