"""Loading a GGUF: the most memory that it takes over the model's own size, and seconds.

Invariant: each file is loaded in a process of its own, which has read another, tiny GGUF before, so that libraries and
classes are not counted; the peak is the system's own, and the pages of the mapped file are in it.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.reading.model import load_model, resolve_model
from pipeline.smollm2 import find_smollm2
from tests.benchmarks.results import RESULTS, command_line, table, write_section

TITLE = "Memory of loading a GGUF, CPU"
COMMAND = "python -m tests.benchmarks.gguf_memory"
GOAL = 1.5
DTYPES = ("float32", "bfloat16")
TINY = {"hidden": 64, "layers": 1}
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Loaded:
    """model_bytes: parameters in their dtype, tied ones once. peak_bytes: above what the process had before.

    mapped_bytes: of these pages of the file, which the system may take back at any time.
    """

    num_parameters: int
    model_bytes: int
    peak_bytes: int
    mapped_bytes: int
    seconds: float

    @property
    def own_bytes(self) -> int:
        """The peak without the file's pages, if all of them were there at that moment."""
        return self.peak_bytes - self.mapped_bytes


def write_llama(path: Path, *, hidden: int, layers: int, vocabulary: int = 49_152) -> Path:
    """A random Llama with tied embeddings as Q8_0, its norms in float32, with a vocabulary of made-up words."""
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    kind, generator = GGMLQuantizationType.Q8_0, np.random.default_rng(0)
    writer, inner = GGUFWriter(path, "llama"), 11 * hidden // 128 * 32
    writer.add_context_length(2048)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(hidden // 64)
    writer.add_head_count_kv(hidden // 64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"t{number}" for number in range(vocabulary)])
    writer.add_token_merges(["t 0"])

    def add(name: str, rows: int, columns: int = hidden) -> None:
        values = generator.normal(0, 0.02, (rows, columns)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)

    add("token_embd", vocabulary)
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for block in (f"blk.{layer}" for layer in range(layers)):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}", hidden)
        for name in ("ffn_gate", "ffn_up"):
            add(f"{block}.{name}", inner)
        add(f"{block}.ffn_down", hidden, inner)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}.{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(file: Path, tiny: Path, dtype: str) -> Loaded:
    """What loading the file takes in this process."""
    load_model(resolve_model(tiny, device="cpu", dtype=dtype))
    before, mapped = _status("VmRSS"), _status("RssFile")
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is counted anew
    start = time.perf_counter()
    model = load_model(resolve_model(file, device="cpu", dtype=dtype))
    seconds = time.perf_counter() - start
    parameters = list(model.parameters())
    size = sum(each.numel() * each.element_size() for each in parameters)
    peak, mapped = _status("VmHWM") - before, _status("RssFile") - mapped
    return Loaded(sum(each.numel() for each in parameters), size, peak, mapped, seconds)


def _status(name: str) -> int:
    """Bytes, as Linux tells them of this process."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=1024, help="of the random Llama, a multiple of 64")
    parser.add_argument("--layers", type=int, default=27)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_llama(Path(folder) / "tiny.gguf", **TINY)
        random = write_llama(Path(folder) / "random.gguf", hidden=options.hidden, layers=options.layers)
        rows = []
        for name, file in (("SmolLM2-135M-Instruct, Q4_1", find_smollm2()), ("random Llama, Q8_0", random)):
            for dtype in DTYPES:
                rows.append(_row(name, file, dtype, in_process(file, tiny, dtype)))
                print(rows[-1], flush=True)
    header = [
        "model",
        "file, MiB",
        "dtype",
        "parameters, M",
        "model, MiB",
        "peak, MiB",
        "peak / model",
        "without the file's pages",
        "seconds",
    ]
    body = (
        "Resolving and loading, file's hash included, each in a process that has loaded a tiny GGUF of a Llama before. "
        "Peak: resident memory at its most, above what the process had then; in it are pages of the mapped file, which "
        f"the system may take back at any time. Goal: at most {GOAL} times the model in its dtype.\n\n"
    )
    write_section(TITLE, command_line(COMMAND, parser, options), body + table(header, rows), options.results)


def in_process(file: Path, tiny: Path, dtype: str) -> Loaded:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(load, file, tiny, dtype).result()


def _row(name: str, file: Path, dtype: str, loaded: Loaded) -> list[object]:
    row: list[object] = [name, f"{file.stat().st_size / MIB:,.0f}", dtype, f"{loaded.num_parameters / 1e6:,.1f}"]
    row += [f"{loaded.model_bytes / MIB:,.0f}", f"{loaded.peak_bytes / MIB:,.0f}"]
    row += [f"{num_bytes / loaded.model_bytes:.2f}" for num_bytes in (loaded.peak_bytes, loaded.own_bytes)]
    return [*row, f"{loaded.seconds:.1f}"]


if __name__ == "__main__":
    main()
