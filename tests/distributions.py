"""Builds the six artifacts of a release: for each package an sdist, and a wheel from that sdist.

    python tests/distributions.py dist                 into dist/model, dist/export and dist/runtime
    python tests/distributions.py dist --tag v0.1.0    only if v0.1.0 is the version and CHANGELOG.md has its section

`tox -e distributions` runs this and checks the result.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "export", "runtime")  # in publishing order: export needs model


def build(package: str, out: Path) -> tuple[Path, Path]:
    """Writes a package's sdist, and the wheel from it, into `out`; uses the installed hatchling, offline."""
    out = out.resolve()  # hatchling runs in another folder
    out.mkdir(parents=True, exist_ok=True)
    sdist = _built("sdist", ROOT / "packages" / package, out)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (source,) = Path(folder).iterdir()
        return sdist, _built("wheel", source, out)


def _built(kind: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (artifact,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return artifact


def version() -> str:
    """The packages' common version."""
    declared = tomllib.loads((ROOT / "packages/model/pyproject.toml").read_text(encoding="utf-8"))
    result: str = declared["project"]["version"]
    return result


def check_tag(tag: str, version: str, changelog: str) -> None:
    """Refuses a tag that does not match the version, and a version without a dated section in the changelog.

    >>> check_tag("v1.2.0", "1.2.0", "## [Unreleased]\\n\\n## [1.2.0] - 2027-01-31\\n")
    >>> check_tag("v1.2.0", "1.2.0", "## [Unreleased]\\n")
    Traceback (most recent call last):
    ...
    SystemExit: CHANGELOG.md has no line "## [1.2.0] - YYYY-MM-DD"
    """
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, but the packages have version {version}: tag v{version}")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        raise SystemExit(f'CHANGELOG.md has no line "## [{version}] - YYYY-MM-DD"')


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the sdists and wheels of the three packages.")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--tag", help="refuse unless this is the tag of the version being built")
    arguments = parser.parse_args()
    if arguments.tag is not None:
        check_tag(arguments.tag, version(), (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    for package in PACKAGES:
        shutil.rmtree(arguments.out / package, ignore_errors=True)
        for artifact in build(package, arguments.out / package):
            print(artifact)


if __name__ == "__main__":
    main()
