"""The Arrow schema of every table the pipeline writes: one home for column names and types.

A row of each table is described in docs/artifacts.md. SCHEMA_VERSION rises when a column changes its meaning or type.
"""

import pyarrow as pa

SCHEMA_VERSION = 1

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PREFERENCES = pa.schema(
    [
        ("pair_id", pa.string()),  # hash of the prompt and the two texts, sorted
        ("prompt", MESSAGES),  # not rendered
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("preference", pa.float64()),  # P(chosen preferred to rejected), .5 to 1
        ("num_votes", pa.int32()),
        ("source", pa.string()),
        ("domain", pa.string()),  # what the texts are about; compared with an evaluation set's domain
        ("split", pa.string()),  # train, validation or test
        ("cluster_id", pa.string()),
    ]
)
REJECTED_ROWS = pa.schema([("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("row", pa.string())])
DEMONSTRATIONS = pa.schema(
    [
        ("demonstration_id", pa.string()),
        ("prompt", MESSAGES),
        ("draft", pa.string()),  # null: `completion` answers the prompt; else it revises `draft`
        ("completion", pa.string()),
        ("source", pa.string()),
    ]
)
PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", MESSAGES),
        ("gold", pa.list_(pa.string())),
        ("eval_set", pa.string()),
        ("domain", pa.string()),
        ("cluster_id", pa.string()),
    ]
)
CONTAMINATION = pa.schema([("pair_id", pa.string()), ("prompt_id", pa.string()), ("kind", pa.string())])
REFERENCE_LOGPS = (
    "logp_a",
    "logp_b",
    "logp_a_given_a",
    "logp_b_given_a",
    "logp_a_given_b",
    "logp_b_given_b",
)
REFERENCE = pa.schema(
    [("pair_id", pa.string()), ("token_hash", pa.string())]
    + [(name, pa.float32()) for name in REFERENCE_LOGPS]
    + [("num_tokens_a", pa.int32()), ("num_tokens_b", pa.int32())]
)
TRAINING_LOG = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])
COMPLETIONS = pa.schema(
    [
        ("completion_id", pa.string()),
        ("prompt_id", pa.string()),
        ("policy_id", pa.string()),
        ("sample_index", pa.int32()),
        ("revision_index", pa.int32()),  # 0 = first draft
        ("parent_id", pa.string()),  # the completion that was revised; null for a draft
        ("text", pa.string()),
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),  # stop or length
        ("prompt_truncated", pa.bool_()),
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
    ]
)
GAMES = pa.schema(
    [
        ("game_id", pa.string()),
        ("prompt_id", pa.string()),
        ("candidate", pa.string()),  # completion_id
        ("opponent", pa.string()),  # "gold:<index>" or a completion_id
        ("order", pa.string()),  # as_is: the candidate is shown first; swapped: second
        ("outcome", pa.string()),  # win, tie, loss or unscored, seen from the candidate
        ("score", pa.float64()),  # in [0, 1] for the candidate; null when unscored
        ("unscored_reason", pa.string()),
        ("judge", pa.string()),
        ("request_hash", pa.string()),
        ("repeat_index", pa.int32()),
        ("model_answered", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cost", pa.float64()),  # in the currency of the judge's stated prices; null when unknown
        ("seconds", pa.float64()),
    ]
)
