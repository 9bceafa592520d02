"""ls, show, lineage, pin and gc as a person calls them: each in this process, on a home of small artifacts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from storage import parquet
from storage.artifact import STAGES, list_artifacts
from storage.registry import record_decision
from tasks.publishing import publish_results
from tests.homes import make_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = make_home(tmp_path / "home", size=2, revisions=1)
    for path in (place / "runs").glob("*.json"):  # the run was long ago, so that gc is not kept from anything by it
        parquet.write_json(path, json.loads(path.read_text()) | {"started_at": "2020-01-01T00:00:00+00:00"} | OLD)
    return place


OLD = {"recorded_at": "2020-01-01T00:00:00+00:00"}


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def values(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status, out, err = call(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def policy_id(home: Path, name: str) -> str:
    return next(one.fingerprint for one in list_artifacts(home, "policies") if one.info["name"] == name)


def count(home: Path) -> int:
    return sum(len(list_artifacts(home, stage)) for stage in STAGES)


def promote(home: Path, policy: str) -> None:
    record_decision(home, policy, "promoted", {"policy_id": policy, "reason": "better", "by": "command"})


class TestGc:
    """Dry by default; what it says is what it does."""

    def test_without_delete_nothing_goes_and_it_says_what_would(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = count(home)
        status, out, _ = call(capsys, "gc", "--days", 0, "--home", home)
        assert status == 0 and f"{before} to delete with --delete" in out and "never touched" in out
        assert out.count("would go: ") == before == count(home)

    def test_with_delete_the_champions_ancestors_and_evidence_stay_and_the_results_follow(
        self, home: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        publish_results(home)
        promote(home, policy_id(home, "srpo"))
        announced = {row["id"] for row in values(capsys, "gc", "--days", 0, "--home", home)["going"]}
        found = values(capsys, "gc", "--days", 0, "--delete", "--home", home)
        assert {row["id"] for row in found["going"]} == announced and found["deleted"] is True and found["bytes"] > 0
        assert {one.info["name"] for one in list_artifacts(home, "policies")} == {"srpo", "sft"}
        assert {row["reason"] for row in found["staying"]} >= {"champion", "evidence of the champion"}
        rates = "SELECT DISTINCT p.name FROM win_rates JOIN policies p USING (policy_id)"
        assert json.loads(call(capsys, "sql", rates, "--format", "json", "--home", home)[1]) == [{"name": "srpo"}]
        assert values(capsys, "gc", "--days", 0, "--delete", "--home", home)["going"] == []

    def test_what_is_pinned_or_recent_stays(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert values(capsys, "gc", "--home", home)["going"] == []  # all of it was made today
        dpo = policy_id(home, "dpo")
        assert values(capsys, "pin", dpo[:8], "--why", "for the paper", "--home", home)["pinned"] == [f"policies/{dpo}"]
        reasons = {row["id"]: row["reason"] for row in values(capsys, "gc", "--days", 0, "--home", home)["staying"]}
        assert reasons[f"policies/{dpo}"] == "pinned: for the paper"
        assert values(capsys, "unpin", dpo, "--home", home)["pins"] == {}
        assert call(capsys, "unpin", dpo, "--home", home)[0] == 2

    def test_a_run_is_pinned_with_everything_it_used(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = next((home / "runs").glob("*.json"))
        games = [
            {"stage": one.stage, "fingerprint": one.fingerprint, "digest": one.digest} for one in list_artifacts(home, "games")
        ]
        parquet.write_json(run, json.loads(run.read_text()) | {"stages": games[:2]})
        pinned = values(capsys, "pin", run.stem, "--home", home)["pinned"]
        assert pinned == [f"games/{one['fingerprint']}" for one in games[:2]]

    def test_a_game_cannot_be_pinned(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        publish_results(home)
        status, _, err = call(capsys, "pin", "id-0", "--home", home)
        assert status == 2 and "expected an artifact, a policy or a run" in err


class TestLooking:
    """ls, show and lineage."""

    def test_ls_marks_the_champion_and_says_sizes(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        promote(home, policy_id(home, "srpo"))
        marked = [row for row in values(capsys, "ls", "--home", home)["artifacts"] if row["champion"]]
        assert [row["name"] for row in marked] == ["srpo"] and marked[0]["bytes"] > 0
        assert "champion" in call(capsys, "ls", "policies", "--home", home)[1]

    def test_ls_runs_lists_runs(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (row,) = values(capsys, "ls", "runs", "--home", home)["runs"]
        assert row["run_id"] == "run-1" and "run-1" in call(capsys, "ls", "runs", "--home", home)[1]

    def test_show_champion_and_a_registry_entry(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "srpo promote" in call(capsys, "show", "champion", "--home", home)[2]
        promote(home, policy_id(home, "srpo"))
        assert values(capsys, "show", "champion", "--home", home)["id"] == f"policies/{policy_id(home, 'srpo')}"
        assert values(capsys, "show", "registry/1", "--home", home)["event"] == "promoted"

    def test_a_lineage_is_a_tree_a_drawing_and_a_question(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        publish_results(home)
        given = ("lineage", policy_id(home, "srpo"), "--eval-set", "id", "--home", home)
        tree = call(capsys, *given)[1]
        rates = values(capsys, *given)["win_rates"]
        assert [row["revision_index"] for row in rates] == [0, 1] and "win_rate" in tree
        assert tree.count("made 20") == len(values(capsys, *given)["artifacts"])  # each artifact is told once
        assert "└─ " in tree and "beta=0.1" in tree and "(see above)" in tree
        drawing = call(capsys, *given, "--format", "mermaid")[1].splitlines()
        assert drawing[0] == "flowchart TD" and any("-->" in line for line in drawing)
        sql = call(capsys, *given, "--format", "sql")[1]
        rows = json.loads(call(capsys, "sql", sql, "--format", "json", "--home", home)[1])
        assert len(rows) == len(values(capsys, *given)["artifacts"])
        assert call(capsys, *given, "--format", "svg")[0] == 2

    def test_thousands_of_artifacts_are_listed_in_seconds(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Seconds of processor time; reading a manifest again for every child would take far longer."""
        home = tmp_path / "many"
        policy = {"stage": "policies", "fingerprint": f"{0:016d}"}
        prompts = {"stage": "prompts", "fingerprint": f"{0:016d}"}
        for stage, parents in (("policies", {}), ("prompts", {}), ("completions", {"policy": policy, "prompts": prompts})):
            for index in range(2000 if stage == "completions" else 1):
                write_manifest(home, stage, f"{index:016d}", parents)
        began = time.process_time()
        rows = values(capsys, "ls", "--home", home)["artifacts"]
        assert len(rows) == 2002 and rows[-1]["name"] == "x on x"
        assert time.process_time() - began < 10


def write_manifest(home: Path, stage: str, fingerprint: str, parents: dict[str, dict[str, str]]) -> None:
    folder = home / stage / fingerprint
    folder.mkdir(parents=True)
    manifest = {"stage": stage, "fingerprint": fingerprint, "digest": "d", "settings": {}, "parents": parents, "files": []}
    manifest |= {"counts": {"rows": 1}, "info": {"name": "x"}, "created_at": "2020-01-01T00:00:00+00:00"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
