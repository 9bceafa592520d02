"""The Arrow schema of every table the pipeline writes: one home for column names and types.

What a row of an artifact is stands in docs/artifacts.md. SCHEMA_VERSION rises when a column changes its meaning or type.
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
        ("identical", pa.bool_()),  # the two texts are the same: one half without a question
        ("rung", pa.string()),  # how an API judge was asked for its verdict: json_schema, choice or last_line
        ("judge_model", pa.string()),  # the model asked; model_answered is what the server says it was
        ("prompt_hash", pa.string()),  # of the judge preset: changes with each of its words
        ("parameters", pa.string()),  # JSON: all that was sent beside model and messages
        ("system_fingerprint", pa.string()),
        ("request_id", pa.string()),  # the server's own
        ("prompt_truncated", pa.bool_()),  # a local judge read a prompt without its end; null for other judges
    ]
)
# Columns that games written by earlier versions do not have; they are read as null.
GAMES_ADDED = (
    *("identical", "rung", "judge_model", "prompt_hash", "parameters", "system_fingerprint", "request_id"),
    "prompt_truncated",
)

# One row is a question to a judge in both orders, as statistics are made from: the relation of results_relations.py.
COMPARISONS = pa.schema(
    [
        ("method", pa.string()),
        ("policy_id", pa.string()),
        ("seed", pa.int64()),
        ("alpha", pa.float64()),
        ("beta", pa.float64()),
        ("learning_rate", pa.float64()),
        ("eval_set", pa.string()),
        ("is_ood", pa.bool_()),
        ("opponent", pa.string()),
        ("opponent_policy_id", pa.string()),
        ("opponent_revision_index", pa.int32()),
        ("judge", pa.string()),
        ("temperature", pa.float64()),
        ("sampling", pa.string()),
        ("revision_index", pa.int32()),
        ("prompt_id", pa.string()),
        ("cluster_id", pa.string()),
        ("candidate", pa.string()),
        ("opponent_id", pa.string()),
        ("repeat_index", pa.int32()),
        ("candidate_length", pa.float64()),  # characters
        ("opponent_length", pa.float64()),
        ("identical", pa.bool_()),  # the two texts are the same but for white space around them
        ("as_is", pa.float64()),
        ("swapped", pa.float64()),
        ("label_as_is", pa.string()),
        ("label_swapped", pa.string()),
        ("n_unscored", pa.int64()),  # games
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
    ("opponent_policy_id", pa.string()),  # null for gold
    ("opponent_revision_index", pa.int32()),
    ("judge", pa.string()),
    ("temperature", pa.float64()),
    ("sampling", pa.string()),  # decoding settings other than the temperature
    ("revision_index", pa.int32()),
]
CURVE = tuple(name for name, _ in _CURVE if name != "revision_index")  # what the revisions of one curve have in common
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
        ("band_low", pa.float64()),  # holds for all revisions of the curve together
        ("band_high", pa.float64()),
        ("bound_low", pa.float64()),  # win rate over all prompts with every missing verdict counted 0
        ("bound_high", pa.float64()),  # ... counted 1
        ("n_clusters", pa.int64()),
        ("paper_shading", pa.float64()),  # sd over 20 bootstraps as in SRPO's figures; not a confidence interval
        ("n_identical", pa.int64()),  # questions whose two texts are the same: a tie that no judge was asked about
        ("anytime_p_value", pa.float64()),  # against one half, valid however often one looked; prompts in the order of their ids
    ]
)
LENGTH_CONTROL = pa.schema(
    [
        *_CURVE,
        ("n_scored", pa.int64()),  # prompts
        ("length_ratio", pa.float64()),  # mean characters of the candidate's texts over the opponent's
        ("win_rate", pa.float64()),  # not controlled, of the same prompts
        ("length_controlled_win_rate", pa.float64()),  # at equal lengths; null where `refused` says why there is none
        ("standard_error", pa.float64()),  # of the length-controlled win rate, the fit made anew in each resample
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("refused", pa.string()),
    ]
)
WIN_RATES_BY_RULE = pa.schema(
    [
        *_CURVE,
        ("rule", pa.string()),  # default, alpaca_eval, arena_hard or srpo
        ("n", pa.int64()),  # prompts counted
        ("win_rate", pa.float64()),
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("note", pa.string()),  # what the rule does otherwise, or why it gives no rate
        ("beside", pa.string()),  # JSON: what the rule states beside its rate, such as the discrete rate or the shading
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
LIKELIHOODS = pa.schema(
    [
        ("completion_id", pa.string()),
        ("prompt_id", pa.string()),
        ("logp", pa.float64()),  # nats, summed, under the draft prompt; null for an unfinished completion without text
        ("num_tokens", pa.int32()),  # that logp is over, the stop token included
    ]
)
REWARDS = pa.schema([("completion_id", pa.string()), ("prompt_id", pa.string()), ("reward", pa.float64())])
KNOCKOUT_MATCHES = pa.schema(  # the winners of two brackets of a prompt's drafts meet
    [
        ("prompt_id", pa.string()),
        ("start", pa.int32()),  # the bracket's first draft
        ("size", pa.int32()),  # its number of drafts
        ("left_sample", pa.int32()),  # sample_index of the winner of its first part
        ("right_sample", pa.int32()),
        ("score", pa.float64()),  # of the left draft over both orders; null when not both were scored, or not asked
        ("decided_by", pa.string()),  # judge, or coin: a tie, identical texts or a missing verdict
        ("winner_sample", pa.int32()),
    ]
)
EQUAL_COMPUTE = pa.schema(  # win rate over generated tokens: revisions, and best of n drafts by each selector
    [
        ("policy_id", pa.string()),
        ("eval_set", pa.string()),
        ("judge", pa.string()),  # who scores, against the gold
        ("temperature", pa.float64()),
        ("strategy", pa.string()),  # revisions or best_of_n
        ("selector", pa.string()),  # likelihood_sum, likelihood_mean, judge, reward_model or oracle; null for revisions
        ("selected_by", pa.string()),  # the judge or model that picks; null for revisions and for the policy's own likelihood
        ("note", pa.string()),  # what must be known of the selector
        ("num_drafts", pa.int32()),  # n; 1 for revisions
        ("num_revisions", pa.int32()),  # k; 0 for best of n
        ("mean_tokens", pa.float64()),  # generated by the policy for one prompt
        ("n_prompts", pa.int64()),
        ("n_scored", pa.int64()),
        ("win_rate", pa.float64()),
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
EQUAL_COMPUTE_MATCHES = pa.schema(  # k revisions against best of n where both cost the same
    [
        ("policy_id", pa.string()),
        ("eval_set", pa.string()),
        ("judge", pa.string()),
        ("temperature", pa.float64()),
        ("selector", pa.string()),
        ("selected_by", pa.string()),
        ("note", pa.string()),
        ("num_revisions", pa.int32()),
        ("num_drafts", pa.float64()),  # the n that costs as many tokens, between two integers as a mixture of both
        ("mean_tokens", pa.float64()),
        ("n_scored", pa.int64()),  # prompts scored on both sides; 0 where more drafts would be needed
        ("revisions_win_rate", pa.float64()),
        ("drafts_win_rate", pa.float64()),
        ("difference", pa.float64()),  # revisions minus drafts, paired by prompt
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)

# Audits of a judge: the columns of a game that every kind of audit keeps.
JUDGED = [field for field in GAMES if field.name not in ("candidate", "opponent")]
AUDIT_VERDICTS = pa.schema(  # labelled pairs; prompt_id is the pair_id
    [
        *JUDGED,
        ("cluster_id", pa.string()),
        ("candidate", pa.string()),  # chosen or rejected: which of the pair's texts was drawn as the candidate
        ("human", pa.float64()),  # share of people who prefer the candidate
        ("candidate_length", pa.int64()),  # characters
        ("opponent_length", pa.int64()),
    ]
)
AUDIT_MEASURES = pa.schema(  # docs/judging.md says what each measure means
    [
        ("judge", pa.string()),
        ("measure", pa.string()),
        ("n", pa.int64()),
        ("estimate", pa.float64()),
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
INJECTION_GAMES = pa.schema(  # seen from the attacker, who is the candidate
    [
        *JUDGED,
        ("cluster_id", pa.string()),
        ("attack", pa.string()),  # none: the same game before any attack
        ("field", pa.string()),  # where the words stand: candidate, opponent or prompt; null without an attack
    ]
)
ATTACK_RATES = pa.schema(
    [
        ("judge", pa.string()),
        ("attack", pa.string()),  # all: every attack together; control: harmless words, which an attack is read against
        ("field", pa.string()),
        ("n_games", pa.int64()),  # lost without the attack, or entered with a constant string
        ("n_unscored", pa.int64()),
        ("attack_rate", pa.float64()),  # share of the scored games that the attacker wins
        ("standard_error", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("rate_as_is", pa.float64()),
        ("rate_swapped", pa.float64()),
        ("rate_both_orders", pa.float64()),  # share of the pairs won both times
        ("score_shift", pa.float64()),
        ("over_control", pa.float64()),  # paired by game; null without a control
        ("over_control_low", pa.float64()),
        ("over_control_high", pa.float64()),
    ]
)
SENTINEL_GAMES = pa.schema(  # frozen pairs of texts, each asked in both orders at every look
    [
        ("pair_id", pa.string()),
        ("cluster_id", pa.string()),
        ("prompt", MESSAGES),
        ("candidate", pa.string()),
        ("candidate_text", pa.string()),
        ("opponent", pa.string()),
        ("opponent_text", pa.string()),
    ]
)
SENTINEL_VERDICTS = pa.schema([*JUDGED, ("look_index", pa.int32())])
SENTINEL_LOOKS = pa.schema(  # one look of one judge at one frozen set; the test is told in srpo_core/scoring/drift.py
    [
        ("sentinel", pa.string()),  # fingerprint of the frozen games
        ("judge", pa.string()),
        ("look_index", pa.int32()),
        ("is_calibration", pa.bool_()),
        ("looked_at", pa.string()),
        ("models_answered", pa.string()),
        ("system_fingerprints", pa.string()),
        ("n_asked", pa.int64()),
        ("n_failed_calls", pa.int64()),
        ("n_unscored", pa.int64()),  # failed calls included
        ("mean_score", pa.float64()),
        ("n_games", pa.int64()),  # answered at this look and at every calibration look; null for a calibration look, as below
        ("n_scored", pa.int64()),
        ("shift", pa.float64()),
        ("shift_low", pa.float64()),
        ("shift_high", pa.float64()),
        ("shift_p_value", pa.float64()),
        ("flip_rate", pa.float64()),
        ("calibration_flip_rate", pa.float64()),
        ("flip_p_value", pa.float64()),
        ("alarm", pa.bool_()),
    ]
)
REGISTRY = pa.schema(  # one entry of the registry: who is champion, and what was tried (storage/registry.py)
    [
        ("entry", pa.int64()),  # 1, 2, 3 ... without gaps
        ("at", pa.string()),  # ISO 8601, UTC
        (
            "event",
            pa.string(),
        ),  # looked (at the confirmation set, before it is seen), promoted, rejected, rolled_back
        ("policy_id", pa.string()),  # whom it is about: the challenger, or the champion that was rolled back
        ("champion_id", pa.string()),  # champion after it; null = none
        ("previous_champion_id", pa.string()),  # champion before it; the same where it changed nothing
        ("by", pa.string()),  # retrain, command or approval
        ("reason", pa.string()),  # a sentence
        ("run_id", pa.string()),
        ("prefect_run", pa.string()),
        ("deployment", pa.string()),
        ("comparison", pa.int64()),  # which look at the confirmation set, from 1; null = none was taken
        ("level", pa.float64()),  # error level of that look; null = none was taken
        ("cumulative_level", pa.float64()),  # of all looks up to here
        ("evidence", pa.string()),  # JSON: every number of the decision; null = none
        ("key", pa.string()),  # what must not be recorded twice
    ]
)
