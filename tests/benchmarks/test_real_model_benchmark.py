"""The benchmarks of a real model say what their figures say, shown on a toy model."""

from pathlib import Path

import polars as pl
import pytest

from pipeline.prompts import BUILT_IN
from pipeline.scoring.tokens import Encoder
from tests.benchmarks import gguf_memory, inputs, main_job, real_model


def answers(right: dict[str, int], num_items: int = 200) -> pl.DataFrame:
    """Predictions under `sum` of which the first so many are right, by prompt."""
    rows = [(item, prompt, "sum", item < num) for prompt, num in right.items() for item in range(num_items)]
    return pl.DataFrame(rows, ["item_id", "prompt", "rule", "correct"], orient="row")


def accuracies(topic: float, science: float) -> pl.DataFrame:
    """Under one other rule."""
    rows = [("topic", "batch", topic), ("topic-science", "batch", science)]
    return pl.DataFrame(rows, ["prompt", "rule", "value"], orient="row")


@pytest.mark.parametrize(
    ("topic", "science", "said", "verdict"),
    [
        (
            100,
            140,
            "gains 20.0 points (95 % interval +15.0 to +26.1",
            "with this model the notebook's conclusion is wrong",
        ),
        (140, 130, "loses 5.0 points (95 % interval -9.0 to -2.7", "it costs here, too, but not as much"),
        (140, 96, "loses 22.0 points", "it costs here, too, as much"),
        (180, 60, "loses 60.0 points", "it costs here, too, and more"),
        (100, 102, "gains 1.0 points", "that it costs or gains anything with this model is not established"),
        (100, 100, "changes nothing", "that it costs or gains anything with this model is not established"),
    ],
)
def test_the_main_job_concludes_from_its_figures(topic: int, science: int, said: str, verdict: str) -> None:
    """Which way the notebook's change went here, by how much, and whether that is established."""
    found = answers({"topic": topic, "topic-science": science})
    compared = main_job.compare_prompts(found, ["topic", "topic-science"])
    first, _, others = main_job.conclude(compared, accuracies(0.5, 0.4)).partition(" Under the other rules ")
    assert f"Here it {said}" in first
    assert first.endswith(f", 200 items): {verdict}.")
    assert others == "it is -10.0 (`batch`) to -10.0 points (`batch`)."


def test_the_main_job_says_what_other_rules_make_of_it() -> None:
    """The least and the most that the same change gains under them."""
    found = answers({"topic": 10, "topic-science": 20})
    compared = main_job.compare_prompts(found, ["topic", "topic-science"])
    others = pl.concat([accuracies(0.5, 0.4), accuracies(0.5, 0.75).with_columns(rule=pl.lit("pmi"))])
    said = main_job.conclude(compared, others)
    assert said.endswith("it is -10.0 (`batch`) to +25.0 points (`pmi`): its sign depends on the rule.")


def test_counts_that_are_too_far_from_the_independent_ones_end_the_main_job() -> None:
    """One more item than may differ, under one prompt."""
    counted = main_job.COUNTED["smollm2"]
    right = {prompt: num for (prompt, rule), num in counted.right.items() if rule == "sum"}
    found = answers(right, main_job.COUNTED_ITEMS)
    by_tokens = answers({"answer": counted.right["answer", "mean_token"] + counted.margin}, main_job.COUNTED_ITEMS)
    near = pl.concat([found, by_tokens.with_columns(rule=pl.lit("mean_token"))])
    assert "| `answer` | `mean_token` | 271 | 270 |" in main_job.held(near, "smollm2", 400)[0]
    far = near.with_columns(correct=pl.col("correct") | ((pl.col("prompt") == "topic") & (pl.col("item_id") < 221)))
    with pytest.raises(SystemExit, match="topic, sum: 221 of the first 400 right, counted independently 219"):
        main_job.held(far, "smollm2", 400)


def test_solved_examples_are_drawn_by_the_products_own_code(shared: Path) -> None:
    """Eight of the bundled sample, two of each class, the same for each prompt."""
    answer, topic = inputs.solved_prompts(["answer", "topic"], 8)
    assert [answer.examples.count(f"\nTopic:{words}\n") for words in answer.words] == [2] * 4
    assert topic.examples.count("What is the topic of the following article?") == 8


def test_few_items_stand_for_all_by_their_length(shared: Path) -> None:
    """None that is left out is closer to the mean than one that is taken."""
    items = Encoder(inputs.tiny_tokenizer(), BUILT_IN["answer"], context_tokens=2048).encode(inputs.texts(40))
    lengths = [len(item.prompt_ids) for item in items]
    away = [abs(length - sum(lengths) / len(lengths)) for length in lengths]
    places = real_model.about_average(items, 8)
    assert len(set(places)) == 8
    assert max(away[place] for place in places) <= min(away[place] for place in range(40) if place not in places)


@pytest.mark.bench
def test_a_real_model_side_by_side_writes_its_section(shared: Path, tmp_path: Path) -> None:
    """On a few items of a toy; a batch that does not fit is left out and named."""
    pytest.importorskip("lm_eval")
    results = tmp_path / "RESULTS.md"
    few = ["--items", "8", "--harness-items", "2", "--notebook-items", "1", "--rounds", "1"]
    sizes = ["--batch-sizes", "1", "4", "10000000"]
    model = str(shared / "models/agnews-tiny-gemma")
    real_model.main(["--model", model, *few, *sizes, "--shots", "0", "2", "--results", str(results)])
    text = results.read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert [row[:2] for row in rows] == [["`answer`", "0"], ["`topic`", "0"], ["`answer`", "2"], ["`topic`", "2"]]
    assert all(row[6].startswith("not run: needs ") for row in rows)
    assert all(float(row[-1]) < 1e-4 for row in rows)


def test_loading_a_gguf_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    """All weights are counted, and the peak holds at least the model."""
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    tiny = gguf_memory.write_llama(tmp_path / "tiny.gguf", **gguf_memory.TINY)
    file = gguf_memory.write_llama(tmp_path / "model.gguf", hidden=256, layers=3, vocabulary=20_000)
    loaded = gguf_memory.in_process(file, tiny, "bfloat16")
    layer = 4 * 256 * 256 + 3 * 256 * 704 + 2 * 256
    assert loaded.num_parameters == 20_000 * 256 + 3 * layer + 256
    assert loaded.model_bytes == 2 * loaded.num_parameters
    assert loaded.peak_bytes >= loaded.model_bytes
