"""Settings that a server, its worker and its runs share, and which workers are started; without starting anything."""

import stat
from urllib.request import proxy_bypass

import pytest
from prefect.settings import Settings

from flows.cli import main
from flows.server.database import require_database
from flows.server.environment import address, client_environment, served_url, server_environment, write_profile
from flows.server.serving import _plan_workers
from srpo_core.errors import InputError


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "http://127.0.0.1:4200"), ("0.0.0.0", "http://127.0.0.1:4200"), ("::1", "http://[::1]:4200")],
)
def test_this_machine_reaches_the_server_by_an_address_it_has(host, expected):
    assert address(host, 4200) == expected


def test_everything_of_an_own_server_is_in_the_home_and_nothing_of_a_given_one_is_moved(tmp_path):
    own = server_environment(tmp_path, "127.0.0.1", 4200, "", {"PATH": "/bin"})
    inside = [name for name, value in own.items() if str(tmp_path / "prefect") in value]
    assert sorted(inside) == [
        "PREFECT_HOME",
        "PREFECT_PROFILES_PATH",
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    ]
    given = client_environment(tmp_path, "http://server/api", {"PATH": "/bin"})
    assert (given["PREFECT_API_URL"], given["SRPO_HOME"]) == ("http://server/api", str(tmp_path))
    assert "PREFECT_HOME" not in given


def test_a_persons_settings_win_but_for_where_the_server_is(tmp_path):
    person = {"PREFECT_WORKER_QUERY_SECONDS": "7", "PREFECT_API_URL": "http://elsewhere/api", "NO_PROXY": "intranet"}
    own = server_environment(tmp_path, "127.0.0.1", 4200, "", person)
    assert own["PREFECT_WORKER_QUERY_SECONDS"] == "7"
    assert own["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert own["NO_PROXY"] == "intranet,127.0.0.1,localhost"


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        ({"no_proxy": ".corp"}, ".corp,127.0.0.1,localhost"),
        ({"no_proxy": ".corp, localhost", "NO_PROXY": ".corp,intranet"}, ".corp,localhost,intranet,127.0.0.1"),
        ({"NO_PROXY": "*"}, "*"),  # with anything beside it, it would mean a host of this name
    ],
)
def test_no_proxy_stands_before_the_local_server_however_a_person_spells_it(tmp_path, monkeypatch, person, expected):
    own = server_environment(tmp_path, "127.0.0.1", 4200, "", {"http_proxy": "http://proxy:3128", **person})
    assert (own["no_proxy"], own["NO_PROXY"]) == (expected, expected)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert proxy_bypass("127.0.0.1:4200")


def test_prefect_reads_the_settings_that_an_installation_makes(tmp_path, monkeypatch):
    """One that is misspelt would be left out without a word."""
    for name, value in server_environment(tmp_path, "127.0.0.1", 4200, "", {}).items():
        monkeypatch.setenv(name, value)
    found = Settings()
    assert (found.server.services.event_persister.batch_size, found.flows.heartbeat_frequency) == (200, 30)
    assert (found.worker.query_seconds, found.server.analytics_enabled) == (2, False)
    assert found.server.ui.show_promotional_content is False and found.results.default_serializer == "json"


def test_browsers_of_other_machines_ask_the_address_they_opened(tmp_path):
    assert "PREFECT_SERVER_UI_API_URL" not in server_environment(tmp_path, "127.0.0.1", 4200, "", {})
    assert server_environment(tmp_path, "0.0.0.0", 4200, "", {})["PREFECT_SERVER_UI_API_URL"] == "/api"


def test_the_worker_says_the_password_that_the_server_asks_for(tmp_path):
    own = server_environment(tmp_path, "0.0.0.0", 4200, "", {"PREFECT_SERVER_API_AUTH_STRING": "user:password"})
    assert own["PREFECT_API_AUTH_STRING"] == "user:password"


def test_the_profile_tells_where_the_server_is_and_no_password(tmp_path):
    assert served_url(tmp_path) is None
    url = "postgresql+asyncpg://user:secret@host/name"
    person = {"PREFECT_SERVER_API_AUTH_STRING": "user:secret"}
    write_profile(tmp_path, server_environment(tmp_path, "127.0.0.1", 4207, url, person))
    profile = tmp_path / "prefect" / "profiles.toml"
    assert served_url(tmp_path) == "http://127.0.0.1:4207/api"
    assert "secret" not in profile.read_text()
    assert not profile.stat().st_mode & stat.S_IWOTH


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://x", ["postgresql+asyncpg://", "mysql://"]),
        ("postgresql://user:secret@host/name", ["postgresql+asyncpg://", "found postgresql://"]),
        ("postgresql+asyncpg://user:secret@127.0.0.1:1/name", ["user:***@127.0.0.1:1/name", "--database"]),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence_without_its_password(url, named):
    with pytest.raises(InputError) as caught:
        require_database(url)
    assert [word for word in named if word not in str(caught.value)] == []
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_sqlite_file_need_not_be_there(tmp_path):
    require_database(f"sqlite+aiosqlite:///{tmp_path / 'new.db'}")


@pytest.mark.parametrize("option", [["--host", "0.0.0.0"], ["--port", "4300"], ["--database", "postgresql+asyncpg://a@b/c"]])
def test_what_an_own_server_would_need_is_refused_where_another_is_used(monkeypatch, capsys, tmp_path, option):
    monkeypatch.setenv("PREFECT_API_URL", "http://server/api")
    monkeypatch.setattr("flows.server.processes.answers", lambda url: True)
    assert main(["serve", "--home", str(tmp_path), *option]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"expected no {option[0]} " in sentence and "unset PREFECT_API_URL" in sentence


def planned(devices: int, visible: str = "") -> list[tuple[str, list[str], str]]:
    plan = _plan_workers(devices, {"CUDA_VISIBLE_DEVICES": visible})
    return [(name, options, seen["CUDA_VISIBLE_DEVICES"]) for name, options, seen in plan]


def test_one_worker_takes_everything_and_sees_every_device():
    assert planned(1) == [("worker", [], "")]
    assert planned(1, "5,7") == [("worker", [], "5,7")]


def test_several_devices_have_a_worker_each_that_sees_one_and_runs_one_at_a_time():
    own = ["--work-queue", "device", "--limit", "1"]
    other = ["--work-queue", "default"]
    assert planned(2) == [("worker-device-0", own, "0"), ("worker-device-1", own, "1"), ("worker-default", other, "")]
    assert [seen for _, _, seen in planned(2, "5,7")] == ["5", "7", "5,7"]


def test_more_devices_than_are_seen_are_refused_and_none_gets_two_workers():
    with pytest.raises(InputError, match=r"expected 3 devices .*, found 2 in CUDA_VISIBLE_DEVICES=2,3; give --devices 2"):
        planned(3, "2,3")
