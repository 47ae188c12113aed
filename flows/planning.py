"""`labelscore run --plan`: what the run would do, without a server, a loaded model or a score."""

import signal

from flows.as_json import print_json
from flows.ray_cluster import check_cluster
from flows.server import fit_prefect
from flows.terminal import print_outlook, warn
from pipeline.checks import check_run
from pipeline.config import RunConfig


def plan_command(config: RunConfig, *, as_json: bool) -> int:
    """Show what there is to do. Raises what the run would raise before it loads the model."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made to look is taken away then, too
    fitted = fit_prefect(config)
    check_cluster()
    check_run(fitted)  # told before torch is imported
    from pipeline.outlook import look_ahead

    outlook = look_ahead(fitted, warn)
    if as_json:
        print_json(outlook)
    else:
        print_outlook(outlook)
    return 0
