"""The floors of docs/architecture.md, held by walking the imports and by looking at what processes load."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rlhf_app", "feedback", "training")
HEAVY = {"torch", "transformers", "accelerate", "safetensors", "tokenizers", "numpy", "peft", "datasets"}
DJANGO = {"django", "celery", "feedback", "rlhf_app", "axes", "csp", "django_htmx", "redis"}

# A module's floor: the longest prefix counts. It may import from its own floor and from those below.
FLOORS = {
    "training.core": 0,
    "training.statistics": 0,
    "training.starter": 0,
    "training.starter_phrases": 0,
    "training.starter_topics": 0,
    "feedback.agreement": 0,
    "feedback.texts": 0,
    "feedback.ordering": 0,
    "feedback.word_diff": 0,
    "rlhf_app": 0,
    "feedback.models": 1,
    "feedback.audit": 1,
    "feedback.audit_entries": 1,
    "feedback.data_imports": 1,
    "feedback.people": 1,
    "feedback.prompts": 1,
    "feedback.querysets": 1,
    "training.models": 2,
    "feedback": 3,
    "training": 4,
    "training.supervisor": 5,
    "feedback.tasks": 6,
    "training.tasks": 6,
    "feedback.apps": 7,
    "feedback.forms": 7,
    "feedback.views": 7,
    "feedback.admin": 7,
    "feedback.management": 7,
    "feedback.templatetags": 7,
    "feedback.urls": 8,
    "training.forms": 7,
    "training.views": 7,
    "training.admin": 7,
    "training.management": 7,
    "training.templatetags": 7,
    "training.urls": 8,
    "rlhf_app.views": 9,
    "rlhf_app.launcher": 9,
    "rlhf_app.start": 10,
    "rlhf_app.urls": 10,
}
FILE_LINES = 600
FUNCTION_LINES = 80
TRAIN_LINES = 120


def modules() -> dict[str, Path]:
    """module name -> file, of everything that ships."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "migrations" not in path.parts:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str, path: Path, *, types_too: bool = False) -> Iterator[str]:
    """Every module that `name` imports, in functions too; those for type checking only on request."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types_too:
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def test_relative_and_nested_imports_are_seen(tmp_path: Path) -> None:
    """The walker itself: what it does not see, nobody holds."""
    path = tmp_path / "x.py"
    path.write_text(
        "import torch.nn as nn\nfrom .models import Run\nfrom training import registry\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\n"
        "def f():\n    from feedback.queue import claim\n"
    )
    seen = set(imports("training.x", path))
    assert {"torch.nn", "training.models", "training.registry"} <= seen
    assert "feedback.queue" in seen or "feedback" in seen
    assert "numpy" not in seen
    assert "numpy" in set(imports("training.x", path, types_too=True))


def floor(module: str) -> int | None:
    """None for what is not ours."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in FLOORS:
            return FLOORS[prefix]
        # forms_data, forms_accounts, ... stand on the floor of forms
        head, _, tail = prefix.rpartition(".")
        if tail.startswith("forms_"):
            return FLOORS[f"{head}.forms"]
    return None


def test_a_room_imports_only_what_lies_below_it() -> None:
    climbing = []
    for name, path in MODULES.items():
        own = floor(name)
        for imported in imports(name, path):
            other = floor(imported)
            if own is not None and other is not None and other > own:
                climbing.append(f"{name} (floor {own}) imports {imported} (floor {other})")
    assert not climbing, "\n".join(climbing)


def test_feedback_never_imports_training() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, path in MODULES.items()
        if name.split(".")[0] == "feedback"
        for imported in imports(name, path, types_too=True)
        if imported.split(".")[0] == "training"
    ]
    assert not wrong, "\n".join(wrong)


def test_tensors_live_in_training_core_alone_and_django_never_goes_there() -> None:
    wrong = []
    for name, path in MODULES.items():
        roots = {imported.split(".")[0] for imported in imports(name, path)}
        inside = name == "training.core" or name.startswith("training.core.")
        for found in sorted(roots & (DJANGO if inside else HEAVY)):
            wrong.append(f"{name} imports {found}")
        if inside:
            wrong += [
                f"{name} imports {imported}"
                for imported in imports(name, path)
                if imported.startswith("training.") and not imported.startswith("training.core")
            ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["training.core.configs", "training.core.protocol"])
def test_the_files_that_both_sides_read_import_neither(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(name, MODULES[name])}
    assert not roots & (HEAVY | DJANGO)
    assert roots <= set(sys.stdlib_module_names) | {"training"}


@pytest.mark.parametrize(
    "name", ["feedback.agreement", "feedback.ordering", "feedback.texts", "training.statistics"]
)
def test_numbers_in_numbers_out_knows_no_django(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(name, MODULES[name])}
    assert not roots & (HEAVY | DJANGO)


def test_the_gold_taste_is_out_of_reach_of_whatever_trains() -> None:
    """feedback.simulation holds the taste that training must not see: no chain of imports leads there."""
    assert "feedback.simulation" in MODULES
    reached = {name for name in MODULES if name.split(".")[0] == "training"}
    frontier = set(reached)
    while frontier:
        next_ones = {
            imported for name in frontier for imported in imports(name, MODULES[name], types_too=True)
        }
        frontier = (next_ones & set(MODULES)) - reached
        reached |= frontier
    assert "feedback.queue" in reached or "feedback.models" in reached
    assert "feedback.simulation" not in reached


# --- what is really loaded --------------------------------------------------------------------------

LOADED = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
WEB = """
import rlhf_app.asgi
from django.urls import get_resolver
get_resolver().url_patterns
from django.contrib import admin
admin.autodiscover()
"""
WORKER = """
import django; django.setup()
from rlhf_app.celery import app
app.loader.import_default_modules()
wanted = {"training.tasks.supervise_run", "training.tasks.sweep_runs", "feedback.tasks.run_import"}
assert wanted <= set(app.tasks), wanted - set(app.tasks)
"""
TRAINER = "import training.core.__main__"


def loaded_by(code: str) -> set[str]:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "rlhf_app.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code + "\n" + LOADED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("code", [WEB, WORKER], ids=["web", "worker"])
def test_no_tensor_library_is_in_a_process_that_serves_or_supervises(code: str) -> None:
    loaded = loaded_by(code)
    assert "django" in loaded
    assert not loaded & HEAVY


def test_no_django_is_in_the_trainer() -> None:
    assert not loaded_by(TRAINER) & DJANGO


# --- budgets ----------------------------------------------------------------------------------------


def test_files_and_functions_keep_their_budgets() -> None:
    """From the house rules: a file of 600 lines or a function of 80 is two of them."""
    over = []
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > FILE_LINES:
            over.append(f"{name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                allowed = TRAIN_LINES if node.name == "train" and "core" in name else FUNCTION_LINES
                if lines > allowed:
                    over.append(f"{name}.{node.name}: {lines} lines")
    for path in (ROOT / "templates").rglob("*.html"):
        if path.read_text(encoding="utf-8").count("\n") > 160:
            over.append(f"{path.relative_to(ROOT)}: {path.read_text(encoding='utf-8').count(chr(10))} lines")
    assert not over, "\n".join(over)


def test_there_is_no_room_without_a_purpose() -> None:
    names = {part for name in MODULES for part in name.split(".")}
    assert not names & {"utils", "util", "helpers", "common", "services", "misc", "signals"}


def test_pages_call_things_by_the_project_s_words() -> None:
    """Completions, preferences, annotators: the words that CONTRIBUTING.md asks for, nowhere the others."""
    others = r"\b(answer(ed|s)?|responses?|votes?|labell?ers?|raters?|datasets?|experiments?)\b"
    found = [
        f"{path.name}: {match[0]}"
        for path in (ROOT / "templates").rglob("*.html")
        for match in re.finditer(others, path.read_text(encoding="utf-8"), re.IGNORECASE)
        if path.name != "503.html"  # it is the database that does not answer there
    ]
    # data-answer, a hook of the judging page's scripts
    assert {name for name in found if not re.match(r"_judge_\w+\.html: answer$", name)} == set()


def test_pages_obey_the_content_security_policy() -> None:
    """No inline script, style or handler in any template: the policy would block it silently."""
    import re

    forbidden = {
        "inline style element": r"<style\b",
        "style attribute": r"\sstyle\s*=",
        "inline handler": r"\son[a-z]+\s*=\s*[\"']",
        "hx-on": r"\shx-on",
        "inline script": r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")[^>]*>",
    }
    found = []
    for path in (ROOT / "templates").rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(ROOT)}: {what}"
            for what, pattern in forbidden.items()
            if re.search(pattern, text, re.IGNORECASE)
        ]
    assert not found, "\n".join(found)
