"""Label scores from token sequences; needs torch and transformers and nothing else."""
