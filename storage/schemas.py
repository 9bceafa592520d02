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
        ("label", pa.string()),  # the verdict in the judge's own words, for example A>>B; null without one
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

# What an evaluated policy is compared on: the key of every statistic below.
_CURVE = [
    ("method", pa.string()),
    ("policy_id", pa.string()),
    ("seed", pa.int64()),
    ("alpha", pa.float64()),
    ("beta", pa.float64()),
    ("eval_set", pa.string()),
    ("is_ood", pa.bool_()),  # null when nothing is known about the training domains
    ("opponent", pa.string()),  # gold, or a policy's name
    ("opponent_revision_index", pa.int32()),
    ("judge", pa.string()),
    ("temperature", pa.float64()),
    ("revision_index", pa.int32()),
]
WIN_RATES = pa.schema(
    [
        *_CURVE,
        ("n_prompts", pa.int64()),
        ("n_scored", pa.int64()),  # prompts with both orders scored
        ("n_games_unscored", pa.int64()),
        ("win_rate", pa.float64()),
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
WIN_RATE_BANDS = pa.schema(  # win_rates with more beside each number
    [
        *WIN_RATES,
        ("sampling", pa.string()),  # decoding settings other than the temperature
        ("band_low", pa.float64()),  # holds for all revisions of the curve together
        ("band_high", pa.float64()),
        ("bound_low", pa.float64()),  # win rate over all prompts with every missing verdict counted 0
        ("bound_high", pa.float64()),  # ... counted 1
        ("n_clusters", pa.int64()),
        ("paper_shading", pa.float64()),  # sd over 20 bootstraps as in SRPO's figures; not a confidence interval
    ]
)
REVISION_GAIN = pa.schema(
    [
        *_CURVE,
        ("n_scored", pa.int64()),  # prompts scored at this revision and at the draft
        ("gain", pa.float64()),  # mean per-prompt score minus the draft's
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("band_low", pa.float64()),
        ("band_high", pa.float64()),
        ("step_gain", pa.float64()),  # against the revision before
        ("step_p_value", pa.float64()),  # exact sign test against the revision before, Holm over the curve
    ]
)
HEAD_TO_HEAD = pa.schema(
    [
        *(field for field in _CURVE if field[0] not in ("method", "policy_id", "seed", "alpha", "beta")),
        ("method_a", pa.string()),
        ("policy_a", pa.string()),
        ("seed_a", pa.int64()),
        ("method_b", pa.string()),
        ("policy_b", pa.string()),
        ("seed_b", pa.int64()),
        ("n_scored", pa.int64()),
        ("difference", pa.float64()),  # win rate of a minus win rate of b against the same opponent, paired by prompt
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
WIN_RATES_BY_METHOD = pa.schema(
    [
        *(field for field in _CURVE if field[0] not in ("policy_id", "seed")),
        ("learning_rate", pa.float64()),
        ("n_seeds", pa.int64()),
        ("n_scored", pa.int64()),
        ("win_rate", pa.float64()),
        ("standard_error", pa.float64()),  # prompts and seeds resampled
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
JUDGE_CONSISTENCY = pa.schema(
    [
        ("judge", pa.string()),
        ("eval_set", pa.string()),
        ("opponent", pa.string()),
        ("n_comparisons", pa.int64()),
        ("n_both_scored", pa.int64()),
        ("n_games_unscored", pa.int64()),
        ("consistency", pa.float64()),  # share with both orders on the same side of one half
        ("first_position_rate", pa.float64()),  # mean score of the text shown first
        ("position_bias", pa.float64()),
        ("both_first", pa.float64()),  # share in which the text shown first is preferred both times
        ("both_second", pa.float64()),
    ]
)
CEILINGS = pa.schema(
    [
        ("policy_id", pa.string()),
        ("eval_set", pa.string()),
        ("beta", pa.float64()),
        ("temperature", pa.float64()),
        ("revision_index", pa.int32()),
        ("ceiling", pa.float64()),  # the win rate of the exact optimum (docs/method.md 1.1)
        ("ceiling_low", pa.float64()),
        ("ceiling_high", pa.float64()),
        ("reference_win_rate", pa.float64()),
    ]
)
ONE_EDIT = pa.schema(
    [
        ("policy_id", pa.string()),
        ("edit", pa.string()),
        ("target", pa.float64()),  # nats
        ("learned", pa.float64()),  # nats
        ("n", pa.int64()),
        ("sign_right", pa.float64()),  # share of pairs
    ]
)
