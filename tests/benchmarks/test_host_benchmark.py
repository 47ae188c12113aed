"""The benchmark of the host runs the whole command with a device that sleeps, and each of its steps alone."""

import re
from pathlib import Path

import pytest

from tests.benchmarks import host
from tests.benchmarks.sleeping_device import SleepingDevice


def test_the_host_is_measured_beside_a_device_that_sleeps(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a few items: it has worked for as long as these take it, and no step holds the lock longer than it runs."""
    devices: list[SleepingDevice] = []

    def make(seconds_an_item: float) -> SleepingDevice:
        devices.append(SleepingDevice(seconds_an_item))
        return devices[-1]

    monkeypatch.setattr(host, "SleepingDevice", make)
    results = tmp_path / "RESULTS.md"
    host.main(["--items", "2000", "--rounds", "1", "--results", str(results)])
    (device,) = devices
    assert sum(end - begin for begin, end in device.spans) == pytest.approx(2_000 * host.SECONDS_AN_ITEM, rel=0.01)
    assert 0.1 < device.busy <= 1
    section = results.read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")]
    steps = {row[0].strip(): row[2:4] for row in rows}
    for step in ("encode", "plan", "lay out and send", "collect", "write"):
        in_all, held = map(float, steps[step])
        assert 0 < held <= in_all
    assert float(steps["encode"][1]) < float(steps["encode"][0])
    assert re.search(r"it was at work, over 2,000 items: \*\*\d", section)
