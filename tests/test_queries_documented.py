"""docs/sql.md and storage/queries in step: every question is documented, every documented one is stored, as it is asked."""

import re
from pathlib import Path

import pytest

from storage.stored_queries import StoredQuery, ask_query, list_queries
from tasks.publishing import publish_results

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
_SECTION = re.compile(
    r"### (?:\d+\. )?(?P<question>.+)\n\n"
    r"`srpo ask (?P<name>\w+)` · \[\w+\.sql\]\((?P<link>.+)\)\n\n"
    r"(?P<body>(?:(?!#{2,3} )[^\n]*\n)*)"
)
SECTIONS = {found["name"]: found for found in _SECTION.finditer(TEXT + "\n")}
QUERIES = list_queries()


def test_every_stored_question_is_documented_once_and_nothing_else() -> None:
    assert sorted(SECTIONS) == sorted(QUERIES)
    assert len(re.findall(r"^### ", TEXT, re.MULTILINE)) == len(QUERIES) >= 20


@pytest.mark.parametrize("query", QUERIES.values(), ids=lambda query: query.name)
def test_a_section_states_the_question_the_file_and_the_parameters_of_its_query(query: StoredQuery) -> None:
    section = SECTIONS[query.name]
    assert section["question"] == query.question
    assert (ROOT / "docs" / section["link"]).resolve() == ROOT / "storage" / "queries" / f"{query.name}.sql"
    stated = re.findall(r"^- `(\w+)`(?: = (\d+))?: (.+)$", section["body"], re.MULTILINE)
    assert stated == [(own.name, str(own.default or ""), own.meaning) for own in query.parameters]


def test_an_example_shows_columns_that_the_answer_has(tmp_path: Path) -> None:
    publish_results(tmp_path)
    for name, section in SECTIONS.items():
        header = re.search(r"^\| (.+) \|\n\|---", section["body"], re.MULTILINE)
        listed = re.search(r"^Columns: ([\w, ]+)\.", section["body"], re.MULTILINE)
        assert header or listed, name
        shown = header[1].split(" | ") if header else listed[1].split(", ") if listed else []
        columns = ask_query(tmp_path, name).column_names
        assert set(shown) <= set(columns) and (header or shown == columns), name
