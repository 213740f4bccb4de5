"""Export a model to ONNX, the format that other runtimes read: a browser's, for instance.

    minisd export onnx --model mini --out mini-onnx --weights fp16

The folder has the layout and the input names of Hugging Face's optimum: `text_encoder/`, `unet/`, `vae_encoder/` and
`vae_decoder/`, each with a `model.onnx` and its `config.json`; the tokenizer, the scheduler and `model_index.json` are
as in a diffusers folder. Needs onnx, onnxruntime and onnxscript, the extra `export`.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from minisd.checkpoint import index_of
from minisd.network import Network
from minisd.saving import atomic_folder, check_files

if TYPE_CHECKING:
    from minisd.pipeline import StableDiffusion

# How weights can be stored, and the largest difference from PyTorch that this can explain, as a share of the largest
# value. Whatever the storage, the computation is in float32.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.3}
LAYERS = {"Conv", "Gather", "Gemm", "MatMul"}  # whose weights are stored so
PARTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
ONE_FILE = 1_900_000_000  # bytes; ONNX files end at 2 GiB, beyond which the weights lie in a file beside them


class Part(NamedTuple):
    """One ONNX file to write: its folder, its network, and how it is called."""

    name: str
    network: Network
    module: nn.Module
    inputs: dict[str, Tensor]  # an example
    dynamic: dict[str, dict[int, Any]]  # which of an input's dimensions may change
    outputs: list[str]


def to_onnx(sd: "StableDiffusion", folder: str | Path, weights: str = "fp16", attention: bool = False,
            progress: bool = True) -> dict[str, float]:
    """Write the four networks as ONNX files, and compare each with PyTorch in onnxruntime.

    The networks take any batch and any size, and compute in float32.

    Args:
        weights: how they are stored: "fp32"; "fp16", in half the space; or "int8", in a quarter, with a scale for each
            output channel.
        attention: give the U-Net an additional output for each cross-attention layer, `attention.<layer>`: how strongly
            each of the h·w positions attends to each token, averaged over the heads, (B, h·w, tokens).

    Returns:
        For each network, the largest difference from PyTorch, as a share of the largest value.

    Raises:
        ImportError: the packages that this needs are not installed.
        ValueError: an unknown kind of weights, or an exported network that computes something else.
    """
    if weights not in TOLERANCE:
        raise ValueError(f"weights={weights!r}; it must be {', '.join(map(repr, TOLERANCE))}")
    try:
        import onnx_ir
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the export to ONNX needs {error.name}: pip install onnx onnxruntime onnxscript") from None
    check_out(folder)
    differences = {}
    with atomic_folder(folder) as new:
        for part in tqdm(parts_of(sd, attention), desc="export", disable=not progress):
            path = new / part.name / "model.onnx"
            path.parent.mkdir()
            model = traced(part)
            store_weights(model, weights)
            large = model_bytes(model) > ONE_FILE
            onnx_ir.save(model, path, external_data="model.onnx_data" if large else None)
            config = part.network.CLASS_NAME | part.network.config.to_dict()
            (path.parent / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            differences[part.name] = compared(part, path, weights)
        sd.tokenizer.save_pretrained(new / "tokenizer")
        sd.scheduler.save_pretrained(new / "scheduler")
        (new / "model_index.json").write_text(json.dumps(onnx_index(sd), indent=2) + "\n")
    return differences


def check_out(folder: str | Path) -> None:
    """Raise an OSError if the files cannot be written into a folder, which need not exist yet."""
    check_files([Path(folder).expanduser() / name / "model.onnx" for name in PARTS])


def onnx_index(sd: "StableDiffusion") -> dict[str, Any]:
    """`model_index.json` for a folder with four ONNX files."""
    index = index_of(sd)
    del index["vae"]
    runtime = ["diffusers", "OnnxRuntimeModel"]
    return index | {name: runtime for name in PARTS}


# --- the networks, as graphs see them -------------------------------------------------------------------------


class EncodeText(nn.Module):
    def __init__(self, text_encoder: nn.Module):
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.text_encoder(input_ids.long())


class PredictNoise(nn.Module):
    """The U-Net, and the maps of its cross-attention layers, if wanted."""

    def __init__(self, unet: nn.Module, attention: bool):
        super().__init__()
        self.unet, self.attention = unet, attention

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, ...]:
        if not self.attention:
            return (self.unet(sample, timestep, encoder_hidden_states),)
        with self.unet.record_attention() as maps:
            noise = self.unet(sample, timestep, encoder_hidden_states)
        return (noise, *(first.mean(dim=1) for first, in maps.values()))  # over the heads


class EncodeImage(nn.Module):
    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        posterior = self.vae.encode(sample)
        return torch.cat([posterior.mean, posterior.log_variance], dim=1)


class DecodeLatents(nn.Module):
    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        return self.vae.decode(latent_sample)


def parts_of(sd: "StableDiffusion", attention: bool) -> list[Part]:
    """The four parts, in float32, with examples of their inputs. All sizes differ: none can be taken for another."""
    text_encoder, unet, vae = in_float32(sd.text_encoder), in_float32(sd.unet), in_float32(sd.vae)
    side = unet.config.sample_size
    height, width, scale = side, side + 2 ** (len(unet.config.block_out_channels) - 1), vae.downscale
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    free = torch.export.Dim.DYNAMIC
    batch, area = {0: free}, {0: free, 2: free, 3: free}
    context = text_encoder(sd.tokenizer(["", "a red apple on a blue background"]))
    maps = [f"attention.{name}" for name in cross_attention_layers(unet)] if attention else []
    return [
        Part("text_encoder", text_encoder, EncodeText(text_encoder),
             {"input_ids": sd.tokenizer(["", "a red apple"]).int()}, {"input_ids": batch}, ["last_hidden_state"]),
        Part("unet", unet, PredictNoise(unet, attention),
             {"sample": noise(2, unet.config.in_channels, height, width), "timestep": torch.tensor(500.0),
              "encoder_hidden_states": context},
             {"sample": area, "timestep": {}, "encoder_hidden_states": batch}, ["out_sample", *maps]),
        Part("vae_encoder", vae, EncodeImage(vae), {"sample": noise(2, 3, scale * height, scale * width).clamp(-1, 1)},
             {"sample": area}, ["latent_parameters"]),
        Part("vae_decoder", vae, DecodeLatents(vae),
             {"latent_sample": noise(2, vae.config.latent_channels, height, width) / vae.config.scaling_factor},
             {"latent_sample": area}, ["sample"]),
    ]


def in_float32(network: Any) -> Any:
    on_cpu = network.device.type == "cpu" and network.dtype == torch.float32
    return network if on_cpu else copy.deepcopy(network).to("cpu", torch.float32)


def cross_attention_layers(unet: Any) -> list[str]:
    with unet.record_attention() as maps:
        return list(maps)


# --- from torch to ONNX ---------------------------------------------------------------------------------------


@torch.no_grad()
def traced(part: Part) -> Any:
    """The part as an `onnx_ir.Model`, whose weights are still PyTorch's memory."""
    with quiet():
        program = torch.onnx.export(
            part.module.eval(), tuple(part.inputs.values()), dynamo=True, dynamic_shapes=tuple(part.dynamic.values()),
            input_names=list(part.inputs), output_names=part.outputs, verbose=False)
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # each node's place in the Python code, which can be half of a small file
    return program.model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks about packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def model_bytes(model: Any) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def store_weights(model: Any, kind: str) -> None:
    """Store matrices and kernels in fewer bytes, each followed by a node that makes float32 of it."""
    if kind == "fp32":
        return
    import onnx_ir as ir

    convert: Callable[[Any, Any, int], Any] = to_half if kind == "fp16" else to_int8
    for value in list(model.graph.initializers.values()):
        layers = {use.node.op_type for use in value.uses()}
        if value.dtype != ir.DataType.FLOAT or len(value.shape) < 2 or not layers <= LAYERS:
            continue  # biases and norms are few and matter much
        node = convert(model.graph, value, output_axis(value))
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        model.graph.insert_before(model.graph[0], node)
        del model.graph.initializers[value.name]


def output_axis(value: Any) -> int:
    """The axis of a weight that counts output channels: 1 for a matrix that is multiplied from the right, else 0."""
    node = next(iter(value.uses())).node
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    return 1 if node.op_type in ("MatMul", "Gemm") and not transposed else 0


def to_half(graph: Any, value: Any, axis: int) -> Any:
    import onnx_ir as ir

    half = initializer(graph, f"{value.name}.half", torch.from_numpy(value.const_value.numpy()).half())
    return ir.node("Cast", [half], {"to": ir.DataType.FLOAT})


def to_int8(graph: Any, value: Any, axis: int) -> Any:
    """weight ≈ scale · integer from -127 to 127, with one scale for each output channel."""
    import onnx_ir as ir

    weight = torch.from_numpy(value.const_value.numpy())
    others = [dimension for dimension in range(weight.ndim) if dimension != axis]
    scale = weight.abs().amax(dim=others, keepdim=True).clamp(min=1e-12) / 127
    integers = initializer(graph, f"{value.name}.int8", (weight / scale).round().to(torch.int8))
    scales = initializer(graph, f"{value.name}.scale", scale.flatten())
    return ir.node("DequantizeLinear", [integers, scales], {"axis": axis})


def initializer(graph: Any, name: str, tensor: Tensor) -> Any:
    import onnx_ir as ir

    value = ir.Value(name=name, const_value=ir.tensor(tensor.numpy(), name=name), shape=ir.Shape(tensor.shape),
                     type=ir.TensorType(ir.tensor(tensor.numpy()).dtype))
    graph.register_initializer(value)
    return value


# --- and back -------------------------------------------------------------------------------------------------


@torch.no_grad()
def compared(part: Part, path: Path, weights: str) -> float:
    """The largest difference between the file in onnxruntime and the network in PyTorch, as a share of the largest
    value; for the example, and for another batch and size."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    difference = 0.0
    for inputs in (part.inputs, {name: smaller(x) for name, x in part.inputs.items()}):
        wanted = part.module(*inputs.values())
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        found = session.run(part.outputs[:1], {name: x.numpy() for name, x in inputs.items()})[0]
        difference = max(difference, float((torch.from_numpy(found) - wanted).abs().max() / wanted.abs().max()))
    if not difference <= TOLERANCE[weights]:
        raise ValueError(f"the exported {part.name} differs from PyTorch's by {difference:.2g} of the largest value; "
                         f"at most {TOLERANCE[weights]} was expected of {weights} weights")
    return difference


def smaller(x: Tensor) -> Tensor:
    """One picture of half the height, from a batch of two."""
    if x.ndim == 4:
        return x[1:, :, : x.shape[2] // 2]
    return x[1:] if x.ndim else x  # the time is one for all
