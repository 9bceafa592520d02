"""The starting model: a folder by content, a small one by seed, and a model adopted as the reference as it is."""

import shutil
from pathlib import Path

import pytest

from srpo_core.errors import InputError
from srpo_core.models import load_model, load_tokenizer
from srpo_core.settings.model import ModelSettings, SmallModelSettings
from srpo_core.tokenization import load_template
from storage.artifact import find_artifact
from tasks.models import adopt_reference, model_folder, prepare_base_model
from tests.small_training import DECODING, TEMPLATE, save_policy
from tests.stages import model_settings, put_demonstrations, put_pairs

SMALL = ModelSettings(small=SmallModelSettings(hidden_size=16, num_layers=1, num_heads=2, vocab_size=300), max_length=64)


def test_a_folder_is_known_by_its_content_and_not_copied(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", save_policy(tmp_path / "model")
    first = prepare_base_model(model_settings(folder), home, None)
    assert model_folder(first) == folder and not list(first.path.glob("**/*.safetensors"))
    assert prepare_base_model(model_settings(folder), home, None) == first
    moved = tmp_path / "moved"
    folder.rename(moved)
    elsewhere = prepare_base_model(model_settings(moved), home, None)
    assert (elsewhere.fingerprint, elsewhere.digest) == (first.fingerprint, first.digest) and model_folder(elsewhere) == moved
    save_policy(folder, seed=1)
    assert prepare_base_model(model_settings(folder), home, None).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("model.safetensors", "expected safetensors weights in"), ("tokenizer", "expected a tokenizer beside")],
)
def test_a_folder_without_weights_or_tokenizer_is_named(tmp_path: Path, missing: str, sentence: str) -> None:
    folder = save_policy(tmp_path / "model")
    for path in folder.glob(f"{missing}*"):
        path.unlink()
    with pytest.raises(InputError, match=sentence):
        prepare_base_model(model_settings(folder), tmp_path / "home", None)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"expected a model folder at {name}, found none; check the path"):
        prepare_base_model(ModelSettings(name_or_path=name), tmp_path / "home", None)


def test_whatever_the_hub_library_raises_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LookupError("no route\nto anywhere")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    with pytest.raises(InputError, match=r"^expected a model folder or a hub model named a/b, found neither \(no route\); check"):
        prepare_base_model(ModelSettings(name_or_path="a/b"), tmp_path / "home", None)


def test_a_small_model_is_made_once_for_its_texts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    texts = put_demonstrations(home)
    first = prepare_base_model(SMALL, home, texts)
    assert load_model(model_folder(first)).config.hidden_size == 16 and first.counts["tokens"] <= 300
    assert prepare_base_model(SMALL, home, texts) == first
    assert prepare_base_model(SMALL, home, put_pairs(home)).fingerprint != first.fingerprint
    with pytest.raises(InputError, match="expected texts to learn a small model's tokenizer from, found none"):
        prepare_base_model(SMALL, home, None)


def test_an_adopted_reference_has_the_models_weights_and_the_settings_template(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", save_policy(tmp_path / "model")
    (folder / "srpo_template.json").unlink()  # as a model from elsewhere
    settings = model_settings(folder)
    base = prepare_base_model(settings, home, None)
    reference = adopt_reference(base, model=settings, template=TEMPLATE, decoding=DECODING, home=home)
    adopted = model_folder(reference)
    tok, decoding = load_template(adopted, load_tokenizer(adopted))
    assert (tok.settings, tok.max_length, decoding) == (TEMPLATE, settings.max_length, DECODING)
    weights = load_model(adopted).state_dict()
    assert all((value == weights[name]).all() for name, value in load_model(folder).state_dict().items())
    assert (adopted / "model.safetensors").is_symlink(), "weights are not copied"
    assert not (folder / "srpo_template.json").exists(), "and nothing is written into somebody else's folder"
    assert adopt_reference(base, model=settings, template=TEMPLATE, decoding=DECODING, home=home) == reference
    assert reference.settings["method"] == "hub"


def test_an_adopted_small_model_moves_with_its_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    base = prepare_base_model(SMALL, home, put_demonstrations(home))
    reference = adopt_reference(base, model=SMALL, template=TEMPLATE, decoding=None, home=home)
    shutil.move(home, tmp_path / "moved")
    moved = find_artifact(tmp_path / "moved", "policies", reference.fingerprint)
    assert moved is not None and load_model(model_folder(moved))


def test_a_template_that_the_tokenizer_cannot_serve_is_refused(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", save_policy(tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    base = prepare_base_model(model_settings(folder), home, None)
    with pytest.raises(InputError, match="template kind chat needs a tokenizer with a chat template"):
        adopt_reference(base, model=model_settings(folder), template=TEMPLATE, decoding=None, home=home)
