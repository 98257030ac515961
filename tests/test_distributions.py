"""A release: the sdist and the wheel of each package, their contents, and their installation."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import distributions
import pytest
from distributions import PACKAGES, ROOT
from packaging.metadata import Metadata

LICENSE = (ROOT / "LICENSE").read_bytes()

# Non-Python files, which a wrong build setting would silently lose.
DATA = {
    "model": {"py.typed"},
    "export": {
        "py.typed",
        "verification/sonnets.txt",
        "verification/hard_texts.json",
        *(f"demo/{name}" for name in ("README.md", "config.json", "generation_config.json", "model.safetensors")),
        *(f"demo/{name}" for name in ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json")),
    },
    "runtime": {"py.typed", "engine/top_k.onnx", *(f"explain/template/page.{kind}" for kind in ("css", "html", "js"))},
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the artifacts: built here, or those to be published, from GPT2_DISTRIBUTIONS."""
    if named := os.environ.get("GPT2_DISTRIBUTIONS"):
        return Path(named)
    out = tmp_path_factory.mktemp("dist")
    for package in PACKAGES:
        distributions.build(package, out / package)
    return out


@cache
def contents(artifact: Path) -> dict[str, bytes]:
    """The files of an artifact by name; for an sdist, without the top-level folder."""
    if artifact.suffix == ".whl":
        with zipfile.ZipFile(artifact) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    files = {}
    with tarfile.open(artifact) as sdist:
        for member in sdist:
            opened = sdist.extractfile(member)
            assert opened is not None, f"{member.name} is not a file"
            files[member.name.partition("/")[2]] = opened.read()
    return files


def sdist(built: Path, package: str) -> dict[str, bytes]:
    (artifact,) = (built / package).glob("*.tar.gz")
    return contents(artifact)


def wheel(built: Path, package: str) -> dict[str, bytes]:
    (artifact,) = (built / package).glob("*.whl")
    return contents(artifact)


def sources(package: str) -> dict[str, bytes]:
    """The files of a package's source, by their names below `src`."""
    src = ROOT / "packages" / package / "src"
    paths = [path for path in src.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(src).as_posix(): path.read_bytes() for path in paths}


def metadata(built: Path, package: str) -> Metadata:
    version = distributions.version()
    return Metadata.from_email(wheel(built, package)[f"gpt2_{package}-{version}.dist-info/METADATA"])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_the_package_and_nothing_else(built: Path, package: str) -> None:
    entry_points = set() if package == "model" else {"entry_points.txt"}
    info = f"gpt2_{package}-{distributions.version()}.dist-info"
    described = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE", *entry_points)}
    files = wheel(built, package)
    assert {name: data for name, data in files.items() if name not in described} == sources(package)
    assert described <= set(files)
    assert {f"gpt2_{package}/{name}" for name in DATA[package]} <= set(files)


def test_they_are_built_into_a_folder_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [path.parent for path in distributions.build("model", Path("dist"))] == [tmp_path / "dist"] * 2


@pytest.mark.parametrize("package", PACKAGES)
def test_an_sdist_holds_the_source_and_the_build_files(built: Path, package: str) -> None:
    files = sdist(built, package)
    around = {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO", ".gitignore"}
    below = {name.removeprefix("src/"): data for name, data in files.items() if name not in around}
    assert below == sources(package)
    assert around <= set(files)


@pytest.mark.parametrize("package", PACKAGES)
def test_both_hold_the_license_of_the_repository(built: Path, package: str) -> None:
    assert sdist(built, package)["LICENSE"] == LICENSE
    assert wheel(built, package)[f"gpt2_{package}-{distributions.version()}.dist-info/licenses/LICENSE"] == LICENSE


@pytest.mark.parametrize("package", PACKAGES)
def test_both_are_named_after_the_version(built: Path, package: str) -> None:
    stem = f"gpt2_{package}-{distributions.version()}"
    assert {path.name for path in (built / package).iterdir()} == {f"{stem}.tar.gz", f"{stem}-py3-none-any.whl"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_metadata_is_complete(built: Path, package: str) -> None:
    fields = metadata(built, package)
    assert (fields.name, str(fields.version)) == (f"gpt2-{package}", distributions.version())
    assert (fields.license_expression, fields.license_files) == ("MIT", ["LICENSE"])
    assert fields.author == "The gpt2-onnx authors"
    assert fields.summary
    assert fields.keywords
    assert str(fields.requires_python) == ">=3.11"
    assert fields.classifiers
    assert "Typing :: Typed" in fields.classifiers
    assert fields.description_content_type == "text/markdown"
    assert fields.description == (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_description_has_no_relative_links(package: str) -> None:
    """An index shows the README alone, where a link to a file is broken. CONTRIBUTING.md says what to write."""
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_export_requires_the_model_of_its_own_version(built: Path) -> None:
    ours = {
        package: [str(pin) for pin in metadata(built, package).requires_dist or [] if pin.name.startswith("gpt2-")]
        for package in PACKAGES
    }
    assert ours == {"model": [], "export": [f"gpt2-model=={distributions.version()}"], "runtime": []}


PROGRAM = """
import gpt2_export, gpt2_model, gpt2_runtime
for module in (gpt2_model, gpt2_export, gpt2_runtime):
    print(module.__version__, module.__file__)
"""


def test_the_wheels_install_and_are_imported_from_there(built: Path, tmp_path: Path) -> None:
    wheels = [str(next((built / package).glob("*.whl"))) for package in PACKAGES]
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(target), *wheels], check=True)
    environment = os.environ | {"PYTHONPATH": str(target)}  # before the checkout that the tests run on

    def output(*command: str) -> list[str]:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    version = distributions.version()
    places = [str(target / f"gpt2_{package}" / "__init__.py") for package in PACKAGES]
    assert output(sys.executable, "-c", PROGRAM) == [word for place in places for word in (version, place)]
    for command in ("gpt2-export", "gpt2-runtime"):
        assert output(sys.executable, str(target / "bin" / command), "--version")[-1] == version


@pytest.mark.parametrize(
    ("tag", "reason"), [("0.1.0", "tag v0.1.0"), ("v0.1.1", "tag v0.1.0"), ("v0.1.0", "has no line")]
)
def test_a_tag_of_another_version_or_without_a_dated_section_is_refused(tag: str, reason: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(reason)):
        distributions.check_tag(tag, "0.1.0", "## [Unreleased]\n\n## [0.1.0]\n\n## [0x1.0] - 2027-01-31\n")
