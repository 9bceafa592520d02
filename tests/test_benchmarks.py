"""The benchmarks at toy size: pairs have the lengths claimed, all sides compute the same, the JSON keeps its contract."""

import importlib.util
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import generation, gpu, measure, memory, promotion, reference, tables, training
from benchmarks.in_turns import in_turns
from benchmarks.measure import Setting, Side, compare, time_ratio
from benchmarks.peers import TrlDpo
from benchmarks.shapes import SHAPES, TOY, TOY_SHAPES, Shape, make_model, make_pairs, make_prompts, word_tokenizer
from benchmarks.sides import bound_side, plain_facts, plain_side, trie_facts, trie_side
from srpo_core.batches import batch_groups
from srpo_core.logprobs import SequenceLogps, logps_in_order
from srpo_core.tokenization import tokenize_pair

V = 256
TINY = ["--toy", "--vocab", str(V), "--templates", "multi_turn", "--threads", "1", "--repeats", "1", "--pairs", "2", "--json"]
SHARED_TRAINING = {"trie_over_plain", "trie_over_plain_full_logits", "srpo_over_trl_dpo", "time_over_bound"}
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads, environment and accelerate's state as they were: TRL and the scripts set them."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("TQDM_DISABLE", "1")
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def without_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    for script in (training, reference, gpu):
        monkeypatch.setattr(script, "has_trl", lambda: False)


def gradients(model: torch.nn.Module, side: Side) -> torch.Tensor:
    side.run()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


@pytest.mark.parametrize(
    ("shape", "trie", "published", "plain"), [("tldr", 650, 1080, 2620), ("hh", 740, 1100, 2120), ("uf", 2040, 2820, 4200)]
)
def test_pairs_have_the_lengths_of_their_data_sets(shape, trie, published, plain):
    """Less what no forward pass reads: the last token of every sequence that nothing continues (four revisions in multi_turn,

    where the drafts go on; all six in published, whose drafts moreover stand in the prompt without their stop token).
    """
    multi_turn, other = (make_pairs(SHAPES[shape], template, 1, V) for template in ("multi_turn", "published"))
    assert trie_facts(multi_turn)["tokens_per_pair"] == trie - 4
    assert trie_facts(other)["tokens_per_pair"] == published - 6 - 2
    assert plain_facts([multi_turn[0].sequences], every_row=False)["tokens_per_pair"] == plain - 6


def test_a_pair_is_what_the_project_makes_of_its_texts():
    shape, tok = Shape(12, 5), word_tokenizer(V)
    made = make_pairs(shape, "multi_turn", 1, V)[0]
    prompt, a, b = (tok.decode(ids) for ids in (made.sequences[0][0][1:-1], made.sequences[0][1], made.sequences[1][1]))
    assert tokenize_pair(tok, [{"role": "user", "content": prompt}], a, b) == made
    assert [len(tok.prompt_ids(own)) for own in make_prompts(shape, 2, V)] == [12, 12]


def test_all_sides_of_training_compute_the_same_gradient():
    model = make_model(V, TOY)
    pairs = make_pairs(TOY_SHAPES["hh"], "published", 3, V)
    expected = gradients(model, trie_side(model, pairs, 8192))
    others = [plain_side(model, pairs, 8192, full_logits=full) for full in (False, True)]
    others += [trie_side(model, pairs, 100), trie_side(model, pairs, 8192, row_tokens=400, max_rows=7)]
    for side in others:
        torch.testing.assert_close(gradients(model, side), expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_the_bound_works_through_as_many_tokens_and_head_rows_as_the_trie():
    model, pairs = make_model(V, TOY), make_pairs(TOY_SHAPES["uf"], "multi_turn", 2, V)
    counts = []
    for side in (trie_side(model, pairs, 8192), bound_side(model, pairs, 8192)):
        with FlopCounterMode(display=False) as counter:
            side.run()
        counts.append({str(op): n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op)})
    assert counts[0] == counts[1]


def test_model_flops_are_those_that_torch_counts():
    """Beside attention, whose count there depends on the kernel."""
    model, pairs = make_model(V, TOY), make_pairs(TOY_SHAPES["hh"], "multi_turn", 2, V)
    side = trie_side(model, pairs, 8192)
    with FlopCounterMode(display=False) as counter:
        side.run()
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op) in ("aten.mm", "aten.addmm"))
    assert gpu.model_flops(model.config, {**side.facts, "seen_keys_per_pair": 0}, True) * 2 == counted


@needs_trl
def test_trl_reads_the_same_two_sequences():
    model = make_model(V, TOY)
    pairs = make_pairs(TOY_SHAPES["tldr"], "multi_turn", 3, V)
    ours = logps_in_order(SequenceLogps(model), batch_groups([pair.sequences for pair in pairs], "trie", 8192)).view(3, 6)
    peer = TrlDpo(model, pairs)
    columns = peer.trainer.train_dataset.with_format("torch")
    theirs = torch.stack([columns[:]["ref_chosen_logps"], columns[:]["ref_rejected_logps"]], 1)
    torch.testing.assert_close(theirs, ours[:, :2], rtol=1e-4, atol=1e-4)
    assert gradients(model, peer.training()).abs().max() > 0
    peer.restore()
    assert model.forward.__self__ is model and "fused" not in model.forward.__name__ and "forward" not in vars(model)


def test_rounds_are_interleaved_and_the_median_is_reported(monkeypatch):
    order, clock = [], iter([0, 1, 1, 11, 20, 22, 30, 50, 60, 63, 70, 100])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    sides = {name: Side(lambda name=name: order.append(name), {}) for name in ("a", "b")}
    cells = compare(Setting("tldr", "multi_turn", V, 1), sides, 2, 3)
    assert order == ["a", "b"] * 3
    assert [cell["seconds"] for cell in cells] == [[0.5, 1.0, 1.5], [5.0, 10.0, 15.0]]
    assert [cell["median"] for cell in cells] == [statistics.median([0.5, 1.0, 1.5]), 10.0]
    assert time_ratio(cells, "b", "a") == 10.0 and time_ratio(cells, "c", "a") is None


@needs_trl
@pytest.mark.parametrize(
    ("script", "ratios"), [(training, SHARED_TRAINING), (reference, {"over_trl_precompute", "trie_over_plain"})]
)
def test_a_benchmark_prints_one_json_object_with_a_ratio_for_every_shape(script, ratios, capsys):
    assert script.main(TINY) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["shapes"]) == {"tldr", "hh", "uf"}
    assert all(set(found) == ratios and min(found.values()) > 0 for found in result["shapes"].values())
    assert all(len(cell["seconds"]) == 1 and cell["tokens_per_pair"] > 0 for cell in result["all"])


def test_without_trl_its_cells_are_left_out(without_trl, capsys):
    assert training.main([*TINY, "--shapes", "tldr"]) == reference.main([*TINY, "--shapes", "tldr"]) == 0
    texts = capsys.readouterr().out.split("\n{")
    first, second = (json.loads(text if text.startswith("{") else "{" + text)["shapes"]["tldr"] for text in texts)
    assert first["srpo_over_trl_dpo"] is None is second["over_trl_precompute"]
    assert first["trie_over_plain"] > 0


def test_both_ways_to_write_revisions_write_the_same(capsys, tmp_path):
    assert generation.main([*TINY, "--shapes", "tldr", "uf", "--out", str(tmp_path / "g.json")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "g.json").read_text())
    assert all(found["time_over_plain"] > 0 for found in result["shapes"].values())
    assert [cell.get("identical") for cell in result["all"]] == [1.0, 1.0, 1.0, None] * 2


def test_a_profile_accounts_for_the_whole_step(capsys):
    assert training.main([*TINY, "--shapes", "hh", "--profile"]) == 0
    line = capsys.readouterr().out
    shares = [float(part.split()[-1].rstrip("%")) for part in line.split(": ")[1].split(", ") if part.strip().endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert all(kind in line for kind in ("linear layers", "attention", "head, matrix products", "optimizer step"))


def test_memory_is_measured_in_processes_of_their_own(capsys):
    assert memory.main(["--toy", "--vocab", "20000", "--pairs", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["difference_gib"]) == {"sum", "chunked"}
    assert all(cell["peak_gib"] > 0.05 for cell in result["all"])


def test_the_gpu_script_runs_on_the_cpu_and_its_result_becomes_tables(without_trl, capsys, tmp_path):
    file = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--toy", "--vocab", str(V), "--pairs", "1", "--repeats", "1", "--json", "--out", str(file)]
    assert gpu.main(options) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["shapes"]) == {"tldr", "hh", "uf"} and result["notes"]["packed_attention"] == "sdpa"
    assert {cell["what"] for cell in result["all"]} == {"training", "reference", "generation"}
    assert all("median" in cell for cell in result["all"])
    assert tables.main([str(file)]) == 0
    text = capsys.readouterr().out
    assert "| training | tldr | multi_turn | trie | **" in text and "model flops use" in text


def test_the_gpu_script_stops_in_time_and_refuses_a_machine_without_a_device(without_trl, capsys, monkeypatch):
    options = ["--device", "cpu", "--toy", "--vocab", str(V), "--pairs", "1", "--json", "--minutes", "0"]
    assert gpu.main(options) == 0
    assert {cell["left_out"] for cell in json.loads(capsys.readouterr().out)["all"]} == {"no time left"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "expected a CUDA device" in capsys.readouterr().err


def test_the_layouts_train_along_one_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import curves

    tiny = [f"newsroom.num_{what}={number}" for what, number in (("demonstrations", 400), ("pairs", 120), ("prompts", 10))]
    sets = [argument for one in (*tiny, "resources.num_processes=1") for argument in ("--set", one)]
    assert curves.main(["--home", str(tmp_path / "home"), "--out", str(tmp_path), *sets]) == 0
    differences = json.loads((tmp_path / "layouts.json").read_text(encoding="utf-8"))
    assert set(differences) == set(curves.METRICS)
    assert 0 < max(differences.values()) < 1e-4
    assert (tmp_path / "layouts.svg").read_text(encoding="utf-8").startswith("<svg")


def test_judging_is_compared_with_a_bare_loop_and_its_memory_measured(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import judging

    assert judging.main(["--requests", "70", "--games", "200", "--repeats", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["throughput"]["over_bare_loop"] < 10 and result["throughput"]["requests_per_second"] > 1
    assert result["memory"]["games"] == [20, 200] and min(result["memory"]["peak_mib"]) > 20


def test_publishing_is_compared_with_a_bare_load_and_never_blocks_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import results

    assert results.main(["--games", "100", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["games"] == 96 and found["publishing"]["over_bare_load"] > 0
    assert found["readers"]["failed"] == 0 and found["readers"]["reads"] > 1
    assert set(found["queries"]["slowest"]) < set(found["queries"]["all"])


def test_ingestion_is_compared_with_two_other_readers_of_the_same_files(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import ingestion

    assert ingestion.main(["--pairs", "200", "--repeats", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 200 and min(found["over_datasets"], found["over_bare_pyarrow"]) > 0
    assert found["nothing_new_over_first"] < 1


def test_sides_take_turns_in_an_order_that_turns_round_and_the_first_round_only_warms_up():
    called: list[str] = []
    seconds = {"a": iter([9.0, 1.0, 2.0]), "b": iter([8.0, 3.0, 4.0])}

    def side(name: str) -> float:
        called.append(name)
        return next(seconds[name])

    found = in_turns({"a": lambda: side("a"), "b": lambda: side("b")}, 2)
    assert found == {"a": [1.0, 2.0], "b": [3.0, 4.0]} and called == ["b", "a", "a", "b", "b", "a"]


def test_the_limit_that_promotions_are_decided_by_passes_no_more_challengers_than_the_t_limit():
    cell = promotion.measure("graded", 1, 50)
    assert cell["power"] < cell["power_of_t"] == pytest.approx(promotion.POWER_OF_T, abs=0.03)
