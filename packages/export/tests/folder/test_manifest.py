"""manifest.json describes every file of its folder, and shows when one has changed."""

import hashlib
import importlib.metadata
import json
import platform
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpt2_export.errors import FolderError
from gpt2_export.folder import manifest
from gpt2_export.folder.manifest import File, Generator, Manifest, PrecisionFacts, Source
from odd_files import ODD, make_odd


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 5000)  # more than one read
    return folder


def described(folder: Path) -> Manifest:
    document = manifest.describe(
        source=Source(name="org/name", revision="abc"),
        parity=None,
        quality={},
        warnings=["mind"],
        tokenizer=None,
        files=manifest.entries(folder),
    )
    (folder / manifest.MANIFEST).write_text(manifest.text(document), encoding="utf-8")
    return document


def test_every_file_but_itself_has_its_size_and_sha256(folder: Path) -> None:
    described(folder)
    document = described(folder)  # with a manifest already there
    assert document.files == {
        name: File(
            bytes=(folder / name).stat().st_size,
            sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        )
        for name in ("config.json", "model.safetensors")
    }


def test_it_names_the_source_and_the_generator(folder: Path) -> None:
    document = described(folder)
    assert document.source == Source(name="org/name", revision="abc")
    assert document.generator == Generator(name="gpt2-export", version=importlib.metadata.version("gpt2-export"))
    assert (document.schema, document.warnings, document.parity) == (1, ("mind",), None)
    assert document.weights == {"fp32": "model.safetensors"}
    assert document.precisions == (PrecisionFacts(name="fp32", cache_type="float32"),)


def test_it_round_trips(folder: Path) -> None:
    document = described(folder)
    assert manifest.read(folder) == document


def test_a_folder_inside_is_not_listed(folder: Path) -> None:
    (folder / ".cache").mkdir()  # `hf download` leaves one
    assert described(folder).files.keys() == {"config.json", "model.safetensors"}


def test_a_whole_folder_has_no_differences_and_may_hold_more_files(folder: Path) -> None:
    document = described(folder)
    (folder / "README.md").write_text("mine")
    assert manifest.differences(folder, document) == []


def test_a_manifest_of_an_older_version_is_read_without_its_newer_fields(folder: Path) -> None:
    older = described(folder).to_dict()
    for name in ("precisions", "tokenizer", "quality"):
        del older[name]
    (folder / manifest.MANIFEST).write_text(json.dumps(older))
    older_manifest = manifest.read(folder)
    assert (older_manifest.precisions, older_manifest.tokenizer, older_manifest.quality) == ((), None, {})
    assert manifest.again(older_manifest).precisions == (PrecisionFacts(name="fp32", cache_type="float32"),)


def test_each_kind_of_difference_is_reported_with_the_files_name(folder: Path) -> None:
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
def test_an_invalid_manifest_is_refused(folder: Path, content: bytes, complaint: str) -> None:
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


def test_text_is_json_that_people_can_read(folder: Path) -> None:
    document = replace(described(folder), source=Source(name="naïve", revision=None))
    text = manifest.text(document)
    assert json.loads(text) == document.to_dict()
    assert "naïve" in text
    assert text.endswith("}\n")


REAL = {"bytes": 2, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": True}, "schema is true, must be 1"),
        ({"precisions": {}}, "precisions is {}, must be a list"),
        ({"precisions": [{"name": "fp32"}]}, "precisions: 0: cache_type is absent, must be 'float32' or 'float16'"),
        ({"weights": None}, "weights is null, must be an object"),
        ({"weights": {"fp32": 5}}, "weights: fp32 is 5, must be text"),
        ({"weights": {"fp32": "config.js"}}, 'weights: fp32 is "config.js", must be one of files'),
        ({"graphs": []}, "graphs is [], must be an object"),
        ({"graphs": {"fp32": ["a"]}}, 'graphs: fp32 is ["a"], must be an object'),
        ({"graphs": {"fp32": {"portable": "../model.onnx"}}}, "must be the name of a file in the folder"),
        ({"graphs": {"fp32": {"portable": "model.onnx"}}}, 'portable is "model.onnx", must be one of files'),
        ({"source": {}}, "source: name is absent, must be text"),
        ({"source": {"name": "a", "revision": 3}}, "source: revision is 3, must be text"),
        ({"generator": {"name": "gpt2-export", "version": 1}}, "generator: version is 1, must be text"),
        ({"versions": {"torch": None}}, "versions: torch is null, must be text"),
        ({"warnings": "mind"}, 'warnings is "mind", must be a list'),
        ({"warnings": [3]}, "warnings: 0 is 3, must be text"),
        ({"parity": {}}, "parity: reference is absent, must be text"),
        ({"parity": {"reference": 5, "backends": 5}}, "parity: reference is 5, must be text"),
        ({"parity": {"reference": "a", "backends": 5}}, "parity: backends is 5, must be an object"),
        ({"parity": {"reference": "a", "backends": {"b": {"c": 10**400}}}}, "must be a number of below 2**63"),
        ({"quality": {"int8": 3}}, "quality: int8 is 3, must be an object"),
        ({"files": None}, "files is null, must be an object"),
        ({"files": {"config.json": None}}, "files: config.json is null, must be an object"),
        ({"files": {"config.json": {}}}, "files: config.json: bytes is absent, must be a whole number"),
        ({"files": {"config.json": REAL | {"bytes": "x"}}}, 'files: config.json: bytes is "x", must be a whole'),
        ({"files": {"config.json": REAL | {"bytes": True}}}, "files: config.json: bytes is true, must be a whole"),
        ({"files": {"config.json": REAL | {"bytes": -1}}}, "files: config.json: bytes is -1, must be a whole"),
        ({"files": {"config.json": REAL | {"sha256": 5}}}, "files: config.json: sha256 is 5, must be 64 hex"),
        ({"files": {"config.json": REAL | {"sha256": "0" * 63}}}, "must be 64 hexadecimal digits"),
    ],
    ids=str,
)
def test_a_manifest_with_a_wrong_field_is_refused_by_its_name(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    (folder / manifest.MANIFEST).write_text(json.dumps(described(folder).to_dict() | change), encoding="utf-8")
    damage = rf"manifest\.json is damaged: .*{re.escape(message)}.*; make the folder again"
    with pytest.raises(FolderError, match=damage):
        manifest.read(folder)


OUTSIDE = ("/etc/hostname", "../a", "a/../../b", "..", "C:/a", "a\\b", "", ".", "a\0b", "a\nb", "\x1b[2Ja")


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_a_name_that_may_leave_the_folder_is_refused(folder: Path, name: str) -> None:
    document = described(folder).to_dict()
    document["files"][name] = REAL
    (folder / manifest.MANIFEST).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(FolderError, match=r"files: a name is .*, must be the name of a file in the folder"):
        manifest.read(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":' * 10**5, "it is too deep"),
        (b'{"schema": 1, "schema": 1}', "'schema' is there twice"),
        (b"{" + b",".join(b'"a%d": 1' % number for number in range(50_000)) + b', "a7": 2}', "'a7' is there twice"),
        (b'{"schema": 1, "source": {"name": "\\ud800"}}', "which is half a surrogate pair"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b" " * 17_000_000, "has more than 16,000,000 bytes"),
    ],
    ids=["deep", "twice", "twice of many", "surrogate", "digits", "huge"],
)
def test_json_that_no_reader_should_accept_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / manifest.MANIFEST).write_bytes(content)
    with pytest.raises(FolderError, match=message):
        manifest.read(folder)
    assert not manifest.made_by_export(folder)
    assert manifest.foreign_files(folder) == ["config.json", "model.safetensors"]


def test_a_byte_order_mark_is_dropped(folder: Path) -> None:
    document = described(folder)
    (folder / manifest.MANIFEST).write_text(manifest.text(document), encoding="utf-8-sig")
    assert manifest.read(folder) == document


@pytest.mark.parametrize("odd", ODD)
def test_a_manifest_that_is_not_a_plain_file_is_refused_at_once(folder: Path, odd: str) -> None:
    document = described(folder)
    for name in ("config.json", manifest.MANIFEST):
        make_odd(folder / name, odd)
        with pytest.raises(FolderError, match=rf"{name} (is .*, not a plain file; put the file|cannot be read: )"):
            manifest.differences(folder, document) if name == "config.json" else manifest.read(folder)
    assert not manifest.made_by_export(folder)
