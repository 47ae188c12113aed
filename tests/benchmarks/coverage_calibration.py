"""The calibration error that calibrated models are said to show, against models that are calibrated.

Invariant: confidences are drawn anew for each data set, and each item is right with its confidence; the errors are
those of `calibration.reliability_table`: 15 bins of equal width, weighted by their items.
"""

from collections.abc import Callable

import numpy as np

from pipeline.reporting.calibration import NUM_BINS
from pipeline.reporting.stats import calibrated_errors

Shape = tuple[int, int]  # data sets, items

# How sure a model is, among four classes: confidences between 1/4 and 1.
CONFIDENCES: dict[str, Callable[[np.random.Generator, Shape], np.ndarray]] = {
    "unsure: 25 to 60 %": lambda rng, shape: 0.25 + 0.35 * rng.beta(2, 3, shape),
    "spread over 25 to 100 %": lambda rng, shape: 0.25 + 0.75 * rng.beta(2, 1.2, shape),
    "sure: half of them above 95 %": lambda rng, shape: 0.25 + 0.75 * rng.beta(6, 0.5, shape),
    "saturated: half of them above 99.9 %": lambda rng, shape: 1 - 0.75 * rng.beta(0.1, 2.5, shape),
}


def errors_of(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The expected calibration error of each data set (sets, items)."""
    return np.abs(binned(confidence, right - confidence)).sum(axis=1) / confidence.shape[1]


def binned(confidence: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(sets, bins): sums of `values` by the bin of their confidence, which is (low, high]."""
    sets = len(confidence)
    number = np.clip(np.ceil(confidence * NUM_BINS), 1, NUM_BINS).astype(np.int64) - 1
    number += NUM_BINS * np.arange(sets)[:, None]
    return np.bincount(number.ravel(), values.ravel(), sets * NUM_BINS).reshape(sets, NUM_BINS)


def draw_errors(name: str, num_items: int, num_sets: int, seed: int = 0) -> tuple[float, float, float]:
    """Mean error drawn, mean that is printed, and the share of calibrated models above the end that is printed."""
    rng = np.random.default_rng(seed)
    confidence = CONFIDENCES[name](rng, (num_sets, num_items))
    errors = errors_of(confidence, rng.random(confidence.shape) < confidence)
    deviations = np.sqrt(binned(confidence, confidence * (1 - confidence)))
    mean, high = calibrated_errors(deviations, np.full(num_sets, num_items))
    return float(errors.mean()), float(mean.mean()), float((errors > high).mean())
