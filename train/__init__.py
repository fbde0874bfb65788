"""FSDP2 fine-tuning of Qwen2-, Qwen3- and Llama-like decoders on long traces: `python -m train.sft CONFIG.yaml`."""
