"""Devices and dtypes: what torch has here is found, and nothing else passes for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from pipeline.reading.devices import DTYPES, kind_of, resolve_device, resolve_dtype
from tests.pipeline.reading.tiny import save_llama


class Accelerator:
    """What torch says where it has so many devices of a kind; only the questions are pretended, nothing runs there."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind, self.number = kind, number

    def is_available(self) -> bool:
        return self.number > 0

    def current_accelerator(self) -> torch.device | None:
        return torch.device(self.kind) if self.number else None

    def device_count(self) -> int:
        return self.number


def has(monkeypatch: pytest.MonkeyPatch, kind: str, number: int, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch, "accelerator", Accelerator(kind, number))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu", "hpu"])
def test_auto_is_the_accelerator_that_torch_has(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """And each of them by its number; else the CPU, in float32."""
    has(monkeypatch, kind, 2)
    assert (resolve_device("auto"), resolve_device(kind), resolve_device(f"{kind}:1")) == (kind, kind, f"{kind}:1")
    assert resolve_device("cpu") == resolve_device("cpu:0") == "cpu"
    assert kind_of(f"{kind}:1") == kind
    has(monkeypatch, kind, 0)
    assert (resolve_device("auto"), resolve_dtype("auto", "cpu")) == ("cpu", "float32")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "unknown device 'gpu'; use auto, cpu, cuda"),
        ("CUDA", "unknown device 'CUDA'"),
        ("cuda:", "unknown device 'cuda:'"),
        ("cuda:x", "unknown device 'cuda:x'"),
        ("meta", "unknown device 'meta'"),
        ("", "unknown device ''"),
        ("cuda:2", "device cuda:2: there are 2 here, counted from 0"),
        ("mps", "device mps: torch .* finds no such device here, but cuda and cpu"),
    ],
)
def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, device: str, words: str) -> None:
    """A slip, a number that is too high, and a kind that this machine lacks."""
    has(monkeypatch, "cuda", 2)
    with pytest.raises(InputError, match=words):
        resolve_device(device)


@pytest.mark.parametrize(
    ("kind", "capability", "dtype"),
    [
        ("cuda", (7, 5), "float16"),  # a T4
        ("cuda", (8, 0), "bfloat16"),  # an A100
        ("cuda", (9, 0), "bfloat16"),
        ("mps", (0, 0), "float16"),
        ("xpu", (0, 0), "bfloat16"),
    ],
)
def test_auto_is_a_dtype_that_the_device_computes_in(
    monkeypatch: pytest.MonkeyPatch, kind: str, capability: tuple[int, int], dtype: str
) -> None:
    """And whoever names one gets it, wherever that is."""
    has(monkeypatch, kind, 1, capability)
    assert resolve_dtype("auto", kind) == dtype
    assert all(resolve_dtype(name, kind) == name for name in DTYPES if name not in ("auto", "fp8"))
    with pytest.raises(InputError, match="unknown dtype 'half'; use one of auto, float32, bfloat16, float16"):
        resolve_dtype("half", kind)


@pytest.mark.parametrize(
    ("device", "capability", "words"),
    [
        ("cpu", (0, 0), None),
        ("cuda", (8, 9), None),  # an L4
        ("cuda:1", (9, 0), None),
        (
            "cuda:1",
            (8, 0),
            "cuda:1 has compute capability 8.0, and FP8 takes 8.9 or more .* use --dtype auto or bfloat16",
        ),
        ("cuda", (7, 5), "cuda has compute capability 7.5, and FP8 takes 8.9 or more"),
        ("mps", (0, 0), r"only cuda computes in FP8 \(a cpu emulates it\), not mps; use --dtype auto"),
    ],
)
def test_fp8_is_for_devices_that_have_it(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: tuple[int, int], words: str | None
) -> None:
    """Elsewhere one line says what to write; `auto` never takes it."""
    has(monkeypatch, kind_of(device), 2, capability)
    assert resolve_dtype("auto", device) != "fp8"
    if words is None:
        assert resolve_dtype("fp8", device) == "fp8"
        return
    with pytest.raises(InputError, match=f"--dtype fp8: {words}"):
        resolve_dtype("fp8", device)


LOAD = """
import re, sys, threading
from dataclasses import replace
from pathlib import Path
from pipeline.reading.model import load_model, resolve_model

def own():  # kB, without pages of the mapped file, which are the system's to take back
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

load_model(resolve_model(Path(sys.argv[1]), device="cpu"))  # the libraries, and one model of the class
ref = replace(resolve_model(Path(sys.argv[2]), device="cpu", dtype="bfloat16"), device=sys.argv[3])
before, peak, done = own(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, own())

watching = threading.Thread(target=watch)
watching.start()
model = load_model(ref)
done.set()
watching.join()
print(max(peak, own()) - before, next(model.parameters()).device.type)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process what memory it has")
def test_weights_go_to_their_device_without_a_copy_of_the_model_beside(tmp_path: Path) -> None:
    """For a device whose memory is not the host's (here one that keeps nothing) the host holds a tensor at a time."""
    tiny = save_llama(tmp_path / "tiny")
    large = save_llama(tmp_path / "large", hidden_size=512, intermediate_size=2048, num_hidden_layers=24)
    size = (large / "model.safetensors").stat().st_size // 2048  # in kB, in bfloat16

    def peak(device: str) -> int:
        command = [sys.executable, "-c", LOAD, str(tiny), str(large), device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        num_kb, kind = done.stdout.split()
        assert kind == device
        return int(num_kb)

    assert size > 150_000
    assert peak("cpu") > 0.9 * size
    assert peak("meta") < 0.4 * size
