"""A folder whose files are links, as with DVC, git-annex, Nix or the Hub's cache: it works, or one line says why."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Refusal = Callable[..., str]


@pytest.fixture
def linked(made: Path, tmp_path: Path) -> Path:
    """Each file is a link to a different folder."""
    (tmp_path / "linked").mkdir()
    for file in made.iterdir():
        (tmp_path / "store" / file.name).mkdir(parents=True)
        shutil.copy(file, tmp_path / "store" / file.name)
        (tmp_path / "linked" / file.name).symlink_to(Path("..") / "store" / file.name / file.name)
    return tmp_path / "linked"


def test_it_is_inspected(run: Callable[..., object], linked: Path) -> None:
    assert "hashes fit" in run("inspect", linked, "--check-hashes").stdout  # type: ignore[attr-defined]


def test_verify_names_the_link(refusal: Refusal, linked: Path) -> None:
    target = linked.parent / "store" / "model.safetensors" / "model.safetensors"
    assert refusal("verify", linked) == (
        f"{linked}/model.safetensors is a link to {target}, and onnxruntime reads weights only beside the graph; "
        "copy the folder with `cp -rL`"
    )


def test_a_copy_that_follows_the_links_is_verified(run: Callable[..., object], linked: Path, tmp_path: Path) -> None:
    shutil.copytree(linked, tmp_path / "copy")  # as cp -rL does
    assert run("verify", tmp_path / "copy").exit_code == 0  # type: ignore[attr-defined]


def test_the_hubs_cache_is_verified_as_it_is(run: Callable[..., object], made: Path, tmp_path: Path) -> None:
    for part in ("blobs", "snapshots"):
        (tmp_path / part).mkdir()
    for number, file in enumerate(made.iterdir()):
        shutil.copy(file, tmp_path / "blobs" / str(number))
        (tmp_path / "snapshots" / file.name).symlink_to(f"../blobs/{number}")
    assert run("verify", tmp_path / "snapshots").exit_code == 0  # type: ignore[attr-defined]
