"""Settings for every test: one thread, so that tests may run side by side."""

import torch

torch.set_num_threads(1)
