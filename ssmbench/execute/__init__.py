"""Runs a plan: attempts of cells, here or on Ray, retried by the class of their error."""
