"""The tensors that a decoder has, by GGUF's names, and the check that a checkpoint has each of them and no other."""

from collections.abc import Iterator, Mapping

from ...graphs.decoder_config import DecoderConfig, Experts
from ...graphs.errors import InputError

Shape = tuple[int, ...]
QKV = ("attn_q", "attn_k", "attn_v")


def expected_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Every tensor that such a decoder has, with its shape in numpy order, [out, in]."""
    width = config.width
    shapes: dict[str, Shape] = {"token_embd.weight": (config.vocab_size, width), "output_norm.weight": (width,)}
    if not config.tied_head:
        shapes["output.weight"] = (config.vocab_size, width)
    if config.positions == "learned":
        shapes["position_embd.weight"] = (config.context_length + (config.position_offset or 0), width)
    shapes |= {f"{name}.weight": ((config.rotary_dim or config.head_dim) // 2,) for name in _tables(config)}
    shapes |= {f"{part}.bias": shapes[f"{part}.weight"][:1] for part in config.biases if f"{part}.weight" in shapes}
    for n in range(config.n_blocks):
        shapes |= {f"blk.{n}.{name}": shape for name, shape in _block(config, n).items()}
    return shapes


def _tables(config: DecoderConfig) -> tuple[str, ...]:
    """The tensors that scale RoPE."""
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "factors":
        return ("rope_freqs",)
    if scaling is not None and scaling.kind == "longrope" and not scaling.long_factors:
        return ("rope_factors_long", "rope_factors_short")
    return ()


def _block(config: DecoderConfig, n: int) -> dict[str, Shape]:
    width, heads, kv = config.width, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    experts = config.experts_of(n)
    shapes = {
        **{f"{norm}.weight": (width,) for norm in norms(config)},
        "attn_q.weight": (heads, width),
        "attn_k.weight": (kv, width),
        "attn_v.weight": (kv, width),
        "attn_output.weight": (width, heads),
        **(_dense(config) if experts is None else _routed(experts, width)),
    }
    if config.qk_norm:
        shapes |= _norms_of_q_and_k(config)
    if config.sinks:
        shapes["attn_sinks.weight"] = (config.n_heads,)
    with_bias = (*(QKV if config.attention_bias else ()), *config.biases)
    return shapes | {f"{part}.bias": shapes[f"{part}.weight"][:1] for part in with_bias if f"{part}.weight" in shapes}


def _norms_of_q_and_k(config: DecoderConfig) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for letter, n_heads in (("q", config.n_heads), ("k", config.n_kv_heads)):
        of: dict[str, Shape] = {"head": (config.head_dim,), "projection": (n_heads * config.head_dim,)}
        shapes[f"attn_{letter}_norm.weight"] = of.get(config.qk_norm_over, (n_heads, config.head_dim))
    return shapes


def norms(config: DecoderConfig) -> Iterator[str]:
    """The norms of a block that are as wide as the residual stream."""
    if config.norm_place != "after":
        yield "attn_norm"
        if config.parallel != "one_norm":
            yield "ffn_norm"
    if config.norm_place != "before":
        yield from ("post_attention_norm", "post_ffw_norm")


def _dense(config: DecoderConfig) -> dict[str, Shape]:
    inner, width = config.ffn_width, config.width
    gate: dict[str, Shape] = {"ffn_gate.weight": (inner, width)} if config.gated else {}
    return {**gate, "ffn_up.weight": (inner, width), "ffn_down.weight": (width, inner)}


def _routed(experts: Experts, width: int) -> dict[str, Shape]:
    count, inner, shared = experts.count, experts.width, experts.shared_width
    shapes: dict[str, Shape] = {
        "ffn_gate_inp.weight": (count, width),
        "ffn_gate_exps.weight": (count, inner, width),
        "ffn_up_exps.weight": (count, inner, width),
        "ffn_down_exps.weight": (count, width, inner),
    }
    if experts.biases:
        shapes |= {name.replace(".weight", ".bias"): shape[:-1] for name, shape in shapes.items()}
    if experts.correction_bias:
        shapes["exp_probs_b.bias"] = (count,)
    if shared is not None:
        shapes |= {"ffn_gate_shexp.weight": (shared, width), "ffn_up_shexp.weight": (shared, width)}
        shapes["ffn_down_shexp.weight"] = (width, shared)
    return shapes | ({"ffn_gate_inp_shexp.weight": (width,)} if experts.shared_gate else {})


def check_tensors(config: DecoderConfig, tensor_shapes: Mapping[str, Shape]) -> None:
    """Raise InputError where the tensors are not those of such a decoder, each of them and no other."""
    blocks = {name.split(".")[1] for name in tensor_shapes if name.startswith("blk.")}
    if len(blocks) != config.n_blocks:
        raise InputError(
            f"the configuration says {config.n_blocks} blocks, the tensors make {len(blocks)}; convert the checkpoint again"
        )
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in tensor_shapes:
            raise missing(name)
        if tensor_shapes[name] != shape:
            raise InputError(
                f"tensor {name} has shape {tensor_shapes[name]}, and the configuration asks for {shape}; "
                "convert the checkpoint again"
            )
    for name in tensor_shapes:
        if name not in expected:  # a bias or an expert left out in silence would be a wrong model
            raise InputError(
                f"tensor {name!r:.80} is no part of the decoders that opdiff knows; use another checkpoint"
            )


def missing(name: str) -> InputError:
    """The refusal of a checkpoint without a tensor."""
    return InputError(f"tensor {name} is missing; give a whole checkpoint (not one part of a split one)")
