"""The store's memory does not grow with the number of items."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.storing.stored import ROOT

WHOLE_RUN = """
import resource, sys
from tests.pipeline.storing.stored import *
num_items = int(sys.argv[2])
out, print_ = Output(sys.argv[1]), fingerprint()
schema = pa.schema({"item_id": pa.int64(), "text": pa.string(), "gold_id": pa.int16(), "text_hash": pa.string()})
with out.lock(print), pq.ParquetWriter(out.work / "items.parquet", schema) as writer:
    for start in range(0, num_items, 4000):
        texts = [f"item {i} " + "of some two hundred and fifty letters " * 6 for i in range(start, start + 4000)]
        ids = list(range(start, start + 4000))
        writer.write_table(pa.table([ids, texts, [0] * 4000, [hash_text(t) for t in texts]], schema=schema))
    writer.close()
    items, store = out.work / "items.parquet", open_store(out)
    pending = store.pending(items, wanted(), extra_texts=PRIORS)
    for batch in pq.ParquetFile(pending.path).iter_batches(1000, columns=["text_hash"], use_threads=False):
        rows = scored(["0" * 64], print_).take(pa.array([0, 1, 2, 3] * batch.num_rows))
        hashes = batch["text_hash"].take(pa.array([i // 4 for i in range(4 * batch.num_rows)]))
        store.writer(wanted()).append(rows.set_column(0, "text_hash", hashes))
    store.refresh()
    assert store.pending(items, wanted(), extra_texts=PRIORS).num_missing == 0
    write_tables(out, store, items, PRIORS, notebook=False)
assert pq.read_metadata(out.path("scores/scores.parquet")).num_rows == 4 * num_items
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_megabytes(folder: Path, num_items: int) -> int:
    command = [sys.executable, "-c", WHOLE_RUN, str(folder), str(num_items)]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'pipeline'}"}
    return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_thirty_times_the_items_take_no_more_memory(tmp_path: Path) -> None:
    """Pending, appending and publishing 120,000 items peak at most 60 MB above 4,000: a tenth of a run with a model."""
    few, many = (peak_megabytes(tmp_path / str(n), n) for n in (4_000, 120_000))
    assert many - few < 60, (few, many)
