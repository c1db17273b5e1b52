"""Parquet in: by a process of its own, and whatever is wrong with a file is said in words."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from feedback.exchange import parquet
from feedback.exchange.files import Container, opened
from feedback.exchange.formats import Format, read_rows, recognise
from feedback.lines import BadFile, BadRow

arrow = pytest.importorskip("pyarrow", reason="the package pyarrow is not installed")
from pyarrow import parquet as arrow_parquet  # noqa: E402

MIB = 1024 * 1024


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    arrow_parquet.write_table(arrow.Table.from_pylist(rows), path, **options)
    return path


def rows_of(path: Path, format: str = "", *, limit: int = 64 * MIB) -> list[Any]:
    with path.open("rb", buffering=0) as raw, opened(raw, limit) as (stream, kind):
        assert kind == Container.PARQUET
        return list(read_rows(stream, format or Format.TRL, container=kind))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(BadFile) as problem:
        rows_of(path, **options)
    return str(problem.value)


def columns(path: Path, **values: Any) -> Path:
    """A file with one row of values that Python types do not tell apart."""
    arrow_parquet.write_table(arrow.table({name: value for name, value in values.items()}), path)
    return path


def test_text_turns_and_numbers_are_read(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "é\n“q”"}]
    rows = [
        {"prompt": turns, "chosen": "a", "rejected": "b", "margin": 3.0, "id": 1},
        {"prompt": turns, "chosen": "c", "rejected": "d", "margin": None, "id": None},
    ]
    path = write(tmp_path / "a.parquet", rows)
    with path.open("rb", buffering=0) as raw, opened(raw, MIB) as (stream, kind):
        assert recognise(stream, "a.parquet", kind) == (Format.TRL, Container.PARQUET)
    path = write(tmp_path / "b.parquet", [{**row, "prompt": "é\n“q”"} for row in rows])
    first, second = rows_of(path)
    assert (first.messages, first.completions, first.external_id) == (turns, ("a", "b"), "1")
    assert [row.judged[0].strength for row in (first, second)] == [-3, -2]


def test_thousands_of_rows_keep_their_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "chosen": "a", "rejected": "b"} for number in range(3000)]
    path = write(tmp_path / "a.parquet", rows, row_group_size=700)
    found = rows_of(path)
    assert [row.messages[0]["content"] for row in found] == [row["prompt"] for row in rows]
    assert [row.line for row in found] == list(range(1, 3001))


def test_a_bad_row_is_named_by_its_number(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": side} for side in ("b", None, "a")]
    found = rows_of(write(tmp_path / "a.parquet", rows))
    assert [str(row) for row in found if isinstance(row, BadRow)] == [
        "row 2: 'rejected' missing",
        "row 3: chosen and rejected are identical",
    ]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    whole = path.read_bytes()
    length = b"\xff\xff\xff\x7f"
    # Cut off; ended by other bytes than PAR1, such as XXXX; a footer longer than the file; no footer.
    for damaged in (whole[:-30], whole[:-4] + b"XXXX", whole[:-8] + length + b"PAR1", b"PAR1"):
        path.write_bytes(damaged)
        assert refused(path).startswith("the Parquet file is damaged: "), damaged[-8:]


def test_types_that_are_no_data_of_ours_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    stamp = arrow.array([0], arrow.timestamp("us"))
    assert (
        refused(columns(path, prompt=["p"], at=stamp)) == "column at (timestamp[us]) has an unsupported type"
    )
    inner = arrow.array([[{"image": b"x"}]])
    assert refused(columns(path, prompt=["p"], turns=inner)) == (
        "column turns.image (binary) has an unsupported type"
    )
    mapping = arrow.array([[("a", 1)]], arrow.map_(arrow.string(), arrow.int64()))
    assert "column facts (map<" in refused(columns(path, facts=mapping))


def test_an_extension_type_runs_nothing_and_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    named = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": b"cos\nsystem\n"}
    field = arrow.field("prompt", arrow.binary(), metadata=named)
    arrow_parquet.write_table(arrow.table([arrow.array([b"x"])], schema=arrow.schema([field])), path)
    assert "unsupported type" in refused(path)


def test_a_bomb_stops_at_the_limit_of_real_bytes(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 100_000, "chosen": "a", "rejected": "b"}] * 200
    path = write(tmp_path / "a.parquet", rows, compression="zstd")
    assert path.stat().st_size < 100_000
    assert refused(path, limit=2 * MIB) == "archive unpacks to more than 2 MiB"
    assert len(rows_of(path)) == 200


def varint(value: int) -> bytes:
    """As Thrift's compact protocol writes a number: zigzag, seven bits in each byte."""
    value, found = value << 1, b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def with_footer(whole: bytes, change: Callable[[bytes], bytes]) -> bytes:
    length = int.from_bytes(whole[-8:-4], "little")
    footer = change(whole[-8 - length : -8])
    return whole[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize("absurd", [2**40, 2**62])
@pytest.mark.parametrize("what", ["rows", "group bytes", "column bytes"])
def test_sizes_in_the_footer_are_not_believed(tmp_path: Path, what: str, absurd: int) -> None:
    number = 12_345
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(number)]
    path = write(tmp_path / "a.parquet", rows)
    group = arrow_parquet.read_metadata(path).row_group(0)
    true = {
        "rows": number,
        "group bytes": group.total_byte_size,
        "column bytes": group.column(0).total_uncompressed_size,
    }[what]
    changed = with_footer(path.read_bytes(), lambda footer: footer.replace(varint(true), varint(absurd)))
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with path.open("rb", buffering=0) as raw, opened(raw, 64 * MIB) as (stream, kind):
        assert kind == Container.PARQUET
        try:
            found = len(list(read_rows(stream, Format.TRL, container=kind)))
        except BadFile as problem:
            assert str(problem).startswith("the Parquet file is damaged: ")
        else:
            assert found == number


def test_a_row_group_of_millions_of_rows_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    same = arrow.DictionaryArray.from_arrays(arrow.array(bytes(3_000_000), arrow.int8()), ["x" * 2000])
    arrow_parquet.write_table(arrow.table({"prompt": same}), path, row_group_size=3_000_000)
    assert path.stat().st_size < MIB, "of 6 GB of text"
    assert arrow_parquet.read_metadata(path).num_row_groups == 1
    assert refused(path, limit=MIB) == "archive unpacks to more than 1 MiB"


def test_nobody_is_left_behind_when_reading_stops(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * 1000, "chosen": "a", "rejected": "b"}] * 5000
    path = write(tmp_path / "a.parquet", rows)
    with path.open("rb", buffering=0) as raw, opened(raw, 64 * MIB) as (stream, _kind):
        stream.readline()
        assert psutil.Process().children()
    assert not [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_without_the_library_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')\n")
    path = write(tmp_path / "a.parquet", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    expected = "Parquet files need the package pyarrow on the server; JSON Lines and CSV do not"
    assert refused(path) == expected
    with pytest.raises(BadFile) as problem:
        list(parquet.from_json_lines(['{"prompt": []}\n']))
    assert str(problem.value) == expected


def test_a_parquet_file_in_gzip_is_an_archive_in_an_archive() -> None:
    with (
        pytest.raises(BadFile, match="archive inside an archive"),
        opened(io.BytesIO(gzip.compress(b"PAR1....PAR1")), MIB),
    ):
        pass


def test_only_its_own_process_loads_the_library() -> None:
    root = Path(parquet.__file__).resolve().parents[2]
    named = [
        str(path.relative_to(root))
        for package in ("feedback", "training", "rlhf_app")
        for path in (root / package).rglob("*.py")
        if "import pyarrow" in (text := path.read_text(encoding="utf-8")) or "from pyarrow" in text
    ]
    assert named == ["feedback/exchange/parquet_process.py"]
    assert "pyarrow.parquet" in sys.modules  # of this test, which writes files
