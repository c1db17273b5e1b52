"""docker-compose.yml and Dockerfile: well-formed, no default secret, no torch in the web image."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_app.environment import read_env_file

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"


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
    ours = {"migrate", "web", "worker", "sweeper", "gpu-worker", "beat"}
    assert set(services) == ours | {"broker", "postgres"}
    for name, service in services.items():
        assert "healthcheck" in service or name == "migrate", name


def test_every_setting_reaches_every_process(services: dict[str, Any]) -> None:
    """A name of .env.example that compose swallowed would be a setting without effect."""
    ours = {"POSTGRES_PASSWORD", "BROKER_PASSWORD", "TORCH_INDEX_URL"}  # of compose itself
    wanted = set(read_env_file(ROOT / ".env.example")) - ours
    for name in ("migrate", "web", "worker", "sweeper", "gpu-worker", "beat"):
        assert wanted <= set(services[name]["environment"]), name


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
