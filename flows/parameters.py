"""A configuration as the parameter of a flow run: Prefect takes so many bytes of it and no more."""

import json

from pipeline.config import RunConfig
from pipeline.errors import InputError

MAX_BYTES = 512 * 1024 - 1024  # Prefect's own limit by default, less what it wraps around the configuration


def fit_prefect(config: RunConfig) -> RunConfig:
    """What the run uses of the configuration. Raises InputError where that is more than Prefect takes."""
    config = config.used
    num_bytes = len(json.dumps(config.model_dump(mode="json")).encode())
    if num_bytes > MAX_BYTES:
        raise InputError(
            f"the configuration of this run has {num_bytes:,} bytes and Prefect takes {MAX_BYTES:,}; shorten its "
            "prompts, or split them over several runs"
        )
    return config
