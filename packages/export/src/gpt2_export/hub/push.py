"""Pushes a verified folder and its card to a repository on the Hub, in one commit.

The only module of this package that uses the network; downloads are gpt2_model.checkpoint's.
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
    """The content of a push.

    Attributes:
        repository: "org/name".
        folder: the folder of the files.
        files: name -> bytes, of the files in the manifest and of the manifest itself.
        card: the text of README.md.
        is_own_card: whether it is a handwritten one in the folder.
    """

    repository: str
    folder: Path
    files: Mapping[str, int]
    card: str
    is_own_card: bool


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """The outcome of a push.

    Attributes:
        url: the commit, or the pull request if one was requested.
        files: the number of the folder's files now in the repository, including the card.
        nbytes: their total size.
        removed: files of an earlier push that the folder does not have.
        kept_card: whether the repository's handwritten card was kept.
    """

    url: str
    files: int
    nbytes: int
    removed: tuple[str, ...]
    kept_card: bool


def prepare(folder: str | PathLike[str], repository: str, *, progress: Progress = silent) -> Plan:
    """Checks a folder and renders its card; reads the source's license from the Hub; changes nothing.

    Args:
        folder: a made folder.
        repository: "org/name" to push to.
        progress: called for each stage.

    Raises:
        FolderError: the folder was changed or is not verified, or its card is not text.
        HubError: the repository's name is invalid.
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
        raise FolderError(f"{folder} was changed after it was made: {', '.join(wrong)}; make it again")
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
    """Refuses links out of the folder: they could upload any file of this machine."""
    place = Path(os.path.realpath(folder))
    for name in names:
        target = Path(os.path.realpath(folder / name))
        if place not in target.parents:
            raise FolderError(
                f"{folder / name} is a link to {target}, outside the folder, and push uploads only files inside it; "
                "copy the folder with `cp -rL`, and push the copy"
            )


def _own_card(path: Path) -> str | None:
    """The text of README.md, or None."""
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
    """Uploads a verified folder and its card to the Hub, in one commit: all or nothing.

    Args:
        folder: a made folder.
        repository: "org/name"; created if it does not exist.
        branch: the branch to commit to, created if it does not exist; main by default.
        private: make the repository private; refused if it exists and is public.
        message: the commit message.
        create_pr: propose the commit as a pull request instead.
        progress: called for each stage.

    Raises:
        FolderError: the folder was changed, or is not verified.
        HubError: the Hub cannot be reached, or refuses the push.
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
            f"{plan.repository} exists and is public; make it private on its page first, "
            "or leave out private (--private)"
        )
    there = {file.rfilename for file in before.siblings or ()}
    earlier = _texts(plan.repository, str(before.sha), there & {CARD, MANIFEST})
    kept_card = not plan.is_own_card and CARD in earlier and not card.is_generated(earlier[CARD])
    # Files of an earlier push that this one lacks belong to other weights.
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
        parent_commit=before.sha,  # a concurrent commit is not overwritten
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
    """Small files of a commit, leaving nothing in the Hub's cache."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory() as place:
        paths = {name: Path(hf_hub_download(repository, name, revision=commit, local_dir=place)) for name in names}
        return {name: path.read_text(encoding="utf-8", errors="replace") for name, path in paths.items()}


def _listed(text: str) -> set[str]:
    """The files of a manifest by gpt2-export, of any schema; none for any other text.

    >>> _listed('{"generator": {"name": "gpt2-export"}, "files": {"model.onnx": {}}}'), _listed('{"files": ["a"]}')
    ({'model.onnx'}, set())
    """
    try:
        document = json.loads(text)
        return set(document["files"]) if document["generator"]["name"] == GENERATOR else set()
    except (ValueError, TypeError, LookupError):
        return set()


def _terms(source: Source) -> dict[str, Any]:
    """The license fields of the source's card; empty if it is not a repository or cannot be read."""
    from huggingface_hub import HfApi

    if not source.revision:
        return {}
    try:
        data = HfApi().model_info(source.name, revision=source.revision).card_data
    except Exception:  # an unknown license is left out, whatever the reason
        return {}
    metadata = data.to_dict() if data else {}  # type: ignore[no-untyped-call]
    terms = {name: metadata[name] for name in card.TERMS if metadata.get(name)}
    link = terms.get("license_link")
    if isinstance(link, str) and not link.startswith("http"):  # a file beside the card
        terms["license_link"] = f"https://huggingface.co/{source.name}/blob/main/{link}"
    return terms


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Shows the library's upload bars only in a terminal, not in logs; its own variable takes precedence."""
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
    except Exception as error:  # the library's transport raises many kinds
        reason = "; ".join(_first_line(part) for part in (error, error.__cause__) if part is not None)
        raise HubError(f"the push to {repository} failed: {reason}; check the connection, and push again") from error


def _refusal(error: Any, repository: str, branch: str | None) -> str:
    """The message for an error of the Hub: what it means and what to do."""
    from huggingface_hub.errors import RevisionNotFoundError

    status = error.response.status_code
    if status == 401:
        return f"no valid Hub token for {repository}; set HF_TOKEN or run `hf auth login`"
    if status == 403:
        return (
            f"your token cannot write to {repository}; use one that can, another repository, "
            "or create_pr (--create-pr) to propose the change"
        )
    if isinstance(error, RevisionNotFoundError):
        reason = f"{repository} has no branch {branch!r} to propose a change to"
        return f"{reason}; push without create_pr (--create-pr) to create it"
    if status == 412:
        return f"{repository} got another commit during the push; push again"
    return f"the Hub refused the push to {repository}: {_first_line(error)}; look at its page, and push again"


def _first_line(error: BaseException) -> str:
    lines = (line.strip(" .:") for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
