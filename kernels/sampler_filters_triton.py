"""What the sampling kernels share: the noise, the excluded ids, and the search among a filtered row's candidates.

A row with top-k, top-p or min-p gathers the tokens near its maximum (tiles wholly below are never read), checks that
they hold enough tokens and mass, and gathers everything if they do not. Thresholds are then searched among them with
three pivots per pass: the same set as the bisection of `kernels.sampler.filter_logits` leaves.
"""

import kernels.sampling_tables as m
from kernels.language import jit, tl


@jit
def mix(x):
    """`kernels.sampler._mix` on uint32, where >> is the logical shift."""
    x = x ^ (x >> 16)
    x = x * 0x21F0AAAD
    x = x ^ (x >> 15)
    x = x * 0x735A2D97
    return x ^ (x >> 15)


@jit
def gumbel(ids, first, second):
    """Gumbel noise of token `ids`, as `kernels.sampler.gumbel`; first and second are the row's mixed keys, uint32."""
    bits = mix(mix(ids.to(tl.uint32) * 0x9E3779B9 + first) ^ second)
    uniform = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))


@jit
def row_keys(whole_ptr, slot, position):
    """The row's two mixed keys from (seed, sample index, position)."""
    low = tl.load(whole_ptr + slot * len(m.Whole) + m.Whole.SEED_LOW).to(tl.uint32)
    high = tl.load(whole_ptr + slot * len(m.Whole) + m.Whole.SEED_HIGH).to(tl.uint32)
    sample = tl.load(whole_ptr + slot * len(m.Whole) + m.Whole.SAMPLE).to(tl.uint32)
    place = position.to(tl.uint32)
    first = mix(low ^ mix(place * 0x9E3779B9 + sample))
    second = mix(high ^ mix(first + place))
    return first, second


@jit
def is_excluded(
    ids,
    slot,
    trigger_last_ptr,
    eos_ids_ptr,
    TRIGGERS: tl.constexpr,
    EOS_IDS: tl.constexpr,
):
    """Whether the masked draw leaves a token out: the last token of a trigger, or an EOS."""
    out = ids < 0
    for k in tl.static_range(TRIGGERS):
        out = out | (ids == tl.load(trigger_last_ptr + slot * TRIGGERS + k))
    for k in tl.static_range(EOS_IDS):
        out = out | (ids == tl.load(eos_ids_ptr + k))
    return out


@jit
def ordered_bits(x):
    """float32 -> int32 in the same order, -0.0 and 0.0 being one value."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@jit
def sum_above(values_ptr, n, floor, pivot1, pivot2, pivot3, top, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Tokens (COUNT) or softmax weight at or above three pivots, among those at or above `floor`."""
    lanes = tl.arange(0, BLOCK)
    sum1 = tl.zeros([BLOCK], tl.float32)
    sum2 = tl.zeros([BLOCK], tl.float32)
    sum3 = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        z = tl.load(values_ptr + start + lanes, mask=start + lanes < n, other=-float("inf"))
        key = ordered_bits(z).to(tl.int64)
        weight = tl.where((start + lanes < n) & (key >= floor), 1.0, 0.0)
        if not COUNT:
            weight = weight * tl.exp(z - top)
        sum1 += tl.where(key >= pivot1, weight, 0.0)
        sum2 += tl.where(key >= pivot2, weight, 0.0)
        sum3 += tl.where(key >= pivot3, weight, 0.0)
    return tl.sum(sum1, 0), tl.sum(sum2, 0), tl.sum(sum3, 0)


@jit
def find_threshold(values_ptr, n, low, high, wanted, top, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """Largest key in [low, high] at or above which there is `wanted`; three pivots per pass quarter the interval."""
    floor = low
    while low < high:
        gap = high - low
        pivot1 = low + (gap + 3) // 4
        pivot2 = low + (gap + 1) // 2
        pivot3 = high - gap // 4
        sum1, sum2, sum3 = sum_above(values_ptr, n, floor, pivot1, pivot2, pivot3, top, COUNT, BLOCK)
        new_high = tl.where(sum1 < wanted, pivot1 - 1, tl.where(sum2 < wanted, pivot2 - 1, pivot3 - 1))
        new_low = tl.where(sum2 >= wanted, pivot2, tl.where(sum1 >= wanted, pivot1, low))
        high = tl.where(sum3 >= wanted, high, new_high)
        low = tl.where(sum3 >= wanted, pivot3, new_low)
    return low


@jit
def gather_candidates(
    logits,
    best,
    values,
    ids,
    slot,
    trigger_last_ptr,
    eos_ids_ptr,
    temperature,
    top,
    cut,
    vocab,
    tiles,
    exclude,
    TRIGGERS: tl.constexpr,
    EOS_IDS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the row's tokens with z >= cut to `values` and `ids`, in the order of ids; (how many, their weight)."""
    lanes = tl.arange(0, BLOCK)
    n = 0
    mass = 0.0
    for tile in range(tiles):
        if tl.load(best + tile) / temperature >= cut:
            for start in range(tile * TILE, (tile + 1) * TILE, BLOCK):
                token = start + lanes
                z = tl.load(logits + token, mask=token < vocab, other=-float("inf")) / temperature
                keep = (z >= cut) & (z > -float("inf"))
                if exclude:
                    keep = keep & (is_excluded(token, slot, trigger_last_ptr, eos_ids_ptr, TRIGGERS, EOS_IDS) == 0)
                to = n + tl.cumsum(keep.to(tl.int32), 0) - 1
                tl.store(values + to, z, mask=keep)
                tl.store(ids + to, token, mask=keep)
                n += tl.sum(keep.to(tl.int32), 0)
                mass += tl.sum(tl.where(keep, tl.exp(z - top), 0.0), 0)
    tl.debug_barrier()  # what other threads wrote is read from here on
    return n, mass


@jit
def pick_filtered(
    logits,
    best,
    values,
    ids,
    slot,
    trigger_last_ptr,
    eos_ids_ptr,
    temperature,
    top,
    total,
    top_k,
    top_p,
    min_p,
    first,
    second,
    near,
    vocab,
    tiles,
    exclude,
    TRIGGERS: tl.constexpr,
    EOS_IDS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The Gumbel argmax over what top-k, top-p and min-p leave. `top`: the maximum of z, `total`: softmax weight."""
    by_count = (top_k > 0) & (top_k < vocab)
    cut = top - near
    n = 0
    attempt = 0
    while attempt < 2:
        n, mass = gather_candidates(
            logits,
            best,
            values,
            ids,
            slot,
            trigger_last_ptr,
            eos_ids_ptr,
            temperature,
            top,
            cut,
            vocab,
            tiles,
            exclude,
            TRIGGERS,
            EOS_IDS,
            TILE,
            BLOCK,
        )
        by_mass = ((top_p >= 1.0) | (mass >= top_p * total)) & ((top_p < 1.0) | (tl.exp(cut - top) < min_p))
        enough = (by_count & (n >= top_k)) | ((by_count == 0) & by_mass)
        attempt = tl.where(enough, 2, attempt + 1)
        cut = -3.4e38
    high = ordered_bits(top).to(tl.int64)
    low = high - high - 2147483648
    if by_count:
        low = find_threshold(values, n, low, high, top_k.to(tl.float32), top, True, BLOCK)
        total, _, _ = sum_above(values, n, low, low, low, low, top, False, BLOCK)
    if top_p < 1.0:
        low = find_threshold(values, n, low, high, top_p * total, top, False, BLOCK)

    lanes = tl.arange(0, BLOCK)
    pick = 0
    peak = -float("inf")
    for start in range(0, n, BLOCK):
        here = start + lanes < n
        z = tl.load(values + start + lanes, mask=here, other=-float("inf"))
        token = tl.load(ids + start + lanes, mask=here, other=0)
        allowed = here & (ordered_bits(z).to(tl.int64) >= low) & (tl.exp(z - top) >= min_p)
        block_peak, where = tl.max(
            tl.where(allowed, z + gumbel(token, first, second), -float("inf")), 0, return_indices=True
        )
        pick = tl.where(block_peak > peak, tl.sum(tl.where(lanes == where, token, 0), 0), pick)
        peak = tl.maximum(peak, block_peak)
    tl.debug_barrier()  # the other variant overwrites the candidates
    return pick
