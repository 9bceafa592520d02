"""Each step of SRPO from Python, without Prefect, artifacts or a command line: what a notebook would do, in miniature.

Run: `python docs/examples/python_api.py` (about 20 seconds on one CPU core). The model is far too small to write well.
"""

import tempfile
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from srpo_core import newsroom
from srpo_core.batches import batch_groups
from srpo_core.decoding import write_chains
from srpo_core.layout import resolve_layout
from srpo_core.logprobs import SequenceLogps, logps_in_order
from srpo_core.models import create_small_model, train_tokenizer
from srpo_core.objectives import ImitationObjective, PreferenceObjective, build_imitation_groups, build_pair_examples
from srpo_core.records import pair_id, user_prompt
from srpo_core.scoring.win_rate import win_rate_interval
from srpo_core.settings.model import GenerationSettings, SmallModelSettings, TemplateSettings
from srpo_core.settings.resources import Resources
from srpo_core.settings.training import PreferenceSettings, SupervisedSettings
from srpo_core.tokenization import PromptTokenizer, tokenize_pairs
from srpo_core.training_loop import train

rng = np.random.default_rng(0)
accelerator = Accelerator(cpu=True)
resources = Resources(log_every=20)
scratch = Path(tempfile.mkdtemp())


def show(done: int, steps: int, metrics: dict[str, float]) -> None:
    """One line per logged step."""
    print(f"  step {done} of {steps}: loss {metrics['loss']:.3f}")


# 1. Data: demonstrations to imitate, and pairs with votes. Yours would come from `srpo_core.data.preference_formats`.
demonstrations = [row | {"prompt": user_prompt(str(row["prompt"]))} for row in newsroom.draw_demonstrations(2400, rng)]
pairs = []
for row in newsroom.draw_pairs(160, 5, rng):
    share = row["votes"].count("a") / len(row["votes"])
    chosen, rejected = (row["summary_a"], row["summary_b"]) if share >= 0.5 else (row["summary_b"], row["summary_a"])
    prompt = user_prompt(str(row["prompt"]))
    name = pair_id(prompt, chosen, rejected)
    pairs.append({"pair_id": name, "prompt": prompt, "chosen": chosen, "rejected": rejected, "preference": max(share, 1 - share)})

# 2. A model and how prompts become token ids. For a real model: srpo_core.models.load_model and load_tokenizer.
tokenizer = train_tokenizer((text for row in demonstrations for text in (row["prompt"][0]["content"], row["completion"])), 600)
tok = PromptTokenizer(tokenizer, TemplateSettings(kind="chat", revision_request="Revise."), max_length=128)
model = create_small_model(SmallModelSettings(hidden_size=64, num_layers=2), tokenizer, max_length=128)

# 3. Supervised training of both roles makes the reference.
groups, draft_flags, _ = build_imitation_groups(tok, demonstrations)
sft = SupervisedSettings(learning_rate=2e-3, examples_per_step=64)
print("supervised")
common = {"dtype": "float32", "accelerator": accelerator, "resources": resources, "report": show}
train(
    model,
    ImitationObjective(groups, draft_flags, 64),
    sft,
    seed=0,
    shuffle=False,
    layout="trie",
    folder=scratch / "sft",
    **common,
)

# 4. Six reference log-probs a pair from one token tree; a and b are the two texts in sorted order.
tokens = tokenize_pairs(tok, [(row["prompt"], *sorted((row["chosen"], row["rejected"]))) for row in pairs])
sequences = [pair.sequences for pair in tokens]
layout = resolve_layout(model, "auto", sequences[:4])
logps = logps_in_order(SequenceLogps(model.eval()), batch_groups(sequences, layout, 8192)).view(-1, 6)
reference = {row["pair_id"]: tuple(values) for row, values in zip(pairs, logps.tolist(), strict=True)}

# 5. SRPO against them.
examples, _ = build_pair_examples(tok, pairs, reference)
srpo = PreferenceSettings(method="srpo", beta=0.3, learning_rate=3e-4, pairs_per_step=8, loss_scale="unit_gradient")
print(f"srpo, layout {layout}")
train(model, PreferenceObjective(examples, srpo), srpo, seed=0, shuffle=True, layout=layout, folder=scratch / "srpo", **common)

# 6. Drafts and revisions, judged by the world itself.
prompts = [
    {"prompt_id": str(i), "prompt": user_prompt(str(row["prompt"])), "gold": row["gold"]}
    for i, row in enumerate(newsroom.draw_prompts("id", 50, rng))
]
documents = {row["prompt_id"]: (row["prompt"][0]["content"], row["gold"][0]) for row in prompts}
for revision_index, completions in enumerate(
    write_chains(model.eval(), tok, prompts, "example", GenerationSettings(num_revisions=2, max_new_tokens=20))
):
    scores = [newsroom.preference_probability(documents[c.prompt_id][0], c.text, documents[c.prompt_id][1]) for c in completions]
    interval = win_rate_interval(scores)
    rate = f"{interval.estimate:.3f} [{interval.ci_low:.3f}, {interval.ci_high:.3f}]"
    print(f"revision {revision_index}: win rate {rate}, for example {completions[0].text!r}")
print("parameters:", sum(p.numel() for p in model.parameters()))
