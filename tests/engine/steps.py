"""Drives a decoder step by step by hand: pages, metadata and mixed batches without the engine loop."""

from pathlib import Path

import torch

from engine.model.batch import AttentionMeta
from engine.model.config import ModelConfig
from engine.model.decoder import Decoder
from engine.ranks.group import Group

PAGE = 16


class Pages:
    """Sequences of tokens and their pages, handed to the decoder as steps of chosen rows."""

    def __init__(self, decoder: Decoder, sequences: list[list[int]]) -> None:
        self.decoder, self.sequences, self.done = decoder, sequences, [0] * len(sequences)
        counts = [-(-len(tokens) // PAGE) for tokens in sequences]
        # Page 0 is the dummy; the others are dealt out shuffled, so that no row's pages lie side by side.
        order = (torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1)) + 1).tolist()
        self.tables = [[order.pop() for _ in range(count)] for count in counts]
        self.kv = decoder.new_kv_cache(sum(counts) + 1, PAGE)

    def step(self, rows: dict[int, int]) -> dict[int, torch.Tensor]:
        """Runs `rows` (sequence -> number of next tokens), those of one token as decodes; logits of every token."""
        decodes = [row for row, count in rows.items() if count == 1 and self.done[row]]
        prefills = [row for row in rows if row not in decodes]
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        lengths: list[int] = []
        for row in decodes + prefills:
            span = range(self.done[row], self.done[row] + rows[row])
            ids += [self.sequences[row][i] for i in span]
            positions += span
            slots += [self.tables[row][i // PAGE] * PAGE + i % PAGE for i in span]
            self.done[row] += rows[row]
            lengths.append(self.done[row])
        width = max(len(self.tables[row]) for row in rows)
        tables = [self.tables[row] + [0] * (width - len(self.tables[row])) for row in decodes + prefills]
        starts = torch.tensor([0] + [rows[row] for row in prefills]).cumsum(0)
        meta = AttentionMeta(
            slot_mapping=torch.tensor(slots),
            block_tables=torch.tensor(tables, dtype=torch.int32),
            context_lens=torch.tensor(lengths, dtype=torch.int32),
            num_decodes=len(decodes),
            cu_q=starts.int(),
            max_q=max((rows[row] for row in prefills), default=0),
            max_context=max(lengths),
        )
        hidden = self.decoder.forward(torch.tensor(ids), torch.tensor(positions), meta, self.kv)
        logits = self.decoder.logits(hidden).clone()  # which the next step may overwrite
        parts = logits.split([rows[row] for row in decodes + prefills])
        return dict(zip(decodes + prefills, parts, strict=True))


def load_decoder(directory: Path, dtype: str = "auto", max_positions: int = 512) -> Decoder:
    return Decoder.load(directory, ModelConfig.load(directory, dtype), Group.single(torch.device("cpu")), max_positions)


def random_sequences(vocab: int, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(vocab, (length,), generator=generator).tolist() for length in lengths]


def run_mixed(decoder: Decoder, sequences: list[list[int]]) -> list[torch.Tensor]:
    """Whole prefills, chunks of 16 and single decodes in the same steps; logits of every position."""
    pages = Pages(decoder, sequences)
    logits: list[list[torch.Tensor]] = [[] for _ in sequences]
    chunks = [len(tokens) if row % 3 == 0 else 16 for row, tokens in enumerate(sequences)]
    mixed_steps = 0
    while any(pages.done[row] < len(tokens) for row, tokens in enumerate(sequences)):
        rows = {}
        for row, tokens in enumerate(sequences):
            left = len(tokens) - pages.done[row]
            # The last 20 tokens of each sequence come one by one, as in decoding.
            if left:
                prefill = len(tokens) - 20 - pages.done[row]
                rows[row] = min(chunks[row], prefill) if prefill > 0 else 1
        before = list(pages.done)
        for row, part in pages.step(rows).items():
            logits[row].append(part)
        kinds = {rows[row] == 1 and before[row] > 0 for row in rows}
        mixed_steps += len(kinds) == 2
    assert mixed_steps, "no step held decodes and prefill chunks together"
    return [torch.cat(parts) for parts in logits]
