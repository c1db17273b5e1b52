"""Files in and out: how long, how much memory, and is every byte of text still there?

    ./run bench-exchange [FILE]

FILE is a preference file of HH-RLHF or TRL, as it is or packed with gzip; without one, pairs are made up. The
database is a fresh SQLite file unless DATABASE_URL names another; what is written there is deleted again.

    import      100,000 pairs by a process that does what the worker does: under 60 s and under 300 MiB
    again       the same file once more: nothing is added
    export      10,000 judgements in each format: under 2 s; two exports are the same bytes
    round trip  all rows of FILE in, out, into another project and out again: the same texts to the byte
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.installation import ROOT, measured

PAIRS, EXPORTED = 100_000, 10_000
MOST_SECONDS, MOST_MIB, MOST_EXPORT_SECONDS = 60.0, 300.0, 2.0
WORDS = [
    "the", "a", "it", "is", "are", "order", "parcel", "customer", "please", "refund", "address", "invoice",
    "delivery", "Monday", "we", "you", "cannot", "could", "about", "after", "before", "with", "without",
    "schön", "“quoted”", "naïve", "日本", "🙂",
]  # fmt: skip


# --- what is read -----------------------------------------------------------------------------------


def sentences(draw: random.Random, low: int, high: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))


def made_up(number: int) -> Iterator[str]:
    """Lines of HH-RLHF about as long as those of its published files: 1 to 3 turns, some 700 bytes a side."""
    draw = random.Random(7)
    for place in range(number):
        turns = [f"\n\nHuman: Case {place}: {sentences(draw, 10, 40)}"]
        for _turn in range(draw.randint(0, 2)):
            turns.append(f"\n\nAssistant: {sentences(draw, 10, 60)}\n\nHuman: {sentences(draw, 5, 30)}")
        start = "".join(turns) + "\n\nAssistant: "
        sides = {name: start + sentences(draw, 10, 80) for name in ("chosen", "rejected")}
        yield json.dumps(sides, ensure_ascii=False) + "\n"


def write_made_up(path: Path, number: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(made_up(number))
    return path


# --- processes --------------------------------------------------------------------------------------


def set_up(folder: Path) -> None:
    """The product's settings with secrets and folders of this run, in this process and those it starts."""
    os.environ.setdefault("DATABASE_URL", f"sqlite:///{folder}/db.sqlite3")
    os.environ |= {
        "RLHF_ENV": "development",
        "SECRET_KEY": secrets.token_urlsafe(64),
        "ARTIFACT_ROOT": str(folder / "artifacts"),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DJANGO_SETTINGS_MODULE": "rlhf_app.settings",
    }
    (folder / "artifacts").mkdir()
    subprocess.run([sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, check=True)
    import django

    django.setup()


def child(name: str, *arguments: object) -> dict[str, Any]:
    """Run a function of this file in a process of its own; what it returns, with seconds and memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.exchange", f"--{name}", *map(str, arguments)],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mib(who: int) -> float:
    """Of Linux, which counts in KiB."""
    return round(resource.getrusage(who).ru_maxrss / 1024, 1)


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def as_worker(import_id: int) -> dict[str, Any]:
    """What a worker does when its bell rings: the same modules loaded, the same function called."""
    from feedback.models import DataImport
    from feedback.tasks import run_import
    from rlhf_app.celery import app

    app.loader.import_default_modules()
    before = peak_mib(resource.RUSAGE_SELF)
    begin, started = time.perf_counter(), time.process_time()
    run_import(import_id)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - started
    row = DataImport.objects.get(pk=import_id)
    return {
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu, 2),
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "mib_before": before,
        "children_mib": peak_mib(resource.RUSAGE_CHILDREN),
        "state": row.state,
        "counts": row.counts,
        "errors": row.errors[:3],
    }


def as_exporter(project_id: int, format: str, path: Path, most: int) -> dict[str, Any]:
    """What the export page does, to a file instead of a browser; of the newest `most` judgements."""
    from feedback.exports import ExportFormat, Selection, export
    from feedback.models import Preference, Project

    project = Project.objects.get(pk=project_id)
    newest = Preference.objects.filter(comparison__project=project).order_by("-pk")
    since = newest[most - 1].created_at if most and newest.count() > most else None
    begin, started = time.perf_counter(), processor_seconds()
    first = 0.0
    with path.open("wb") as file:
        for piece in export(project, ExportFormat(format), Selection(since=since)):
            first = first or time.perf_counter() - begin
            file.write(piece)
    return {
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_s": round(processor_seconds() - started, 2),
        "first_byte_s": round(first, 3),
        "peak_mib": peak_mib(resource.RUSAGE_SELF),
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


# --- what is measured -------------------------------------------------------------------------------


def received(project: Any, path: Path) -> Any:
    from feedback import imports
    from feedback.models import User

    with path.open("rb") as file:
        return imports.receive(
            project, iter(lambda: file.read(1024 * 1024), b""), file_name=path.name, format="",
            options={}, skip_bad_rows=False, actor=User.first_admin(),
        )  # fmt: skip


def new_project(name: str) -> Any:
    from feedback.models import Project

    slug = f"bench-{name}-{secrets.token_hex(4)}"
    return Project.objects.create(name=slug, slug=slug)


def large_import(folder: Path, number: int) -> tuple[dict[str, Any], bool, Any]:
    project = new_project("import")
    path = write_made_up(folder / "made-up.jsonl", number)
    once = child("worker", received(project, path).pk)
    again = child("worker", received(project, path).pk)
    figures = {
        "rows": number,
        "file_mib": round(path.stat().st_size / 1024**2, 1),
        "seconds": once["seconds"],
        "cpu_s": once["cpu_s"],
        "rows_per_s": round(number / once["seconds"]),
        "peak_mib": once["peak_mib"],
        "mib_before": once["mib_before"],
        "again_seconds": again["seconds"],
        "again_cpu_s": again["cpu_s"],
        "again": again["counts"],
        "counts": once["counts"],
    }
    passed = (
        once["state"] == again["state"] == "done"
        and once["counts"]["preferences"] == number
        and again["counts"] == {"rows": number, "unchanged": number}
        and once["seconds"] < MOST_SECONDS * number / PAIRS
        and once["peak_mib"] < MOST_MIB
    )
    return figures, passed, project


def exports(folder: Path, everything: Any) -> tuple[dict[str, Any], bool]:
    from feedback.exports import ExportFormat

    project = new_project("export")
    path = write_made_up(folder / "ten-thousand.jsonl", EXPORTED)
    child("worker", received(project, path).pk)
    figures: dict[str, Any] = {}
    passed = True
    for format in ExportFormat.values:
        found = [child("exporter", project.pk, format, folder / f"{time}.out", 0) for time in ("one", "two")]
        figures[format] = {**found[0], "same_bytes": found[0]["sha256"] == found[1]["sha256"]}
        figures[format].pop("sha256")
        passed &= figures[format]["same_bytes"] and min(one["seconds"] for one in found) < MOST_EXPORT_SECONDS
    whole = child("exporter", everything.pk, "trl", folder / "whole.out", 0)
    figures["trl_of_all"] = {name: whole[name] for name in whole if name != "sha256"}
    return figures, passed and whole["peak_mib"] < MOST_MIB


def round_trip(folder: Path, given: Path | None) -> tuple[dict[str, Any], bool]:
    """The texts of the file, in its order and each row once, against those of two exports."""
    source = given or write_made_up(folder / "round.jsonl", 1369)
    content = source.read_bytes()
    content = gzip.decompress(content) if source.suffix == ".gz" else content
    rows = [json.loads(line) for line in content.decode().split("\n") if line.strip()]
    hh = set(rows[0]) == {"chosen", "rejected"} and isinstance(rows[0]["chosen"], str)
    format = "hh" if hh else "trl"
    first, second = new_project("first"), new_project("second")
    into = child("worker", received(first, source).pk)
    out = folder / "first.jsonl"
    child("exporter", first.pk, format, out, 0)
    back = child("worker", received(second, out).pk)
    child("exporter", second.pk, format, folder / "second.jsonl", 0)
    exported = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    distinct = list({json.dumps(row): row for row in rows}.values())
    kept = (
        exported == distinct
        if hh
        else [text_of(row) for row in exported] == [text_of(row) for row in distinct]
    )
    same = out.read_bytes() == (folder / "second.jsonl").read_bytes()
    figures = {
        "file": source.name,
        "rows": len(rows),
        "distinct_rows": len(distinct),
        "import": into["counts"],
        "again": back["counts"],
        "texts_unchanged": kept,
        "second_export_same_bytes": same,
    }
    return figures, kept and same and into["counts"]["rows"] == len(rows)


def text_of(row: dict[str, Any]) -> list[Any]:
    """Chosen and rejected of a TRL row, whichever of its shapes it has."""
    return [
        side if isinstance(side, str) else side[-1]["content"] for side in (row["chosen"], row["rejected"])
    ]


def measure(figures: dict[str, Any], given: Path | None, number: int) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="rlhf-app-exchange-"))
    try:
        set_up(folder)
        from django.db import connection

        figures["database"] = connection.vendor
        figures["cores"], figures["load_before"] = os.cpu_count(), round(os.getloadavg()[0], 1)
        figures["import"], imported, project = large_import(folder, number)
        print(json.dumps(figures["import"]), file=sys.stderr, flush=True)
        figures["export"], exported = exports(folder, project)
        figures["round_trip"], returned = round_trip(folder, given)
        figures["load_after"] = round(os.getloadavg()[0], 1)
        return imported and exported and returned
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=PAIRS, help="of the large import (default: %(default)s)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--exporter", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker or arguments.exporter:
        import django

        django.setup()
        if arguments.worker:
            print(json.dumps(as_worker(arguments.worker)))
        else:
            project, format, path, most = arguments.exporter
            print(json.dumps(as_exporter(int(project), format, Path(path), int(most))))
        return 0
    return measured("exchange", lambda figures: measure(figures, arguments.file, arguments.rows))


if __name__ == "__main__":
    sys.exit(main())
