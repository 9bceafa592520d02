"""The command line as a user meets it: exit statuses, one sentence for an error, one JSON object, and a whole run.

Commands are called in this process through `main`, as the installed program calls it.
"""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import app, explain, main
from flows.commands.revise import changes
from flows.endings import ending_of
from flows.inputs import StageSettings, find_input
from flows.server.environment import prefect_server
from srpo_core.errors import InputError
from srpo_core.settings.training import PreferenceSettings
from tests.conftest import TINY_RUN
from tests.fakes import byte_tokenizer, tiny_llama
from tests.homes import put_preferences

COMMANDS = (
    *("run", "ingest", "ingest-prompts", "reference", "train", "generate", "judge", "publish", "report"),
    *("sql", "ask", "show", "ls", "score", "power", "audit", "revise", "doctor"),
)
PAIR = {"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No."}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "SRPO_DEBUG", "SRPO_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "no_profiles.toml"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def write_pairs(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(count: int, **fields: object) -> list[dict]:
    return [PAIR | {"prompt": f"Why {i}?"} | fields for i in range(count)]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def refusal(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """The one sentence with which a command refuses, after checking that it is one and that nothing else was printed."""
    found, out, err = call(capsys, *arguments)
    assert found == status, err
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("srpo: ")
    assert err.count("srpo: ") == 1
    return last


class TestHelp:
    def test_every_command_is_there_and_explains_itself(self, capsys):
        import typer

        assert set(typer.main.get_command(app).commands) >= set(COMMANDS)
        for command in COMMANDS:
            status, out, _ = call(capsys, command, "--help")
            assert status == 0
            assert f"Usage: srpo {command}" in out

    def test_every_option_has_a_help_text(self, capsys):
        import typer

        for name, command in typer.main.get_command(app).commands.items():
            for parameter in command.params:
                assert parameter.name == "help" or parameter.help, f"{name} {parameter.name}"

    def test_help_loads_no_heavy_package(self):
        program = (
            "import sys; from flows.cli import main; main(['--help']); "
            "print([m for m in ('torch', 'prefect', 'duckdb', 'openai', 'transformers', 'scipy') if m in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == "[]"

    def test_no_command_shows_the_help(self, capsys):
        assert call(capsys)[1].startswith("Usage: srpo")


class TestBadInput:
    """The table of what a user can get wrong; each gives status 2 and one sentence."""

    def test_usage(self, capsys):
        assert "ru" in refusal(capsys, 2, "ru")
        assert "--nonsense" in refusal(capsys, 2, "train", "--nonsense")
        assert "--help" in refusal(capsys, 2, "ingest-prompts", "x.jsonl")

    def test_remote_home(self, capsys):
        for home in ("s3://bucket/home", "gs://x", "abfs+x://y"):
            assert "not possible yet" in refusal(capsys, 2, "ls", "--home", home)

    def test_home_that_is_a_file(self, capsys, tmp_path):
        (tmp_path / "file").touch()
        for home in (tmp_path / "file", tmp_path / "file" / "below"):
            assert f"found the file {tmp_path / 'file'};" in refusal(capsys, 2, "run", "--preset", "demo", "--home", home)

    def test_unknown_preset_or_setting(self, capsys, home):
        assert "demo" in refusal(capsys, 2, "run", "--preset", "demmo", "--home", home)
        assert "exactly one" in refusal(capsys, 2, "run", "--home", home)
        assert "training.betta" in refusal(capsys, 2, "run", "--preset", "demo", "--set", "training.betta=1", "--home", home)
        assert "beta 1" in refusal(capsys, 2, "run", "--preset", "demo", "--set", "beta 1", "--home", home)
        assert not home.exists()

    @pytest.mark.parametrize("setting", ["training.alpha=0", "training.alpha=1", "training.beta=0", "training.beta=-1"])
    def test_alpha_and_beta_out_of_range(self, capsys, home, setting):
        field, value = setting.split("=")
        sentence = refusal(capsys, 2, "run", "--preset", "demo", "--set", setting, "--home", home)
        assert field in sentence
        assert f": {value} is " in sentence  # the words of a form that refuses it
        own = field.removeprefix("training.")
        asked = ("train", "--policy", "p", "--preferences", "q", "--set", f"{own}={value}", "--home", home)
        assert own in refusal(capsys, 2, *asked)

    @pytest.mark.parametrize(
        ("command", "content", "where"),
        [
            ("reference --policy a --preferences b", "model: gpt2", "in model, found 'gpt2'"),
            ("train --policy a --preferences b", "training: []", "in training, found []"),
            ("train --policy a --preferences b", "per_method: [a]", "in per_method, found ['a']"),
            ("train --policy a --preferences b", "per_method: {srpo: hello}", "in per_method.srpo, found 'hello'"),
            ("judge --completions a", "judge: api", "in judge, found 'api'"),
            ("equal-compute --policy a --prompts b", "equal_compute: [a]", "in equal_compute, found ['a']"),
            (
                "equal-compute --policy a --prompts b --reward-model c",
                "equal_compute: {reward_model: gpt2}",
                "in equal_compute.reward_model, found 'gpt2'",
            ),
        ],
    )
    def test_a_section_without_names_in_a_configuration_file(self, capsys, home, tmp_path, command, content, where):
        (tmp_path / "c.yaml").write_text(content)
        found = refusal(capsys, 2, *command.split(), "--config", tmp_path / "c.yaml", "--home", home)
        assert found == f"srpo: expected settings by name {where}; indent its settings below it"

    def test_names_and_kinds_that_are_no_texts_in_a_configuration_file(self, capsys, home, tmp_path):
        file = tmp_path / "c.yaml"
        for content, words in (("{1: a, x: b}", "unknown setting 1"), ("judge: {kind: [a]}", "found ['a']; name one of them")):
            file.write_text(content)
            assert words in refusal(capsys, 2, "judge", "--completions", "a", "--config", file, "--home", home)

    def test_the_folder_of_a_user_that_is_not_there(self, capsys):
        path = "~nobody_of_this_name/x"
        for asked in (("ls", "--home", path), ("run", "--config", path), ("judge", "--completions", "a", "--config", path)):
            assert f"at the start of {path}, found no such user" in refusal(capsys, 2, *asked)

    def test_more_days_than_there_were(self, capsys, home):
        assert "36500" in refusal(capsys, 2, "gc", "--days", "9999999", "--home", home)

    def test_missing_configuration_file(self, capsys, home):
        assert "nope.yaml" in refusal(capsys, 2, "run", "--config", "nope.yaml", "--home", home)

    def test_missing_file(self, capsys, home):
        assert "nope.jsonl" in refusal(capsys, 2, "ingest", "nope.jsonl", "--home", home)
        assert "nope.jsonl" in refusal(capsys, 2, "ingest-prompts", "nope.jsonl", "--name", "x", "--home", home)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_unreadable_file(self, capsys, home, tmp_path):
        path = write_pairs(tmp_path / "pairs.jsonl", pairs(4))
        path.chmod(0)
        assert "pairs.jsonl" in refusal(capsys, 2, "ingest", path, "--home", home)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "empty file"),
            (b"this is no JSON\nneither is this\n", "JSON"),
            (b"\x00\x00\x00\x00\n\x00\x00\n", "row 1"),
            (b'{"prompt": "a\xff", "chosen": "b", "rejected": "c"}\n', "row 1"),
            (b'{"question": "a", "answer": "b"}\n', "question"),
        ],
    )
    def test_file_without_a_usable_row(self, capsys, home, tmp_path, content, expected):
        path = tmp_path / "pairs.jsonl"
        path.write_bytes(content)
        sentence = refusal(capsys, 2, "ingest", path, "--home", home)
        assert "pairs.jsonl" in sentence
        assert expected in sentence
        assert main(["ls", "--home", str(home), "--json"]) == 0
        assert not any(one["complete"] for one in json.loads(capsys.readouterr().out)["artifacts"])

    def test_missing_column(self, capsys, home, tmp_path):
        path = write_pairs(tmp_path / "pairs.jsonl", pairs(4))
        asked = ("ingest", path, "--prompt-column", "prompt", "--chosen-column", "best", "--rejected-column", "rejected")
        assert "best" in refusal(capsys, 2, *asked, "--home", home)
        assert "--prompt-column" in refusal(capsys, 2, "ingest", path, "--chosen-column", "chosen", "--home", home)

    def test_all_ties(self, capsys, home, tmp_path):
        rows = [{"q": f"Why {i}?", "a": "x", "b": "y", "votes": ["a", "b"]} for i in range(4)]
        columns = ("--prompt-column", "q", "--text-a-column", "a", "--text-b-column", "b", "--votes-column", "votes")
        sentence = refusal(capsys, 2, "ingest", write_pairs(tmp_path / "p.jsonl", rows), *columns, "--home", home)
        assert "ties" in sentence

    def test_single_cluster(self, capsys, home, tmp_path):
        rows = [PAIR | {"chosen": f"Because {i}."} for i in range(4)]
        assert "clusters" in refusal(capsys, 2, "ingest", write_pairs(tmp_path / "p.jsonl", rows), "--home", home)

    def test_model_folder_without_weights_or_tokenizer(self, capsys, home, tmp_path):
        put_preferences(home)
        folder = tmp_path / "model"
        folder.mkdir()
        asked = ("reference", "--policy", folder, "--preferences", next((home / "preferences").iterdir()).name, "--home", home)
        assert "weights" in refusal(capsys, 2, *asked)
        tiny_llama().save_pretrained(folder)
        assert "tokenizer" in refusal(capsys, 2, *asked)

    def test_tokenizer_without_a_chat_template(self, capsys, home, tmp_path):
        rows = [{"prompt": f"Why {i}?", "completion": "So."} for i in range(4)]
        file = write_pairs(tmp_path / "demonstrations.jsonl", rows)
        tiny_llama().save_pretrained(tmp_path / "model")
        byte_tokenizer(chat_template=None).save_pretrained(tmp_path / "model")
        asked = ("train", "--method", "sft", "--model", tmp_path / "model", "--demonstrations", file, "--home", home)
        assert "chat template" in refusal(capsys, 2, *asked)

    def test_artifact_ids(self, capsys, home):
        first, second = put_preferences(home, seed=0), put_preferences(home, seed=1)
        assert find_input(home, "preferences", first.fingerprint).fingerprint == first.fingerprint
        assert find_input(home, "preferences", str(second.path)).fingerprint == second.fingerprint
        assert find_input(home, "preferences", first.fingerprint[:10]).fingerprint == first.fingerprint
        asked = ("train", "--policy", "aaaa", "--preferences", first.fingerprint, "--home", home)
        assert "policies" in refusal(capsys, 2, *asked)
        with pytest.raises(InputError, match="found none"):
            find_input(home, "preferences", "zzzz")
        with pytest.raises(InputError, match="found preferences"):
            find_input(home, "prompts", str(first.path))

    def test_unknown_method_format_stage_and_judge(self, capsys, home):
        put_preferences(home)
        assert "dpo_both" in refusal(capsys, 2, "train", "--method", "dppo", "--home", home)
        assert "csv" in refusal(capsys, 2, "sql", "SELECT 1", "--format", "xml", "--home", home)
        assert "policies" in refusal(capsys, 2, "ls", "nonsense", "--home", home)
        assert "--judge rule" in refusal(capsys, 2, "judge", "--completions", "x", "--home", home)

    @pytest.mark.parametrize(("method", "option"), [("sft", "--reference"), ("sft", "--prompts"), ("dpo", "--model")])
    def test_an_option_that_the_method_has_no_use_for_is_refused(self, capsys, tmp_path, method, option):
        assert option in refusal(capsys, 2, "train", "--method", method, option, "abc", "--home", tmp_path)

    def test_two_models_to_start_from_are_refused(self, capsys, tmp_path):
        asked = ("train", "--method", "sft", "--policy", "abc", "--model", "def", "--home", tmp_path)
        assert "expected --policy or --model to start from, found both" in refusal(capsys, 2, *asked)

    def test_a_setting_of_a_section_that_the_command_does_not_use(self, capsys, home):
        asked = ("generate", "--policy", "p", "--prompts", "q", "--set", "training.beta=1", "--home", home)
        assert "training" in refusal(capsys, 2, *asked)

    def test_reading_before_anything_was_published(self, capsys, home):
        assert "srpo publish" in refusal(capsys, 2, "sql", "SELECT 1", "--home", home)
        assert "srpo publish" in refusal(capsys, 2, "report", "--home", home)
        assert str(home) in refusal(capsys, 2, "publish", "--home", home)

    def test_empty_prompt(self, capsys, home):
        assert "prompt" in refusal(capsys, 2, "revise", "--policy", "x", "--prompt", " ", "--home", home)
        assert "nope.txt" in refusal(capsys, 2, "revise", "--policy", "x", "--prompt", "@nope.txt", "--home", home)


class TestFailures:
    """Status 1: the work itself failed."""

    def test_a_full_disk_is_one_sentence(self, capsys, home, tmp_path, monkeypatch):
        def full(*arguments: object, **options: object) -> None:
            raise OSError(28, "No space left on device", "part-00000-0.parquet")

        monkeypatch.setattr("storage.part_stream.PartStream.close", full)
        path = write_pairs(tmp_path / "p.jsonl", pairs(40))
        assert "No space left on device" in refusal(capsys, 1, "ingest", path, "--home", home)

    def test_a_bug_says_that_it_is_one(self, capsys, home, monkeypatch):
        monkeypatch.setattr("storage.stored_queries.list_queries", lambda: 1 / 0)
        assert "bug in srpo" in refusal(capsys, 1, "ask", "--home", home)
        assert "Traceback" in call(capsys, "ask", "--home", home, "--debug")[2]
        monkeypatch.setenv("SRPO_DEBUG", "1")
        assert "Traceback" in call(capsys, "ask", "--home", home)[2]

    @pytest.mark.parametrize(
        ("error", "sentence"),
        [
            (ValueError("one\ntwo"), "ValueError: one"),
            (KeyError(), "KeyError"),
            (OSError(28, "No space left", "a.parquet"), "the system refused at a.parquet: No space left; mend"),
        ],
    )
    def test_an_error_nobody_foresaw_is_the_sentence_of_the_runs_record(self, error, sentence):
        status, said = explain(error)
        record = ending_of(error).sentence
        assert status == 1 and record.startswith(sentence)
        assert said == record + ("" if isinstance(error, OSError) else "; this is a bug in srpo (--debug shows where)")

    def test_a_broken_artifact(self, capsys, home):
        artifact = put_preferences(home)
        artifact.parts()[0].write_bytes(b"")
        asked = ("reference", "--policy", "p", "--preferences", artifact.fingerprint, "--home", home)
        (home / "policies").mkdir()
        assert "policies" in refusal(capsys, 2, *asked)
        assert "delete" in refusal(capsys, 1, "publish", "--home", home)

    def test_ctrl_c_says_how_to_go_on(self, capsys, home, tmp_path, monkeypatch):
        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("tasks.preferences.ingest_preferences", interrupt)
        status, _, err = call(capsys, "ingest", write_pairs(tmp_path / "p.jsonl", pairs(4)), "--home", home)
        assert status == 130
        assert "again continues" in err


class TestIngest:
    def test_json_adds_up(self, capsys, home, tmp_path):
        rows = [*pairs(30), *pairs(2), PAIR | {"chosen": "same", "rejected": "same"}]
        status, out, _ = call(capsys, "ingest", write_pairs(tmp_path / "p.jsonl", rows), "--home", home, "--json")
        values = json.loads(out)
        assert status == 0
        assert (values["rows_read"], values["pairs"], values["rejected_rows"], values["merged_duplicates"]) == (33, 30, 1, 2)
        assert (home / "preferences" / values["fingerprint"] / "manifest.json").is_file()

    def test_columns_by_options_and_by_file_are_the_same_artifact(self, capsys, home, tmp_path):
        rows = [{"q": f"Why {i}?", "a": "x", "b": "y", "side": "a2", "id": i} for i in range(30)]
        file = write_pairs(tmp_path / "p.jsonl", rows)
        options = ("--prompt-column", "q", "--text-a-column", "a", "--text-b-column", "b", "--label-column", "side")
        mapping = tmp_path / "columns.yaml"
        mapping.write_text("{prompt: q, text_a: a, text_b: b, label: side}")
        by_options = json.loads(call(capsys, "ingest", file, *options, "--home", home, "--json")[1])
        by_file = json.loads(call(capsys, "ingest", file, "--columns", mapping, "--home", home, "--json")[1])
        assert by_options["fingerprint"] == by_file["fingerprint"]
        from storage.artifact import open_artifact

        assert {row["chosen"] for row in open_artifact(Path(by_file["path"])).rows()} == {"y"}

    def test_prompts(self, capsys, home, tmp_path):
        file = write_pairs(tmp_path / "x.jsonl", [{"prompt": f"Why {i}?", "gold": ["So."]} for i in range(5)])
        asked = ("ingest-prompts", file, "--name", "why", "--max-prompts", 3, "--domain", "desk", "--home", home)
        values = json.loads(call(capsys, *asked, "--json")[1])
        assert values["prompts"] == 3
        assert "prompts: 3" in call(capsys, *asked)[1]


class TestSettings:
    def test_set_beats_the_method_beats_the_file(self, tmp_path):
        file = tmp_path / "c.yaml"
        file.write_text("training: {beta: 0.5, seed: 3, alpha: .4}\nper_method: {dpo: {beta: 0.6, seed: 4}}\nname: x\n")
        settings = StageSettings("training", (), file, ["seed=5"], "dpo").section("training", PreferenceSettings, method="dpo")
        assert (settings.alpha, settings.beta, settings.seed) == (0.4, 0.6, 5)

    def test_a_name_without_a_dot_is_the_commands_own(self):
        settings = StageSettings("judge", (), None, ["model=x", "judge.kind=api"])
        assert settings.values == {"judge": {"model": "x", "kind": "api"}}

    def test_home_is_the_environments_unless_given(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setenv("SRPO_HOME", str(tmp_path / "a"))
        assert str(tmp_path / "a") in refusal(capsys, 2, "ls")
        assert str(tmp_path / "b") in refusal(capsys, 2, "ls", "--home", tmp_path / "b")
        monkeypatch.delenv("SRPO_HOME")
        monkeypatch.chdir(tmp_path)
        assert str(tmp_path / "srpo_home") in refusal(capsys, 2, "ls")

    def test_prefect_server_is_found_without_prefect(self, monkeypatch, tmp_path):
        assert prefect_server() is None
        profiles = tmp_path / "profiles.toml"
        profiles.write_text('active = "b"\n[profiles.a]\nPREFECT_API_URL = "http://a/api"\n[profiles.b]\n')
        monkeypatch.setenv("PREFECT_PROFILES_PATH", str(profiles))
        assert prefect_server() is None
        monkeypatch.setenv("PREFECT_PROFILE", "a")
        assert prefect_server() == "http://a/api"
        monkeypatch.setenv("PREFECT_API_URL", "http://c/api")
        assert prefect_server() == "http://c/api"


class TestScoreAndDoctor:
    def test_score_of_a_file(self, capsys, tmp_path):
        file = tmp_path / "v.csv"
        file.write_text(
            "prompt_id,order,score\n" + "".join(f"p{i},{o},{i % 2}\n" for i in range(4) for o in ("as_is", "swapped"))
        )
        values = json.loads(call(capsys, "score", file, "--json")[1])
        assert (values["n"], values["win_rate"], values["consistency"]) == (4, 0.5, 1.0)
        assert "win_rate: 0.5" in call(capsys, "score", file)[1]
        assert "nope.csv" in refusal(capsys, 2, "score", "nope.csv")

    def test_doctor_finds_this_installation_in_order(self, capsys, tmp_path):
        status, out, _ = call(capsys, "doctor", "--home", tmp_path, "--json")
        values = json.loads(out)
        assert status == 0, [check for check in values["checks"] if check["status"] == "broken"]
        assert {"python", "torch", "prefect", "device", "disk", "prefect server"} <= {check["name"] for check in values["checks"]}

    @pytest.mark.parametrize(("package", "version"), [("fastapi", "0.165.0"), ("sqlalchemy", "2.1.9")])
    def test_doctor_knows_what_breaks_prefect(self, capsys, tmp_path, monkeypatch, package, version):
        from importlib import metadata

        real = metadata.version
        monkeypatch.setattr(metadata, "version", lambda name: version if name.lower() == package else real(name))
        status, out, _ = call(capsys, "doctor", "--home", tmp_path)
        assert status == 1
        assert f"{package}: " in out.lower()
        assert "Prefect 3.8" in out

    def test_doctor_says_that_a_configured_server_is_away(self, capsys, tmp_path, monkeypatch):
        monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        status, out, _ = call(capsys, "doctor", "--home", tmp_path)
        assert status == 1
        assert "does not answer" in out


class TestWholeRun:
    """On a home filled by one `srpo run` of a tiny demo."""

    def test_a_second_run_finds_everything_complete_and_prints_the_table(self, capsys, tiny_home):
        status, out, err = call(capsys, *TINY_RUN, "--home", tiny_home)
        assert status == 0
        stages = [line for line in err.splitlines() if " … " in line and not line.startswith(("publish", "write report"))]
        assert len(stages) > 10
        assert [line for line in stages if "complete already" not in line] == []
        for eval_set in ("id", "long *", "mix *"):
            for method in ("sft", "srpo"):
                assert re.search(rf"^{re.escape(eval_set)} +{method} +10 +\d+\.\d \[\d+,\d+\]  ", out, re.MULTILINE)
        assert str(tiny_home / "results.duckdb") in out
        assert out.count("\n  srpo ") == 3

    def test_json_is_one_object_with_every_win_rate(self, capsys, tiny_home):
        values = json.loads(call(capsys, *TINY_RUN, "--home", tiny_home, "--json")[1])
        assert len(values["win_rates"]) == 2 * 3 * 2  # policies, evaluation sets, revisions
        assert all(row["ci_low"] <= row["win_rate"] <= row["ci_high"] for row in values["win_rates"])

    def test_sql_in_three_formats(self, capsys, tiny_home):
        query = "SELECT method, eval_set, win_rate FROM win_rates ORDER BY ALL"
        rows = json.loads(call(capsys, "sql", query, "--format", "json", "--home", tiny_home)[1])
        table = list(csv.DictReader(io.StringIO(call(capsys, "sql", query, "--format", "csv", "--home", tiny_home)[1])))
        assert [(row["method"], float(row["win_rate"])) for row in table] == [(row["method"], row["win_rate"]) for row in rows]
        lines = call(capsys, "sql", query, "--home", tiny_home)[1].splitlines()
        assert lines[0].split() == ["method", "eval_set", "win_rate"]
        assert len(lines) == 1 + len(rows) == 13

    def test_sql_that_writes_or_is_wrong(self, capsys, tiny_home):
        assert "read-only" in refusal(capsys, 2, "sql", "DROP TABLE games", "--home", tiny_home)
        assert "SHOW TABLES" in refusal(capsys, 2, "sql", "SELECT nonsense", "--home", tiny_home)

    def test_every_stored_question_is_answered(self, capsys, tiny_home):
        status, out, _ = call(capsys, "ask", "--format", "json", "--home", tiny_home)
        names = [row["name"] for row in json.loads(out)]
        assert status == 0
        assert "win_rates" in names
        for name in names:
            assert call(capsys, "ask", name, "--home", tiny_home)[0] == 0
        assert "win_rates" in refusal(capsys, 2, "ask", "nonsense", "--home", tiny_home)

    @pytest.mark.parametrize(
        ("kind", "query"),
        [
            ("artifact", "SELECT policy_id FROM policies WHERE name = 'srpo'"),
            ("completion", "SELECT candidate FROM verdicts WHERE revision_index = 1 AND method = 'srpo' LIMIT 1"),
            ("game", "SELECT game_id FROM verdicts WHERE method = 'srpo' LIMIT 1"),
            ("pair", "SELECT pair_id FROM preferences LIMIT 1"),
            ("prompt", "SELECT prompt_id FROM prompts LIMIT 1"),
            ("run", "SELECT run_id FROM runs LIMIT 1"),
        ],
    )
    def test_show_anything_by_its_id(self, capsys, tiny_home, kind, query):
        name = call(capsys, "sql", query, "--format", "csv", "--home", tiny_home)[1].splitlines()[-1]
        values = json.loads(call(capsys, "show", name, "--home", tiny_home, "--json")[1])
        assert values["kind"] == kind
        assert values["id"].endswith(name)
        if kind in ("completion", "game", "artifact"):
            assert {"preferences", "demonstrations", "reference"} <= {line["stage"] for line in values["lineage"]}
        status, out, _ = call(capsys, "show", name[:-1] if kind == "run" else name[:12], "--home", tiny_home)
        assert status == 0
        assert out.startswith(kind)

    def test_a_model_folder_is_a_policy_with_its_own_chat_template(self, capsys, tiny_home, tmp_path):
        row = "SELECT policy_id FROM policies WHERE name = 'srpo'"
        policy = call(capsys, "sql", row, "--format", "csv", "--home", tiny_home)[1].splitlines()[-1]
        folder, home = tmp_path / "model", tmp_path / "home"
        shutil.copytree(tiny_home / "policies" / policy / "model", folder)
        (folder / "srpo_template.json").unlink()
        (tmp_path / "set.jsonl").write_text('{"prompt": "Major fire, Oslo, 11.", "gold": ["fire, Oslo, 11."]}\n')
        assert call(capsys, "ingest-prompts", tmp_path / "set.jsonl", "--name", "one", "--home", home)[0] == 0
        prompts = next((home / "prompts").iterdir()).name
        options = ("--set", "max_new_tokens=4", "--set", "num_revisions=1", "--home", home, "--json")
        status, out, err = call(capsys, "generate", "--policy", folder, "--prompts", prompts, *options)
        assert status == 0, err
        assert json.loads(out)["artifacts"][0]["completions"] == 2

    def test_show_of_an_unknown_id(self, capsys, tiny_home):
        assert "found none" in refusal(capsys, 2, "show", "zzzzzzzz", "--home", tiny_home)
        assert "first 4" in refusal(capsys, 2, "show", "a", "--home", tiny_home)

    def test_ls_names_what_there_is(self, capsys, tiny_home):
        artifacts = json.loads(call(capsys, "ls", "--home", tiny_home, "--json")[1])["artifacts"]
        assert {"srpo on id", "sft on long"} <= {one["name"] for one in artifacts if one["stage"] == "completions"}
        assert call(capsys, "ls", "policies", "--home", tiny_home)[1].count("policies") == 3

    def test_publish_and_report(self, capsys, tiny_home):
        assert Path(call(capsys, "publish", "--home", tiny_home)[1].strip()) == tiny_home / "results.duckdb"
        path = json.loads(call(capsys, "report", "--home", tiny_home, "--json")[1])["report"]
        assert Path(path).read_text().startswith("<!")

    def test_stage_commands_with_the_same_settings_find_the_runs_artifacts(self, capsys, tiny_home, tmp_path):
        config = Path(__file__).resolve().parents[2] / "flows" / "presets" / "demo.yaml"
        shared = ("--config", config, "--home", tiny_home, "--set", "resources.num_processes=1", "--json")
        (pairs_id,) = (path.name for path in (tiny_home / "preferences").iterdir())
        named = {
            one["name"]: one["fingerprint"]
            for one in json.loads(call(capsys, "ls", "--json", "--home", tiny_home)[1])["artifacts"]
        }
        before = {path for path in tiny_home.glob("*/*") if path.is_dir()}
        rows = json.loads(call(capsys, "reference", "--policy", named["sft"], "--preferences", pairs_id[:8], *shared)[1])
        sets = ("--prompts", f"{named['id']},{named['long']}", "--prompts", named["mix"])
        asked = ("--policy", named["sft"], "--preferences", pairs_id, "--reference", rows["fingerprint"])
        policy = json.loads(call(capsys, "train", "--method", "srpo", *asked, *sets, *shared)[1])
        assert policy["fingerprint"] == named["srpo"]
        written = call(capsys, "generate", "--policy", named["srpo"], "--prompts", named["id"], "--revisions", "1", *shared)[1]
        (completions,) = json.loads(written)["artifacts"]
        assert completions["fingerprint"] == named["srpo on id"]
        judged = call(
            capsys, "judge", "--completions", completions["fingerprint"], "--judge", "rule", "--home", tiny_home, "--json"
        )[1]
        assert json.loads(judged)["artifacts"][0]["fingerprint"] == named["srpo on id by rule"]
        assert {path for path in tiny_home.glob("*/*") if path.is_dir()} == before

    def test_reference_rows_of_another_policy_are_refused(self, capsys, tiny_home):
        named = {
            one["name"]: one["fingerprint"]
            for one in json.loads(call(capsys, "ls", "--json", "--home", tiny_home)[1])["artifacts"]
        }
        (pairs_id,) = (path.name for path in (tiny_home / "preferences").iterdir())
        (rows,) = (path.name for path in (tiny_home / "reference").iterdir())
        asked = ("--policy", named["srpo"], "--preferences", pairs_id, "--reference", rows)
        assert "belong together" in refusal(capsys, 2, "train", *asked, "--home", tiny_home)

    def test_revise_writes_a_chain(self, capsys, tiny_home):
        named = {
            one["name"]: one["fingerprint"]
            for one in json.loads(call(capsys, "ls", "--json", "--home", tiny_home)[1])["artifacts"]
        }
        asked = ("revise", "--prompt", "Major fire, Oslo, 21.", "--revisions", "2", "--temperature", "0", "--home", tiny_home)
        by_id = json.loads(call(capsys, *asked, "--policy", named["srpo"], "--json")[1])
        assert [one["revision_index"] for one in by_id["completions"]] == [0, 1, 2]
        by_folder = json.loads(call(capsys, *asked, "--policy", tiny_home / "policies" / named["srpo"] / "model", "--json")[1])
        assert by_folder["completions"] == by_id["completions"]
        assert "draft: " in call(capsys, *asked, "--policy", named["srpo"])[1]

    def test_a_judge_that_is_down_fails_and_nothing_is_complete(self, capsys, tiny_home, tmp_path):
        home = tmp_path / "copy"
        shutil.copytree(tiny_home, home)
        completions = next((home / "completions").iterdir()).name
        asked = ("judge", "--completions", completions, "--judge", "api", "--model", "m", "--base-url", "http://127.0.0.1:9/v1")
        sentence = refusal(capsys, 1, *asked, "--set", "max_attempts=1", "--home", home)
        assert "127.0.0.1:9" in sentence
        listed = json.loads(call(capsys, "ls", "games", "--home", home, "--json")[1])["artifacts"]
        assert [one["complete"] for one in listed].count(False) == 1


def test_a_revision_shows_what_it_changed():
    assert changes("a fire in Oslo.", "a flood in Oslo.", False) == "a [-fire-] {+flood+} in Oslo."
    assert changes("a b", "a b c", False) == "a b {+c+}"
    assert changes("a b", "a b", False) == "a b  (unchanged)"


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_workers_and_the_next_run_continues(tmp_path, sent, status):
    home = tmp_path / "home"
    arguments = [*TINY_RUN, "--set", "newsroom.num_demonstrations=8000", "--home", str(home)]
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments], stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr)
    next(line for line in lines if line.startswith("sft:"))
    process.send_signal(sent)
    rest = process.stderr.read()
    assert process.wait(30) == status
    assert "again continues" in rest.splitlines()[-1]
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(home).encode() in p.read_bytes()]
    assert subprocess.run([sys.executable, "-m", "flows.cli", *arguments], capture_output=True).returncode == 0
