"""The forms of all deployments explain themselves, offer valid choices, and refuse what the command line refuses in its words.

The texts a form shows are those of Prefect's own functions, which its server calls: `validate` for a run that is asked for, and
`build_error_obj` for the fields of the form. How the form draws a schema is checked with the rules of its web page, in few words:
a reference is looked up by name among the definitions, and choices are the branches of anyOf.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from huggingface_hub import get_token
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate
from prefect.utilities.schema_tools.validation import build_error_obj

from flows.inputs import require_ids
from flows.presets import list_presets, load_preset, override
from flows.under_prefect.forms import check_parameters
from flows.under_prefect.secrets import find_secret, secrets_in_environment
from srpo_core.data import preference_formats, prompt_formats
from srpo_core.errors import InputError
from srpo_core.form_schema import title_of
from srpo_core.judging.judge_presets import PRESETS
from srpo_core.judging.judges import read_api_key
from srpo_core.settings.base import Settings, parse_settings
from srpo_core.settings.data import PREFERENCE_FORMATS, PROMPT_FORMATS, PreferenceSourceSettings
from srpo_core.settings.judges import ApiJudgeSettings, JudgePresetName
from srpo_core.settings.pipeline import PipelineSettings
from srpo_core.settings.retraining import RetrainSettings
from srpo_core.settings.training import PreferenceSettings, TrainingSettings
from tests import judge_server

ROOT = Path(__file__).resolve().parents[3]
DEPLOYMENTS = {one["name"]: one for one in yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]}
each_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)
RULE = {"kind": "rule"}
_SCHEMAS: dict[str, dict[str, Any]] = {}


def load(name: str) -> Any:
    path, function = DEPLOYMENTS[name]["entrypoint"].split(":")
    return load_flow_from_entrypoint(f"{ROOT / path}:{function}")


def schema_of(name: str) -> dict[str, Any]:
    """What the server stores of a deployment."""
    if name not in _SCHEMAS:
        _SCHEMAS[name] = parameter_schema(load(name)).model_dump_for_openapi()
    return _SCHEMAS[name]


def fields_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of a form with its path; groups are followed as the web page follows them."""

    def follow(path: str, one: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        definition = schema["definitions"][one["$ref"].removeprefix("#/definitions/")] if "$ref" in one else {}
        drawn = definition | {key: value for key, value in one.items() if key not in ("$ref", "definitions")}
        yield path, drawn
        for branch in drawn.get("anyOf", []):
            if "$ref" in branch:
                yield from follow(f"{path}:{branch['$ref'].rpartition('/')[2]}", branch)
        if isinstance(drawn.get("items"), dict) and "$ref" in drawn["items"]:
            yield from follow(f"{path}[]", drawn["items"])
        for name, field in drawn.get("properties", {}).items():
            yield from follow(f"{path}.{name}", field)

    for name, field in schema["properties"].items():
        yield from follow(name, field)


@each_deployment
def test_every_field_has_a_title_and_a_description_and_no_field_is_a_box_for_json(name):
    for path, field in fields_of(schema_of(name)):
        assert field.get("title"), path
        assert field.get("description"), path
        assert not (field.get("type") == "object" and not field.get("properties")), path
        assert field.get("type") or field.get("anyOf") or "const" in field, path


@each_deployment
def test_every_number_has_a_range(name):
    for path, field in fields_of(schema_of(name)):
        kinds = {field.get("type"), *(branch.get("type") for branch in field.get("anyOf", []))}
        if kinds & {"integer", "number"} and "enum" not in field:
            assert {"minimum", "exclusiveMinimum"} & set(field), path


@each_deployment
def test_fields_are_in_the_order_of_the_code_also_where_names_are_not_kept_in_order(name):
    for definition in schema_of(name)["definitions"].values():
        positions = [field["position"] for field in definition.get("properties", {}).values()]
        assert len(set(positions)) == len(positions)


def test_a_name_is_shown_as_a_person_writes_it():
    names = {
        "learning_rate": "Learning rate",
        "lora": "LoRA",
        "logits_gib": "Logits GiB",
        "adam_beta1": "Adam beta1",
        "num_revisions": "Number of revisions",
    }
    assert {name: title_of(name, None) for name in names} == names


WRONG = [
    ("demo", "training.learning_rate=-1", "-1 is less than or equal to the minimum of 0"),
    ("demo", "training.alpha=1", "1 is greater than or equal to the maximum of 1"),
    ("demo", "training.betta=1", "Additional properties are not allowed ('betta' was unexpected)"),
    ("demo", "training.layout=tree", "'tree' is not one of ['auto', 'trie', 'packed_trie', 'plain']"),
    ("demo", "training.method=dpo", "Additional properties are not allowed ('method' was unexpected)"),
    ("demo", "training.lora={rank: 0}", "0 is less than the minimum of 1"),
    ("demo", "training.num_steps=0", "0 is less than the minimum of 1"),
    ("demo", "methods=[sft]", "'sft' is not one of ['srpo', 'dpo', 'ipo', 'dpo_both', 'ipo_both']"),
    ("demo", "methods=[srpo, srpo]", "['srpo', 'srpo'] has non-unique elements"),
    ("demo", "per_method.dpo={betta: 1}", "Additional properties are not allowed ('betta' was unexpected)"),
    ("demo", "per_method.dpo={beta: 0}", "0 is less than or equal to the minimum of 0"),
    ("demo", "per_method.ipo_both={beta: 1}", "expected per_method to name trained methods"),
    ("demo", "judge={kind: oracle}", "'oracle' is not one of ['rule', 'api', 'reward_model', 'label_model']"),
    ("demo", "judge={kind: api}", "'model' is a required property"),
    ("demo", "judge={kind: api, model: m, preset: tdlr}", "'tdlr' is not one of ['tldr-concise', 'tldr'"),
    ("demo", "judge={kind: api, model: m, api_key_variable: sk-123}", "'sk-123' does not match"),
    ("demo", "judge={kind: api, model: m, budget: {max_cost: 1}}", "expected both prices beside budget.max_cost"),
    ("demo", "judge={kind: api, model: m, max_tokens: null, budget: {max_tokens: 9}}", "expected max_tokens beside a budget"),
    ("demo", "judge={kind: reward_model, model: m, temperature: 0}", "0 is less than or equal to the minimum of 0"),
    ("demo", "newsroom=null", "expected exactly one of newsroom and preferences"),
    ("demo", "preferences={paths: [a]}", "expected exactly one of newsroom and preferences"),
    ("demo", "evaluation=[{name: a, path: b}]", "expected no evaluation and no demonstrations.path beside the newsroom"),
    ("demo", "model.name_or_path=a", "expected exactly one of name_or_path and small"),
    ("demo", "model.revision=main", "expected no revision beside small"),
    ("demo", "equal_compute={select: [reward_model]}", "expected reward_model beside select reward_model alone"),
    ("demo", "equal_compute={selecting_judge: {kind: api, model: ''}}", "'' should be non-empty"),
    ("tldr", "judge={kind: rule}", "expected a judge other than rule and no diagnostics outside the newsroom"),
    ("tldr", "diagnostics={}", "expected a judge other than rule and no diagnostics outside the newsroom"),
    ("tldr", "evaluation=[]", "expected at least one evaluation set"),
    ("tldr", "preferences.format=trll", "'trll' does not match"),
    ("tldr", "preferences.columns={prompt: p, chosen: c}", "expected either chosen and rejected, or text_a, text_b"),
    (
        "tldr",
        "preferences={paths: [a], format: hh_rlhf, columns: {prompt: p, chosen: c, rejected: r}}",
        "expected format auto or col",
    ),
    ("tldr", "preferences.validation_share=1", "1 is greater than or equal to the maximum of 1"),
    ("chat", "demonstrations.revisions=improve", "expected supervised settings beside demonstrations of your own"),
    ("chat", "{generation: {num_revisions: 0}, equal_compute: {}}", "expected generation.num_revisions of at least 1"),
]


@pytest.mark.parametrize(("preset", "assignment", "reason"), WRONG)
def test_a_wrong_value_is_refused_with_the_same_reason_by_the_form_its_fields_and_the_command_line(preset, assignment, reason):
    settings = load_preset(preset)
    settings = settings | yaml.safe_load(assignment) if assignment[0] == "{" else override(settings, [assignment])
    schema = schema_of(preset)
    with pytest.raises(ValidationError) as form:
        validate({"settings": settings}, schema, raise_on_error=True)
    with pytest.raises(InputError) as command_line:
        parse_settings(PipelineSettings, settings, f"preset {preset}")
    assert reason in str(form.value)
    assert reason in str(command_line.value)
    beside_fields = list(_texts(build_error_obj(validate({"settings": settings}, schema))))
    assert any(reason in text for text in beside_fields)
    assert not any("is not valid under any of the given schemas" in text for text in beside_fields)


def _texts(errors: Any) -> Iterator[str]:
    for one in errors["errors"]:
        if isinstance(one, str):
            yield one
        else:
            yield from _texts(one)


@pytest.mark.parametrize("preset", list_presets())
def test_what_the_settings_allow_the_form_allows_also_with_every_default_filled_in(preset):
    """The web page sends every field, defaults included."""
    settings = PipelineSettings.model_validate(load_preset(preset))
    for values in (load_preset(preset), settings.model_dump(mode="json")):
        assert validate({"settings": values}, schema_of(preset)) == []
    assert PipelineSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("name", "parameters", "reason"),
    [
        ("judge", {"completions": ["a"], "judge": {"kind": "api"}}, "'model' is a required property"),
        ("judge", {"completions": ["a"], "judge": RULE, "opponents": {"completions": "b"}}, "'revision_index' is a required"),
        ("audit", {"audit": {"kind": "injections"}, "judge": RULE}, "expected exactly one of preferences and prompts"),
        ("audit", {"audit": {"kind": "sentinel", "frozen": "a", "preferences": "b"}, "judge": RULE}, "expected at most one of"),
        ("audit", {"audit": {"kind": "agreement", "preferences": "a", "max_pairs": 0}, "judge": RULE}, "the minimum of 1"),
        (
            "audit",
            {"audit": {"kind": "sentinel"}, "judge": {"kind": "api", "model": "m", "repeats": 2}},
            "'repeats' was unexpected",
        ),
        ("train", {"reference": "a", "preferences": "b", "prompts": [], "settings": {"method": "sft"}}, "'sft' is not one of"),
        (
            "generate",
            {"policy": "a", "prompts": ["b"], "resources": {"checkpoint_every": 3}},
            "'checkpoint_every' was unexpected",
        ),
    ],
)
def test_the_forms_of_single_stages_refuse_too(name, parameters, reason):
    with pytest.raises(ValidationError) as form:
        validate(parameters, schema_of(name), raise_on_error=True)
    assert reason in str(form.value)


@pytest.mark.parametrize(
    ("name", "parameters", "option"),
    [
        ("judge", {"completions": [], "judge": RULE}, "--completions"),
        ("generate", {"policy": "a", "prompts": []}, "--prompts"),
        ("equal-compute", {"policy": "a", "prompts": [], "judge": RULE}, "--prompts"),
    ],
)
def test_an_empty_list_is_no_work_done_but_refused_by_the_form_the_run_and_the_command_line(name, parameters, option):
    with pytest.raises(ValidationError) as form:
        validate(parameters, schema_of(name), raise_on_error=True)
    with pytest.raises(InputError) as run:
        check_parameters(load(name), parameters)
    with pytest.raises(InputError) as command_line:
        require_ids([" , "], option)
    reason = "expected at least one name"
    assert reason in str(form.value)
    assert str(run.value) == f"setting {option[2:]} in the parameters of {name}: {reason}"
    assert str(command_line.value).startswith(f"{reason} with {option}, found")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"methods": ["srpo", "dpo"]}, "expected exactly one method in pipeline.methods"),
        ({"diagnostics": {}}, "expected no pipeline.diagnostics"),
        ({"equal_compute": {}}, "expected no pipeline.equal_compute"),
    ],
)
def test_the_form_of_a_retraining_refuses_what_its_settings_refuse(change, reason):
    given = DEPLOYMENTS["weekly-retrain"]["parameters"]["settings"]
    values = given | {"pipeline": given["pipeline"] | change}
    with pytest.raises(ValidationError) as form:
        validate({"settings": values}, schema_of("weekly-retrain"), raise_on_error=True)
    with pytest.raises(InputError) as command_line:
        parse_settings(RetrainSettings, values, "here")
    assert reason in str(form.value) and reason in str(command_line.value)


def test_of_two_mistakes_the_rule_is_told_as_its_sentence_and_nothing_else():
    settings = override(load_preset("demo"), ["training.num_steps=0", "preferences={paths: [a]}"])
    with pytest.raises(InputError) as command_line:
        parse_settings(PipelineSettings, settings, "here")
    assert str(command_line.value) == "here: expected exactly one of newsroom and preferences"


def test_choices_of_a_form_are_those_of_the_code():
    known = [one.name for one in preference_formats.FORMATS]
    assert set(PREFERENCE_FORMATS) == {"auto", "columns", *known}
    assert set(PROMPT_FORMATS) == {"auto", *(one.name for one in prompt_formats.FORMATS)}
    assert set(get_args(JudgePresetName)) == set(PRESETS)
    assert (
        parse_settings(PreferenceSourceSettings, {"paths": ["a"], "format": "my/own.py:read"}, "here").format == "my/own.py:read"
    )


def test_the_settings_of_one_method_are_those_of_training_and_only_srpo_has_alpha():
    own = schema_of("demo")["definitions"]
    shared = set(TrainingSettings.model_fields) - {"layout"}
    assert set(own["SrpoSettings"]["properties"]) == shared
    assert set(own["MethodSettings"]["properties"]) == shared - {"alpha"}
    assert set(PreferenceSettings.model_fields) == set(TrainingSettings.model_fields) | {"method"}


def test_a_form_whose_methods_have_settings_of_their_own_gives_what_the_preset_file_gives():
    written = override(load_preset("demo"), ["per_method={srpo: {beta: 0.3, alpha: 0.5}, dpo: {lora: {rank: 4}}}"])
    settings = parse_settings(PipelineSettings, written, "here")
    srpo, dpo, ipo = parse_settings(PipelineSettings, settings.model_dump(mode="json"), "the form").method_settings()
    assert (srpo.beta, srpo.alpha, srpo.lora) == (0.3, 0.5, None)
    assert (dpo.beta, dpo.alpha, dpo.lora.rank) == (0.1, 0.9, 4)
    assert (ipo.beta, ipo.lora) == (0.1, None)


def test_every_rule_of_a_form_is_a_sentence_that_the_settings_say_too():
    def all_settings(base: type[Settings]) -> Iterator[type[Settings]]:
        for one in base.__subclasses__():
            yield one
            yield from all_settings(one)

    for one in all_settings(Settings):
        assert all(rule.sentence.startswith("expected ") for rule in one.form_rules), one


# What only a run can say, under a server


@pytest.fixture
def home(server, tmp_path) -> str:
    return str(tmp_path / "home")


def test_what_a_schema_cannot_state_ends_the_run_at_once_with_the_sentence_of_the_command_line(home):
    settings = override(load_preset("demo"), ["model.small.num_heads=5"])
    state = load("demo")(settings, home, return_state=True)
    with pytest.raises(InputError) as command_line:
        parse_settings(PipelineSettings, settings, "here")
    sentence = "expected hidden_size to be a multiple of num_heads, found 96 and 5"
    assert str(command_line.value) == f"setting model.small in here: {sentence}"
    assert state.is_failed()
    assert state.message == f"setting settings.model.small in the parameters of run: {sentence}"
    assert not Path(home).exists()


def test_the_sentence_is_known_without_a_run_too():
    settings = override(load_preset("demo"), ["model.small.num_heads=5"])
    with pytest.raises(InputError, match="expected hidden_size to be a multiple of num_heads, found 96 and 5"):
        check_parameters(load("demo"), {"settings": settings})
    check_parameters(load("demo"), {"settings": load_preset("demo")})


def test_a_name_that_no_parameter_has_ends_the_run_at_once_with_the_names_there_are(server):
    """The server does not look at the names of parameters."""
    flow = load("publish")
    validate({"hme": "elsewhere"}, schema_of("publish"), raise_on_error=True)
    state = flow.fn(**flow.validate_parameters({"hme": "elsewhere"}))
    assert state.is_failed()
    assert state.message == (
        "unknown setting hme in the parameters of publish: Additional properties are not allowed ('hme' was unexpected); "
        "the settings there are home"
    )


# Keys

KEY = "sk-c0ffee-not-for-anyone"


@pytest.fixture
def block(server, monkeypatch):
    """A Secret block with a judge's key, for a variable that the environment does not have."""
    monkeypatch.delenv("FORM_TEST_KEY", raising=False)
    Secret(value=KEY).save("form-test-key", overwrite=True)
    yield
    Secret.delete("form-test-key")


def judge_at(url: str, variable: str = "FORM_TEST_KEY") -> ApiJudgeSettings:
    return ApiJudgeSettings.model_validate({"model": "m", "base_url": url, "api_key_variable": variable})


def test_a_key_comes_from_the_block_unless_the_environment_has_one_and_is_gone_after_the_run(block, monkeypatch):
    settings = judge_at("https://judge.invalid/v1")
    with secrets_in_environment([{"pipeline": [settings]}]):
        assert read_api_key(settings) == KEY
    assert "FORM_TEST_KEY" not in os.environ
    monkeypatch.setenv("FORM_TEST_KEY", "of the environment")
    with secrets_in_environment(settings):
        assert read_api_key(settings) == "of the environment"
    assert os.environ["FORM_TEST_KEY"] == "of the environment"


def test_without_a_key_the_sentence_names_the_variable_and_the_block(server):
    settings = judge_at("https://judge.invalid/v1", "NO_SUCH_KEY")
    with secrets_in_environment(settings), pytest.raises(InputError) as caught:
        read_api_key(settings)
    assert "environment variable NO_SUCH_KEY, found none" in str(caught.value)
    assert "Secret block no-such-key" in str(caught.value)


def test_a_block_that_holds_no_text_is_refused_by_its_name(server):
    Secret(value={"key": "sk"}).save("odd-key", overwrite=True)
    try:
        with pytest.raises(
            InputError, match="expected a text in the Prefect Secret block odd-key, found dict; save the key as text"
        ):
            find_secret("ODD_KEY")
    finally:
        Secret.delete("odd-key")


def test_the_hubs_token_comes_from_the_block_hf_token(server, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    Secret(value="hf_not_for_anyone").save("hf-token", overwrite=True)
    try:
        with secrets_in_environment(None):
            assert get_token() == "hf_not_for_anyone"
    finally:
        Secret.delete("hf-token")


def test_a_judges_key_reaches_the_judge_and_no_log_line_parameter_artifact_or_file(block, home, tmp_path, monkeypatch):
    shown = []

    def post(handler: Any) -> None:
        shown.append(handler.headers["authorization"])
        answer(handler)

    answer = judge_server._Handler.do_POST
    monkeypatch.setattr(judge_server._Handler, "do_POST", post)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(f'{{"prompt": "a b c {one}", "chosen": "a b", "rejected": "x y z"}}\n' for one in range(4)))
    preferences = load("ingest")({"paths": [str(pairs)]}, home)
    with judge_server.JudgeServer() as server:
        judge = judge_at(server.url).model_dump(exclude={"repeats", "sentinel_games", "sentinel_seed"})
        state = load("audit")({"kind": "agreement", "preferences": preferences}, judge, home=home, return_state=True)
    assert state.is_completed(), state.message
    assert set(shown) == {f"Bearer {KEY}"}
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(state.state_details.flow_run_id)
        said = [log.message for log in _logs_until_the_end(client, run.id)]
        kept = [repr(run), *said, *map(repr, client.read_artifacts()), *map(repr, client.read_task_runs())]
    assert run.name == "audit: agreement of m"
    assert any("audit preferences" in line for line in said)
    assert not any(KEY in text for text in kept)
    assert not any(KEY.encode() in path.read_bytes() for path in Path(home).rglob("*") if path.is_file())


def _logs_until_the_end(client: Any, flow_run_id: Any) -> list[Any]:
    """The lines of a run's log, which the client sends in batches."""
    wanted, until = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])), time.monotonic() + 15
    while True:
        lines = list(client.read_logs(wanted, limit=200))
        if any("Finished in state" in line.message for line in lines) or time.monotonic() > until:
            return lines
        time.sleep(0.3)
