"""Base models from a hub that speaks the Hugging Face protocol: one commit, safetensors and text files only.

Nothing that is downloaded is run: no pickles, no code. A branch or tag is resolved to its commit first, and
the commit is what is fetched and recorded. HF_ENDPOINT names another hub, HF_TOKEN opens private models.
"""

from __future__ import annotations

import fnmatch
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.utils.translation import gettext as _

from feedback.models import Project, User
from training import registry
from training.core import protocol
from training.models import ModelVersion
from training.registry import Refused

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Weights, their index, configuration, tokenizer and template."""
LEFT = ("*/*", "consolidated*", "*.bin.index.json")
"""Folders hold other formats; a consolidated file holds the same weights once more."""


class Pinned(NamedTuple):
    """What a repository's revision is at the moment."""

    repository: str
    commit: str
    files: dict[str, str | None]
    """File -> sha256 where the hub knows it, of those that are wanted."""
    size: int


def register_from_hub(
    project: Project, repository: str, revision: str = "main", *, actor: User | None, note: str = ""
) -> ModelVersion:
    """Download one commit of a model and register it as a base version; raises Refused in words."""
    models = settings.ARTIFACT_ROOT / "models"
    models.mkdir(parents=True, exist_ok=True)
    aside = models / f".{uuid.uuid4().hex}.hub"
    try:
        pinned = download(repository, revision, aside)
        told = f"{pinned.repository}@{pinned.commit}" + (f", {note}" if note else "")
        return registry.register_base(project, aside, actor=actor, note=told[:200])
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def download(repository: str, revision: str, folder: Path) -> Pinned:
    """Fetch the wanted files of the commit that `revision` stands for into `folder`, and check them."""
    with said_in_words(repository, revision):
        pinned = pin(repository, revision)
        refuse_unfit(pinned, folder)
        from huggingface_hub import snapshot_download

        snapshot_download(
            repository, revision=pinned.commit, local_dir=folder, allow_patterns=[*pinned.files]
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # what the client notes about the download
    for name, sha256 in pinned.files.items():
        if sha256 is not None and protocol.sha256_file(folder / name) != sha256:
            raise Refused(_("%(file)s arrived damaged: download it again.") % {"file": name})
    return pinned


def pin(repository: str, revision: str) -> Pinned:
    """The commit of a branch, tag or commit, and its wanted files."""
    from huggingface_hub import HfApi

    found = HfApi().model_info(repository, revision=revision, files_metadata=True)
    files: dict[str, Any] = {file.rfilename: file for file in found.siblings or ()}
    kept = [name for name in files if is_like(name, WANTED) and not is_like(name, LEFT)]
    hashes = {name: files[name].lfs.sha256 if files[name].lfs else None for name in kept}
    return Pinned(repository, str(found.sha), hashes, sum(files[name].size or 0 for name in kept))


def is_like(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def refuse_unfit(pinned: Pinned, folder: Path) -> None:
    """What can be known to fail before gigabytes are fetched."""
    facts = {"repository": pinned.repository, "commit": pinned.commit[:12]}
    if not any(name.endswith(".safetensors") for name in pinned.files):
        words = _("%(repository)s at %(commit)s has no safetensors weights: choose a revision that has.")
        raise Refused(words % facts)
    if "config.json" not in pinned.files:
        words = _("%(repository)s at %(commit)s has no config.json: it is no model for transformers.")
        raise Refused(words % facts)
    free = shutil.disk_usage(folder.parent).free
    if 2 * pinned.size > free:  # the download, and the copy in the store
        words = _("%(repository)s needs %(needed).1f GiB, and %(free).1f GiB are free: make room first.")
        raise Refused(words % {**facts, "needed": 2 * pinned.size / 2**30, "free": free / 2**30})


@contextmanager
def said_in_words(repository: str, revision: str) -> Iterator[None]:
    """Turn the client's errors into what happened and how to mend it."""
    try:
        from huggingface_hub import constants, errors
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's own
    except ImportError as error:
        words = _("Downloading needs the packages of the trainer: run this on a machine with a worker.")
        raise Refused(words) from error
    told = (errors.HFValidationError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError)
    try:
        yield
    except (*told, HTTPError, ConnectionError) as error:
        facts = {
            "repository": repository,
            "revision": revision,
            "hub": constants.ENDPOINT,
            "status": error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None,
            "what": type(error).__name__,
        }
        raise Refused(in_words(error) % facts) from error


def in_words(error: Exception) -> str:
    """What happened and how to mend it. The order counts: a gated repository is also one not found."""
    from huggingface_hub import errors

    match error:
        case errors.HFValidationError():
            return _("“%(repository)s” is no model of a hub: wanted owner/name.")
        case errors.GatedRepoError():
            return _("%(repository)s has terms to accept: do so on its page on %(hub)s, and set HF_TOKEN.")
        case errors.RevisionNotFoundError():
            return _("%(repository)s has no revision “%(revision)s”: give a branch, a tag or a commit of it.")
        case errors.RepositoryNotFoundError():
            return _(
                "%(hub)s has no model %(repository)s, or it is private: check the name, or set HF_TOKEN."
            )
        case errors.HfHubHTTPError():
            return _("%(hub)s answered %(status)s: try again later.")
    return _(
        "%(hub)s cannot be reached (%(what)s). Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or"
        " download the model elsewhere and register its folder."
    )
