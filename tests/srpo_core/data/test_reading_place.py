"""While a file is read, one can ask how far the reading has come: in bytes as the file lies there, or in rows of Parquet."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from srpo_core.data.row_readers import Place, read_rows

ROWS = 20_000
TEXT = "".join(f"{json.dumps({'number': n, 'text': str(hash((n, 1))) * 6})}\n" for n in range(ROWS)).encode()


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"number": list(range(ROWS))}), path)
    else:
        pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
        path.write_bytes(pack(TEXT))
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet"])
def test_the_place_rises_from_the_start_to_the_whole_file(name: str, tmp_path: Path) -> None:
    path, place = write(tmp_path, name), Place()
    assert (place.done, place.total) == (0, 0)
    seen = [place.done for _ in read_rows(path, place)]
    assert len(seen) == ROWS and seen == sorted(seen)
    assert (place.unit, place.total) == (("rows", ROWS) if name.endswith("parquet") else ("bytes", path.stat().st_size))
    assert 0 < seen[0] < 0.8 * place.total and seen[ROWS // 2] > seen[0]
    assert place.done == place.total
