"""The norms: `attn_norm`, `q_norm`, `k_norm`, `ffn_norm`, `final_norm`. Each kind has conventions of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .case import Array
from .distance import distance
from .evaluate import Run
from .fit import Fitted, Question, solve
from .heads import read_heads
from .registry import convention, model
from .settings import Value

KINDS = {
    "attn_norm": ("attn_norm",),
    "qk_norm": ("q_norm", "k_norm"),
    "attn_post_norm": ("attn_post_norm",),
    "ffn_norm": ("ffn_norm",),
    "ffn_post_norm": ("ffn_post_norm",),
    "final_norm": ("final_norm",),
}
GAINS = {
    "attn_norm": "attn_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "attn_post_norm": "post_attention_norm",
    "ffn_norm": "ffn_norm",
    "ffn_post_norm": "post_ffw_norm",
    "final_norm": "output_norm",
}
COMMON_EPS = (1e-5, 1e-6, 0.0, 1e-8, 1e-12)


@model("attn_norm")
def attn_norm(run: Run, block: int | None) -> Array:
    """[T, C]."""
    return normed(run, "attn_norm", block, block_input(run, block))


@model("ffn_norm")
def ffn_norm(run: Run, block: int | None) -> Array:
    """[T, C]."""
    return normed(run, "ffn_norm", block, before_ffn(run, block))


@model("final_norm")
def final_norm(run: Run, block: int | None) -> Array:
    """[T, C]."""
    return normed(run, "final_norm", None, block_input(run, run.config.n_blocks))


@model("q_norm")
def q_norm(run: Run, block: int | None) -> Array:
    """[T, H, D]; the projection's heads where the architecture has no norm here."""
    return _head_norm(run, "q", block)


@model("k_norm")
def k_norm(run: Run, block: int | None) -> Array:
    """[T, KV, D]."""
    return _head_norm(run, "k", block)


@model("attn_post_norm")
def attn_post_norm(run: Run, block: int | None) -> Array:
    """[T, C]."""
    x = run.tap("o_proj", block)
    return x if _is_moved(run, "attn_post_norm") else normed(run, "attn_post_norm", block, x)


@model("ffn_post_norm")
def ffn_post_norm(run: Run, block: int | None) -> Array:
    """[T, C]."""
    x = ffn_output(run, block)
    return x if _is_moved(run, "ffn_post_norm") else normed(run, "ffn_post_norm", block, x)


def _is_moved(run: Run, stage: str) -> bool:
    """Whether a decoder that norms behind its sublayers alone is run with that norm in front of one."""
    return run.config.norm_place == "after" and run.setting(f"{stage}.place") == "before"


def block_input(run: Run, block: int | None) -> Array:
    """The residual stream before a block; `n_blocks` asks for the stream after the last."""
    assert block is not None
    if block:
        return run.tap("ffn_residual", block - 1)
    return run.tap("position_embed" if run.config.positions == "learned" else "embed")


def is_parallel(run: Run) -> bool:
    """Whether the feed-forward network reads the block's input, as attention does."""
    return run.config.parallel != "no" and run.setting("residual.parallel") == "yes"


def before_ffn(run: Run, block: int | None) -> Array:
    """The residual stream before the feed-forward network, or before its norm."""
    return block_input(run, block) if is_parallel(run) else run.tap("attn_residual", block)


def attention_part_input(run: Run, block: int | None) -> Array:
    """What q, k and v are projected from: [T, C]."""
    if run.config.norm_place != "after":
        return run.tap("attn_norm", block)
    x = block_input(run, block)
    return normed(run, "attn_post_norm", block, x) if _is_moved(run, "attn_post_norm") else x


def ffn_input(run: Run, block: int | None) -> Array:
    """What the feed-forward network, or its router, reads: [T, C]."""
    if run.config.norm_place == "after":
        x = before_ffn(run, block)
        return normed(run, "ffn_post_norm", block, x) if _is_moved(run, "ffn_post_norm") else x
    if run.config.parallel != "one_norm":
        return run.tap("ffn_norm", block)
    shared = run.tap("attn_norm", block)
    return shared if is_parallel(run) else normed(run, "attn_norm", block, run.tap("attn_residual", block))


def ffn_output(run: Run, block: int | None) -> Array:
    """What the feed-forward network gives, or the experts with those that all tokens share: [T, C]."""
    assert block is not None
    experts = run.config.experts_of(block)
    if experts is None:
        return run.tap("ffn_down", block)
    routed = run.tap("expert_out", block)
    if experts.shared_width is None or run.setting("experts.shared") == "missing":
        return routed
    return routed + run.tap("shared_out", block)


def _head_norm(run: Run, side: str, block: int | None) -> Array:
    if not run.config.qk_norm:
        return read_heads(run, f"{side}_proj", block)
    if run.setting("qk_norm.place") == "after_rope":
        return normed(run, f"{side}_norm", block, run.tap(f"{side}_rope", block))
    return normed(run, f"{side}_norm", block, read_heads(run, f"{side}_proj", block))


def normed(run: Run, stage: str, block: int | None, x: Array) -> Array:
    """x divided by its norm over the last axis (or over all heads), times the gain; the shape of x."""
    kind = _kind(stage)
    statistic = run.setting(f"{kind}.kind")
    if statistic == "missing":
        return x
    gain = _gain(run, stage, block)
    flat = x
    if kind == "qk_norm" and run.setting("qk_norm.per_head") == "no":
        flat = x.reshape(len(x), -1)
        gain = np.resize(gain, flat.shape[-1])
    elif gain.size == x[0].size:  # of each head its own
        gain = gain.reshape(x.shape[1:])
    normalised = np.asarray(gain * standardised(run, kind, str(statistic), flat)).reshape(x.shape)
    return _biased(run, stage, block, normalised)


def standardised(run: Run, kind: str, statistic: str, x: Array) -> Array:
    """x without its gain, by the statistic over the last axis."""
    if statistic == "gain_only":
        return x
    centred = x - x.mean(axis=-1, keepdims=True) if statistic == "layer_norm" else x
    total = np.square(centred).sum(axis=-1, keepdims=True)
    count = 1.0 if statistic == "sum" else float(x.shape[-1])
    eps = run.number(f"{kind}.eps")
    return np.asarray(centred / _root(total / count, eps, count, str(run.setting(f"{kind}.eps_place"))))


def _root(mean: Array, eps: float, count: float, place: str) -> Array:
    if place == "outside":
        return np.asarray(np.sqrt(mean) + eps)
    if place == "in_sum":
        return np.asarray(np.sqrt(mean + eps / count))
    return np.asarray(np.sqrt(np.maximum(mean, eps) if place == "maximum" else mean + eps))


def _gain(run: Run, stage: str, block: int | None) -> Array:
    """The gain that multiplies the norm: [C], [D] or [H*D]."""
    own = GAINS[stage]
    chosen = str(run.setting(f"{_kind(stage)}.gain"))
    if chosen in ("own", "one_plus", "less_one", "none"):
        stored = np.asarray(run.tensor(_tensor(own, block)), np.float64)
        return {"own": stored, "one_plus": stored + 1.0, "less_one": stored - 1.0, "none": np.ones_like(stored)}[chosen]
    return np.asarray(run.tensor(_tensor(chosen, block)), np.float64)


def _biased(run: Run, stage: str, block: int | None, x: Array) -> Array:
    """A norm's value with its bias, where the checkpoint has one and the settings add it."""
    tensor = _tensor(GAINS[stage], block).replace(".weight", ".bias")
    if tensor not in run.case.weights or run.setting(f"{_kind(stage)}.bias") == "missing":
        return x
    return x + np.resize(np.asarray(run.tensor(tensor), np.float64), x.shape[1:])


def _tensor(name: str, block: int | None) -> str:
    """`ffn_norm` is this block's; `blk.0.ffn_norm` and `output_norm` are what they say."""
    absolute = block is None or name.startswith("blk.") or name == "output_norm"
    return f"{name}.weight" if absolute else f"blk.{block}.{name}.weight"


def _kind(stage: str) -> str:
    return "qk_norm" if stage in KINDS["qk_norm"] else stage


def _define(kind: str, stages: tuple[str, ...]) -> None:
    """Enter the conventions of one kind of norm."""

    @convention(f"{kind}.kind", stages, lambda config: config.norm_kind)
    def statistic_kind(question: Question) -> Iterator[Value]:
        """What x is divided by: rms, its root mean square; layer_norm: its standard deviation, after its mean is subtracted;
        sum: the root of the sum of squares; gain_only: nothing; missing: nothing, and no gain either.
        """
        yield from ("rms", "layer_norm", "sum", "missing", "gain_only")

    @convention(f"{kind}.bias", stages, "added")
    def bias(question: Question) -> Iterator[Value]:
        """What becomes of the bias of a norm that has one: it is added, or missing."""
        yield "missing"

    @convention(f"{kind}.gain", stages, "own")
    def gain(question: Question) -> Iterator[Value]:
        """What multiplies the norm: its own gain w, one_plus (1 + w), less_one (w - 1: as Gemma's checkpoints store it), none,
        or another norm's tensor.
        """
        yield from ("one_plus", "less_one", "none")
        if question.case.stage in stages:
            yield from _other_gains(question)

    @gain.fitted
    def sieved_gain(question: Question) -> Iterator[Fitted]:
        """The same norm's gain of another block."""
        own = GAINS[question.case.stage] if question.case.stage in stages else ""
        for name in question.case.others(f"{own}.weight"):
            value = name.removesuffix(".weight")
            if distance(question.predict(f"{kind}.gain", value), question.output) < 0.02:
                yield Fitted((value,))

    @convention(f"{kind}.eps", stages, lambda config: float(config.rms_norm_eps), rank=0)
    def eps(question: Question) -> Iterator[Value]:
        """The number that is added to the mean of the squares."""
        yield from COMMON_EPS

    @eps.fitted
    def solved_eps(question: Question) -> Iterator[Fitted]:
        """Solved from all rows at once."""
        yield from solve(question, f"{kind}.eps", [1e-6, 1e-3], logarithmic=True)

    @convention(f"{kind}.eps_place", stages, "inside", rank=1)
    def eps_place(question: Question) -> Iterator[Value]:
        """Where eps goes: inside, sqrt(mean + eps); outside, sqrt(mean) + eps; in_sum, sqrt((sum + eps) / n);
        maximum, sqrt(max(mean, eps)).
        """
        yield from ("outside", "in_sum", "maximum")


def _other_gains(question: Question) -> Iterator[Value]:
    """The other norms' gains of the same shape that the block and the model's end have."""
    case, own = question.case, GAINS.get(question.case.stage, "")
    name = _tensor(own, case.block)
    if not own or name not in case.weights:
        return
    for other in GAINS.values():
        tensor = _tensor(other, case.block)
        if other != own and tensor in case.weights and case.weights[tensor].shape == case.weights[name].shape:
            yield other


for _kind_name, _stages in KINDS.items():
    _define(_kind_name, _stages)


@convention("qk_norm.per_head", KINDS["qk_norm"], lambda config: "no" if config.qk_norm_over == "projection" else "yes")
def per_head(question: Question) -> Iterator[Value]:
    """Whether the QK-norm's mean runs over each head, or (no) over the whole projection."""
    yield from ("no", "yes")


@convention("qk_norm.place", ("q_norm", "k_norm", "q_rope", "k_rope", "attn_scores"), "before_rope")
def place(question: Question) -> Iterator[Value]:
    """Whether q and k are normed before they are rotated or after."""
    yield "after_rope"


for _stage, _before in (("attn_post_norm", ("q_proj", "k_proj", "v_proj")), ("ffn_post_norm", ("ffn_gate", "ffn_up"))):

    @convention(f"{_stage}.place", (_stage, *_before, "router_logits"), "after")
    def place_of_norm(question: Question) -> Iterator[Value]:
        """Where a decoder that has no norm before its sublayers applies this one: after the sublayer, or before it, as a Llama
        has its norms.
        """
        yield "before"
