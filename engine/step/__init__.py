"""One step on the device: per-slot tables, CUDA graphs and their capture, results on their way back."""
