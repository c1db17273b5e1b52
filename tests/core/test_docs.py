"""docs/algorithms.md tells of the metrics and tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from training.core.metrics import METRICS

TESTS = Path(__file__).parent
TEXT = (TESTS.parents[1] / "docs" / "algorithms.md").read_text(encoding="utf-8")


def test_the_table_of_metrics_is_the_program_s() -> None:
    rows = re.findall(r"^\| `([^`]+/[^`]+)` \| (.*?) \| (.*) \|$", TEXT, re.MULTILINE)
    assert {name: (unit, said) for name, unit, said in rows} == {
        name: (unit or "-", said) for name, (unit, said) in METRICS.items()
    }


def test_every_test_that_is_named_exists() -> None:
    """`file: name` and, in the same cell, further `name`s; "..." stands for anything."""
    written = {path.stem: re.findall(r"def test_(\w+)", path.read_text()) for path in TESTS.glob("test_*.py")}
    cells = [cell for cell in re.split(r"[|\n]", TEXT) if "`test_" in cell]
    assert len(cells) > 40
    for cell in cells:
        file = ""
        for quoted in re.findall(r"`([^`]+)`", cell):
            prefix, colon, name = quoted.rpartition(": ")
            file = prefix if colon else file
            assert file in written or not file.startswith("test_"), f"there is no {file}.py"
            if quoted in written or file not in written or "/" in name:
                continue
            pattern = re.escape(name).replace(re.escape("..."), r"\w*")
            assert any(re.fullmatch(pattern, found) for found in written[file]), f"{file}: {name}"
