"""Watches a command from outside: what it writes besides its output, and which sockets its threads and children open.

strace sees every system call of all of them. If it is missing or may not trace, a seccomp filter is used instead: it
kills a process that opens a socket of any family but AF_UNIX. A child's death is seen only if its parent reacts.
"""

import ctypes
import os
import platform
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

# All that a process needs, and nothing of the tests' environment: in CI onnxruntime's telemetry is off already.
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "GPT2_TOKENIZER_DIR")

# A file created or opened for writing; a folder created. A call that ends on another line counts too.
WRITES = re.compile(
    r'(?:openat\([^"]*"(?P<file>[^"]*)", [A-Z_|]*O_(?:CREAT|WRONLY|RDWR)|mkdir(?:at)?\([^"]*"(?P<folder>[^"]*)")'
    r"(?!.* = -1 E)"
)
SOCKETS = re.compile(r"socket\((?P<family>AF_\w+)")
# Devices; semaphores, which are memory; bytecode, which the interpreter writes beside its source.
NOWHERE = re.compile(r"/dev/(null|tty|shm/sem\..*)|/proc/.*|.*/__pycache__(/.*)?")

SECCOMP_MODE_FILTER, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 2, 22, 38
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}  # the audit architecture, and the number of socket()
SIGSYS = 31


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The outcome of a watched command.

    Attributes:
        code: its exit code.
        output: stdout and stderr.
        left: files and folders below its home, its temporary directory and its working directory.
        written: what was written elsewhere.
        sockets: families of the sockets opened, without AF_UNIX.
    """

    code: int
    output: str
    left: frozenset[str]
    written: frozenset[str] = field(default_factory=frozenset)
    sockets: frozenset[str] = field(default_factory=frozenset)


class Watched:
    """A running command in its own environment: three empty directories, `home`, `tmp` and `work`, where it runs."""

    def __init__(self, command: Sequence[str | Path], place: Path, **variables: str) -> None:
        self.place = place
        for name in ("home", "tmp", "work"):
            (place / name).mkdir(parents=True, exist_ok=True)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ} | variables
        environment |= {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "PWD": str(place / "work")}
        self.log = place / "strace"
        tracer = [*_strace(), "-o", str(self.log)] if may_trace() else []
        self.process = subprocess.Popen(
            [*tracer, *map(str, command)],
            env=environment,
            cwd=place / "work",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=None if may_trace() else _forbid_sockets(),
        )

    def seen(self, timeout: float = 600) -> Seen:
        """Waits for the command to end and returns the outcome."""
        output, _ = self.process.communicate(timeout=timeout)
        left = {
            str(path.relative_to(self.place))
            for name in ("home", "tmp", "work")
            for path in (self.place / name).rglob("*")
        }
        code = self.process.returncode
        if not self.log.exists():
            sockets = {"a socket"} if code == -SIGSYS else set()
            return Seen(code=code, output=output, left=frozenset(left), sockets=frozenset(sockets))
        log = self.log.read_text(errors="replace")
        families = {match["family"] for match in SOCKETS.finditer(log)} - {"AF_UNIX", "AF_LOCAL"}
        paths = (match["file"] or match["folder"] for match in WRITES.finditer(log))
        written = {path for path in map(self._absolute, paths) if not NOWHERE.fullmatch(path)}
        outside = {path for path in written if not Path(path).is_relative_to(self.place)}
        return Seen(
            code=code,
            output=output,
            left=frozenset(left),
            written=frozenset(outside),
            sockets=frozenset(families),
        )

    def _absolute(self, path: str) -> str:
        return os.path.normpath(self.place / "work" / path)


def _strace() -> list[str]:
    return [shutil.which("strace") or "strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=socket,openat,mkdir,mkdirat"]


@cache
def may_trace() -> bool:
    """Whether strace is installed and may trace."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run([*_strace(), "-o", os.devnull, "true"], capture_output=True, check=False)
    return tried.returncode == 0


def may_filter() -> bool:
    """Whether a seccomp filter can replace strace."""
    return platform.system() == "Linux" and platform.machine() in CALLS


def _forbid_sockets() -> Callable[[], None]:
    """Returns a function to call between fork and exec: then a socket of any family but AF_UNIX kills its process."""
    architecture, socket = CALLS[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 4),  # seccomp_data.arch
            (equal, 0, 4, architecture),
            (load, 0, 0, 0),  # .nr
            (equal, 0, 2, socket),
            (load, 0, 0, 16),  # .args[0], its lower half
            (equal, 0, 1, 1),  # AF_UNIX
            (give, 0, 0, ALLOW),
            (give, 0, 0, KILL_PROCESS),
        )
    )
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    filtered = Program(len(program) // 8, ctypes.addressof(code))

    def forbid() -> None:
        assert code is not None  # kept alive
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filtered), 0, 0):
            os._exit(127)

    return forbid
