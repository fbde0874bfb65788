"""Text and tokens: tokenizer, chat template, and text as it grows and is split into reasoning and answer."""
