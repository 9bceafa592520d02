"""The card of an exported policy, `README.md`: written from the records of its home, and from nothing else.

What no record says, such as the licence of the data, is said to be unknown.
"""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from srpo_core.settings.model import GenerationSettings
from storage.artifact import Artifact
from storage.lineage import Lineage, trace_lineage
from storage.names import Names
from tasks.card_records import (
    UNKNOWN,
    Row,
    as_cell,
    count_left_out,
    describe_demonstrations,
    describe_judges,
    describe_source,
    read_rates_of,
    short_name,
    without_places,
)

CARD = "README.md"
_TRANSFORMERS = """{imports}

folder = "."  # of this card, or its name on the hub
{load}
messages = [{{"role": "user", "content": {prompt}}}]
for revision in range({count}):  # 0 is the draft
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    text = tokenizer.decode(output, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    print(revision, text)
    messages = [messages[0], {{"role": "assistant", "content": text}}]"""
_CLIENT = """from openai import OpenAI

client = OpenAI()
messages = [{{"role": "user", "content": {prompt}}}]
for revision in range({count}):  # 0 is the draft
    asked = {{"temperature": {temperature}, "top_p": {top_p}, "max_tokens": {max_tokens}}}
    reply = client.chat.completions.create(model={model}, messages=messages, **asked)
    text = reply.choices[0].message.content.strip()
    print(revision, text)
    messages = [messages[0], {{"role": "assistant", "content": text}}]"""
_EXACT = """import json

templates = json.load(open("templates.json"))

def token_ids(prompt, draft=None):
    texts = {"prompt": prompt, "draft": draft}
    parts = templates["draft" if draft is None else "revision"]
    pieces = [part.get("text") or texts[part["slot"]] for part in parts]
    return [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]]"""


# Prompts of no data set: a card must not publish what people asked.
_EXAMPLES = {
    "tldr": "SUBREDDIT: r/gardening\nTITLE: My tomatoes split\nPOST: After a dry week it rained for two days, and half of my "
    "tomatoes split open. They taste fine. Should I water them more evenly?",
    "article": "After a dry week it rained for two days in the valley, and half of the tomatoes split open. Growers advise to "
    "water evenly.",
    "chat": "Why do tomatoes split after rain?",
}


class CardFacts(NamedTuple):
    """What the records do not say."""

    name: str  # of the folder
    kind: str  # of the template
    decoding: GenerationSettings
    same_ids: tuple[int, int] | None  # prompts with the ids of training through the chat template, and prompts tried
    kept_base: (
        tuple[str, str | None] | None
    )  # of an adapter that was not merged: its base's name and commit on the hub, or folder


def write_card(folder: Path, policy: Artifact, facts: CardFacts) -> None:
    """Write the card of `policy` into `folder`."""
    from huggingface_hub import ModelCardData

    home = policy.path.parent.parent
    lineage, names = trace_lineage(home, f"policies/{policy.fingerprint}"), Names(home)
    ancestors = [found for name in lineage.nodes if (found := names.artifact(name)) is not None]
    base = _starting_model(ancestors)
    data = [describe_source(one) for one in ancestors if one.stage == "sources"]
    context = _code(facts) | {
        "title": facts.name,
        "method": policy.settings.get("method"),
        "same_ids": facts.same_ids,
        "facts": list(_facts(policy, names, base)),
        "lora": _adapter(policy, facts),
        "settings": json.dumps(without_places(policy.settings), indent=2, ensure_ascii=False),
        "data": data,
        "demonstrations": ", ".join(describe_demonstrations(ancestors)),
        "left_out": list(count_left_out(home, policy, ancestors)),
        "rates": read_rates_of(home, policy),
        "judges": list(describe_judges(home, policy)),
        "lineage": [_line(lineage, name) for name in lineage.nodes],
    }
    about = ModelCardData(
        license=UNKNOWN,
        library_name="peft" if facts.kept_base else "transformers",
        pipeline_tag="text-generation",
        base_model=base.settings["settings"]["name_or_path"] if base and _is_on_hub(base) else None,
        datasets=sorted({row["dataset"] for row in data if row["dataset"]}) or None,
        tags=["srpo", "preference-optimization", "self-revision"],
    )
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    template = (resources.files("srpo_core") / "model_card.md.j2").read_text(encoding="utf-8")
    text = environment.from_string(template).render(context)
    (folder / CARD).write_text(f"---\n{about.to_yaml()}\n---\n\n{text}", encoding="utf-8")


def _code(facts: CardFacts) -> dict[str, str]:
    """The examples, as they can be run in the folder."""
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    load = "tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForCausalLM))"
    if facts.kept_base is not None:
        imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig"
        name, commit = facts.kept_base
        base = f"{name!r}, revision={commit!r}" if commit else f'f"{{folder}}/{name}"'
        load = "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        load += f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), folder)"
        load += "\nmodel.generation_config = GenerationConfig.from_pretrained(folder)"  # peft takes the base's otherwise
    decoding, shared = facts.decoding, {"prompt": json.dumps(_EXAMPLES[facts.kind], ensure_ascii=False)}
    shared["count"] = str(1 + min(decoding.num_revisions, 3))
    asked = {"temperature": decoding.temperature, "top_p": decoding.top_p, "max_tokens": decoding.max_new_tokens}
    return {
        "decoding_line": f"Default decoding: temperature {decoding.temperature:g}, top-p {decoding.top_p:g}, at most "
        f"{decoding.max_new_tokens} tokens a text, {decoding.num_revisions} revisions.",
        "transformers_code": _TRANSFORMERS.format(imports=imports, load=load, **shared),
        "client_code": _CLIENT.format(model='"."', **asked, **shared),
        "exact_code": _EXACT,
        "served_name": ".",
    }


def _facts(policy: Artifact, names: Names, base: Artifact | None) -> Iterator[tuple[str, Any]]:
    settings, manifest = policy.settings.get("settings") or {}, policy.manifest
    yield "method", policy.settings.get("method")
    for key in ("alpha", "beta", "loss_scale", "learning_rate", "num_steps", "seed"):
        if settings.get(key) is not None and (key != "alpha" or policy.settings.get("method") == "srpo"):
            yield key, f"{settings[key]:.6g}" if isinstance(settings[key], float) else settings[key]
    reference = manifest["parents"].get("reference")
    if reference is not None:
        found = names.artifact(f"policies/{reference['fingerprint']}")
        yield "reference model", f"{short_name(names.of(found)) if found else ''} (`policies/{reference['fingerprint']}`)".strip()
    start = manifest["parents"].get("start")
    if start is not None:
        yield "training began with", f"`policies/{start['fingerprint']}`"
    if base is not None:
        commit = f", commit `{base.settings['settings']['commit']}`" if _is_on_hub(base) else f" (`policies/{base.fingerprint}`)"
        yield "starting model", f"{short_name(names.of(base))}{commit}"
    yield "arithmetic", policy.settings.get("dtype", UNKNOWN)
    yield "fingerprint", f"`policies/{policy.fingerprint}`"
    yield "digest of the weights", f"`{policy.digest}`"
    yield "made", manifest["created_at"][:19]
    yield "code", f"commit `{manifest['git_commit']}`" if manifest.get("git_commit") else UNKNOWN
    versions = manifest.get("environment", {})
    yield "software", ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers") if name in versions)


def _starting_model(ancestors: list[Artifact]) -> Artifact | None:
    """The policy that was trained from no other."""
    policies = [one for one in ancestors if one.stage == "policies"]
    roots = [one for one in policies if not {"base", "reference"} & set(one.manifest["parents"])]
    return roots[0] if roots and roots[0] is not policies[0] else None


def _is_on_hub(base: Artifact) -> bool:
    return bool((base.settings.get("settings") or {}).get("commit"))


def _adapter(policy: Artifact, facts: CardFacts) -> str:
    lora = (policy.settings.get("settings") or {}).get("lora")
    if not lora:
        return ""
    where = "merged into the weights" if facts.kept_base is None else f"beside its base, {facts.kept_base[0]}"
    return f"Trained as a low-rank adapter (rank {lora['rank']}, alpha {lora['alpha']:g}), here {where}."


def _line(lineage: Lineage, name: str) -> Row:
    node = lineage.nodes[name]
    made = (node.created_at or "no longer there")[:19]
    return {
        "id": name,
        "name": as_cell(short_name(node.name)),
        "made": made,
        "commit": f"`{node.git_commit}`" if node.git_commit else UNKNOWN,
    }
