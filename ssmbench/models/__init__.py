"""Model code: one decoder, described by data, for every family."""
