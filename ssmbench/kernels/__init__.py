"""The operations that state-space models are made of: each a naive reference and a fast form.

Every function takes and returns plain tensors, continues from a state, and gives one back.
"""
