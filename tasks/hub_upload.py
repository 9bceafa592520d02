"""An exported folder onto the hub; the token comes from the environment (HF_TOKEN) or the hub's own login."""

import json
from pathlib import Path

from srpo_core.errors import InputError, WorkFailed, first_line
from srpo_core.settings.model import ADAPTER_FILE

# Of an earlier export in another form: transformers would load an adapter's base, or old weights, in place of what is pushed.
# "?" keeps to the names that transformers gives; what else lies in a repository is its owner's.
MODEL_FILES = [
    ADAPTER_FILE,
    "adapter_model.safetensors",
    "config.json",
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
]


def check_upload(repo: str) -> None:
    """Raise InputError where nothing could be uploaded: no name, no token."""
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"expected a name such as owner/model with --push, found {repo!r}; correct it") from error
    if not get_token():
        raise InputError(
            "expected a token of the hub in the environment variable HF_TOKEN, found none; set it or leave --push out"
        )


def upload_folder(folder: Path, repo: str, *, private: bool = True) -> str:
    """Make the repository if it is not there, and put all files of `folder` into it; the commit's address.

    Model files that an earlier export left there, and this one does not have, are deleted. Raises InputError for an adapter that
    names its base by a path of this machine, and WorkFailed when the hub refuses or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    _check_portable(folder)
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export", delete_patterns=MODEL_FILES)
        return str(done.commit_url)
    except Exception as error:  # of the hub's library or of the HTTP library below it, which changes with its version
        raise WorkFailed(
            f"expected the hub to take {folder} as {repo}, found: {type(error).__name__} {first_line(error)}; "
            "the folder is complete, check name, token and network and push again with --overwrite"
        ) from error


def _check_portable(folder: Path) -> None:
    file = folder / ADAPTER_FILE
    if file.is_file():
        check_base(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])


def check_base(base: str) -> None:
    """Raise InputError for an adapter's base that is named by a path of this machine."""
    if Path(base).is_absolute():
        raise InputError(
            f"expected an adapter whose base is on the hub to push, found one on the folder {base}; export it merged instead"
        )
