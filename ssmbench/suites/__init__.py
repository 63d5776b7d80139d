"""Suites: what is measured on a compressed model, one file each."""
