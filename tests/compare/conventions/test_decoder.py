"""The model with every convention standard is the decoder that transformers runs."""

import functools

import numpy as np
import pytest
import torch
import transformers

from opdiff.compare.conventions import CONVENTIONS, CannotEvaluate, Case, Settings, evaluate, standard_settings
from opdiff.compare.conventions.evaluate import Memo, evaluate_with_reads
from opdiff.compare.conventions.registry import MODELS
from opdiff.graphs.errors import ShapeError
from opdiff.graphs.stages import CACHES, OF_SOME, STAGES

PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENDS = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}


def hf_name(name):
    """The name in transformers of a GGUF tensor."""
    if not name.startswith("blk."):
        base, kind = name.rsplit(".", 1)
        return f"{ENDS[base]}.{kind}"
    _, block, part, kind = name.split(".")
    return f"model.layers.{block}.{PARTS[part]}.{kind}"


def rows_as_in_hf(name, tensor, config):
    """A llama file's rows of attn_q and attn_k are interleaved; transformers wants them split."""
    if config.architecture != "llama" or not any(part in name for part in ("attn_q.", "attn_k.")):
        return tensor
    return tensor.reshape(-1, config.head_dim // 2, 2, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape)


def hf_logits(tiny):
    """The logits [T, V] that transformers computes in float64 with the same weights."""
    config = tiny.config
    kind = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[config.architecture]
    settings = getattr(transformers, kind + "Config")(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.ffn_width,
        num_hidden_layers=config.n_blocks,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        tie_word_embeddings=config.tied_head,
        attn_implementation="sdpa",  # written out, it would take the softmax in float32
    )
    model = getattr(transformers, kind + "ForCausalLM")(settings)
    state = {hf_name(n): torch.tensor(rows_as_in_hf(n, t, config)).double() for n, t in tiny.weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("lm_head" in name for name in missing)
    assert not missing or config.tied_head
    model = model.double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = functools.partial(norm_in_double, module)
    rope = model.model.rotary_emb
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    rope.inv_freq = config.rope_base**-exponents
    rope.forward = lambda x, position_ids: angles(rope.inv_freq, position_ids)
    with torch.no_grad():
        return model(torch.tensor(tiny.tokens)[None]).logits[0].numpy()


def norm_in_double(module, x):
    """The module's norm, without its cast to float32."""
    return module.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon))


def angles(inv_freq, positions):
    """cos and sin [1, T, D] in float64, where transformers would round to float32."""
    half = positions[0].double()[:, None] * inv_freq
    whole = torch.cat((half, half), -1)[None]
    return whole.cos(), whole.sin()


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "tied"])
def test_the_standard_model_is_transformers_model(kind, request):
    tiny = request.getfixturevalue(kind)
    chained = evaluate(Case("logits", None, {}, tiny.weights, tiny.config, tiny.tokens), "logits", Settings())
    np.testing.assert_allclose(chained, hf_logits(tiny), rtol=0, atol=1e-10)


def test_every_stage_of_the_vocabulary_has_a_model():
    assert set(MODELS) == {*STAGES, *CACHES, *OF_SOME}


def test_values_are_read_where_there_are_and_the_target_never_is(qwen3):
    case = qwen3.case("q_norm")
    right = evaluate(case, "blk.1.q_norm", Settings())
    case.values["blk.1.q_norm"][:] = np.nan
    np.testing.assert_array_equal(evaluate(case, "blk.1.q_norm", Settings()), right)
    case.values["blk.1.q_proj"][:] = 2.0
    assert not np.allclose(evaluate(case, "blk.1.q_norm", Settings()), right)


def test_flattened_values_are_read_as_heads(qwen3):
    case = qwen3.case("q_norm")
    right = evaluate(case, "blk.1.q_norm", Settings())
    case.values["blk.1.q_proj"] = case.values["blk.1.q_proj"].reshape(1, 6, -1).astype(np.float64)
    np.testing.assert_array_equal(evaluate(case, "blk.1.q_norm", Settings()), right)


def test_the_standard_written_out_is_the_standard(qwen3, llama):
    for tiny in (qwen3, llama):
        case, written = tiny.case("logits"), standard_settings(tiny.config)
        assert set(written) == {convention.name for convention in CONVENTIONS}
        coarse = Case("logits", None, {}, case.weights, case.config, case.tokens)
        np.testing.assert_array_equal(evaluate(coarse, "logits", written), evaluate(coarse, "logits", Settings()))


def test_a_memo_gives_what_a_fresh_evaluation_gives(qwen3):
    memo = Memo()
    coarse = Case("logits", None, {}, qwen3.weights, qwen3.config, qwen3.tokens)
    for eps in (1e-6, 1e-5, 1e-6, 1e-4):
        for pairing in ("half_split", "interleaved"):
            settings = Settings({"qk_norm.eps": eps, "rope.pairing": pairing})
            fresh = evaluate(coarse, "logits", settings)
            np.testing.assert_array_equal(evaluate(coarse, "logits", settings, memo), fresh)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama"])
def test_a_stage_reads_the_conventions_that_declare_it_and_no_other(kind, request):
    tiny = request.getfixturevalue(kind)
    stages_of = {convention.name: convention.stages for convention in CONVENTIONS}
    for stage in STAGES:
        case = tiny.case(stage)
        without_norm = stage in ("q_rope", "k_rope") and not tiny.config.qk_norm
        _, reads = evaluate_with_reads(case, case.target, Settings({"rope.on_v": "yes"}), Memo())
        assert all(stage in stages_of[name] or without_norm for name in reads), (stage, set(reads))


def test_every_convention_is_described():
    for convention in CONVENTIONS:
        family, _, aspect = convention.name.partition(".")
        assert family
        assert aspect
        assert len(convention.description) > 20
        assert set(convention.stages) <= {*STAGES, *CACHES, *OF_SOME}


def test_what_cannot_be_evaluated_says_why(qwen3):
    case = qwen3.case("q_proj")
    with pytest.raises(CannotEvaluate, match="router"):
        evaluate(case, "blk.1.router", Settings())
    del case.values["blk.1.attn_norm"]
    poor = Case("q_proj", 1, case.values, {}, case.config, case.tokens)
    with pytest.raises(CannotEvaluate, match=r"attn_norm\.weight"):
        evaluate(poor, "blk.1.q_proj", Settings())
    case.values["blk.1.attn_norm"] = np.ones((5, 5))
    with pytest.raises(ShapeError, match="attn_norm"):
        evaluate(case, "blk.1.q_proj", Settings())
