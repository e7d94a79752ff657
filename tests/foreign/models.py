"""Graphs by other hands: transformers' own models and plain torch modules as torch.onnx.export writes them, without taps."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from corpus.models import TOKENS, tiny_model
from torch import Tensor, nn

IDS = torch.tensor([TOKENS])
Patch = Callable[[Any], None]


class Logits(nn.Module):
    """A model whose only input is the tokens and whose only output the logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids).logits


class WithMask(Logits):
    """The same with a mask as an input."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def nothing(model: Any) -> None:
    """No fault."""


def qwen3(path: Path, patch: Patch = nothing, attention: str = "eager", opset: int = 18) -> Path:
    """The corpus's tiny Qwen3 with a patch, as `path`."""
    model = tiny_model("qwen3")
    model.config._attn_implementation = attention
    patch(model)
    return written(Logits(model), IDS, path, opset, "input_ids")


def written(module: nn.Module, x: Tensor, path: Path, opset: int, name: str, optimize: bool = True) -> Path:
    """A module as torch writes it."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad():
        torch.onnx.export(
            module.eval(),
            (x,),
            str(path),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[name],
            output_names=["logits"],
            optimize=optimize,
        )
    return path


def by_torchscript(model: Any, path: Path, attention: str = "eager", is_open: bool = True) -> Path:
    """A model as torch's older exporter writes it, for any number of tokens or for one.

    The mask is an input: where there is none, transformers asks for `diff`, which that exporter does not know.
    """
    model.config._attn_implementation = attention
    names = ["input_ids", "attention_mask"]
    open_axes = {name: {1: "tokens"} for name in (*names, "logits")} if is_open else None
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            WithMask(model),
            (IDS, torch.ones_like(IDS)),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["logits"],
            dynamic_axes=open_axes,
        )
    return path


def saved_by_onnxruntime(path: Path, level: str, made: Path | None = None) -> Path:
    """The graph as onnxruntime's optimiser leaves it, as `made`; else beside it: its weights stay where they are."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(made or path.with_suffix(f".{level}.onnx"))
    options.log_severity_level = 4
    ort.InferenceSession(str(path), options)
    return Path(options.optimized_model_filepath)


def slim(path: Path, made: Path) -> Path:
    """The graph as onnxslim writes it."""
    import onnxslim

    onnx.save(onnxslim.slim(str(path)), made)
    return made


def simplified(path: Path, made: Path) -> Path:
    """The graph as onnxsim writes it."""
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(path))[0], made)
    return made


def in_four_bits(path: Path, block: int = 16) -> Path:
    """The graph with its products' weights in blocks of four bits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.ERROR)
    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=block, is_symmetric=True)
    quantizer.process()
    made = path.with_suffix(".int4.onnx")
    onnx.save(quantizer.model.model, made)
    return made


def in_half(path: Path) -> Path:
    """The graph in float16 throughout."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made = path.with_suffix(".half.onnx")
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), made)
    return made


def at_the_last_position(path: Path) -> Path:
    """The graph with the logits of its last position alone."""
    model = onnx.load(path)
    graph, output = model.graph, model.graph.output[0]
    product = next(node for node in graph.node if output.name in node.output)
    held = {"starts": -1, "ends": np.iinfo(np.int64).max, "axes": 1}
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array([n], np.int64), name) for name, n in held.items())
    cut = onnx.helper.make_node("Slice", [product.input[0], *held], ["last"])
    product.input[0] = "last"
    graph.node.insert(list(graph.node).index(product), cut)
    output.type.tensor_type.ClearField("shape")
    made = path.with_suffix(".last.onnx")
    onnx.save(model, made)
    return made


def renamed(path: Path) -> Path:
    """The graph with other names for all that it makes, and its weights inside."""
    model = onnx.load(path)
    kept = {info.name for info in (*model.graph.input, *model.graph.output)}
    names = {
        name: f"t{n}"
        for n, name in enumerate(
            (*(i.name for i in model.graph.initializer), *(o for node in model.graph.node for o in node.output))
        )
        if name not in kept
    }
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = ""
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del model.graph.value_info[:]
    made = path.with_suffix(".renamed.onnx")
    onnx.save(model, made)
    return made


class Convolutions(nn.Module):
    """A small classifier of pictures: convolutions with batch norms, which exporters fold."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2),
            nn.BatchNorm2d(12),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class StateSpace(nn.Module):
    """Two blocks of a selective state space, each with a short convolution and a gate."""

    def __init__(self, width: int = 24, states: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, width)
        self.blocks = nn.ModuleList(StateSpaceBlock(width, states) for _ in range(2))
        self.norm, self.head = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, 100, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


class StateSpaceBlock(nn.Module):
    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.kernel = nn.Conv1d(width, width, 3, padding=2, groups=width)
        self.step, self.inputs, self.reads = (nn.Linear(width, n) for n in (width, states, states))
        self.log_decay, self.skip = nn.Parameter(torch.rand(width, states)), nn.Parameter(torch.rand(width))
        self.act: Callable[[Tensor], Tensor] = nn.functional.silu

    def forward(self, x: Tensor) -> Tensor:  # [batch, token, channel]
        n_tokens = x.shape[1]
        x, gate = self.inner(self.norm(x)).chunk(2, -1)
        x = self.act(self.kernel(x.mT)[..., :n_tokens].mT)
        step = nn.functional.softplus(self.step(x))
        decay = -torch.exp(self.log_decay)
        state, made = x.new_zeros(x.shape[0], x.shape[2], decay.shape[1]), []
        for n in range(n_tokens):
            kept = torch.exp(step[:, n, :, None] * decay) * state
            state = kept + (step[:, n] * x[:, n])[..., None] * self.inputs(x)[:, n, None]
            made.append((state * self.reads(x)[:, n, None]).sum(-1))
        return self.outer((torch.stack(made, 1) + self.skip * x) * nn.functional.silu(gate))


def filled(module: nn.Module) -> nn.Module:
    """The module with seeded weights, no gain or bias of which is 1 or 0."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif "var" in name or "norm" in name or name.endswith(("1.weight", "4.weight")):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.uniform_(-0.4, 0.4, generator=generator)
    return module.eval()


def without_taps(path: Path) -> Path:
    """An artifact of opdiff as another hand might have written it: no table, one output, no name that tells anything."""
    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    model.producer_name = ""
    (logits,) = (info for info in model.graph.output if info.name == "logits")
    kept = onnx.ValueInfoProto.FromString(logits.SerializeToString())
    del model.graph.output[:], model.graph.value_info[:]
    model.graph.output.append(kept)
    made = [name for node in model.graph.node for name in node.output]
    held = [tensor.name for tensor in model.graph.initializer]
    names = {name: f"t{n}" for n, name in enumerate((*held, *made)) if name not in ("", "logits")}
    for n, node in enumerate(model.graph.node):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        node.name = f"n{n}"
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    bare = path.with_suffix(".bare.onnx")
    bare.write_bytes(model.SerializeToString())
    return bare
