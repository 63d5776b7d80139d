"""The zoo: TinyWorld, a synthetic language, and tiny models trained on it."""
