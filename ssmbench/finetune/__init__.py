"""Training after compression: adapters, losses, the loop and its checkpoints."""
