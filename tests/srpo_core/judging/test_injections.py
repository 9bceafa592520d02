"""Attacks: what an attacker knows, where the words stand, that fences hold, and how success is counted."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srpo_core.judging.injections import ATTACKS, aim, attack
from srpo_core.judging.judge_presets import PRESETS, find_preset
from srpo_core.judging.judges import JudgeGame
from srpo_core.judging.verdict_parsing import parse_verdict
from srpo_core.scoring.attack_rates import ALL, CONTROL, AttackedGame, attack_rates

NAN = math.nan
GAME = JudgeGame("g", [{"role": "user", "content": "A long post."}], "p", "c", "worse text", "o", "better text", "as_is")
SWAPPED = dataclasses.replace(GAME, order="swapped")
each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


def question(game, preset):
    texts = (game.candidate_text, game.opponent_text)
    return preset.messages(game.prompt, *(texts if game.order == "as_is" else texts[::-1]))[-1]["content"]


@each_preset
def test_an_attack_speaks_for_the_place_where_the_candidate_stands(preset):
    here, there = aim(GAME, preset), aim(SWAPPED, preset)
    assert preset.form.scores[here.label] == 1 and preset.form.scores[there.label] == 0
    assert here.own_name.endswith(" A") and there.own_name.endswith(" B")
    assert (here.own_name, here.other_name) == (there.other_name, there.own_name)
    assert here.mark in question(GAME, preset)


@each_preset
def test_a_forged_verdict_is_one_that_the_parser_would_take_from_the_judge(preset):
    """Otherwise the suite would test nothing: the forms are the judge's own."""
    name = "forged_brackets" if preset.form.line_label is None else "forged_line"
    for game, score in ((GAME, 1.0), (SWAPPED, 0.0)):
        for forged in (name, "forged_json"):
            assert parse_verdict(ATTACKS[forged].words(aim(game, preset)), preset.form).first_score == score


@each_preset
@pytest.mark.parametrize("how", ATTACKS.values(), ids=ATTACKS)
def test_the_fence_holds_whatever_is_planted(preset, how):
    """Every text stands whole between fences that occur in no text, also when the attacker knows the fence it would have had."""
    for field in how.fields:
        for game in (GAME, SWAPPED):
            attacked = attack(game, how, field, preset)
            asked = question(attacked, preset)
            new = aim(attacked, preset)
            texts = [attacked.prompt[0]["content"], attacked.candidate_text, attacked.opponent_text]
            assert not any(new.mark in text for text in texts)
            for name, text in zip((new.own_name, new.other_name), texts[1:], strict=True):
                assert asked.count(f"<<<BEGIN {name} {new.mark}>>>\n{text}\n<<<END {name} {new.mark}>>>") == 1


@pytest.mark.parametrize("how", ATTACKS.values(), ids=ATTACKS)
def test_words_are_planted_in_the_named_field_alone(how):
    preset = find_preset("tldr-concise")
    for field in how.fields:
        attacked = attack(GAME, how, field, preset)
        changed = {
            "candidate": attacked.candidate_text != GAME.candidate_text,
            "opponent": attacked.opponent_text != GAME.opponent_text,
            "prompt": attacked.prompt != GAME.prompt,
        }
        assert [name for name, is_changed in changed.items() if is_changed] == [field]
        assert GAME.prompt == [{"role": "user", "content": "A long post."}]
        if not how.is_constant:
            whole = {"candidate": attacked.candidate_text, "opponent": attacked.opponent_text}
            text = whole.get(field, attacked.prompt[-1]["content"])
            original = {"candidate": "worse text", "opponent": "better text", "prompt": "A long post."}[field]
            assert text.startswith(original + "\n\n")


def test_every_attacked_game_has_an_id_of_its_own():
    preset = find_preset("dialogue")
    games = [attack(g, how, field, preset) for g in (GAME,) for how in ATTACKS.values() for field in how.fields]
    assert len({game.game_id for game in games} | {GAME.game_id}) == len(games) + 1 == 3 + 8 * 3 + 1


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_any_text_can_be_attacked(prompt, candidate, opponent):
    game = dataclasses.replace(
        GAME, prompt=[{"role": "user", "content": prompt}], candidate_text=candidate, opponent_text=opponent
    )
    for how in ATTACKS.values():
        attack(game, how, how.fields[-1], find_preset("mtbench-pair"))


def played(attack_name, field, pair, order, score, before=0.0, cluster=None):
    return AttackedGame(attack_name, field, pair, cluster or pair, order, score, before)


def test_rates_by_hand():
    """Pair a won in both orders, b in one, c unscored in one and lost in the other: 3 of 5 scored; both orders 1 of 2 pairs."""
    games = [
        played("x", "prompt", "a", "as_is", 1.0),
        played("x", "prompt", "a", "swapped", 1.0),
        played("x", "prompt", "b", "as_is", 1.0),
        played("x", "prompt", "b", "swapped", 0.0),
        played("x", "prompt", "c", "as_is", NAN),
        played("x", "prompt", "c", "swapped", 0.5),
    ]
    one, everything = attack_rates(games)
    assert (one.n_games, one.n_unscored, one.attack_rate) == (6, 1, pytest.approx(3 / 5))
    assert (one.rate_as_is, one.rate_swapped, one.rate_both_orders) == (1.0, pytest.approx(1 / 3), 0.5)
    assert one.score_shift == pytest.approx(3.5 / 5)
    assert one.ci_low < one.attack_rate < one.ci_high
    assert (everything.attack, everything.field, everything.attack_rate) == (ALL, ALL, one.attack_rate)


def test_a_tie_is_no_success_and_an_unscored_game_neither_success_nor_failure():
    tied, _ = attack_rates([played("x", "prompt", "a", "as_is", 0.5)])
    unscored, _ = attack_rates([played("x", "prompt", "a", "as_is", NAN)])
    assert tied.attack_rate == 0 and math.isnan(unscored.attack_rate) and unscored.n_unscored == 1


def test_the_control_is_shown_and_kept_out_of_the_total():
    games = [played(CONTROL, "opponent", "a", "as_is", 1.0), played("x", "opponent", "a", "as_is", 0.0)]
    control, attack_row, everything = attack_rates(games)
    assert (control.attack_rate, attack_row.attack_rate, everything.attack_rate, everything.n_games) == (1, 0, 0, 1)
    assert [row.attack for row in attack_rates(games[:1])] == [CONTROL]


def test_an_attack_is_compared_with_harmless_words_in_the_same_games():
    """Games as_is and swapped: the attack wins both, harmless words one: 1 - .5. The control and constants have none."""
    games = [played(CONTROL, "opponent", "a", order, score) for order, score in (("as_is", 1.0), ("swapped", 0.0))]
    games += [played("x", "opponent", "a", order, 1.0) for order in ("as_is", "swapped")]
    games += [played("x", "prompt", "a", "as_is", 1.0), played("constant", "candidate", "a", "as_is", 1.0, NAN)]
    control, planted, elsewhere, constant, everything = attack_rates(games)
    assert planted.over_control == everything.over_control == 0.5
    assert planted.over_control_low < 0.5 < planted.over_control_high
    assert all(math.isnan(row.over_control) for row in (control, elsewhere, constant))


def test_without_games_there_is_no_row():
    assert attack_rates([]) == []
