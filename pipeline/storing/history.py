"""The past of an output: a line for each finished run, prompt and rule.

Invariant: a run stands in it once, however often its report is made.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storing.files import Output
from pipeline.storing.layout import HISTORY, HISTORY_SCHEMA
from pipeline.storing.tables import read_table, write_table


def read_history(folder: Output) -> pa.Table:
    """The lines in a run's folder, its own the last; empty where there is no file. Raises ValueError for damage."""
    if not folder.exists(HISTORY):
        return HISTORY_SCHEMA.empty_table()
    try:
        return read_table(folder, HISTORY).select(HISTORY_SCHEMA.names).cast(HISTORY_SCHEMA)
    except KeyError as error:
        raise ValueError(f"{HISTORY}: a column is missing: {error}") from error


def write_history(folder: Output, past: pa.Table, rows: pa.Table) -> None:
    """Write the lines of the past and those of this run into its folder."""
    rows = rows.select(HISTORY_SCHEMA.names).cast(HISTORY_SCHEMA)
    past = past.filter(pc.invert(pc.is_in(past["run_id"], rows["run_id"].combine_chunks())))
    with folder.writing(HISTORY) as path:
        write_table(path, HISTORY_SCHEMA, [past, rows])
