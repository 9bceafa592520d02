"""The table at the end of a run: the run's own judge and decoding, and a ceiling only where the exact judge gave the rate."""

import pytest

from flows.commands.win_rate_table import print_win_rates, read_win_rates
from storage.artifact import list_artifacts
from tasks.publishing import publish_results
from tests.homes import decode_again, make_home, put_completions, put_diagnostics, put_games

LONG, SHORT = "max_new_tokens=64 top_p=1.0", "max_new_tokens=8 top_p=1.0"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = make_home(tmp_path_factory.mktemp("home"), size=10, revisions=3)
    put_diagnostics(folder)
    publish_results(decode_again(folder))
    return folder


@pytest.fixture(scope="module")
def srpo(home):
    return next(policy.fingerprint for policy in list_artifacts(home, "policies") if policy.info["name"] == "srpo")


def test_the_rates_of_another_decoding_are_not_taken_for_the_runs(home, srpo, capsys):
    found = {name: read_win_rates(home, [srpo], "rule", temperature=1.0, sampling=name) for name in (LONG, SHORT)}
    assert [(row["eval_set"], row["revision_index"], row["n_scored"]) for row in found[SHORT]] == [("id", 0, 10), ("id", 1, 10)]
    assert [row["win_rate"] for row in found[SHORT]] == [pytest.approx(0.6), pytest.approx(0.8)]
    assert len(found[LONG]) == 2 * 4
    print_win_rates(found[SHORT], [srpo])
    text = capsys.readouterr().out
    assert "60.0 [" in text and "80.0 [" in text and "revision 2" not in text


def test_the_ceiling_stands_beside_the_exact_judges_rates_alone(home, srpo, capsys):
    exact = read_win_rates(home, [srpo], "rule", temperature=1.0, sampling=SHORT)
    # (.6 - .25) / (.6 - .25) and (.8 - .25) / (.65 - .25)
    assert [(row["ceiling"], row["share_reached"]) for row in exact] == [(0.6, pytest.approx(1.0)), (0.65, pytest.approx(1.375))]
    model = read_win_rates(home, [srpo], "model", temperature=1.0, sampling=SHORT)
    assert [(row["win_rate"], row["ceiling"], row["share_reached"]) for row in model] == [(1.0, None, None)] * 2
    print_win_rates(model, [srpo])
    assert "ceiling" not in capsys.readouterr().out


def test_a_judge_under_two_settings_has_a_line_for_each(tmp_path, capsys):
    folder = make_home(tmp_path, size=4, revisions=0)
    prompts = next(p for p in list_artifacts(folder, "prompts") if p.settings["name"] == "id")
    policy = next(p for p in list_artifacts(folder, "policies") if p.info["name"] == "srpo")
    put_games(folder, put_completions(folder, policy, prompts, 0), prompts, lambda *_: 1.0, other="setting")
    publish_results(folder)
    found = read_win_rates(folder, [policy.fingerprint], "rule", temperature=1.0, sampling=LONG)
    print_win_rates(found, [policy.fingerprint])
    lines = [line for line in capsys.readouterr().out.splitlines() if "srpo by rule@" in line]
    assert len([row for row in found if row["eval_set"] == "id"]) == 2 and len(lines) == 3
