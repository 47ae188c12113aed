"""Loading one rank's slice of a model: transformers' tensor parallelism, by the plan that comes with the model.

Invariant: only models are taken whose scores in slices the tests compare with those of the whole one. A model's check
of itself cannot tell here, as its plain forwards go through the same slices.
"""

import socket
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, LabelscoreError, RunError
from pipeline.reading.architecture import auto_class, load_config
from pipeline.reading.formats import one_line
from pipeline.reading.gguf_file import is_gguf
from pipeline.reading.loading import keep_soft_cap
from pipeline.reading.model_files import is_consolidated, list_files, loaded_files
from pipeline.reading.model_ref import ModelRef
from pipeline.reading.quiet import quiet
from pipeline.reading.weight_keys import check_keys, list_tensors

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

TYPES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
KEY_PROJECTIONS = ("k_proj", "v_proj")


def check_slices(ref: ModelRef, num_ranks: int) -> None:
    """Raise InputError where a model cannot be cut into so many slices, or it is not known that they score right."""
    instead = "leave out --tensor-parallel, or choose another model"
    if ref.device not in ("cpu", "cuda"):
        raise InputError(
            f"device {ref.device}: slices are on the first {num_ranks} GPUs of CUDA, or on CPUs; use --device cuda, cpu"
        )
    if is_gguf(ref.path) or ref.adapter is not None:
        what = "a GGUF file" if is_gguf(ref.path) else "an adapter"
        raise InputError(f"{ref.name}: {what} cannot be loaded in slices; {instead}")
    if ref.dtype == "fp8":
        raise InputError(f"{ref.name}: --dtype fp8 is for models on one device; leave it or --tensor-parallel out")
    config = load_config(ref.path, ref.name, ref.trust_remote_code)
    if config.model_type not in TYPES or not config.base_model_tp_plan:
        raise InputError(
            f"{ref.name}: models of the type {config.model_type} are not loaded in slices ({', '.join(TYPES)} are); "
            f"{instead}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{ref.name}: quantised weights are not loaded in slices; {instead}")
    if is_consolidated(loaded_files(ref.path, ref.name)) or any(n.startswith("shard-") for n in list_files(ref.path)):
        raise InputError(f"{ref.name}: weights in this layout are not loaded in slices; {instead}")
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % num_ranks or (key_heads % num_ranks and key_heads != 1):
        raise InputError(
            f"{ref.name}: {heads} attention heads with {key_heads} key-value heads cannot be cut into {num_ranks} "
            "slices; choose a --tensor-parallel that divides both"
        )
    sizes = {"intermediate_size": config.intermediate_size, "vocab_size": config.vocab_size}
    if uneven := [f"{name} {size}" for name, size in sizes.items() if size % num_ranks]:
        raise InputError(
            f"{ref.name}: its {uneven[0]} cannot be cut into {num_ranks} slices of one size; choose a "
            "--tensor-parallel that divides it"
        )


def check_gpus(ref: ModelRef, num_ranks: int) -> None:
    """Raise InputError where this process sees fewer GPUs than slices, or transformers would take other devices."""
    import torch

    if ref.device == "cpu" and torch.accelerator.is_available():
        there = torch.accelerator.current_accelerator()
        if there is not None and there.type not in ("cuda", "mps"):
            raise InputError(
                f"--tensor-parallel {num_ranks}: slices would be put on {there.type} here, on which nobody has "
                "tried them; leave it out"
            )
    if ref.device == "cuda" and (num_gpus := torch.cuda.device_count()) < num_ranks:
        raise InputError(
            f"--tensor-parallel {num_ranks} needs as many GPUs on {socket.gethostname()}, which has {num_gpus}; choose "
            "a smaller number, or a smaller model"
        )


@quiet()
def load_slice(ref: ModelRef, num_ranks: int) -> "PreTrainedModel":
    """This rank's slice of a model that `check_slices` takes, in eval mode, on this rank's device.

    All ranks call this, as what goes before the first forward is done together. Raises as `load_model` does.
    """
    import torch
    from transformers.distributed.configuration_utils import DistributedConfig

    config = load_config(ref.path, ref.name, ref.trust_remote_code)
    replicates = keep_keys_whole(config, num_ranks)
    try:
        model, info = auto_class(config).from_pretrained(
            ref.path,
            config=config,
            distributed_config=DistributedConfig(tp_size=num_ranks),
            dtype=getattr(torch, ref.dtype),
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # so that they are named in one line
            output_loading_info=True,
        )
        check_keys(model, info, list_tensors(ref.path, loaded_files(ref.path, ref.name), ref.name), ref.name)
    except (torch.OutOfMemoryError, MemoryError):
        raise RunError(
            f"{ref.name}: not enough memory on {ref.device} for one of {num_ranks} slices in {ref.dtype}"
        ) from None
    except LabelscoreError:
        raise
    except Exception as error:
        raise InputError(f"{ref.name}: the model in {ref.path} cannot be loaded ({one_line(error)})") from None
    if replicates:
        for module in model.modules():
            if hasattr(module, "num_key_value_groups"):
                module.num_key_value_groups //= num_ranks  # of this rank's heads
    keep_soft_cap(model)
    sliced: PreTrainedModel = model.eval()
    return sliced


def keep_keys_whole(config: "PretrainedConfig", num_ranks: int) -> bool:
    """Have every rank keep the one key-value head that all heads share, if there is no more than one."""
    if config.num_key_value_heads % num_ranks == 0:
        return False
    plan: dict[str, Any] = config.base_model_tp_plan or {}
    kept = {name: style for name, style in plan.items() if name.rpartition(".")[2] not in KEY_PROJECTIONS}
    config.base_model_tp_plan = kept  # type: ignore[misc]  # of this configuration alone, not of its class
    return True
