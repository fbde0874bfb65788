"""Sampling: two draws from one row of logits and one set of noise, without a sort of the vocabulary.

Gumbel-max: a draw is argmax(z + g) over the tokens that the filters leave, z = logits / temperature, g = -log(-log(u)).
The noise g of a token is a hash of (seed, sample index, position, token id) alone. So a draw does not depend on the
batch it is made in, on how often a request was preempted, or on how many draws came before it; and the masked draw,
made from the same noise with triggers and EOS excluded, equals the free one wherever that is allowed.

Filters are thresholds found by bisection on the ordered bit patterns of float32, exact after 32 halvings: top-k by
count, top-p by probability mass. Ties at the threshold stay in. Order: penalties, bias, bans, temperature, top-k,
top-p on what top-k left, min-p.
"""

import torch
from torch import Tensor

from kernels import use_triton
from kernels.native import step as native_step
from kernels.sampler_triton import sample_triton
from kernels.sampling_tables import NEVER, Draws, Real, SamplingNeeds, SamplingTables, Whole
from kernels.thinking_tables import HELD_SHIFT, MachineTables, Param, Phase, State

__all__ = [
    "NEVER",
    "Draws",
    "Real",
    "SamplingNeeds",
    "SamplingTables",
    "Whole",
    "sample",
    "sample_cost",
    "sample_reference",
]


def sample_reference(
    logits: Tensor, tables: SamplingTables, machine: MachineTables, slots: Tensor, vocab: int, needs: SamplingNeeds
) -> Draws:
    """Draw for every row; the definition. `logits` [B, V] float32 is overwritten.

    Columns from `vocab` on are padding of the weights and never drawn. EOS is excluded from both draws where
    `min_tokens` or `min_answer_tokens` says so.
    """
    logits[:, vocab:] = NEVER
    _edit(logits, tables, slots, needs)
    _ban_eos(logits, machine, slots)
    best = logits.amax(1)
    bad = torch.isnan(best) | (best == NEVER)
    noise = None
    if needs.noise:
        noise = gumbel(tables.whole[slots, Whole.SEED_LOW :], machine.state[slots, State.LENGTH], logits.shape[1])
    draw = _pick(logits, noise, tables, slots, needs)
    if not needs.masked:
        return Draws(draw, draw, bad)
    excluded = torch.cat([machine.trigger_last[slots], machine.eos_ids.expand(len(slots), -1)], 1).long()
    excluded = torch.where(excluded >= 0, excluded, excluded.amax(1, keepdim=True))  # padding repeats a real one
    index = excluded.clamp(min=0)
    logits.scatter_(1, index, torch.where(excluded >= 0, NEVER, logits.gather(1, index)))
    masked = _pick(logits, noise, tables, slots, needs)
    return Draws(draw, torch.where(logits.amax(1) == NEVER, draw, masked), bad)


def _edit(logits: Tensor, tables: SamplingTables, slots: Tensor, needs: SamplingNeeds) -> None:
    """What the request asked for, in place: penalties, then biases and bans."""
    if needs.penalties:
        _penalise(logits, tables, slots)
    if needs.bias and tables.bias is not None:
        logits += tables.bias[slots]


def _penalise(logits: Tensor, tables: SamplingTables, slots: Tensor) -> None:
    """Repetition (over prompt and response, arXiv 1909.05858), presence and frequency (over the response)."""
    assert tables.counts is not None and tables.in_prompt is not None
    counts, real = tables.counts[slots], tables.real[slots]
    repetition = real[:, Real.REPETITION, None]
    seen = (counts > 0) | tables.in_prompt[slots]
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits.copy_(torch.where(seen, scaled, logits))
    logits -= real[:, Real.FREQUENCY, None] * counts + real[:, Real.PRESENCE, None] * (counts > 0)


def _ban_eos(logits: Tensor, machine: MachineTables, slots: Tensor) -> None:
    state, params = machine.state[slots], machine.params[slots]
    answers = (state[:, State.PHASE] == Phase.ANSWER) & (state[:, State.CLOSED] > 0)
    answers = answers & (state[:, State.ANSWERED] < params[:, Param.MIN_ANSWER])
    ban = (answers | (state[:, State.COMMITTED] < params[:, Param.MIN_TOKENS])) & (params[:, Param.IGNORE_EOS] == 0)
    eos = machine.eos_ids.long()
    logits[:, eos] = logits[:, eos].masked_fill(ban[:, None], NEVER)


def _pick(logits: Tensor, noise: Tensor | None, tables: SamplingTables, slots: Tensor, needs: SamplingNeeds) -> Tensor:
    greedy = logits.argmax(1)
    if noise is None:
        return greedy
    real = tables.real[slots]
    temperature = real[:, Real.TEMPERATURE, None]
    z = logits / torch.where(temperature > 0, temperature, torch.ones_like(temperature))
    if needs.filters:
        z = filter_logits(z, tables.whole[slots, Whole.TOP_K], real[:, Real.TOP_P], real[:, Real.MIN_P])
    return torch.where(temperature[:, 0] > 0, (z + noise).argmax(1), greedy)


def filter_logits(z: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """`z` [B, V] with -inf outside top-k, then top-p, then min-p; top_k [B] int (0: off), top_p and min_p [B] float."""
    keys = _ordered_bits(z)
    wanted = torch.where(top_k > 0, top_k, torch.full_like(top_k, z.shape[1])).clamp(max=z.shape[1])
    least = _bisect(keys, lambda keep: keep.sum(1) >= wanted)
    z = z.masked_fill(keys < least[:, None], NEVER)
    p = torch.softmax(z, 1)
    keys = _ordered_bits(p)
    least = _bisect(keys, lambda keep: (p * keep).sum(1) >= top_p)
    least = torch.where(top_p < 1, least, torch.full_like(least, -(2**31)))
    z = z.masked_fill(keys < least[:, None], NEVER)
    return z.masked_fill(p < min_p[:, None] * p.amax(1, keepdim=True), NEVER)


def _ordered_bits(x: Tensor) -> Tensor:
    """float32 -> int32 in the same order (sign-magnitude to two's complement)."""
    bits = (x + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are one value
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _bisect(keys: Tensor, enough) -> Tensor:
    """Largest threshold per row [B] int32 for which `enough(keys >= threshold)` holds; the least int32 if none does."""
    low = torch.full((len(keys),), -(2**31), dtype=torch.int64, device=keys.device)
    high = torch.full_like(low, 2**31 - 1)
    for _ in range(32):
        middle = (low + high + 1) >> 1
        good = enough(keys >= middle[:, None])
        low = torch.where(good, middle, low)
        high = torch.where(good, high, middle - 1)
    return low.to(torch.int32)


def gumbel(key: Tensor, position: Tensor, vocab: int) -> Tensor:
    """Standard Gumbel noise [B, vocab] float32, a pure function of (key [B, 3] int32, position [B], token id)."""
    first = _mix(key[:, 0] ^ _mix(position * _GOLDEN + key[:, 2]))
    second = _mix(key[:, 1] ^ _mix(first + position))
    ids = torch.arange(vocab, dtype=torch.int32, device=key.device)
    bits = _mix(_mix(ids * _GOLDEN + first[:, None]) ^ second[:, None])
    uniform = (_shift(bits, 9).float() + 0.5) * 2.0**-23  # 23 bits: the largest value is still below 1
    return -torch.log(-torch.log(uniform))


_GOLDEN = 0x9E3779B9 - 2**32


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words that avalanches (Wellons' lowbias32, 2018), in wrapping int32 arithmetic."""
    x = x ^ _shift(x, 16)
    x = x * 0x21F0AAAD
    x = x ^ _shift(x, 15)
    x = x * 0x735A2D97
    return x ^ _shift(x, 15)


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical right shift of int32."""
    return (x >> by) & ((1 << (32 - by)) - 1)


def sample(
    logits: Tensor, tables: SamplingTables, machine: MachineTables, slots: Tensor, vocab: int, needs: SamplingNeeds
) -> Draws:
    """Draw for every row by the best implementation for the device; as `sample_reference`, but that in rows whose
    delimiters are plain text the masked draw excludes every token that begins one or goes on with one."""
    if not (machine.text and needs.masked):
        return _sample(logits, tables, machine, slots, vocab, needs)
    by_text, excluded = _text_excluded(machine, slots)
    rest = logits.clone()
    rest[:, :vocab].masked_fill_(excluded, NEVER)
    draws = _sample(logits, tables, machine, slots, vocab, needs)
    others = _sample(rest, tables, machine, slots, vocab, needs)
    masked = torch.where(others.bad, draws.draw, others.masked)
    return Draws(draws.draw, torch.where(by_text, masked, draws.masked), draws.bad)


def _text_excluded(machine: MachineTables, slots: Tensor) -> tuple[Tensor, Tensor]:
    """(rows whose delimiters are plain text [B], tokens that are part of one where the text stands now [B, V])."""
    assert machine.next is not None and machine.marks is not None
    first, state = machine.params[slots, Param.TEXT_ROW], machine.state[slots]
    think = (first >= 0) & (state[:, State.PHASE] == Phase.THINK)
    mark = machine.marks[slots, (state[:, State.LENGTH] - 1).long()] % (1 << HELD_SHIFT)
    return first >= 0, machine.next[torch.where(think, first + mark, 0).long()] != 0


def _sample(
    logits: Tensor, tables: SamplingTables, machine: MachineTables, slots: Tensor, vocab: int, needs: SamplingNeeds
) -> Draws:
    if use_triton(logits):
        return sample_triton(logits, tables, machine, slots, vocab, needs)
    if native_step.supports(machine):
        logits = logits.contiguous()
        _edit(logits, tables, slots, needs)
        return native_step.sample(logits, tables, machine, slots, vocab, needs)
    return sample_reference(logits, tables, machine, slots, vocab, needs)


def sample_cost(batch: int, vocab: int) -> tuple[int, int]:
    """(bytes moved, FLOPs) of one greedy or Gumbel draw per row: the logits are read once."""
    return 4 * batch * vocab, 12 * batch * vocab
