"""The driver's subprocesses: adapters, which speak protocol.py, and commands. None outlives the driver."""

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


class PeerError(Exception):
    """A peer could not be installed, converted, started or run; the message is one line for the report."""


class RefusedError(PeerError):
    """An adapter answered with an error, and waits for the next request."""


class Adapter:
    """A running adapter. It computes only between a request and its reply.

    >>> import sys, tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with Adapter(Path(sys.executable), "counting", threads=1, log=Path(place) / "log") as adapter:
    ...         adapter.ask("generate", prompts=[[1, 2]], new_tokens=2)["ids"]
    [[3, 4]]
    """

    def __init__(self, python: Path, name: str, *, threads: int, log: Path) -> None:
        self.name, self.log, self.buffer = name, log, b""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(python), "-m", f"adapters.{name}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=HERE,
                env=environment(threads),
                start_new_session=True,  # its children end with it; Ctrl-C reaches only the driver
            )

    def ask(self, op: str, *, timeout: float = 900, **fields: object) -> dict[str, Any]:
        """Sends a request and waits for its reply; PeerError if there is none or it is an error."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps({"op": op, **fields}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(f"{op}: the process has ended; {last_line(self.log)}") from error
        reply: dict[str, Any] = json.loads(self._line(op, timeout))
        if "error" in reply:
            raise RefusedError(f"{op}: {reply['error']}")
        return reply

    def _line(self, op: str, timeout: float) -> bytes:
        assert self.process.stdout
        end = monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0, end - monotonic())):
                    raise PeerError(f"{op}: no reply within {timeout:.0f} s")
                piece = os.read(self.process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise PeerError(f"{op}: the process ended with {self.process.wait()}; {last_line(self.log)}")
                self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def peak_megabytes(self) -> float:
        """The highest resident memory so far, of the process and its children."""
        return sum(_status_bytes(pid, "VmHWM:") for pid in process_tree(self.process.pid)) / 1e6

    def cpu_seconds(self) -> float:
        """Processor time so far, of the process and its children."""
        return sum(_cpu_ticks(pid) for pid in process_tree(self.process.pid)) / TICKS

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        kill_group(self.process)
        with suppress(BrokenPipeError):  # a request that a dead adapter never read
            self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self) -> "Adapter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def environment(threads: int, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """An adapter's environment: offline, with `threads` threads, and without variables that change how it waits.

    >>> environment(2, {"OMP_WAIT_POLICY": "PASSIVE", "HOME": "/"})["OMP_NUM_THREADS"]
    '2'
    """
    dropped = ("OMP_", "KMP_", "GOMP_", "MKL_", "PYTHON")
    base_variables = {name: value for name, value in (base or os.environ).items() if not name.startswith(dropped)}
    return base_variables | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # telemetry would be measured too
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as in nvidia-smi, which names the report's GPU
    }


def run(command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a command with its output in `log`; PeerError with the log's last line if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            code = process.wait()
        finally:
            kill_group(process)
    if code:
        raise PeerError(last_line(log))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like Ctrl-C, so that everything in it is closed."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that leads a session, and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """The last informative line of a log: pip's error rather than its notices."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["nothing was printed"])[-1][:300]


def process_tree(pid: int) -> list[int]:
    """A process and all its living descendants."""
    pids = [pid]
    for each in pids:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):  # it has ended meanwhile
                pids += map(int, children.read_text().split())
    return pids


def _status_bytes(pid: int, name: str) -> int:
    with suppress(OSError):  # a child that has ended meanwhile, as torch's compilers do when they are idle
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024  # its kB are kibibytes
    return 0


def _cpu_ticks(pid: int) -> int:
    if not Path(f"/proc/{pid}/stat").exists():
        return 0
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)
