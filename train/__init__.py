"""FSDP2 fine-tuning of Qwen2-shaped decoders on long traces: `python -m train.sft CONFIG.yaml`."""
