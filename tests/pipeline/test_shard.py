"""A shard from its texts to the store; most of it is seen in whole runs (tests/flows)."""

from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from pipeline.config import RunConfig
from pipeline.errors import Interrupted
from pipeline.job import Job
from pipeline.shard import ShardScorer
from pipeline.storing.files import Output


def test_a_stop_is_honoured_while_texts_are_encoded(tmp_path: Path) -> None:
    """Before a first batch there may be many texts to encode: the stop waits for none but those at hand."""
    rows = tmp_path / "rows.parquet"
    texts = [f"{number} of words that go on " * 100 for number in range(1_500)]
    pl.DataFrame({"text": texts, "label": [number % 4 for number in range(1_500)]}).write_parquet(rows)
    config = RunConfig(dataset=str(rows), out=str(tmp_path / "out"), shard_size=1_500)
    output = Output(config.output)
    with output.lock(print):
        job = Job(config, output)
        planned = job.plan(job.pull())
        with closing(ShardScorer(planned.spec)) as scorer:
            with pytest.raises(Interrupted, match="while encoding"):
                scorer.score(planned.shards[0], lambda num: None, lambda: True)
            assert not scorer._scorer.counts.batches
