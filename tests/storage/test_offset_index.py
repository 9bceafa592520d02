"""The index finds every line by its key, as a dictionary would, in a fraction of the memory."""

import tracemalloc
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from storage.offset_index import OffsetIndex


@given(st.lists(st.tuples(st.text(max_size=6), st.integers(0, 2), st.integers(0, 2**40)), max_size=200))
def test_it_answers_as_a_dictionary_of_first_places(entries: list[tuple[str, int, int]]) -> None:
    index, expected = OffsetIndex(), dict[str, tuple[Path, int]]()
    for key, file, offset in entries:
        index.add(key, Path(f"f{file}"), offset)
        expected.setdefault(key, (Path(f"f{file}"), offset))
    assert len(index) == len(expected)
    assert all(index.place(key) == place and key in index for key, place in expected.items())
    assert index.place("another key") is None and "another key" not in index


def test_lines_are_read_where_they_start_from_more_files_than_are_kept_open(tmp_path: Path) -> None:
    index = OffsetIndex()
    for number in range(40):
        path = tmp_path / str(number)
        path.write_bytes(b"first\nsecond %d\n" % number)
        index.add(f"k{number}", path, 6)
    for number in [*range(40), 0, 39]:
        assert index.line(f"k{number}") == b"second %d\n" % number
    assert index.line("absent") is None
    index.close()
    assert index.line("k7") == b"second 7\n"
    index.close()


def test_a_hundred_thousand_keys_take_less_than_six_megabytes() -> None:
    tracemalloc.start()
    index = OffsetIndex()
    path = Path("f")
    for number in range(100_000):
        index.add(f"{number:016x}", path, number * 500)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == 100_000 and size < 6e6
