"""What may lie in the place of a file: it hangs whoever opens it, never ends, or is none."""

import os
import shutil
import socket
from pathlib import Path

ODD = ("folder", "pipe", "socket", "link to a device", "link to a folder", "link to itself")


def make_odd(path: Path, kind: str) -> None:
    """Puts that in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        place = os.open(path.parent, os.O_RDONLY)  # the name of a socket is at most a hundred bytes
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"/proc/self/fd/{place}/{path.name}")
        finally:
            os.close(place)
    else:
        path.symlink_to(
            {"link to a device": "/dev/zero", "link to a folder": "/tmp", "link to itself": path.name}[kind]
        )
