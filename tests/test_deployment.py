"""docker-compose.yml and Dockerfile: well-formed, no default secret, no torch in the web image."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from uvicorn.main import main as uvicorn_command

from rlhf_app import launcher
from rlhf_app.environment import read_env_file
from rlhf_app.processes import web_program, worker_programs

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
OURS = ("migrate", "web", "worker", "sweeper", "gpu-worker", "beat")
"""Services that run our code."""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"])


def test_compose_follows_its_specification(tmp_path: Path) -> None:
    def validate(path: Path) -> int:
        command = [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            str(path),
        ]
        return subprocess.run(command, capture_output=True).returncode

    misspelt = tmp_path / "docker-compose.yml"
    misspelt.write_text(COMPOSE.read_text(encoding="utf-8").replace("healthcheck:", "healthchek:"))
    assert validate(COMPOSE) == 0
    assert validate(misspelt) != 0, "a check that lets anything pass is none"


def test_every_process_of_the_plan_is_there_and_says_when_it_is_well(services: dict[str, Any]) -> None:
    assert set(services) == {*OURS, "broker", "postgres"}
    for name, service in services.items():
        assert "healthcheck" in service or name == "migrate", name


def test_every_setting_reaches_every_process(services: dict[str, Any]) -> None:
    """A name of .env.example that compose swallowed would be a setting without effect."""
    own = {"POSTGRES_PASSWORD", "BROKER_PASSWORD", "TORCH_INDEX_URL"}
    decided = {"RLHF_ENV", "DEBUG", "DATABASE_URL", "REDIS_URL", "ARTIFACT_ROOT"}  # by what compose is
    wanted = set(read_env_file(ROOT / ".env.example")) - own
    for name in OURS:
        given = services[name]["environment"]
        assert wanted <= set(given), name
        swallowed = [key for key in wanted - decided if not str(given[key]).startswith(f"${{{key}:")]
        assert not swallowed, f"{name}: {swallowed}"


def test_no_secret_has_a_default(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            for variable, default in re.findall(r"\$\{(\w+)(:?[-?][^}]*)?\}", str(value)):
                if re.search("SECRET|PASSWORD|KEY", variable):
                    assert default.startswith(":?"), f"{name}.{key}: {variable} must be set"
            if re.search("SECRET|PASSWORD", key):
                assert str(value).startswith("${"), f"{name}.{key} is written down"


def test_nothing_listens_beyond_this_machine(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), name


def targets() -> dict[str, str]:
    """build target -> all lines that make it, those of the stages below it included."""
    stages: dict[str, str] = {}
    parts = re.split(
        r"^FROM (\S+) AS (\w+)\n", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    for base, name, lines in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        stages[name] = stages.get(base, "") + lines
    return stages


def test_the_web_image_holds_no_torch_and_runs_without_root(services: dict[str, Any]) -> None:
    stages = targets()
    assert {"web", "train"} <= set(stages)
    assert "requirements train" not in stages["web"] and "torch==" not in stages["web"]
    assert "torch==" in stages["train"] and "requirements train" in stages["train"]
    for target in ("web", "train"):
        users = re.findall(r"^USER (\S+)$", stages[target], re.MULTILINE)
        assert users[-1:] == ["rlhf"], target
    assert {name for name, service in services.items() if service.get("image") == "rlhf-app-train"} == {
        "gpu-worker"
    }


def test_what_the_images_must_not_hold_is_left_out() -> None:
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert {".env", "var", ".git", ".venv"} <= ignored


# --- what the containers run ------------------------------------------------------------------------


def command_of(service: str, services: dict[str, Any]) -> list[str]:
    """compose's own command, or the last one of the image."""
    target = services[service]["build"]["target"]
    found = services[service].get("command") or yaml.safe_load(
        re.findall(r"^CMD (\[.*\])$", targets()[target], re.MULTILINE)[-1]
    )
    return list(found)


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A checkout whose var/ nobody can write to: here it is a file, in compose a read-only disk."""
    for package in ("rlhf_app", "feedback", "training"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "manage.py", tmp_path)
    (tmp_path / "var").write_text("")
    return tmp_path


@pytest.mark.parametrize("service", OURS)
def test_what_does_not_answer_is_named_before_a_container_starts(
    services: dict[str, Any], container: Path, service: str
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused
        port = nobody.getsockname()[1]
        given = {
            "PATH": os.environ["PATH"],
            "RLHF_ENV": "production",
            "SECRET_KEY": secrets.token_urlsafe(64),
            "ALLOWED_HOSTS": "rlhf.example.org",
            "DATABASE_URL": f"postgresql://rlhf:hush-hush@127.0.0.1:{port}/rlhf",
            "REDIS_URL": f"redis://:hush-hush@127.0.0.1:{port}/0",
            "ARTIFACT_ROOT": str(container / "artifacts"),
        }
        _python, *arguments = command_of(service, services)
        done = subprocess.run(
            [sys.executable, *arguments], cwd=container, env=given, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == os.EX_CONFIG, done.stderr
    title, *lines = done.stderr.strip().splitlines()
    assert [re.match(r"  (\w+): found .+, wanted .+$", line)[1] for line in lines] == [  # type: ignore[index]
        "DATABASE_URL",
        "REDIS_URL",
    ]
    assert "hush-hush" not in done.stderr


def test_a_container_becomes_its_process_once_everything_answers(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "refuse_if_unfit", lambda *, broker_is_ours: None)
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _path, command: became.append(command))
    for service in OURS:
        options = launcher.parse(command_of(service, services)[3:])
        options.does(options)
    assert [command[1:3] for command in became] == [
        [str(ROOT / "manage.py"), "migrate"],
        ["-m", "uvicorn"],
        *[["-m", "celery"]] * 4,
    ]
    web = became[1]
    assert web[web.index("--host") + 1] == "0.0.0.0"


def queues_of(commands: list[list[str]]) -> list[str]:
    return [command[command.index("-Q") + 1] for command in commands if "-Q" in command]


def test_sweeps_have_a_slot_that_no_import_and_no_run_can_take(
    services: dict[str, Any], settings: Any
) -> None:
    routes = {name: route["queue"] for name, route in settings.CELERY_TASK_ROUTES.items()}
    rung = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    busy = {settings.CELERY_TASK_DEFAULT_QUEUE, routes["training.tasks.supervise_run"]}
    sweeps = {routes.get(task) for task in rung}
    assert len(rung) == 2 and len(sweeps) == 1 and not sweeps & busy
    for commands in (
        [program.command for program in worker_programs()],
        [command_of(name, services) for name in OURS],
    ):
        assert sorted(queues_of(commands)) == sorted([*busy, *sweeps]), "each queue has one worker of its own"


def test_a_sweep_that_nobody_took_does_not_pile_up(settings: Any) -> None:
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        assert 0 < entry["options"]["expires"] <= 60, name


@pytest.mark.parametrize(
    ("behind_proxy", "peer", "seen"),
    [
        (True, "172.18.0.1", "198.51.100.7"),
        (True, "203.0.113.9", "203.0.113.9"),  # no proxy of ours: its word is not taken
        (False, "172.18.0.1", "172.18.0.1"),
    ],
)
def test_the_web_server_sees_clients_and_not_the_proxy(behind_proxy: bool, peer: str, seen: str) -> None:
    """uvicorn reads our command line; then it is asked whom it takes a request to be from."""
    command = web_program(
        "0.0.0.0", 8000, behind_proxy=behind_proxy, trusted="127.0.0.1,172.16.0.0/12"
    ).command
    given = uvicorn_command.make_context("uvicorn", command[command.index("uvicorn") + 1 :]).params
    clients: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        clients.append(scope["client"][0])

    config = uvicorn.Config(
        application,
        proxy_headers=given["proxy_headers"],
        forwarded_allow_ips=given["forwarded_allow_ips"],
        log_config=None,
    )
    config.load()
    headers = [(b"x-forwarded-for", b"192.0.2.66, 198.51.100.7")]  # the first is what the client made up
    scope = {"type": "http", "client": (peer, 4711), "headers": headers, "scheme": "http"}
    asyncio.run(config.loaded_app(scope, None, None))
    assert clients == [seen]


def test_the_proxy_setting_reaches_the_web_server(settings: Any) -> None:
    settings.TRUSTED_PROXIES = "192.0.2.1"
    settings.SECURE_PROXY_SSL_HEADER = None
    assert "--no-proxy-headers" in launcher.web_program("127.0.0.1", 1).command
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert launcher.web_program("127.0.0.1", 1).command[-3:] == [
        "--proxy-headers",
        "--forwarded-allow-ips",
        "192.0.2.1",
    ]
