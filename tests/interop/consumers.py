"""Tests the folders with one consumer; if all its tests pass, its versions are recorded for the README.

tox -e interop-NAME                                 makes the consumer's environment and runs in it
python tests/interop/consumers.py interop-NAME
"""

import datetime
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"

# The possible names of a program, and its Debian package.
PROGRAMS = {
    "node": (("node", "nodejs"), "nodejs"),
    "npm": (("npm",), "npm"),
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "chromium"),
}


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """A consumer of the folder: its packages and modules are installed, its programs must be there already."""

    packages: tuple[str, ...] = ()  # from PyPI: tox.ini installs them
    modules: tuple[str, ...] = ()  # from npm: the first is installed, the others are its dependencies
    programs: tuple[str, ...] = ()


CONSUMERS = {
    "transformers": Consumer(packages=("transformers", "lm-eval", "torch", "onnxruntime")),
    "optimum": Consumer(packages=("optimum-onnx", "transformers", "onnxruntime")),
    "genai": Consumer(packages=("onnxruntime-genai", "onnxruntime")),
    "node": Consumer(modules=("@huggingface/transformers", "onnxruntime-node"), programs=("node", "npm")),
    "browser": Consumer(modules=("@huggingface/transformers", "onnxruntime-web"), programs=("chromium", "npm")),
}


def main(name: str) -> int:
    """Installs, tests and, if nothing failed, records the result; returns the exit code."""
    consumer = CONSUMERS[name]
    absent = [name_of for name_of in consumer.programs if program(name_of) is None]
    if absent:
        packages = " ".join(PROGRAMS[name_of][1] for name_of in absent)
        print(f"interop-{name} needs {' and '.join(absent)} on the PATH; on Debian: apt install {packages}")
        return 1
    code = (installed(consumer.modules[0]) if consumer.modules else 0) or tested(name)
    if code == 0:
        keep(name, versions(consumer))
    return code


def program(name: str) -> str | None:
    """The path of a program, under any of its names, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS[name][0])), None)


def installed(module: str) -> int:
    """Installs the newest version; returns npm's exit code. No install scripts: onnxruntime-node's downloads CUDA."""
    place = Path(os.environ["INTEROP_MODULES"])
    place.mkdir(parents=True, exist_ok=True)
    arguments = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(place), f"{module}@latest"]
    return subprocess.run([str(program("npm")), *arguments], check=False).returncode


def tested(name: str) -> int:
    """The exit code of the consumer's tests, run in their own process; 0 if none failed."""
    files = [HERE / f"test_{name}.py", *sorted(HERE.glob(f"test_{name}_*.py"))]
    return subprocess.run([sys.executable, "-m", "pytest", *map(str, files)], check=False).returncode


def versions(consumer: Consumer) -> dict[str, str]:
    """The installed versions, by name."""
    versions_of = {name: importlib.metadata.version(name) for name in consumer.packages}
    for name in consumer.modules:
        manifest = Path(os.environ["INTEROP_MODULES"]) / "node_modules" / name / "package.json"
        versions_of[name] = json.loads(manifest.read_text())["version"]
    for name in set(consumer.programs) - {"npm"}:
        output = subprocess.run([str(program(name)), "--version"], capture_output=True, text=True, check=True).stdout
        versions_of[name] = re.findall(r"\d+(?:\.\d+)+", output)[0]
    return versions_of


def keep(name: str, versions_of: dict[str, str]) -> None:
    """Writes the consumer's result, and the README's table of all results."""
    document = {"date": datetime.date.today().isoformat(), "versions": versions_of}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    subprocess.run([sys.executable, str(ROOT / "tests/readme.py"), "interop"], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].removeprefix("interop-")))
