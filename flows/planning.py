"""`labelscore run --plan`: what the run would do, without a server, a loaded model or a score."""

from flows.as_json import print_json
from flows.terminal import print_outlook, warn
from pipeline.checks import check_run
from pipeline.config import RunConfig


def plan_command(config: RunConfig, *, as_json: bool) -> int:
    """Show what there is to do. Raises what the run would raise before it loads the model."""
    check_run(config)  # told before torch is imported
    from pipeline.outlook import look_ahead

    outlook = look_ahead(config, warn)
    if as_json:
        print_json(outlook)
    else:
        print_outlook(outlook)
    return 0
