"""What the GPU benchmark found, in words and tables.

Invariant: every number and every verdict is made here from the figures of the calls; what was not measured is named.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.benchmarks.gpu_parts import KINDS
from tests.benchmarks.gpu_variants import Variant
from tests.benchmarks.gpu_work import WORKLOADS
from tests.benchmarks.results import number, table

TITLE = "GPU, Gemma-2B's shape"
SCRIPT = "python tests/benchmarks/gpu.py"

Figures = Mapping[str, Any]
CEILING = "32768"  # tokens a batch of the ceilings that shares are of
GIB = 2**30
OTHER = "other"
# Axis -> how its values are called.
AXES: dict[str, dict[Any, str]] = {
    "attention": {"shipped": "as shipped", "masks": "masks", "repeated": "repeated", "cascade": "merged"},
    "fused": {"eager": "eager", "leaves": "leaves", "layers": "layers", "whole": "whole body"},
    "linears": {"bf16": "bf16", "fp8 pytorch": "FP8 by PyTorch", "fp8": "FP8"},
    "tokens": {16_384: "16k", 32_768: "32k", 65_536: "64k"},
}
LEGEND = (
    "**items/s**: through the scorer, median of the rounds after the first two (of all if there are no more), each "
    "with items that were not scored before. **device**: batches laid out beforehand and queued one after the other: "
    "what the GPU could do if it were fed in time. **share**: of the bf16 limit. **first pass**: seconds for so many "
    "items after the set-up. **set-up**: scorer, compilation (by a cache that other variants may have filled) and the "
    "first six items. **difference**: largest, in nats, from one forward for each label with the same weights in the "
    "same dtype. *As shipped* attends without masks where the kernel takes it, repeats short prefixes and merges long "
    "ones, 32k tokens a batch, and compiles nothing, which it does for long runs (*compiled layers*). *Masks*: "
    "attention with masks everywhere. *Prefix repeated*, *merged*: all of them. *Compiled leaves*: MLPs and norms; "
    "*whole*: the whole body with attention left out. *FP8*: row-wise scales, with two Triton kernels or by PyTorch. "
    "**Busy**: seconds of kernels an item, from the profile, times items/s without it."
)


MASKED = (Variant(attention="masks"), Variant(attention="masks", cudnn=True))


def brief(name: str, found: Figures) -> str:
    """A line for the screen while a call runs."""
    wall = f"[{found['wall_seconds']:.0f} s]"
    if "failed" in found:
        return f"{name}: FAILED {found['failed']} {wall}"
    rates = ("items_per_second", "device_items_per_second", "first_seconds", "setup_seconds", "max_difference")
    shown: dict[str, Any] = {key: float(f"{found[key]:.4g}") for key in rates if key in found}
    if not shown:
        shown = {key: value for key, value in found.items() if key not in ("kernels", "flash schema", "varlen")}
    return f"{name}: {json.dumps(shown)[:900]} {wall}"


def render(calls: Sequence[Figures], names: Sequence[str], variants: Sequence[Variant]) -> str:
    """The section of the results. `names`: all measurements, those not made, too; `variants`: of the second call."""
    all_figures = {name: found for call in calls for name, found in call["figures"].items()}
    figures = {name: found for name, found in all_figures.items() if "failed" not in found}
    known = {variant.name: variant for variant in (Variant(), *MASKED, *variants)}
    measured = {known[name]: found for name, found in figures.items() if name in known}
    report = _Report(figures, measured)
    commands = ", ".join(f"`{call['command']}`" for call in calls)
    parts = [
        f"{report.machine()} Measured by {commands}.",
        report.goals(),
        LEGEND,
        report.variants("detailed"),
        report.axes(),
        report.workloads(),
        report.kinds(),
        report.whole(),
        report.accuracy(),
        report.host(),
        _missing(all_figures, names),
    ]
    return "\n\n".join(part for part in parts if part)


def _missing(figures: Figures, names: Sequence[str]) -> str:
    lines = [
        f"- {name}: {figures[name]['failed'] if name in figures else 'not run'}"
        for name in names
        if name not in figures or "failed" in figures[name]
    ]
    if not lines:
        return ""
    return "**Outstanding**, not measured or failed in these calls:\n\n" + "\n".join(lines)


class _Report:
    """The parts of the section; a part whose figures are missing is empty."""

    def __init__(self, figures: Figures, measured: Mapping[Variant, Figures]) -> None:
        self._figures, self._measured = figures, measured
        ceilings = figures.get("ceilings", {})
        self._bf16 = ceilings.get(f"bf16 {CEILING}", {}).get("flops_per_second")
        self._fp8 = ceilings.get(f"fp8 {CEILING}", {}).get("flops_per_second")

    def machine(self) -> str:
        lines = []
        if found := self._figures.get("environment"):
            enabled = [name for name, on in found.items() if name.endswith(" attention") and on is True]
            lines.append(f"{found.get('device', 'CPU')}, torch {found['torch']}, enabled: {', '.join(enabled)}.")
        if self._bf16:
            lines.append(
                f"Ceilings, the model's own matrix products sustained for 5 s at {int(CEILING):,} tokens: "
                f"**{self._bf16 / 1e12:.0f} TFLOP/s** in bf16"
                + (f", **{self._fp8 / 1e12:.0f}** in FP8 (row-wise scales)." if self._fp8 else ".")
            )
        if (shipped := self._measured.get(Variant())) and self._bf16:
            needed, executed = shipped["needed_flops"], shipped["executed_flops"]
            lines.append(
                f"`detailed` needs {needed / 1e9:.1f} GFLOP an item; {executed / 1e9:.1f} are executed, as the last "
                f"layer is done at the places that are read. Limit (needed FLOPs at the bf16 ceiling): "
                f"{self._bf16 / needed:,.0f} items/s."
            )
        if found := self._figures.get("tests"):
            lines.append(f"Tests marked `gpu`: {found['outcome']}.")
        if self._measured:
            rows = [variant.name for variant, found in self._measured.items() if found["path"] != "tree"]
            lines.append(f"Not scored over trees, by the self-check: {', '.join(rows) or 'none of the variants'}.")
        return " ".join(lines)

    def _rate(self, variant: Variant) -> float | None:
        found = self._measured.get(variant)
        return found and found["items_per_second"]

    def _best(self, *, fp8: bool) -> tuple[Variant, float] | None:
        """The fastest of the variants whose kernels were counted, too."""
        rates = [
            (variant, found["items_per_second"])
            for variant, found in self._measured.items()
            if f"profile: {variant.name}" in self._figures and (variant.linears != "bf16") == fp8
        ]
        return max(rates, key=lambda entry: entry[1], default=None)

    def _share(self, found: Figures) -> float | None:
        return self._bf16 and found["items_per_second"] * found["needed_flops"] / self._bf16

    def goals(self) -> str:
        """Each goal with what ships, the best in bf16 and the best in FP8."""
        ways = {"as shipped": (Variant(), self._rate(Variant()))}
        for name, fp8 in (("best bf16", False), ("best FP8", True)):
            best = self._best(fp8=fp8)
            if best is not None:
                ways[name] = best
        rows = []
        loop, batched = "the notebook's loop", "a batched loop, a row per label"
        sharing = "a batched loop, one-token labels share a row"
        goals = {
            "share of the bf16 limit (75 %; in FP8 100 %)": self._share_of_limit,
            f"times {loop} (150)": lambda way: self._times(way, loop),
            f"times {batched} (8)": lambda way: self._times(way, batched),
            f"times {sharing}": lambda way: self._times(way, sharing),
            "GPU busy with kernels (97 %)": self._busy,
        }
        for goal, of in goals.items():
            rows.append([goal, *(of(way) if rate else "-" for way, rate in ways.values())])
        rows.insert(0, ["items/s", *(number(rate) if rate else "-" for _, rate in ways.values())])
        bests = "; ".join(f"{name}: {way.name}" for name, (way, _) in ways.items() if name != "as shipped")
        return table(["goal", *ways], rows) + (f"\n\nThe {bests}." if bests else "")

    def _share_of_limit(self, way: Variant) -> str:
        share = self._share(self._measured[way])
        return "-" if share is None else f"{share:.0%}"

    def _times(self, way: Variant, loop: str) -> str:
        found, rate = self._figures.get(loop), self._rate(way)
        return "-" if found is None or rate is None else f"{rate / found['items_per_second']:.1f}"

    def _busy(self, way: Variant) -> str:
        """Seconds of kernels an item, from the profile, times items a second without it."""
        found, rate = self._figures.get(f"profile: {way.name}"), self._rate(way)
        return "-" if found is None or rate is None else f"{rate * found['kernel_seconds'] / found['items']:.0%}"

    def variants(self, workload: str) -> str:
        chosen = {v: f for v, f in self._measured.items() if v.workload == workload}
        rows = [self._row(variant, found) for variant, found in chosen.items()]
        rows.sort(key=lambda row: float(row[1].replace(",", "")))
        header = ["variant", "items/s", "device", "share", "rounds", "tokens a batch", "first pass, s", "set-up, s"]
        return table([*header, "peak GiB", "difference", "attention ran on"], rows)

    def _row(self, variant: Variant, found: Figures) -> list[str]:
        share = self._share(found)
        name = replace(variant, workload="detailed").name
        return [
            name,
            number(found["items_per_second"]),
            number(found["device_items_per_second"]),
            "-" if share is None else f"{share:.0%}",
            str(len(found["seconds"])),
            f"{found['tokens_per_batch']:,.0f}",
            f"{found['first_seconds']:.2f} ({found['first_items']:,})",
            f"{found['setup_seconds']:.1f}",
            f"{found['peak_bytes'] / GIB:.1f}",
            f"{found['max_difference']:.1e}",
            str(found["ran_on"]).replace(", compiled layers", ""),
        ]

    def axes(self) -> str:
        """Where variants differ in one axis alone: what each of its values gives, and the winner on the device."""
        rows = []
        for axis, values in AXES.items():
            groups: dict[Variant, dict[Any, Figures]] = {}
            for variant, found in self._measured.items():
                if variant.workload == "detailed" and not variant.cudnn and getattr(variant, axis) in values:
                    rest = replace(variant, **{axis: next(iter(values))})
                    groups.setdefault(rest, {})[getattr(variant, axis)] = found
            for rest, group in groups.items():
                if len(group) < 2:
                    continue
                measure = "device_items_per_second"
                ordered = sorted(group, key=lambda value: -group[value][measure])
                shown = ", ".join(f"{values[v]} {number(group[v][measure])}" for v in values if v in group)
                gain = group[ordered[0]][measure] / group[ordered[1]][measure] - 1
                rows.append([axis, _others(rest, axis), shown, values[ordered[0]], f"{gain:+.1%}"])
        if not rows:
            return ""
        rates = table(["axis", "with", "items/s", "winner", "over the next"], rows)
        return f"Axis by axis, the rest being equal: items/s of the device.\n\n{rates}"

    def workloads(self) -> str:
        parts = []
        for name, workload in WORKLOADS.items():
            chosen = {v: f for v, f in self._measured.items() if v.workload == name}
            if name == "detailed" or not chosen:
                continue
            needed = next(iter(chosen.values()))["needed_flops"]
            labels, prefix, published = workload.label_tokens, workload.prefix_tokens, ""
            if name == "300 tokens":
                published = " SGLang publishes 1,200 items/s for 300 tokens and 0.6 B parameters on an H100."
            parts.append(
                f"`{name}`: {workload.shape}'s shape, prefix of {prefix:,} tokens, {len(labels)} labels "
                f"of {_span(labels)} tokens, items of {workload.median:g} tokens (median); {needed / 1e9:.0f} needed "
                f"GFLOP an item.{published}\n\n{self.variants(name)}"
            )
        return "\n\n".join(parts)

    def kinds(self) -> str:
        """Milliseconds of kernels for 1,000 items, by kind."""
        profiles = {
            name.removeprefix("profile: "): found
            for name, found in self._figures.items()
            if name.startswith("profile: ")
        }
        if not profiles:
            return ""
        kinds = [kind for kind, _ in KINDS]
        rows = [
            [kind, *(f"{found['kinds'].get(kind, 0.0) / found['items'] * 1e6:.1f}" for found in profiles.values())]
            for kind in [*kinds, OTHER]
        ]
        totals = [f"{found['kernel_seconds'] / found['items'] * 1e6:.1f}" for found in profiles.values()]
        attention = [
            f"{name}: `{next((kernel for kernel, *_ in found['kernels'] if _is_attention(kernel)), '-')[:60]}`"
            for name, found in profiles.items()
        ]
        return (
            "Kernels, milliseconds for 1,000 items, by kind (the two Triton kernels for FP8 are among the others).\n\n"
            + table(["kind", *profiles], [*rows, ["all", *totals]])
            + "\n\nThe kernel that did attention: "
            + "; ".join(attention)
            + "."
        )

    def whole(self) -> str:
        rows = [
            [
                name.removeprefix("texts: "),
                f"{found['texts']:,}",
                number(found["items_per_second"]),
                f"{found['tokens_per_item']:.1f}",
                f"{found['load_seconds']:.1f}",
            ]
            for name, found in self._figures.items()
            if name.startswith("texts: ")
        ]
        loops = {
            name: self._figures[name]["items_per_second"]
            for name in self._figures
            if name.endswith("loop") or "batched loop" in name
        }
        if not rows and not loops:
            return ""
        shown = ", ".join(f"{name} {number(rate)}" for name, rate in loops.items())
        return (
            "From a file of texts to Parquet parts on disk, through `ShardScorer`, `detailed` over AG News' test rows "
            "(with a running number beyond 7,600), shards of 8,000, encoding and writing included; loading and set-up "
            "apart.\n\n"
            + table(["way", "texts", "texts/s", "tokens a text", "load and set-up, s"], rows)
            + (f"\n\nItems/s of what we are compared with: {shown}." if shown else "")
        )

    def accuracy(self) -> str:
        found = self._figures.get("accuracy")
        if found is None:
            return ""
        what = {"random": "Gemma-2B's shape, random weights", "trained": "a trained model, real rows, prompt `answer`"}
        rows = []
        for kind, dtypes in _dicts(found).items():
            for dtype, result in dtypes.items():
                right = f"{result['accuracy']:.2%}" if "accuracy" in result else "-"
                gaps = ["-", "-", "-"]
                if "same_predictions" in result:
                    gaps = [f"{result[key]:.3f}" for key in ("max_difference", "mean_difference")]
                    gaps.append(f"{result['same_predictions']:.2%}")
                rows.append([what[kind], f"{result['items']:,}", dtype, *gaps, right])
        header = ["model", "items", "dtype", "largest difference", "mean difference", "same predictions", "accuracy"]
        return "Beside float32 of the same weights, in nats.\n\n" + table(header, rows)

    def host(self) -> str:
        found = self._figures.get("host")
        if found is None:
            return ""
        alone = number(found["microseconds_an_item"])
        line = f"Host, microseconds an item in one thread: the scorer with a forward that takes no time {alone}"
        if encoding := self._figures.get("encoding"):
            line += f"; encoding {number(encoding['microseconds_an_item'])}"
        return line + "."


def _span(sizes: Sequence[int]) -> str:
    return f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"


def _dicts(found: Figures) -> dict[str, Figures]:
    return {name: each for name, each in found.items() if isinstance(each, dict)}


def _others(variant: Variant, axis: str) -> str:
    """What the variants of a group have in common."""
    shown = [AXES[each][getattr(variant, each)] for each in AXES if each != axis]
    return ", ".join(shown)


def _is_attention(kernel: str) -> bool:
    return any(part in kernel for part in ("flash", "fmha", "sdpa"))
