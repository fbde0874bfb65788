"""The sampler on the GPU: one pass over the logits, then one program per row; no sort anywhere.

`_tile_kernel` applies the penalties, biases and bans of a tile of the vocabulary and leaves its maximum, its Gumbel
maximum and its softmax weight, for the free draw and for the masked one. `_draw_kernel` joins the tiles of a row and,
where the row has top-k, top-p or min-p, draws among the candidates that they leave.
"""

import torch

import kernels.sampling_tables as m
import kernels.thinking_tables as machine
from kernels.language import cdiv, jit, launch, next_power_of_2, require_triton, tl
from kernels.sampler_filters_triton import gumbel, is_excluded, pick_filtered, row_keys

_NEAR = 20.0
"""Candidates lie within this of the maximum of z at first: exp(-20) x 152,064 tokens is 0.03 % of its weight."""


@jit
def _tile_kernel(
    logits_ptr,
    real_ptr,
    whole_ptr,
    bias_ptr,
    counts_ptr,
    in_prompt_ptr,
    state_ptr,
    params_ptr,
    trigger_last_ptr,
    eos_ids_ptr,
    slots_ptr,
    best_ptr,
    place_ptr,
    weight_ptr,
    vocab,
    logits_stride,
    table_stride,
    NOISE: tl.constexpr,
    FILTERS: tl.constexpr,
    PENALTIES: tl.constexpr,
    BIAS: tl.constexpr,
    MASKED: tl.constexpr,
    TRIGGERS: tl.constexpr,
    EOS_IDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (row, tile). best and place [B, 2 variants, 2 (plain, noisy), tiles]; weight [B, 2 variants, tiles]."""
    row = tl.program_id(0).to(tl.int64)
    tile, tiles = tl.program_id(1), tl.num_programs(1)
    slot = tl.load(slots_ptr + row)
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab
    x = tl.load(logits_ptr + row * logits_stride + ids, mask=inside, other=-float("inf"))
    real = real_ptr + slot * len(m.Real)
    if PENALTIES:
        count = tl.load(counts_ptr + slot * table_stride + ids, mask=inside, other=0)
        prompt = tl.load(in_prompt_ptr + slot * table_stride + ids, mask=inside, other=0) != 0
        repetition = tl.load(real + m.Real.REPETITION)
        scaled = tl.where(x > 0, x / repetition, x * repetition)
        x = tl.where((count > 0) | prompt, scaled, x)
        presence = tl.where(count > 0, tl.load(real + m.Real.PRESENCE), 0.0)
        x = x - (tl.load(real + m.Real.FREQUENCY) * count.to(tl.float32) + presence)
    if BIAS:
        x = x + tl.load(bias_ptr + slot * table_stride + ids, mask=inside, other=0.0)
    state = state_ptr + slot * len(machine.State)
    params = params_ptr + slot * len(machine.Param)
    answers = (tl.load(state + machine.State.PHASE) == machine.Phase.ANSWER) & (
        tl.load(state + machine.State.CLOSED) > 0
    )
    early = tl.load(state + machine.State.ANSWERED) < tl.load(params + machine.Param.MIN_ANSWER)
    early = (answers & early) | (tl.load(state + machine.State.COMMITTED) < tl.load(params + machine.Param.MIN_TOKENS))
    if early & (tl.load(params + machine.Param.IGNORE_EOS) == 0):
        x = tl.where(is_excluded(ids, slot, trigger_last_ptr, eos_ids_ptr, 0, EOS_IDS), -float("inf"), x)
    if FILTERS:
        tl.store(logits_ptr + row * logits_stride + ids, x, mask=inside)

    broken = tl.max((x != x).to(tl.int32), 0)
    temperature = tl.load(real + m.Real.TEMPERATURE)
    heat = tl.where(temperature > 0, temperature, 1.0)
    if NOISE:
        first, second = row_keys(whole_ptr, slot, tl.load(state + machine.State.LENGTH))
        noise = gumbel(ids, first, second)
    for variant in tl.static_range(1 + MASKED):
        if variant == 1:
            x = tl.where(is_excluded(ids, slot, trigger_last_ptr, eos_ids_ptr, TRIGGERS, EOS_IDS), -float("inf"), x)
        best, place = tl.max(x, 0, return_indices=True)
        at = ((row * 2 + variant) * 2) * tiles + tile
        tl.store(best_ptr + at, tl.where(broken > 0, float("nan"), best))
        tl.store(place_ptr + at, tile * BLOCK + place)
        if NOISE:
            z = x / heat
            noisy, place = tl.max(z + noise, 0, return_indices=True)
            tl.store(best_ptr + at + tiles, noisy)
            tl.store(place_ptr + at + tiles, tile * BLOCK + place)
            if FILTERS:
                # Relative to the tile's own maximum; a tile without any allowed token weighs nothing.
                top = tl.maximum(best / heat, -1.0e30)
                tl.store(weight_ptr + (row * 2 + variant) * tiles + tile, tl.sum(tl.exp(z - top), 0))


@jit
def _draw_kernel(
    logits_ptr,
    real_ptr,
    whole_ptr,
    state_ptr,
    trigger_last_ptr,
    eos_ids_ptr,
    slots_ptr,
    best_ptr,
    place_ptr,
    weight_ptr,
    values_ptr,
    ids_ptr,
    draw_ptr,
    masked_ptr,
    bad_ptr,
    vocab,
    logits_stride,
    work_stride,
    near,
    tiles,
    NOISE: tl.constexpr,
    FILTERS: tl.constexpr,
    MASKED: tl.constexpr,
    TRIGGERS: tl.constexpr,
    EOS_IDS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program per row. values and ids [B, V] hold the candidates of a filtered row."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row)
    t = tl.arange(0, BLOCK_T)
    real = real_ptr + slot * len(m.Real)
    temperature = tl.load(real + m.Real.TEMPERATURE)
    draw = tl.program_id(0) * 0
    for variant in range(1 + MASKED):
        bests = best_ptr + (row * 2 + variant) * 2 * tiles
        places = place_ptr + (row * 2 + variant) * 2 * tiles
        peaks = tl.load(bests + t, mask=t < tiles, other=-float("inf"))
        broken = tl.max((peaks != peaks).to(tl.int32), 0) > 0
        best, where = tl.max(peaks, 0, return_indices=True)
        pick = tl.load(places + where)
        if NOISE:  # noqa: SIM102 (a constant: without noise the branch is not compiled)
            if temperature > 0:
                noisy = tl.load(bests + tiles + t, mask=t < tiles, other=-float("inf"))
                where = tl.argmax(noisy, 0)
                pick = tl.load(places + tiles + where)
                if FILTERS:
                    top_k = tl.load(whole_ptr + slot * len(m.Whole) + m.Whole.TOP_K)
                    top_p = tl.load(real + m.Real.TOP_P)
                    min_p = tl.load(real + m.Real.MIN_P)
                    filtered = ((top_k > 0) & (top_k < vocab)) | (top_p < 1.0) | (min_p > 0.0)
                    if filtered & (best > -float("inf")) & (broken == 0):
                        top = best / temperature
                        weights = tl.load(weight_ptr + (row * 2 + variant) * tiles + t, mask=t < tiles, other=0.0)
                        total = tl.sum(weights * tl.exp(tl.maximum(peaks / temperature, -1.0e30) - top), 0)
                        position = tl.load(state_ptr + slot * len(machine.State) + machine.State.LENGTH)
                        first, second = row_keys(whole_ptr, slot, position)
                        pick = pick_filtered(
                            logits_ptr + row * logits_stride,
                            bests,
                            values_ptr + row * work_stride,
                            ids_ptr + row * work_stride,
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
                            variant == 1,
                            TRIGGERS,
                            EOS_IDS,
                            TILE,
                            BLOCK,
                        )
        if variant == 0:
            draw = pick
            tl.store(draw_ptr + row, pick.to(tl.int64))
            tl.store(bad_ptr + row, broken | (best == -float("inf")))
        else:
            tl.store(masked_ptr + row, tl.where(best == -float("inf"), draw, pick).to(tl.int64))


def sample_config() -> dict[str, int | bool]:
    """Tiles of 4,096 tokens: 38 programs per row of 152,064, 8 values per thread."""
    return {"BLOCK": 4096, **launch(num_warps=16)}


def draw_config(tiles: int, filters: bool) -> dict[str, int | bool]:
    """One warp joins the tiles; a filtered row also walks its candidates."""
    return {"BLOCK_T": next_power_of_2(max(tiles, 2)), "BLOCK": 2048, **launch(num_warps=16 if filters else 1)}


def sample_triton(
    logits: torch.Tensor,
    tables: m.SamplingTables,
    machine_tables: machine.MachineTables,
    slots: torch.Tensor,
    vocab: int,
    needs: m.SamplingNeeds,
    near: float = _NEAR,
) -> m.Draws:
    """The launcher; arguments and result as `kernels.sampler.sample_reference`.

    `near` is how far below the maximum of z candidates are gathered first; it changes the time, never the draw.
    """
    require_triton()
    batch, width = logits.shape
    device = logits.device
    config = sample_config()
    tiles = cdiv(vocab, int(config["BLOCK"]))
    filters = needs.filters and needs.noise
    best = torch.empty(batch, 2, 2, tiles, dtype=torch.float32, device=device)
    place = torch.empty(batch, 2, 2, tiles, dtype=torch.int32, device=device)
    weight = torch.empty(batch, 2, tiles, dtype=torch.float32, device=device)
    values = torch.empty(batch, width, dtype=torch.float32, device=device) if filters else None
    ids = torch.empty(batch, width, dtype=torch.int32, device=device) if filters else None
    draw = torch.empty(batch, dtype=torch.int64, device=device)
    masked = torch.empty_like(draw) if needs.masked else draw
    bad = torch.empty(batch, dtype=torch.bool, device=device)
    if batch == 0:
        return m.Draws(draw, masked, bad)
    bias = tables.bias if needs.bias else None
    counts = tables.counts if needs.penalties else None
    in_prompt = tables.in_prompt if needs.penalties else None
    table = bias if bias is not None else counts
    flags = {
        "NOISE": needs.noise,
        "FILTERS": filters,
        "MASKED": int(needs.masked),
        "TRIGGERS": machine_tables.trigger_last.shape[1],
        "EOS_IDS": machine_tables.eos_ids.shape[0],
    }
    _tile_kernel[(batch, tiles)](
        logits,
        tables.real,
        tables.whole,
        bias,
        counts,
        in_prompt,
        machine_tables.state,
        machine_tables.params,
        machine_tables.trigger_last,
        machine_tables.eos_ids,
        slots,
        best,
        place,
        weight,
        vocab,
        logits.stride(0),
        0 if table is None else table.stride(0),
        PENALTIES=counts is not None,
        BIAS=bias is not None,
        **flags,
        **config,
    )
    _draw_kernel[(batch,)](
        logits,
        tables.real,
        tables.whole,
        machine_tables.state,
        machine_tables.trigger_last,
        machine_tables.eos_ids,
        slots,
        best,
        place,
        weight,
        values,
        ids,
        draw,
        masked,
        bad,
        vocab,
        logits.stride(0),
        width,
        near,
        tiles,
        TILE=config["BLOCK"],
        **flags,
        **draw_config(tiles, filters),
    )
    return m.Draws(draw, masked, bad)
