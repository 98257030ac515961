"""manifest.json describes every file of its folder, and shows when one has changed."""

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import pytest
from gpt2_export import manifest
from gpt2_export.errors import FolderError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 5000)  # more than one read
    return folder


def described(folder: Path, graphs: dict[str, str] | None = None) -> dict[str, Any]:
    document = manifest.describe(
        source="org/name",
        revision="abc",
        weights={"fp32": "model.safetensors"},
        graphs={"fp32": graphs} if graphs else {},
        parity=None,
        quality={},
        warnings=["mind"],
        files=manifest.entries(folder),
    )
    (folder / manifest.MANIFEST).write_text(manifest.text(document), encoding="utf-8")
    return document


def test_every_file_but_itself_has_its_bytes_and_its_sha256(folder: Path) -> None:
    described(folder)
    document = described(folder)  # with a manifest lying there already
    assert document["files"] == {
        name: {
            "bytes": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in ("config.json", "model.safetensors")
    }


def test_it_says_where_the_folder_is_from_and_what_made_it(folder: Path) -> None:
    document = described(folder)
    assert document["source"] == {"name": "org/name", "revision": "abc"}
    assert document["generator"] == {"name": "gpt2-export", "version": importlib.metadata.version("gpt2-export")}
    assert (document["schema"], document["warnings"], document["parity"]) == (1, ["mind"], None)
    assert document["weights"] == {"fp32": "model.safetensors"}


def test_what_is_written_is_read(folder: Path) -> None:
    document = described(folder)
    assert manifest.read(folder) == document


def test_a_folder_inside_is_no_file_of_it(folder: Path) -> None:
    (folder / ".cache").mkdir()  # `hf download` leaves one
    assert described(folder)["files"].keys() == {"config.json", "model.safetensors"}


def test_a_whole_folder_has_no_differences_and_may_hold_more_files(folder: Path) -> None:
    document = described(folder)
    (folder / "README.md").write_text("mine")
    assert manifest.differences(folder, document) == []


def test_each_kind_of_difference_is_told_with_the_files_name(folder: Path) -> None:
    document = described(folder)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert manifest.differences(folder, document) == ["model.safetensors has another sha256"]
    (folder / "model.safetensors").write_bytes(content[:-1])
    (folder / "config.json").unlink()
    assert manifest.differences(folder, document) == [
        "config.json is missing",
        "model.safetensors has 1279999 bytes instead of 1280000",
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", r"manifest\.json cannot be read"),
        (b"\xff\xfe", r"manifest\.json cannot be read"),
        (b"[]", r"manifest\.json has schema 'list', this version reads 1"),
        (b"{}", r"manifest\.json has schema None, this version reads 1"),
        (b'{"schema": 2}', r"manifest\.json has schema 2, this version reads 1; make the folder again"),
        (b'{"schema": 1}', r"manifest\.json"),
        (b'{"schema": 1, "files": []}', r"manifest\.json"),
        (b'{"schema": 1, "files": {"config.json": 3}}', r"manifest\.json"),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder: Path, content: bytes, complaint: str) -> None:
    (folder / manifest.MANIFEST).write_bytes(content)
    with pytest.raises(FolderError, match=complaint):
        manifest.read(folder)


def test_a_folder_without_one_is_refused_with_the_command_that_makes_it(folder: Path) -> None:
    with pytest.raises(FolderError, match=r"has no manifest\.json; make it with `gpt2-export make SOURCE"):
        manifest.read(folder)
    with pytest.raises(FolderError, match=r"has no manifest\.json"):
        manifest.read(folder / "config.json")


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PACKAGES", ("torch", "a-package-that-is-not-there"))
    assert manifest.versions() == {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def test_text_is_json_that_people_can_read() -> None:
    text = manifest.text({"source": {"name": "naïve"}})
    assert json.loads(text) == {"source": {"name": "naïve"}}
    assert "naïve" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights": None}, "weights"),
        ({"graphs": []}, "graphs"),
        ({"source": {}}, "source"),
        ({"parity": {}}, "parity"),
        ({"files": {"config.json": {}}}, "files"),
    ],
)
def test_a_manifest_whose_parts_lack_something_is_refused(folder: Path, change: dict[str, Any], told: str) -> None:
    document = described(folder) | change
    (folder / manifest.MANIFEST).write_text(manifest.text(document), encoding="utf-8")
    with pytest.raises(FolderError, match=f"is damaged: {told} are not what they must be; make the folder again"):
        manifest.read(folder)
