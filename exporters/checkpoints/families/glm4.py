"""GLM 4: norms on both sides, RoPE over half of a head; and GLM 4.5, whose router chooses by sigmoids with a correction."""

from ....graphs.decoder_config import Experts
from ..fields import Fields
from ..metadata import Metadata
from .family import DecoderFamily, HfTensors, Settings
from .routing import routed_from_gguf


def _share(read: Fields) -> Settings:
    rotated = int(read.count("head_dim", 128) * read.rotated_share(0.5))
    return {"rotary_dim": rotated}


def _moe_from_hf(read: Fields) -> Settings:
    width, n_blocks = read.count("moe_intermediate_size"), read.count("num_hidden_layers")
    n_dense = 0 if read.get("first_k_dense_replace") == 0 else read.count("first_k_dense_replace", 1)
    experts = Experts(
        read.count("n_routed_experts"),
        read.count("num_experts_per_tok"),
        width,
        score="sigmoid",
        normalised=read.flag("norm_topk_prob", True),
        scale=read.number("routed_scaling_factor", 1.0),
        correction_bias=True,
        groups=read.count("n_group", 1),
        chosen_groups=read.count("topk_group", 1),
        shared_width=width * read.count("n_shared_experts", 1),
    )
    return {
        **_share(read),
        "qk_norm": read.flag("use_qk_norm", False),
        "experts": experts,
        "expert_blocks": () if n_dense == 0 else tuple(n >= n_dense for n in range(n_blocks)),
    }


def _moe_from_gguf(read: Metadata) -> Settings:
    return routed_from_gguf(
        read,
        score="sigmoid",
        normalised=read.flag("expert_weights_norm", True),
        scale=read.optional_number("expert_weights_scale") or 1.0,
        correction_bias=True,
        groups=read.optional_count("expert_group_count") or 1,
        chosen_groups=read.optional_count("expert_group_used_count") or 1,
    )


GLM4 = DecoderFamily(
    "glm4", ("glm4",), {"norm_place": "both", "interleaved": True}, _share, head_dim=128, is_partly_rotated=True
)
GLM4_MOE = DecoderFamily(
    "glm4moe",
    ("glm4_moe",),
    {},
    _moe_from_hf,
    _moe_from_gguf,
    head_dim=128,
    is_partly_rotated=True,
    gguf_names={"post_attention_norm": "ffn_norm"},
    hf_tensors=HfTensors(
        renamed={"mlp.gate.e_score_correction": "exp_probs_b", "post_attention_layernorm": "ffn_norm"}
    ),
)
