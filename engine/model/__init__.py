"""The decoder: configuration, checkpoint, weights and how they are sharded over ranks."""
