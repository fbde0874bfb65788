"""Several processes, one per device: how they start, talk, sum up and end."""
