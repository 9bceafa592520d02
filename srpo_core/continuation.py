"""Continuing prompts token by token, each completion a function of its prompt, its seed and the model alone.

Step t of a completion has a random number of its own, drawn from the completion's seed, and takes the token at which the
cumulative distribution passes it. So what a text is batched with, what is read again and what is guessed ahead can change it
only where floating-point numbers tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from srpo_core.kv_cache import SlotCache, left_padded, log_once, read, slot_obstacle
from srpo_core.speculation import GuessBudget, propose

ROOM = 64  # tokens that a completion may have before the cache grows


class Generated(NamedTuple):
    """New tokens of one prompt, the stop token included where there is one."""

    ids: list[int]
    finish_reason: str  # stop or length


class Decoding(NamedTuple):
    """How tokens are chosen, and when a completion ends."""

    stop_ids: Sequence[int]
    max_new_tokens: int
    temperature: float  # 0 = the most likely token
    top_p: float


def choose_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Next tokens (R,) from logits (R, V) and uniform numbers (R,) in [0, 1), by inverting the cumulative distribution."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / temperature, -1)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(outside, 0.0))
    cumulative = probabilities.cumsum(-1)
    threshold = uniforms.double()[:, None] * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def decode_plainly(model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Decoding) -> list[Generated]:
    """Read every prompt from its first token and write one token a step. Works with every cache a model may have."""
    device = next(model.parameters()).device
    uniforms = torch.from_numpy(_uniforms(seeds, how)).to(device)
    tokens, mask = left_padded(prompts, device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    rows = torch.arange(len(prompts), device=device)  # which prompt each remaining row belongs to
    output: list[list[int]] = [[] for _ in prompts]
    stops = torch.tensor(sorted(how.stop_ids), device=device)
    cache = None
    for step in range(how.max_new_tokens):
        result = model(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache = result.past_key_values
        chosen = choose_tokens(result.logits[:, -1].float(), uniforms[rows, step], how.temperature, how.top_p)
        for row, token in zip(rows.tolist(), chosen.tolist(), strict=True):
            output[row].append(token)
        going = ~torch.isin(chosen, stops)
        if not going.any():
            break
        if not going.all():
            keep = going.nonzero()[:, 0]
            rows, chosen, mask, positions = rows[keep], chosen[keep], mask[keep], positions[keep]
            cache.batch_select_indices(keep)
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return [_generated(ids, how) for ids in output]


@dataclass
class _Row:
    """A completion that is being written or is finished, and how much of it lies in the cache."""

    prompt: list[int]
    uniforms: list[float]  # one for each step
    num_read: int = 0  # tokens of prompt + written whose keys and values are kept
    place: int = 0  # row of the cache
    draft: list[int] = field(default_factory=list)  # where guesses are looked up
    written: list[int] = field(default_factory=list)
    guesses: list[int] = field(default_factory=list)  # at the next tokens
    num_right: int = 0  # of the guesses
    finished: bool = False

    @property
    def num_unread(self) -> int:
        """Tokens of the prompt still to be read, except the last, which is read for its logits in any case."""
        return len(self.prompt) - 1 - self.num_read

    def block(self, num_guesses: int) -> list[int]:
        """The tokens still to be read and, behind them, guesses at what follows; none that could pass the length limit."""
        room = len(self.uniforms) - len(self.written) - 1
        self.guesses, self.num_right = propose(self.written, self.draft, min(num_guesses, room)), 0
        return [*(self.prompt + self.written)[self.num_read :], *self.guesses]

    def write(self, token: int, stop_ids: Sequence[int]) -> bool:
        """Append the next token; whether the one after it can be chosen too, because this one was guessed."""
        guessed = self.guesses[self.num_right : self.num_right + 1] == [token]
        self.num_right += guessed
        self.written.append(token)
        self.num_read = len(self.prompt) + len(self.written) - 1
        self.finished = token in stop_ids or len(self.written) == len(self.uniforms)
        return guessed and not self.finished


class RevisionDecoder:
    """Continues prompts and remembers what it read, so that a prompt that takes up an earlier text has only the rest read."""

    def __init__(self, model: Any, how: Decoding, *, reuse: bool = True) -> None:
        """`reuse` = False reads every prompt from its start and guesses nothing, as for a model whose cache does not allow it."""
        self.model, self.how, self.reuse = model, how, reuse
        self._cache = SlotCache()
        self._rows: list[_Row] = []  # of the last call, in its order
        self._budget = GuessBudget(next(model.parameters()).device.type)

    @torch.no_grad()
    def decode(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], parents: Sequence[int | None] | None = None
    ) -> list[Generated]:
        """Continue each prompt; parents[i] = which prompt of the previous call wrote the draft that prompt i asks to revise."""
        reason = slot_obstacle(self.model, max(map(len, prompts)) + self.how.max_new_tokens) if self.reuse else None
        if reason or not self.reuse:
            if reason:
                log_once(reason)
            self._cache, self._rows = SlotCache(), []
            return decode_plainly(self.model, prompts, seeds, self.how)
        uniforms = _uniforms(seeds, self.how).tolist()
        rows = [_Row(list(ids), numbers) for ids, numbers in zip(prompts, uniforms, strict=True)]
        for row, parent in zip(rows, parents or [], strict=False):
            if parent is not None and self._rows:
                _take_up(row, self._rows[parent])
        self._place(rows)
        self._rows = list(rows)
        self._budget.start_again()
        while rows:
            self._step(rows)
            rows = self._without_finished(rows)
        return [_generated(row.written, self.how) for row in self._rows]

    def _place(self, rows: list[_Row]) -> None:
        """Give each row its place in the cache, behind what it shares with its parent; a prompt of several rows is read once."""
        distinct = list({tuple(row.prompt): row for row in reversed(rows)}.values())
        if sum(row.num_unread for row in rows) - sum(row.num_unread for row in distinct) > len(rows):  # more than a step costs
            self._arrange(distinct)
            read(self.model, self._cache, [row.prompt[row.num_read : -1] for row in distinct], [r.num_read for r in distinct], 1)
            places = {tuple(row.prompt): row.place for row in distinct}
            for row in rows:
                row.place, row.num_read = places[tuple(row.prompt)], len(row.prompt) - 1
        self._arrange(rows)

    def _arrange(self, rows: list[_Row]) -> None:
        """Lay the rows out in this order; each has `num_read` tokens at its earlier place."""
        capacity = max(len(row.prompt) for row in rows) + ROOM
        self._cache.arrange([row.place for row in rows], max(row.num_read for row in rows), capacity)
        for place, row in enumerate(rows):
            row.place = place

    def _step(self, rows: list[_Row]) -> None:
        """Write the next token of every row, and the ones after it as far as they were guessed."""
        num_guesses = self._budget.guesses(len(rows))
        blocks = [row.block(num_guesses) for row in rows]
        most = max(len(row.guesses) for row in rows)
        logits = read(self.model, self._cache, blocks, [row.num_read for row in rows], most + 1)
        undecided = rows
        while undecided:
            chosen = self._choose(undecided, logits)
            undecided = [row for row, token in zip(undecided, chosen, strict=True) if row.write(token, self.how.stop_ids)]
        if most:
            self._budget.record(sum(row.num_right for row in rows), sum(row.num_right < max(1, len(row.guesses)) for row in rows))

    def _choose(self, rows: list[_Row], logits: Tensor) -> list[int]:
        """The next token of each row, from its column of the logits (places, columns, V); the last one follows all guesses."""
        columns = [row.num_right - len(row.guesses) - 1 for row in rows]
        uniforms = torch.tensor([row.uniforms[len(row.written)] for row in rows], dtype=torch.double, device=logits.device)
        wanted = logits[[row.place for row in rows], columns].float()
        tokens: list[int] = choose_tokens(wanted, uniforms, self.how.temperature, self.how.top_p).tolist()
        return tokens

    def _without_finished(self, rows: list[_Row]) -> list[_Row]:
        """The rows that go on, moved to the front of the cache."""
        going = [row for row in rows if not row.finished]
        behind = [row for row in going if row.place >= len(going)]
        stopped = [row for row in rows if row.finished and row.place < len(going)]
        if behind:
            self._cache.swap([row.place for row in stopped], [row.place for row in behind])
            for one, other in zip(stopped, behind, strict=True):
                one.place, other.place = other.place, one.place
        return sorted(going, key=lambda row: row.place)


def _take_up(row: _Row, parent: _Row) -> None:
    """Let the row begin with what its prompt has in common with all that was read of its parent."""
    known = (parent.prompt + parent.written)[: parent.num_read]
    pairs = zip(known, row.prompt[:-1], strict=False)  # the last token is read in any case: its logits are wanted
    row.num_read = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(known), len(row.prompt) - 1))
    row.place, row.draft = parent.place, parent.written


def _uniforms(seeds: Sequence[int], how: Decoding) -> np.ndarray[Any, Any]:
    return np.stack([np.random.default_rng(seed).random(how.max_new_tokens) for seed in seeds])


def _generated(ids: list[int], how: Decoding) -> Generated:
    return Generated(ids, "stop" if ids and ids[-1] in how.stop_ids else "length")
