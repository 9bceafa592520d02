"""Whether the judges that deployments name have their key: in the environment, or as a Secret block of the server."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound

from flows.server.check_line import Check
from flows.server.deployments import Deployment
from srpo_core.judging.judges import secret_block
from srpo_core.settings.judges import ApiJudgeSettings


def check_keys(client: SyncPrefectClient, wanted: Sequence[Deployment], environment: Mapping[str, str]) -> Check:
    """Each variable that a judge behind an API names; the worker needs it, whose environment cannot be seen from here."""
    variables = sorted({name for one in wanted for name in _variables(one.entry.get("parameters"))})
    blocks = [name for name in variables if _has_block(client, secret_block(name))]
    shell = [name for name in variables if name not in blocks and environment.get(name)]
    missing = [name for name in variables if name not in (*blocks, *shell)]
    needed = ", ".join(
        f"{name}: the Secret block {secret_block(name)}, or the variable where the worker is started" for name in missing
    )
    found = [
        *(f"{name} is a Secret block" for name in blocks),
        *(f"{name} is set here, which counts if the worker was started from here" for name in shell),
        *(f"{name} is neither set nor a Secret block" for name in missing),
    ]
    return Check("judge keys", "absent" if missing else "ok", "; ".join(found) or "no deployment needs one", needed)


def _variables(value: Any) -> set[str]:
    """The variables of all judges behind an API in the parameters of a deployment."""
    if isinstance(value, Mapping):
        own = {_variable(value)} if value.get("kind") == "api" and "model" in value else set()
        return own.union(*(_variables(inner) for inner in value.values()))
    return set().union(*(_variables(inner) for inner in value)) if isinstance(value, list) else set()


def _variable(judge: Mapping[str, Any]) -> str:
    return str(judge.get("api_key_variable") or ApiJudgeSettings.model_fields["api_key_variable"].default)


def _has_block(client: SyncPrefectClient, name: str) -> bool:
    try:
        return client.read_block_document_by_name(name, "secret", include_secrets=False) is not None
    except ObjectNotFound:
        return False
