"""Small valid files of every format, of which the mutators make bad ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize
from onnx_text import DECODER, decoder_weights, save_decoder
from tokenizers import Tokenizer, models, pre_tokenizers

from opdiff.graphs.weights import TensorSource, write_safetensors

TOKENS = (1, 2)
_WIDTH, _HEADS, _VOCAB = 32, 2, 16
_WITH_MINS_AND_K = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "TQ1_0",
                    "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "BF16", "F16")  # fmt: skip
# What no decoder of ours has: a branch, a function, sparse and string tensors, a loop, low precision.
FOREIGN = """
<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
foreign (int64[T] tokens) => (float[T,8] y)
<float[8,4] table, float[4,4] w0, float[4,8] head>
{
  x = Gather(table, tokens)
  size = Shape(x)
  n = ReduceSum<keepdims = 0>(size)
  limit = Constant<value = int64 {3}>()
  big = Greater(n, limit)
  h = If (big) <then_branch = yes () => (float[T,4] a) { m = MatMul(x, w0) a = Relu(m) },
               else_branch = no () => (float[T,4] b) { b = Neg(x) }>
  g = own.twice(h)
  s = Softmax<axis = -1>(g)
  words = Constant<value = string[2] {"one", "two"}>()
  one = Constant<value = string[1] {"one"}>()
  same = Equal(words, one)
  as_number = Cast<to = 1>(same)
  total = ReduceSum(as_number)
  z = Mul(s, total)
  half = Cast<to = 10>(z)
  back = Cast<to = 1>(half)
  y = MatMul(back, head)
}
<domain: "own", opset_import: ["" : 21]>
twice (p) => (q) { two = Constant<value = float {2.0}>() q = Mul(p, two) }
"""


def exported_files(folder: Path) -> None:
    """Two variants of the seed as opdiff exports them, which the catalogue explains."""
    from opdiff.exporters.command import run_export

    run_export("seed", ("reference", "legacy"), folder)


def onnx_files(folder: Path) -> None:
    """decoder.onnx with taps, its weights outside and the exporter's metadata; foreign.onnx without."""
    decoder = save_decoder(folder / "decoder.onnx")
    save_decoder(folder / "right.onnx")
    model = onnx.load(decoder, load_external_data=False)
    scopes = repr(["", "blocks.0", "up"])
    for n, node in enumerate(model.graph.node):
        frame = f'File "port.py", line {n + 1}, in forward\n    x = self.up(x)\n'
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=frame)
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    facts = {"opdiff.config": json.dumps({"vocab_size": 8, "n_blocks": 2}), "opdiff.max_tokens": "64", "opdiff.options": "{}",
             "opdiff.runtime": "port", "opdiff.cache": "{}", "opdiff.weights": "weights.safetensors",
             "opdiff.tokenizer": "tokenizer.json"}  # fmt: skip
    for key, text in facts.items():
        model.metadata_props.add(key=key, value=text)
    decoder.write_bytes(model.SerializeToString())
    foreign = onnx.parser.parse_model(FOREIGN)
    shapes = {"table": (8, 4), "w0": (4, 4), "head": (4, 8)}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        foreign.graph.initializer.append(onnx.numpy_helper.from_array(random.standard_normal(shape).astype("f"), name))
    onnx.save(foreign, folder / "foreign.onnx")
    onnx.save(foreign, folder / "foreign.right.onnx")


def tensors(width: int = _WIDTH) -> dict[str, np.ndarray]:
    """A qwen3 of one block, by GGUF's names, float32 [out, in]."""
    random = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_VOCAB, width),
        **{f"blk.0.{name}.weight": (width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        **{f"blk.0.{name}.weight": (width, width) for name in ("ffn_gate", "ffn_up", "ffn_down")},
        **{f"blk.0.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")},
        **{f"blk.0.{name}.weight": (width // _HEADS,) for name in ("attn_q_norm", "attn_k_norm")},
        "output_norm.weight": (width,),
        "output.weight": (_VOCAB, width),
    }
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def gguf_file(path: Path, kinds: Mapping[str, str], width: int = _WIDTH) -> Path:
    """The decoder, with tensors stored as `kinds` says, a tokenizer, and a metadata value of every type."""
    writer = GGUFWriter(path, "qwen3")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_key_length(width // _HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    words = [*"abcdefghijkl", "ab", "abc", "Ġ", "<|end|>"]
    writer.add_token_list(words)
    writer.add_token_types([1] * (_VOCAB - 1) + [3])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(_VOCAB - 1)
    for kind in (k for k in GGUFValueType if k not in (GGUFValueType.ARRAY, GGUFValueType.STRING)):
        writer.add_key_value(f"x.{kind.name.lower()}", kind == GGUFValueType.BOOL or 1, kind)
    writer.add_array("x.numbers", [1, 2, 3])
    for name, values in tensors(width).items():
        _add(writer, name, values, kinds.get(name, "F32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    if kind == "F32":
        writer.add_tensor(name, values)
        return
    quant = GGMLQuantizationType[kind]
    block, n_bytes = GGML_QUANT_SIZES[quant]
    try:
        stored = quantize(values, quant)
    except NotImplementedError:  # gguf reads this type and does not write it: any bytes are a tensor of it
        random = np.random.default_rng(2)
        stored = random.integers(0, 255, (*values.shape[:-1], values.shape[-1] // block * n_bytes), np.uint8)
    writer.add_tensor(name, stored.view(np.uint8), raw_dtype=quant)


def gguf_files(folder: Path) -> None:
    """plain.gguf in the types that are read in place, and one of every quantised type among three files of K-quants."""
    names = [
        f"blk.0.{n}.weight" for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ]
    gguf_file(
        folder / "plain.gguf", dict(zip(names, ("F16", "BF16", "Q8_0", "Q4_1", "Q5_1", "Q4_0", "Q5_0"), strict=True))
    )
    for n in range(0, len(_WITH_MINS_AND_K), len(names)):
        kinds = _WITH_MINS_AND_K[n : n + len(names)]
        gguf_file(folder / f"quants{n}.gguf", dict(zip(names, kinds, strict=False)), width=256)


_HF_NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output":
             "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
             "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q_norm": "self_attn.q_norm",
             "attn_k_norm": "self_attn.k_norm"}  # fmt: skip
_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
            "output.weight": "lm_head.weight"}  # fmt: skip


def hf_folder(folder: Path) -> None:
    """The same decoder as save_pretrained writes it, in two shards, with a tokenizer.json."""
    folder.mkdir()
    fields = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 1, "hidden_size": _WIDTH,
              "num_attention_heads": _HEADS, "num_key_value_heads": _HEADS, "head_dim": _WIDTH // _HEADS,
              "intermediate_size": _WIDTH, "vocab_size": _VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
              "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "tie_word_embeddings": False,
              "hidden_act": "silu", "attention_bias": False, "layer_types": ["full_attention"]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields))
    named = {_hf_name(name): values for name, values in tensors().items()}
    shards = {"a.safetensors": dict(list(named.items())[:6]), "b.safetensors": dict(list(named.items())[6:])}
    for file, held in shards.items():
        save_safetensors(folder / file, held, {"format": "pt"})
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    words = {word: n for n, word in enumerate([*"abcdefghijkl", "ab", "abc", "Ġ"])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[("a", "b"), ("ab", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|end|>", "add_bos_token": False}))


def _hf_name(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    stem = name.removeprefix("blk.0.").removesuffix(".weight")
    return f"model.layers.0.{_HF_NAMES[stem]}.weight"


def save_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """As opdiff writes such files."""
    sources = [TensorSource(n, a.dtype, a.shape, _given(a)) for n, a in arrays.items()]
    write_safetensors(path, sources, metadata)


def _given(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array


def decoder_values() -> dict[str, np.ndarray]:
    """What DECODER computes of TOKENS, by tap, with the tokens: a trace."""
    held = decoder_weights()
    embed = held["table"][list(TOKENS)]
    first = embed + np.maximum(embed @ held["w0"], 0)
    second = first + np.maximum(first @ held["w1"], 0)
    return {
        "tokens": np.asarray(TOKENS, np.int64),
        "embed": embed,
        "blk.0.ffn_down": first,
        "blk.1.ffn_down": second,
        "logits": second @ held["table"].T,
    }


__all__ = ["DECODER", "TOKENS", "decoder_values", "gguf_files", "hf_folder", "onnx_files", "save_safetensors"]
