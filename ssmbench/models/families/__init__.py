"""Model families, one file each: what their checkpoints are called and how they are laid out."""
