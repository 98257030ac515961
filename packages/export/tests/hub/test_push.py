"""A push uploads the manifest's files and a card, in one commit or not at all; the Hub is a stand-in."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from gpt2_export.folder import manifest
from gpt2_export.hub import model_card
from gpt2_export.hub.push import prepare
from hub import FORBIDDEN, NOWHERE, Hub, running, settings

Run = Callable[..., Any]
Refusal = Callable[..., str]
OWN_CARD = "---\nlicense: mit\n---\n# Mine\n"
OLD_MANIFEST = json.dumps({"generator": {"name": "gpt2-export"}, "files": {"model_int4.onnx": {}, "gone": {}}})
LATER = {"README.md": b"# later"}


@dataclass(frozen=True)
class Ran:
    """The outcome of each command, by name, and the Hub after all of them."""

    results: dict[str, dict[str, Any]]
    hub: Hub

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        repository = self.hub.repositories[f"org/{name}"]
        return repository.commits[repository.branches[branch]]

    def line(self, name: str) -> str:
        """The output of a successful push."""
        assert self.results[name]["code"] == 0, self.results[name]
        return str(self.results[name]["out"])

    def refusal(self, name: str) -> str:
        """The message of a failed push."""
        ran = self.results[name]
        assert (ran["code"], ran["out"], ran["raised"]) == (1, "", None), ran
        *before, last = ran["err"].splitlines()
        assert all(": done in " in line for line in before), ran["err"]
        return str(last.removeprefix("error: "))


@pytest.fixture(scope="module")
def cluttered(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made folder, from a repository on the Hub, with files that are not in its manifest."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("pushed") / "tiny"))
    document = replace(manifest.read(folder), source=manifest.Source(name="someone/source", revision="main"))
    (folder / manifest.MANIFEST).write_text(manifest.text(document))
    (folder / "notes.txt").write_text("private")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "token").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def ran(made: Path, cluttered: Path, tmp_path_factory: pytest.TempPathFactory, run_elsewhere: Run) -> Ran:
    """All pushes of this file, in three processes: with a token, without one, without a Hub."""
    place = tmp_path_factory.mktemp("hub")
    own = Path(shutil.copytree(made, place / "own"))
    (own / "README.md").write_text(OWN_CARD)
    commands = {
        "full": [made],  # first: stored files are not uploaded again
        "new": [cluttered],
        "again": [cluttered],
        "private": [made, "--private"],
        "public": [made, "--private"],
        "branch": [made, "--branch", "next", "--message", "The next one"],
        "request": [made, "--create-pr"],
        "no-branch": [made, "--create-pr", "--branch", "gone"],
        "own": [own],
        "kept": [made],
        "replaced": [own],
        "earlier": [made],
        "closed": [made],
        "ill": [made],
        "raced": [made],
    }

    def run(commands: dict[str, list[str | Path]], environment: dict[str, str]) -> dict[str, dict[str, Any]]:
        names = {"again": "org/new"}
        lines = [
            ["push", str(folder), names.get(name, f"org/{name}"), *options]
            for name, (folder, *options) in commands.items()
        ]
        return dict(zip(commands, run_elsewhere(*lines, env=environment), strict=True))

    with running() as hub:
        hub.add("someone/source", {}, card_data={"license": "other", "license_name": "x", "license_link": "LICENSE"})
        for name in ("public", "request", "no-branch"):
            hub.add(f"org/{name}", {".gitattributes": b""})
        for name in ("kept", "replaced"):
            hub.add(f"org/{name}", {"README.md": b"# Their own"})
        generated = f"{model_card.MARK} of another time".encode()
        old = {"manifest.json": OLD_MANIFEST.encode(), "model_int4.onnx": b"", "mine.txt": b"", "README.md": generated}
        hub.add("org/earlier", old)
        hub.add("org/closed", {}, refuses={"create": FORBIDDEN, "preupload": FORBIDDEN})
        hub.add("org/full", {}, refuses={"upload": (400, {})})
        hub.add("org/ill", {}, refuses={"commit": (500, {})})
        raced = hub.add("org/raced", {})
        first, raced.moves_to = raced.branches["main"], raced.commit(LATER)
        raced.branches["main"] = first
        results = run(commands, hub.settings(place / "home", HF_TOKEN=hub.token))
        results |= run({"no-token": [made]}, hub.settings(place / "home"))
        results |= run({"nowhere": [made]}, settings(NOWHERE, place / "home"))
        return Ran(results, hub)


def test_a_push_is_one_commit_of_the_manifests_files(ran: Ran, cluttered: Path) -> None:
    files = ran.files("new")
    listed = {*manifest.read(cluttered).files, "manifest.json"}
    assert files.keys() == listed | {"README.md", ".gitattributes"}
    for name in listed:
        assert files[name] == (cluttered / name).read_bytes()
    repository = ran.hub.repositories["org/new"]
    assert list(repository.messages.values()) == ["", "Upload tiny"]  # the Hub's own first, then ours
    assert [line.split(":")[0] for line in ran.results["new"]["err"].splitlines()] == ["check", "push"]  # no bars
    size = sum(len(data) for name, data in files.items() if name != ".gitattributes")
    commit = f"{ran.hub.address}/org/new/commit/{repository.branches['main']}"
    assert ran.line("new") == f"org/new: {len(files) - 1} files, {size:,} bytes, {commit}\n"


def test_large_files_go_through_lfs(ran: Ran, cluttered: Path) -> None:
    uploads = {path for method, path, _ in ran.hub.requests if method == "PUT"}
    for name in ("model.safetensors", "model.onnx", "model_serving.onnx"):
        assert f"/upload/org/new/{manifest.read(cluttered).files[name].sha256}" in uploads


def test_the_card_has_the_sources_license_and_a_link_that_leads_there(ran: Ran) -> None:
    text = ran.files("new")["README.md"].decode()
    assert text.startswith('---\nlicense: "other"\nlicense_name: "x"\n')
    assert 'license_link: "https://huggingface.co/someone/source/blob/main/LICENSE"\n' in text
    assert 'base_model: "someone/source"\n' in text


def test_the_card_is_not_left_in_the_folder(ran: Ran, cluttered: Path) -> None:
    assert not (cluttered / "README.md").exists()
    assert manifest.differences(cluttered, manifest.read(cluttered)) == []


def test_a_second_push_of_the_same_makes_no_commit(ran: Ran) -> None:
    assert len(ran.hub.repositories["org/new"].commits) == 2
    assert ran.line("again").endswith(ran.hub.repositories["org/new"].branches["main"] + "\n")


def test_a_private_repository_is_made_private_and_a_public_one_is_not_filled(ran: Ran) -> None:
    assert "manifest.json" in ran.files("private")
    assert ran.hub.repositories["org/private"].private
    assert ran.refusal("public") == (
        "org/public exists and is public; make it private on its page first, or leave out private (--private)"
    )
    assert len(ran.hub.repositories["org/public"].commits) == 1


def test_a_branch_is_created_and_main_stays(ran: Ran) -> None:
    repository = ran.hub.repositories["org/branch"]
    assert "manifest.json" in ran.files("branch", "next")
    assert repository.files.keys() == {".gitattributes"}
    assert repository.messages[repository.branches["next"]] == "The next one"


def test_a_pull_request_is_reported_with_its_url(ran: Ran) -> None:
    assert ran.line("request").endswith(f"{ran.hub.address}/org/request/discussions/1\n")
    assert "manifest.json" in ran.files("request", "refs/pr/1")
    assert ran.files("request").keys() == {".gitattributes"}
    assert "org/no-branch has no branch 'gone'" in ran.refusal("no-branch")


def test_a_handwritten_card_is_kept(ran: Ran) -> None:
    assert ran.files("own")["README.md"].decode() == OWN_CARD
    assert ran.files("kept")["README.md"] == b"# Their own"
    assert "warning: org/kept has a README.md written by hand; it was kept" in ran.results["kept"]["err"]
    assert ran.files("replaced")["README.md"].decode() == OWN_CARD  # the folder's own card wins


def test_files_of_an_earlier_push_that_this_one_lacks_are_removed(ran: Ran) -> None:
    files = ran.files("earlier")
    assert "removed model_int4.onnx, from an earlier push\n" in ran.line("earlier")
    assert "model_int4.onnx" not in files
    assert "mine.txt" in files  # not ours
    assert b"of another time" not in files["README.md"]


@pytest.mark.parametrize(
    ("name", "complaint", "remedy"),
    [
        ("closed", "your token cannot write to org/closed", "create_pr (--create-pr) to propose the change"),
        ("full", "the push to org/full failed: Error while uploading", "push again"),
        ("ill", "the Hub refused the push to org/ill: ", "look at its page, and push again"),
        ("raced", "org/raced got another commit during the push", "push again"),
        ("no-token", "no valid Hub token for org/no-token", "set HF_TOKEN"),
        ("nowhere", "the push to org/nowhere failed: ", "check the connection"),
    ],
)
def test_a_push_that_fails_is_one_line_and_commits_nothing(ran: Ran, name: str, complaint: str, remedy: str) -> None:
    message = ran.refusal(name)
    assert message.startswith(complaint)
    assert remedy in message
    if f"org/{name}" in ran.hub.repositories:
        assert "manifest.json" not in ran.files(name)


def test_a_changed_folder_is_refused(refusal: Refusal, made_copy: Path) -> None:
    (made_copy / "config.json").write_text("{}")
    message = refusal("push", made_copy, "org/name")
    assert message.startswith(f"{made_copy} was changed after it was made: config.json has 2 bytes instead of ")


def test_a_folder_that_is_not_verified_is_refused(refusal: Refusal, made_copy: Path) -> None:
    document = replace(manifest.read(made_copy), parity=None)
    (made_copy / manifest.MANIFEST).write_text(manifest.text(document))
    assert refusal("push", made_copy, "org/name") == (
        f"{made_copy} is not verified; run `gpt2-export verify {made_copy}` first"
    )


def test_a_card_that_is_not_text_is_refused(refusal: Refusal, made_copy: Path) -> None:
    (made_copy / "README.md").write_bytes("# Größe".encode("latin-1"))
    for options in ([], ["--dry-run"]):
        assert refusal("push", made_copy, "org/name", *options) == (
            f"{made_copy / 'README.md'} is not UTF-8 at byte 4; convert it, e.g. with iconv, or remove it"
        )


@pytest.mark.parametrize("name", ["name", "", "org/", "a/b/c", "https://huggingface.co/org/name", "org/na me"])
def test_an_invalid_name_is_refused_before_anything_is_read(refusal: Refusal, tmp_path: Path, name: str) -> None:
    assert refusal("push", tmp_path / "gone", name) == (
        f"{name!r} does not name a repository; write it as org/name or user/name"
    )


def test_a_dry_run_prints_the_card_and_the_files_and_uploads_nothing(run: Run, made: Path) -> None:
    ran = run("push", made, "org/name", "--dry-run")
    assert ran.exit_code == 0
    plan = prepare(made, "org/name")
    assert ran.stdout.startswith(plan.card)
    shown = ran.stdout.removeprefix(plan.card).split()
    assert shown[1::2] == [*manifest.read(made).files, "manifest.json", "README.md"]
    assert int(shown[-2].replace(",", "")) == len(plan.card.encode())


def test_a_card_in_the_folder_is_not_hashed(run: Run, made_copy: Path) -> None:
    """So that a folder downloaded from the Hub can be verified and pushed again."""
    (made_copy / "README.md").write_text(f"{model_card.MARK}\nof the last push")
    (made_copy / ".gitattributes").write_text("")
    assert run("onnx", made_copy).exit_code == 0
    assert not {"README.md", ".gitattributes"} & manifest.read(made_copy).files.keys()


@pytest.mark.parametrize("name", ["merges.txt", "model.safetensors", "manifest.json", "README.md"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_the_target_of_a_link_is_never_uploaded(
    refusal: Refusal, made_copy: Path, tmp_path: Path, name: str, dry: list[str]
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((made_copy / name).read_bytes() if (made_copy / name).exists() else b"# mine")
    (made_copy / name).unlink(missing_ok=True)
    (made_copy / name).symlink_to(secret)
    message = refusal("push", made_copy, "org/name", *dry)
    assert message.startswith(
        f"{made_copy / name} is a link to {secret}, outside the folder, and push uploads only files "
    )
    assert message.endswith("; copy the folder with `cp -rL`, and push the copy")


def test_a_link_inside_the_folder_is_allowed(run: Run, made_copy: Path) -> None:
    (made_copy / "merges.txt").rename(made_copy / "the-merges")
    (made_copy / "merges.txt").symlink_to("the-merges")
    assert run("push", made_copy, "org/name", "--dry-run").exit_code == 0


def test_a_file_of_the_manifest_outside_the_folder_is_refused(refusal: Refusal, made_copy: Path) -> None:
    document = json.loads((made_copy / manifest.MANIFEST).read_text())
    document["files"]["/etc/hostname"] = {"bytes": 1, "sha256": "0" * 64}
    (made_copy / manifest.MANIFEST).write_text(json.dumps(document))
    for command in (["push", made_copy, "org/name", "--dry-run"], ["inspect", made_copy, "--check-hashes"]):
        assert 'a name is "/etc/hostname", must be the name of a file in the folder' in refusal(*command)
