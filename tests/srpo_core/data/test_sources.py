"""Files, folders, globs and hub names become sources with an identity that does not depend on where they lie."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from srpo_core.data.sources import FileSource, HubSource, find_sources, resolve_hub_name
from srpo_core.errors import InputError
from tests.hub_server import COMMIT, hub_with_dataset

SHOW_HUB_ROWS = """
import sys
from srpo_core.errors import InputError
from srpo_core.data.sources import find_sources
try:
    (source,) = find_sources(sys.argv[1])
    print(source, [row.row["n"] for row in source.rows()])
except InputError as error:
    print("InputError", error)
"""


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"a": 1}\n')


def show_hub_rows(name: str, endpoint: str, cache: Path, offline: bool = False) -> str:
    """In a process of its own, because the hub client reads its environment when it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": str(int(offline)),
        "PYTHONPATH": os.getcwd(),
    }
    run = subprocess.run(
        [sys.executable, "-c", SHOW_HUB_ROWS, name], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_folder_gives_its_data_files_in_order_with_names_below_it(tmp_path: Path) -> None:
    make_files(tmp_path, "b.jsonl", "sub/a.jsonl.gz", "README.md", ".cache/x.jsonl", "a.parquet")
    assert [source.name for source in find_sources(str(tmp_path))] == ["a.parquet", "b.jsonl", "sub/a.jsonl.gz"]


def test_a_glob_gives_matching_files_in_order(tmp_path: Path) -> None:
    make_files(tmp_path, "2.jsonl", "1.jsonl", "sub/3.jsonl", "4.csv")
    assert [source.name for source in find_sources(f"{tmp_path}/**/*.jsonl")] == ["1.jsonl", "2.jsonl", "3.jsonl"]


def test_a_file_named_like_a_glob_is_that_file(tmp_path: Path) -> None:
    make_files(tmp_path, "part[1].jsonl")
    assert [source.name for source in find_sources(str(tmp_path / "part[1].jsonl"))] == ["part[1].jsonl"]


def test_identity_follows_content_and_name_not_place(tmp_path: Path) -> None:
    make_files(tmp_path, "a/x.jsonl", "b/x.jsonl")
    first, second = (FileSource(tmp_path / folder / "x.jsonl", "x.jsonl") for folder in "ab")
    assert first.identity() == second.identity()
    (tmp_path / "b/x.jsonl").write_text('{"a": 2}\n')
    assert first.identity() != second.identity()


@pytest.mark.parametrize(
    "path", ["nothing.jsonl", "none/*.jsonl", "empty_folder", "s3://bucket/file.jsonl", "hub:noowner", "hub:a/b:c:d"]
)
def test_a_path_that_names_nothing_is_one_sentence(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty_folder").mkdir()
    with pytest.raises(InputError, match=r"^expected .* found .*") as caught:
        find_sources(path if ":" in path else str(tmp_path / path))
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [("", None, "train"), (":en", "en", "train"), ("/test", None, "test"), (":en/validation", "en", "validation")],
)
def test_a_hub_name_at_a_commit_needs_no_network(name: str, config: str | None, split: str) -> None:
    assert resolve_hub_name(f"hub:owner/set@{COMMIT}{name}") == HubSource("owner/set", COMMIT, config, split)


def test_a_hub_name_is_fixed_to_its_commit_and_streamed(tmp_path: Path) -> None:
    content = "".join(json.dumps({"n": n}) + "\n" for n in range(4)).encode()
    with hub_with_dataset("owner/pairs", content) as endpoint:
        assert show_hub_rows("hub:owner/pairs", endpoint, tmp_path) == f"hub:owner/pairs@{COMMIT}/train [0, 1, 2, 3]"
        refused = show_hub_rows("hub:owner/other", endpoint, tmp_path)
    assert refused.startswith("InputError expected to read hub:owner/other from the hub, found:")


@pytest.mark.parametrize(
    ("name", "offline"),
    [("hub:owner/pairs", True), (f"hub:owner/pairs@{COMMIT}", True), ("hub:owner/pairs", False)],
    ids=["offline mode", "offline mode at a commit", "nobody listens"],
)
def test_without_a_connection_a_hub_name_is_one_sentence(name: str, offline: bool, tmp_path: Path) -> None:
    said = show_hub_rows(name, "http://127.0.0.1:9", tmp_path, offline)
    assert said.startswith(f"InputError expected to read {name}") and "give a local file instead" in said and "\n" not in said
