"""A repository on the hub, and what is pushed to it: a verified folder and its card, in one commit.

The only file of this package that opens the network; what is fetched, gpt2_model.checkpoint fetches.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from gpt2_export import plain_file
from gpt2_export.errors import FolderError, GPT2ExportError, HubError
from gpt2_export.folder.manifest import CARD, GENERATOR, MANIFEST, Source, differences, read
from gpt2_export.hub import model_card as card
from gpt2_export.progress import Progress, silent

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a push uploads.

    Attributes:
        repository: "org/name".
        folder: where the files lie.
        files: name -> bytes of what the manifest lists, and of the manifest itself.
        card: the text of README.md.
        is_own_card: whether the folder has it, written by somebody.
    """

    repository: str
    folder: Path
    files: Mapping[str, int]
    card: str
    is_own_card: bool


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push came to.

    Attributes:
        url: the commit, or the pull request where one was asked for.
        files: how many the repository now has of the folder, the card with them.
        nbytes: how many bytes these are.
        removed: files of an earlier push that the folder does not have.
        kept_card: whether the repository had a card that somebody wrote, and still has it.
    """

    url: str
    files: int
    nbytes: int
    removed: tuple[str, ...]
    kept_card: bool


def prepare(folder: str | PathLike[str], repository: str, *, progress: Progress = silent) -> Plan:
    """Checks a folder, and writes its card; asks the hub for the source's license, and changes nothing.

    Args:
        folder: a made folder.
        repository: "org/name", where it is to be pushed to.
        progress: told of each stage.

    Raises:
        FolderError: the folder is not as it was made, or not verified; or its card is no text.
        HubError: the repository's name is none.
    """
    folder = Path(folder)
    if not NAME.fullmatch(repository):
        raise HubError(f"{repository!r} does not name a repository; write it as org/name or user/name")
    manifest = read(folder)
    if manifest.parity is None:
        raise FolderError(f"{folder} is not verified; run `gpt2-export verify {folder}` first")
    progress("check", 0, 1)
    wrong = differences(folder, manifest)
    if wrong:
        raise FolderError(f"{folder} is not as it was made: {', '.join(wrong)}; make it again")
    _refuse_links(folder, (*manifest.files, MANIFEST, CARD))
    progress("check", 1, 1)
    own = _own_card(folder / CARD)
    is_own = own is not None and not card.is_generated(own)
    return Plan(
        repository=repository,
        folder=folder,
        files={name: (folder / name).stat().st_size for name in (*manifest.files, MANIFEST) if name != CARD},
        card=own if own is not None and is_own else card.render(folder, manifest, repository, _terms(manifest.source)),
        is_own_card=is_own,
    )


def _refuse_links(folder: Path, names: Iterable[str]) -> None:
    """A link could bring any file of this machine to the hub."""
    place = Path(os.path.realpath(folder))
    for name in names:
        found = Path(os.path.realpath(folder / name))
        if place not in found.parents:
            raise FolderError(
                f"{folder / name} is a link to {found}, outside the folder, and push uploads only what lies in it; "
                "copy the folder with cp -rL, and push the copy"
            )


def _own_card(path: Path) -> str | None:
    """The text of README.md, None where there is none."""
    try:
        return plain_file.read(path).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise FolderError(
            f"{path} is not UTF-8 at byte {error.start}; convert it, e.g. with iconv, or remove it"
        ) from error


def push(
    folder: str | PathLike[str],
    repository: str,
    *,
    branch: str | None = None,
    private: bool = False,
    message: str | None = None,
    create_pr: bool = False,
    progress: Progress = silent,
) -> Pushed:
    """Uploads a verified folder and its card to the hub, in one commit: all of it is there, or nothing.

    Args:
        folder: a made folder.
        repository: "org/name"; made where it is not there.
        branch: the branch to commit to, made where it is not there; main unless given.
        private: make the repository private; refused where it is there already, and public.
        message: of the commit.
        create_pr: propose the commit as a pull request instead.
        progress: told of each stage.

    Raises:
        FolderError: the folder is not as it was made, or not verified.
        HubError: the hub cannot be reached, or refuses.
    """
    plan = prepare(folder, repository, progress=progress)
    progress("push", 0, 1)
    with _hub_errors(repository, branch), _quiet_logs():
        pushed = _commit(plan, branch, private, message or f"Upload {Path(folder).resolve().name}", create_pr)
    progress("push", 1, 1)
    return pushed


def _commit(plan: Plan, branch: str | None, private: bool, message: str, create_pr: bool) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    api.create_repo(plan.repository, private=private or None, exist_ok=True)
    if branch is not None and not create_pr:
        api.create_branch(plan.repository, branch=branch, exist_ok=True)
    before = api.model_info(plan.repository, revision=branch)
    if private and not before.private:
        raise HubError(
            f"{plan.repository} is there already, and public; make it private on its page first, "
            "or leave out private (--private)"
        )
    there = {file.rfilename for file in before.siblings or ()}
    earlier = _texts(plan.repository, str(before.sha), there & {CARD, MANIFEST})
    kept_card = not plan.is_own_card and CARD in earlier and not card.is_generated(earlier[CARD])
    # What an earlier push brought and this one does not would be of other weights.
    removed = tuple(sorted((_listed(earlier.get(MANIFEST, "")) & there) - {*plan.files, CARD}))
    additions = {name: str(plan.folder / name) for name in plan.files}
    operations = [
        *(CommitOperationAdd(name, path) for name, path in additions.items()),
        *(() if kept_card else (CommitOperationAdd(CARD, plan.card.encode()),)),
        *(CommitOperationDelete(name) for name in removed),
    ]
    done = api.create_commit(
        plan.repository,
        operations,
        commit_message=message,
        revision=branch,
        create_pr=create_pr,
        parent_commit=before.sha,  # whoever commits meanwhile is not overwritten
    )
    card_bytes = len((earlier[CARD] if kept_card else plan.card).encode())
    return Pushed(
        url=str(done.pr_url or done.commit_url),
        files=len(plan.files) + 1,
        nbytes=sum(plan.files.values()) + card_bytes,
        removed=removed,
        kept_card=kept_card,
    )


def _texts(repository: str, commit: str, names: set[str]) -> dict[str, str]:
    """Small files of a commit, without a trace in the hub's cache."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory() as place:
        paths = {name: Path(hf_hub_download(repository, name, revision=commit, local_dir=place)) for name in names}
        return {name: path.read_text(encoding="utf-8", errors="replace") for name, path in paths.items()}


def _listed(text: str) -> set[str]:
    """The files of a manifest that was made here, of whichever schema; none of any other text.

    >>> _listed('{"generator": {"name": "gpt2-export"}, "files": {"model.onnx": {}}}'), _listed('{"files": ["a"]}')
    ({'model.onnx'}, set())
    """
    try:
        document = json.loads(text)
        return set(document["files"]) if document["generator"]["name"] == GENERATOR else set()
    except (ValueError, TypeError, LookupError):
        return set()


def _terms(source: Source) -> dict[str, Any]:
    """What the source's card says of its license; nothing where it is no repository, or cannot be asked."""
    from huggingface_hub import HfApi

    if not source.revision:
        return {}
    try:
        data = HfApi().model_info(source.name, revision=source.revision).card_data
    except Exception:  # a license that is not known is left out, whatever the reason
        return {}
    found = data.to_dict() if data else {}  # type: ignore[no-untyped-call]
    terms = {name: found[name] for name in card.TERMS if found.get(name)}
    link = terms.get("license_link")
    if isinstance(link, str) and not link.startswith("http"):  # a file beside the card
        terms["license_link"] = f"https://huggingface.co/{source.name}/blob/main/{link}"
    return terms


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """The library's upload bars, which it draws into logs as well, only in a terminal; its variable decides over us."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported, but not in mypy's sense
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    decided = are_progress_bars_disabled() or "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ
    if decided or sys.stderr.isatty():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _hub_errors(repository: str, branch: str | None) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except GPT2ExportError:
        raise
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, repository, branch)) from error
    except Exception as error:  # whatever the library's transport raises, under names that change with it
        reason = "; ".join(_first_line(part) for part in (error, error.__cause__) if part is not None)
        raise HubError(f"the push to {repository} failed: {reason}; check the connection, and push again") from error


def _refusal(error: Any, repository: str, branch: str | None) -> str:
    """What an answer of the hub means for the user, and what to do."""
    from huggingface_hub.errors import RevisionNotFoundError

    status = error.response.status_code
    if status == 401:
        return f"the hub has no valid token of yours to write to {repository} with; set HF_TOKEN or run `hf auth login`"
    if status == 403:
        return (
            f"your token may not write to {repository}; take one that may, another repository, "
            "or create_pr (--create-pr) to propose the change"
        )
    if isinstance(error, RevisionNotFoundError):
        told = f"{repository} has no branch {branch!r} to propose a change to"
        return f"{told}; push without create_pr (--create-pr) to make it"
    if status == 412:
        return f"somebody else committed to {repository} meanwhile; push again"
    return f"the hub refuses the push to {repository}: {_first_line(error)}; look at its page, and push again"


def _first_line(error: BaseException) -> str:
    lines = (line.strip(" .:") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
