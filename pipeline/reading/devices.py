"""Where a model runs, and the number format it computes in.

Invariant: torch is imported only where it must be asked, and what it does not have here is an error, never a fallback.
"""

import re

from pipeline.errors import InputError

# What torch calls its kinds of devices, so that a slip is told before it is imported; npu is of a package beside it.
KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia", "maia", "xla", "privateuseone")
NAME = rf"^(auto|({'|'.join(KINDS)})(:\d+)?)$"  # as forms check it
DTYPES = ("auto", "float32", "bfloat16", "float16", "fp8")
USE = "use auto, cpu, cuda, cuda:1, mps, xpu or another kind that torch has"


def check_device(name: str) -> str:
    """A device as it may be named. Raises ValueError."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"unknown device '{name}'; {USE}")
    return name


def kind_of(device: str) -> str:
    """Of which kind it is, such as cuda for cuda:1."""
    return device.partition(":")[0]


def resolve_device(name: str) -> str:
    """The device that is meant: "auto" is this machine's accelerator, else its CPU.

    Raises InputError for one that torch does not know or does not have here.
    """
    try:
        check_device(name)
    except ValueError as error:
        raise InputError(str(error)) from None
    if kind_of(name) == "cpu":
        return "cpu"
    import torch

    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return there.type if there else "cpu"
    kind, _, number = name.partition(":")
    if there is None or there.type != kind:
        has = f"{there.type} and cpu" if there else "cpu alone"
        raise InputError(
            f"device {name}: torch {torch.__version__} finds no such device here, but {has}; use --device auto, or a "
            "torch that is built for it"
        )
    if number and int(number) >= (num := torch.accelerator.device_count()):
        raise InputError(f"device {name}: there {'is' if num == 1 else 'are'} {num} here, counted from 0")
    return name


def resolve_dtype(name: str, device: str) -> str:
    """The dtype that is meant; "auto" is what suits a device that `resolve_device` gave.

    Raises InputError for an unknown one, and for FP8 where the device does not compute in it.
    """
    if name not in DTYPES:
        raise InputError(f"unknown dtype '{name}'; use one of {', '.join(DTYPES)}")
    if name == "fp8":
        check_fp8(device)
    return suited_dtype(device) if name == "auto" else name


def check_fp8(device: str) -> None:
    """Raise InputError for a device that does not compute in FP8; on a CPU it is emulated."""
    kind = kind_of(device)
    if kind == "cuda":
        import torch

        found = torch.cuda.get_device_capability(device)
        if found < (8, 9):
            raise InputError(
                f"--dtype fp8: {device} has compute capability {found[0]}.{found[1]}, and FP8 takes 8.9 or more (L4, "
                "L40, RTX 40, H100 and later); use --dtype auto or bfloat16"
            )
    elif kind != "cpu":
        raise InputError(f"--dtype fp8: only cuda computes in FP8 (a cpu emulates it), not {device}; use --dtype auto")


def suited_dtype(device: str) -> str:
    """What "auto" means there.

    A CPU is mostly slower in fewer bits. NVIDIA's GPUs have no bfloat16 before compute capability 8 (a T4 has 7.5), and
    not all of Apple's have it.
    """
    kind = kind_of(device)
    if kind == "cpu":
        return "float32"
    if kind == "mps":
        return "float16"
    if kind == "cuda":
        import torch

        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16"
