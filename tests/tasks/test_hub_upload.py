"""An exported folder onto the hub: every file arrives as it is, and what goes wrong is one sentence."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from srpo_core.errors import InputError, WorkFailed
from tasks.hub_upload import check_upload, upload_folder
from tests.hub_uploads import Hub, hub_that_takes_uploads

REPO = "ada/reviser"
FILES = {"README.md": b"---\nlicense: unknown\n---\n# card", "config.json": b"{}", "model.safetensors": b"\x00" * 5000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    return tmp_path / "out"


def use(patch: pytest.MonkeyPatch, url: str, token: str) -> None:
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever the environment says: the hub of the test is here
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of the hub's own, with servers of its own
    patch.setenv("HF_TOKEN", token)


def push(
    patch: pytest.MonkeyPatch, folder: Path, token: str = Hub.token, there: dict[str, bytes] | None = None
) -> tuple[Hub, str]:
    """Push to a repository that holds the files `there`."""
    with hub_that_takes_uploads(REPO) as hub:
        hub.files |= there or {}
        use(patch, hub.url, token)
        return hub, upload_folder(folder, REPO)


def test_every_file_arrives_as_it_is_in_a_private_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, commit = push(monkeypatch, folder)
    assert hub.files == FILES and commit.endswith("/commit/0123")
    assert [(one["name"], one["organization"], one["visibility"]) for one in hub.created] == [("reviser", "ada", "private")]
    assert list(hub.objects.values()) == [FILES["model.safetensors"]]


def test_an_earlier_export_in_another_form_leaves_no_model_file_and_what_people_put_there_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would take the base of an adapter that is left there, and one file of weights before a sharded one."""
    earlier = (
        "adapter_config.json",
        "adapter_model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    )
    theirs = {".gitattributes": b"g", "notes.md": b"mine", "old/config.json": b"{}", "extra.safetensors": b"w"}
    hub, _ = push(monkeypatch, folder, there=dict.fromkeys(earlier, b"old") | theirs | {"config.json": b"old"})
    assert hub.files == FILES | theirs


def test_a_hub_that_refuses_is_one_sentence_and_the_folder_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkFailed, match="ada/reviser.*401.*push again with --overwrite"):
        push(monkeypatch, folder, token="hf_wrong")
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_a_hub_that_cannot_be_reached_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "http://127.0.0.1:9", "hf_secret")
    with pytest.raises(WorkFailed, match="check name, token and network"):
        upload_folder(folder, REPO)


def test_without_a_token_or_a_name_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="HF_TOKEN, found none"):
        check_upload(REPO)
    with pytest.raises(InputError, match="owner/model with --push"):
        check_upload("a b/c/d")


def test_an_adapter_whose_base_lies_on_this_machine_is_not_pushed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/base"}')
    with pytest.raises(InputError, match="export it merged"):
        push(monkeypatch, folder)
