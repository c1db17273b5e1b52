"""A process that turns Parquet into JSON Lines or back, standard input to standard output. No Django here."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

NO_LIBRARY, UNREADABLE, UNSUPPORTED = 3, 4, 5
BATCH_ROWS = 256
MEMORY_BYTES = 4 * 1024**3
"""Of addresses, of which far fewer are ever used: where a file with absurd sizes in its footer ends."""


def fail(status: int, said: str) -> None:
    print(said, file=sys.stderr)
    sys.exit(status)


def check(kind: Any, name: str) -> None:
    """Text, numbers, truths, lists and objects of these; bytes, times and extensions are no data of ours."""
    from pyarrow import types  # type: ignore[import-untyped]

    if types.is_list(kind) or types.is_large_list(kind):
        check(kind.value_type, name)
    elif types.is_struct(kind):
        for place in range(kind.num_fields):
            check(kind.field(place).type, f"{name}.{kind.field(place).name}")
    elif types.is_dictionary(kind):
        check(kind.value_type, name)
    elif not (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    ):
        fail(UNSUPPORTED, f"{name} ({kind})")


def present(value: Any) -> Any:
    """Without what is null: in a table every row has every column."""
    if isinstance(value, dict):
        return {key: present(inner) for key, inner in value.items() if inner is not None}
    return [present(inner) for inner in value] if isinstance(value, list) else value


def read() -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    source = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  # standard input, which stays open
    try:
        file = parquet.ParquetFile(arrow.PythonFile(source, mode="r"))
        for field in file.schema_arrow:
            check(field.type, field.name)
        for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
            for row in batch.to_pylist():
                sys.stdout.write(json.dumps(present(row), ensure_ascii=False) + "\n")
    except (arrow.ArrowException, OSError, MemoryError, UnicodeError) as error:
        fail(UNREADABLE, " ".join(str(error).split())[:200])


def rows() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def write() -> None:
    """Rows of turns and numbers; the same rows always give the same bytes."""
    import pyarrow as arrow
    from pyarrow import parquet

    turns = arrow.list_(arrow.struct([("role", arrow.string()), ("content", arrow.string())]))
    columns = [("prompt", turns), ("chosen", turns), ("rejected", turns), ("margin", arrow.float64())]
    schema = arrow.schema(columns)
    with parquet.ParquetWriter(
        arrow.PythonFile(sys.stdout.buffer, mode="w"), schema, compression="zstd"
    ) as file:
        batch: list[dict[str, Any]] = []
        for row in rows():
            batch.append(row)
            if len(batch) == 4096:
                file.write_batch(arrow.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            file.write_batch(arrow.RecordBatch.from_pylist(batch, schema=schema))


def main() -> None:
    if sys.platform == "linux":  # others refuse to be limited
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        fail(NO_LIBRARY, "")
    {"read": read, "write": write}[sys.argv[1]]()


if __name__ == "__main__":
    main()
