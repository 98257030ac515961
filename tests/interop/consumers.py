"""Opens the folders with one consumer; when all of its tests pass, its versions are kept, and the README tells them.

tox -e interop-NAME                                 makes the consumer's environment, and in it runs
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

# The names under which a program may be installed, and the Debian package that has it.
PROGRAMS = {
    "node": (("node", "nodejs"), "nodejs"),
    "npm": (("npm",), "npm"),
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "chromium"),
}


@dataclass(frozen=True, kw_only=True)
class Consumer:
    """What runs the folder: its versions are told, its modules are installed, its programs must be there already."""

    packages: tuple[str, ...] = ()  # from PyPI: tox.ini installs them
    modules: tuple[str, ...] = ()  # from npm: the first is asked for, the others come with it
    programs: tuple[str, ...] = ()


CONSUMERS = {
    "transformers": Consumer(packages=("transformers", "lm-eval", "torch", "onnxruntime")),
    "optimum": Consumer(packages=("optimum-onnx", "transformers", "onnxruntime")),
    "genai": Consumer(packages=("onnxruntime-genai", "onnxruntime")),
    "node": Consumer(modules=("@huggingface/transformers", "onnxruntime-node"), programs=("node", "npm")),
    "browser": Consumer(modules=("@huggingface/transformers", "onnxruntime-web"), programs=("chromium", "npm")),
}


def main(name: str) -> int:
    """Installs, tests and, where nothing failed, writes; returns the exit code."""
    consumer = CONSUMERS[name]
    absent = [wanted for wanted in consumer.programs if program(wanted) is None]
    if absent:
        packages = " ".join(PROGRAMS[wanted][1] for wanted in absent)
        print(f"interop-{name} needs {' and '.join(absent)} on the PATH; on Debian: apt install {packages}")
        return 1
    code = (installed(consumer.modules[0]) if consumer.modules else 0) or tested(name)
    if code == 0:
        keep(name, versions(consumer))
    return code


def program(name: str) -> str | None:
    """Where a program is, by whichever of its names; None where it is not."""
    return next(filter(None, map(shutil.which, PROGRAMS[name][0])), None)


def installed(module: str) -> int:
    """npm's exit code for the newest version. No install scripts: onnxruntime-node's fetches CUDA libraries."""
    place = Path(os.environ["INTEROP_MODULES"])
    place.mkdir(parents=True, exist_ok=True)
    asked = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(place), f"{module}@latest"]
    return subprocess.run([str(program("npm")), *asked], check=False).returncode


def tested(name: str) -> int:
    """The exit code of the consumer's tests, in a process of their own; 0 where none failed."""
    files = [HERE / f"test_{name}.py", *sorted(HERE.glob(f"test_{name}_*.py"))]
    return subprocess.run([sys.executable, "-m", "pytest", *map(str, files)], check=False).returncode


def versions(consumer: Consumer) -> dict[str, str]:
    """What is installed, by name."""
    found = {name: importlib.metadata.version(name) for name in consumer.packages}
    for name in consumer.modules:
        manifest = Path(os.environ["INTEROP_MODULES"]) / "node_modules" / name / "package.json"
        found[name] = json.loads(manifest.read_text())["version"]
    for name in set(consumer.programs) - {"npm"}:
        told = subprocess.run([str(program(name)), "--version"], capture_output=True, text=True, check=True).stdout
        found[name] = re.findall(r"\d+(?:\.\d+)+", told)[0]
    return found


def keep(name: str, found: dict[str, str]) -> None:
    """Writes the consumer's result, and the README's table of all of them."""
    document = {"date": datetime.date.today().isoformat(), "versions": found}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    subprocess.run([sys.executable, str(ROOT / "tests/readme.py"), "interop"], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].removeprefix("interop-")))
