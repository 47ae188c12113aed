"""Choosing among prompts and rules with an error bound, while scoring only what that takes."""
