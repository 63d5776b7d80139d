"""The commands: plain functions; what each needs is imported inside it."""
