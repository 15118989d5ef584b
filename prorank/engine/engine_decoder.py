"""Keys and values of prompts and of what is written behind them, for the engine: a prompt's are held once for all its samples.

A step's attention is two products, over the prompt (the samples of a prompt are rows of one product) and over what the
row wrote itself, joined in one softmax; what a row reads from memory shrinks with the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .cpu_engine import Engine
from .packing import Pack, collate
from .prefix_attention import attend, plan_of

LOWEST = float("-inf")


class EngineDecoder:
    """Writes by the engine: `start` reads prompts, `step` one more token of each row, `keep` lets rows go.

    Args:
        engine: over weights that stay as they are meanwhile.
        room: tokens that a row may write.
    """

    def __init__(self, engine: Engine, room: int) -> None:
        self.engine, self.room = engine, room
        self.shape = engine.heads, engine.pairs, engine.heads // engine.pairs, engine.width

    def start(self, packs: Sequence[Pack], samples: int) -> torch.Tensor:
        """Last hidden states [R, H] of the prompts in these packs, R = prompts * samples, a prompt's samples side by side."""
        engine = self.engine
        batch = collate(packs, 0, flat=True)
        spans = batch.inputs["spans"]
        plan = plan_of(spans, engine.heads, engine.pairs)
        order = torch.tensor(batch.owners).argsort()  # packs may hold the prompts in another order
        lengths = torch.tensor(spans.lengths)
        longest, prompts = int(lengths.max()), len(lengths)
        place = torch.zeros(prompts, longest, dtype=torch.long)  # which token of the batch stands where in which prompt
        for row, some in enumerate(spans.gather.split(spans.lengths)):
            place[row, : len(some)] = some
        lengths, place = lengths[order], place[order]
        self.prefix: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each layer: keys and values [P * pairs, L, d]
        self.own: list[tuple[torch.Tensor, torch.Tensor]] = []  # of each layer: keys and values [R, pairs, room, d]
        self.written = 0
        rows = prompts * samples

        def attention_fn(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = (t.to(engine.dtype)[place].transpose(1, 2).flatten(0, 1) for t in (k, v))
            self.prefix.append((keys, values))
            keys, values = (k.new_empty(rows, engine.pairs, self.room, engine.width, dtype=engine.dtype) for _ in "kv")
            self.own.append((keys, values))
            return attend(q, k, v, plan, engine.steps.softmax, engine.dtype)

        hidden = engine.run(batch.inputs["input_ids"][0], batch.inputs["position_ids"][0], batch.columns, attention_fn)
        self.owner = torch.arange(prompts).repeat_interleave(samples)  # [R]: which prompt's keys a row sees
        self.masks = torch.where(torch.arange(longest) < lengths[:, None], 0.0, LOWEST)  # [P, L]
        self.positions = lengths[self.owner]
        self._seat()
        return hidden[order][self.owner]

    def _seat(self) -> None:
        """Lay rows out as a table of prompts and their rows."""
        prompts, counts = self.owner.unique_consecutive(return_counts=True)
        most = int(counts.max())
        column = torch.cat([torch.arange(int(n)) for n in counts])
        line = torch.arange(len(prompts)).repeat_interleave(counts)
        self.back = line * most + column  # [R]: a row's seat
        self.seats = torch.zeros(len(prompts) * most, dtype=torch.long)  # [P * G]: the row of each seat; empty ones repeat row 0
        self.seats[self.back] = torch.arange(len(self.owner))
        self.mask = self.masks[prompts][:, None, None]  # [P, 1, 1, L]
        self.table = len(prompts), most

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states [R, H] after one more token [R] of each row."""
        hidden = self.engine.run(tokens, self.positions, torch.arange(len(tokens)), self._look)
        self.positions, self.written = self.positions + 1, self.written + 1
        return hidden

    def _look(self, number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of one token a row: q [R, heads, d], scaled, and its k and v [R, pairs, d]: [R, heads * d]."""
        heads, pairs, groups, width = self.shape
        (prompts, most), rows, dtype = self.table, len(q), self.engine.dtype
        keys, values = self.own[number]
        keys[:, :, self.written], values[:, :, self.written] = k, v
        keys, values = (t[:, :, : self.written + 1].flatten(0, 1) for t in (keys, values))  # [R * pairs, t, d]
        near = torch.bmm(q.to(dtype).reshape(rows * pairs, groups, width), keys.transpose(1, 2))  # [R * pairs, groups, t]
        far_keys, far_values = self.prefix[number]
        seated = q.to(dtype)[self.seats].view(prompts, most, pairs, groups, width).transpose(1, 2)
        far = torch.bmm(seated.reshape(prompts * pairs, most * groups, width), far_keys.transpose(1, 2))
        far = far.view(prompts, pairs, most * groups, -1) + self.mask  # [P, pairs, G * groups, L]
        by_row = far.view(prompts, pairs, most, groups, -1).transpose(1, 2).flatten(0, 1)[self.back]  # [R, pairs, groups, L]
        weights = torch.cat((by_row, near.view(rows, pairs, groups, -1)), -1).float().softmax(-1).to(dtype)
        length = far.shape[-1]
        seen = torch.bmm(weights[..., length:].reshape(rows * pairs, groups, -1), values).view(rows, pairs, groups, width)
        there = weights[self.seats, ..., :length].view(prompts, most, pairs, groups, length).transpose(1, 2)
        back = torch.bmm(there.reshape(prompts * pairs, most * groups, length), far_values)
        back = back.view(prompts, pairs, most, groups, width).transpose(1, 2).flatten(0, 1)[self.back]
        return (seen + back).reshape(rows, heads * width)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows alone."""
        prompts = self.owner.unique_consecutive()
        self.owner, self.positions = self.owner[rows], self.positions[rows]
        left = torch.isin(prompts, self.owner)
        self.own = [(keys[rows], values[rows]) for keys, values in self.own]
        if not left.all():
            pairs = self.shape[1]
            keep = (left.nonzero()[:, 0, None] * pairs + torch.arange(pairs)).flatten()
            self.prefix = [(keys[keep], values[keep]) for keys, values in self.prefix]
        self._seat()
