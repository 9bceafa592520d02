"""An exported folder onto the hub; the token comes from the environment (HF_TOKEN) or the hub's own login."""

import json
from pathlib import Path

from srpo_core.errors import InputError, WorkFailed

ADAPTER_FILE = "adapter_config.json"


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
    """Make the repository if it is not there, and put all files of `folder` into it in one commit; the commit's address.

    Raises InputError for an adapter that names its base by a path of this machine, and WorkFailed when the hub refuses or cannot
    be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    _check_portable(folder)
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export").commit_url)
    except Exception as error:  # of the hub's library or of the HTTP library below it, which changes with its version
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise WorkFailed(
            f"expected the hub to take {folder} as {repo}, found: {type(error).__name__} {reason}; the folder is complete, check "
            "name, token and network and push again with --overwrite"
        ) from error


def _check_portable(folder: Path) -> None:
    file = folder / ADAPTER_FILE
    base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"] if file.is_file() else ""
    if Path(base).is_absolute():
        raise InputError(
            f"expected an adapter whose base is on the hub to push, found one on the folder {base}; export it merged instead"
        )
