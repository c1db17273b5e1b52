"""Base models by hub id and revision, from a small hub over HTTP that answers as huggingface.co does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from django.core.management import CommandError, call_command
from huggingface_hub import constants

from feedback.models import AuditEntry, Project, User
from tests.core import tiny
from training import hub, registry
from training.core import protocol
from training.models import ModelVersion
from training.registry import Refused

pytestmark = pytest.mark.django_db
MAIN, OLD = "a" * 40, "b" * 40


@dataclass
class FakeHub:
    """Repositories: id -> {branch, tag or commit: commit}, commit -> {file: bytes}."""

    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    status: dict[str, tuple[int, str]] = field(default_factory=dict)
    """id -> what it answers instead, and the error code in its header."""
    altered: set[str] = field(default_factory=set)
    """Files that arrive with other bytes than the hub's own sha256 says."""
    fetched: list[str] = field(default_factory=list)

    def describe(self, name: str, data: bytes) -> dict[str, Any]:
        facts: dict[str, Any] = {"size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith((".safetensors", ".bin")):
            sha256 = hashlib.sha256(data).hexdigest()
            facts["lfs"] = {"sha256": sha256, "oid": sha256, "size": len(data), "pointerSize": 130}
        return facts


class Answer(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self.api("/".join(parts[2:4]), *parts[4:6])
        elif len(parts) < 5:
            self.error(404, "")  # what the client asks beside the model
        else:
            self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

    def api(self, repository: str, what: str, revision: str) -> None:
        if repository in self.hub.status:
            return self.error(*self.hub.status[repository])
        if repository not in self.hub.revisions:
            return self.error(404, "RepoNotFound")
        commit = self.hub.revisions[repository].get(revision)
        if commit is None:
            return self.error(404, "RevisionNotFound")
        files = {name: self.hub.describe(name, data) for name, data in self.hub.files[commit].items()}
        if what == "revision":
            siblings = [{"rfilename": name, "blobId": facts["oid"], **facts} for name, facts in files.items()]
            return self.json({"id": repository, "sha": commit, "siblings": siblings})
        return self.json([{"type": "file", "path": name, **facts} for name, facts in files.items()])

    def file(self, repository: str, revision: str, name: str) -> None:
        commit = self.hub.revisions[repository][revision]
        data = self.hub.files[commit][name]
        etag = self.hub.describe(name, data).get("lfs", {}).get("sha256", hashlib.sha1(data).hexdigest())
        if name in self.hub.altered:
            data = bytes([data[0] ^ 1]) + data[1:]
        if self.command == "GET":
            self.hub.fetched.append(name)
        self.answer(
            200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "X-Linked-Size": str(len(data))}
        )

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def error(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    made = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Answer,), {"hub": made}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def tiny_model(fake_hub: FakeHub, tmp_path: Path) -> dict[str, bytes]:
    """lab/tiny: a model that loads, with what else repositories hold; main is MAIN, and OLD stood before."""
    folder = tiny.folder(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    more = {
        "README.md": b"# tiny", "pytorch_model.bin": b"pickle", "modeling_tiny.py": b"print(1)",
        "onnx/config.json": b"{}", "consolidated.safetensors": b"the same again", ".gitattributes": b"",
    }  # fmt: skip
    old = {**files, "generation_config.json": b"{}"}
    fake_hub.revisions["lab/tiny"] = {"main": MAIN, MAIN: MAIN, "v1": OLD, OLD: OLD}
    fake_hub.files = {MAIN: {**files, **more}, OLD: old}
    return files


def refused(project: Project, admin: User, repository: str, revision: str = "main") -> str:
    with pytest.raises(Refused) as refusal:
        hub.register_from_hub(project, repository, revision, actor=admin)
    assert not ModelVersion.objects.exists()
    return str(refusal.value)


def left_over() -> list[Path]:
    from django.conf import settings

    return list((settings.ARTIFACT_ROOT / "models").glob(".*"))


# --- what arrives -----------------------------------------------------------------------------------


def test_weights_and_texts_of_the_commit_are_registered_and_nothing_else(
    project: Project, admin: User, fake_hub: FakeHub, tiny_model: dict[str, bytes]
) -> None:
    version = hub.register_from_hub(project, "lab/tiny", actor=admin, note="for tests")
    kept = {path.name: path.read_bytes() for path in version.path.iterdir() if path.name != "manifest.json"}
    assert kept == tiny_model
    assert set(fake_hub.fetched) == set(tiny_model), "what is not wanted is not even fetched"
    assert protocol.verify(version.path) == version.content_hash
    assert version.kind == ModelVersion.Kind.BASE and version.note == f"lab/tiny@{MAIN}, for tests"
    assert MAIN in AuditEntry.objects.get(action="version.register", actor=admin).detail["note"]
    assert not left_over()


def test_what_was_downloaded_is_a_model_that_the_trainer_loads(
    project: Project, admin: User, tiny_model: dict[str, bytes]
) -> None:
    from training.core.models import Policy

    version = hub.register_from_hub(project, "lab/tiny", actor=admin)
    assert Policy(version.path).context == 96


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_a_tag_or_commit_gives_its_own_files(
    project: Project, admin: User, tiny_model: dict[str, bytes], revision: str
) -> None:
    version = hub.register_from_hub(project, "lab/tiny", revision, actor=admin)
    assert (version.path / "generation_config.json").read_bytes() == b"{}"
    assert version.note == f"lab/tiny@{OLD}"


def test_a_branch_that_moves_changes_no_version(
    project: Project, admin: User, fake_hub: FakeHub, tiny_model: dict[str, bytes]
) -> None:
    first = hub.register_from_hub(project, "lab/tiny", actor=admin)
    fake_hub.revisions["lab/tiny"]["main"] = OLD
    second = hub.register_from_hub(project, "lab/tiny", actor=admin)
    assert [first.note, second.note] == [f"lab/tiny@{MAIN}", f"lab/tiny@{OLD}"]
    assert first.content_hash != second.content_hash
    assert protocol.verify(first.path) == first.content_hash


def test_the_command_registers_and_promotes_the_first(project: Project, tiny_model: dict[str, bytes]) -> None:
    call_command("register_base", project.slug, "--hub", "lab/tiny", "--revision", "v1", "--note", "old")
    promoted = registry.promoted(project)
    assert promoted is not None and promoted.note == f"lab/tiny@{OLD}, old"


@pytest.mark.parametrize("arguments", [[], ["folder", "--hub", "lab/tiny"]])
def test_the_command_wants_a_folder_or_a_hub(project: Project, arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="either a folder or --hub"):
        call_command("register_base", project.slug, *arguments)


DOWNLOAD = """
import os, sys
from pathlib import Path
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
from training import hub
assert "huggingface_hub" not in sys.modules, "nobody else waits for it"
print(hub.download("lab/tiny", "main", Path(sys.argv[1])).commit)
assert not {"torch", "transformers"} & set(sys.modules)
"""


@pytest.mark.processes
def test_the_hub_of_the_environment_is_asked_without_loading_torch(
    tiny_model: dict[str, bytes], tmp_path: Path
) -> None:
    environment = {**os.environ, "HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, str(tmp_path / "got")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(MAIN)
    assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == tiny_model


# --- what is refused, and what it says --------------------------------------------------------------


def test_a_name_or_revision_that_is_not_there_is_said(
    project: Project, admin: User, tiny_model: dict[str, bytes]
) -> None:
    assert "has no model lab/nothing" in (said := refused(project, admin, "lab/nothing"))
    assert "check the name" in said
    assert "no revision “v9”" in refused(project, admin, "lab/tiny", "v9")
    assert "wanted owner/name" in refused(project, admin, "a/b/c")
    assert not left_over()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "RepoNotFound", "set HF_TOKEN"),
        (403, "GatedRepo", "terms to accept"),
        (503, "", "answered 503: try again later"),
    ],
)
def test_closed_doors_are_said(
    project: Project, admin: User, fake_hub: FakeHub, status: int, code: str, words: str
) -> None:
    fake_hub.status["lab/closed"] = (status, code)
    assert words in refused(project, admin, "lab/closed")


def test_no_network_is_said(project: Project, admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    said = refused(project, admin, "lab/tiny")
    assert "http://127.0.0.1:9 cannot be reached" in said and "register its folder" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.safetensors": None}, "no safetensors weights"),
        ({"config.json": None}, "no config.json"),
        ({"config.json": b'{"auto_map": {"AutoModel": "evil.Model"}}'}, "custom code"),
    ],
)
def test_models_that_may_not_be_loaded_are_refused(
    project: Project,
    admin: User,
    fake_hub: FakeHub,
    tiny_model: dict[str, bytes],
    changes: dict[str, bytes | None],
    words: str,
) -> None:
    files: dict[str, Any] = {**tiny_model, **changes}
    fake_hub.files[MAIN] = {name: data for name, data in files.items() if data is not None}
    fake_hub.files[MAIN]["pytorch_model.bin"] = b"pickle"
    assert words in refused(project, admin, "lab/tiny")
    assert "model.safetensors" not in fake_hub.fetched or "custom code" in words
    assert not left_over()


def test_bytes_that_are_not_those_of_the_commit_are_refused(
    project: Project, admin: User, fake_hub: FakeHub, tiny_model: dict[str, bytes]
) -> None:
    fake_hub.altered.add("model.safetensors")
    assert "model.safetensors arrived damaged" in refused(project, admin, "lab/tiny")
    assert not left_over()


def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(
    project: Project,
    admin: User,
    fake_hub: FakeHub,
    tiny_model: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _folder: Usage)
    assert "make room first" in refused(project, admin, "lab/tiny")
    assert not fake_hub.fetched
