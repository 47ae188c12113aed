"""Tasks of lm-evaluation-harness: its code builds the words and judges, ours scores."""
