"""Attention: `attn_scores`, `attn_probs`, `attn_context`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ...graphs.decoder_config import DecoderConfig
from .cache import as_multiplied, in_steps, keys_read, values_read
from .case import Array
from .distance import is_masked
from .evaluate import Run
from .fit import Fitted, Question, solve
from .registry import convention, model
from .rope import rotate_v_in_attention
from .rotation import attention_input
from .settings import AS_CONFIGURED, Value

SCORES, PROBS, CONTEXT = ("attn_scores",), ("attn_probs",), ("attn_context",)


@model("attn_scores")
def attn_scores(run: Run, block: int | None) -> Array:
    """What softmax reads, [H, T, K]: scaled, capped, and -inf where masked."""
    q, length = as_multiplied(run, attention_input(run, "q", block)), len(run.case.tokens)
    products = np.zeros((run.config.n_heads, length, length))
    for (start, end), keys in zip(run.case.steps, keys_read(run, block), strict=True):
        k = shared(run, keys, "k_tiled")
        products[:, start:end, : len(k)] = np.einsum("thd,khd->htk", q[start:end], k, optimize=True)
    scores = products * scale_factor(run.setting("attention.scale"), run.config)
    scores = _biased(run, capped(scores, run.setting("attention.softcap")))
    scores = np.where(visible(run, block, length), scores, -np.inf)
    return np.pad(scores, ((0, 0), (0, 0), (0, run.case.n_others)), constant_values=-np.inf)


@model("attn_probs")
def attn_probs(run: Run, block: int | None) -> Array:
    """[H, T, K], each query's row summing to 1."""
    scores, chosen = run.tap("attn_scores", block), run.setting("attention.softmax")
    if chosen == "missing":
        return scores
    axis = {"queries": 1, "heads": 0}.get(str(chosen), 2)
    highest = scores.max(axis=axis, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    taken = np.exp(scores - highest)
    total = taken.sum(axis=axis, keepdims=True)
    if chosen == "plus_one":
        total = total + np.exp(-highest)
    if run.config.sinks and run.setting("attention.sinks") == "in_sum":
        sinks = np.asarray(run.tensor(f"blk.{block}.attn_sinks.weight"), np.float64)
        total = total + np.exp(sinks[:, None, None] - highest)
    empty = total == 0  # a row that sees nothing: a mask of large finite numbers leaves it uniform
    return np.where(empty, 1.0 / scores.shape[axis], taken / np.where(empty, 1.0, total))


@model("attn_context")
def attn_context(run: Run, block: int | None) -> Array:
    """[T, H, D]."""
    probs, parts = as_multiplied(run, run.tap("attn_probs", block)), []
    for (start, end), values in zip(run.case.steps, values_read(run, block), strict=True):
        v = shared(run, rotate_v_in_attention(run, block, values), "v_tiled")
        parts.append(np.einsum("htk,khd->thd", probs[:, start:end, : len(v)], v, optimize=True))
    context = np.concatenate(parts)
    if run.is_target("attn_context", block) and run.setting("heads.merge") == "untransposed":
        return context.transpose(1, 0, 2).reshape(context.shape)
    return context


def shared(run: Run, x: Array, tiled: str) -> Array:
    """The KV heads [T, KV, D] as the query heads read them, [T, H, D]."""
    times = run.config.n_heads // run.config.n_kv_heads
    return (
        np.tile(x, (1, times, 1))
        if run.setting("attention.kv_heads") in ("tiled", tiled)
        else np.repeat(x, times, axis=1)
    )


def capped(x: Array, cap: Value) -> Array:
    """cap * tanh(x / cap); x itself where there is no cap."""
    return x if cap is None else float(cap) * np.tanh(x / float(cap))  # type: ignore[arg-type]


def _biased(run: Run, scores: Array) -> Array:
    """The scores [H, T, T], of which each head takes something off for each position that a key lies before the query, where
    there is ALiBi. Source: Press et al. 2022.
    """
    most = None if run.config.max_alibi_bias is None else run.setting("attention.alibi")
    if most is None:
        return scores
    n_heads, length, _ = scores.shape
    power = 1 << (n_heads.bit_length() - 1)
    steps = [(n + 1) / power for n in range(power)] + [(2 * n + 1) / (2 * power) for n in range(n_heads - power)]
    slopes = 2.0 ** (-float(most) * np.array(steps))  # type: ignore[arg-type]
    return np.asarray(scores + slopes[:, None, None] * (np.arange(length)[None, :] - np.arange(length)[:, None]))


def visible(run: Run, block: int | None, length: int) -> np.ndarray:
    """Which keys each query sees: bool [T, K]."""
    behind = np.arange(length)[:, None] - np.arange(length)[None, :]  # how far the key lies before the query
    least = {"missing": -length, "sees_next": -1, "not_self": 1}
    mask, window = run.setting("attention.mask"), run.setting("attention.window")
    window = run.config.window(block or 0) if window == AS_CONFIGURED else window
    seen = behind <= 0 if mask == "reversed" else behind >= least.get(str(mask), 0)
    for start, end in run.case.steps:  # of a step's scores, what stands in a column of its own
        step = seen[start:end]
        if mask == "top_left":
            step[:] = behind[start:end] - start >= 0
        elif mask == "past_unseen":
            step[:, :start] = False
        elif mask == "new_unseen":
            step[:, start:] &= not start
        step[:, end:] = False
    return seen if window is None else seen & (behind < int(window))  # type: ignore[arg-type]


def scale_factor(scale: Value, config: DecoderConfig) -> float:
    """The number behind a scale."""
    if not isinstance(scale, str):
        return float(scale)  # type: ignore[arg-type]
    return _named_scales(config)[scale]


def _named_scales(config: DecoderConfig) -> dict[str, float]:
    return {
        "1/sqrt(head_dim)": config.head_dim**-0.5,
        "1": 1.0,
        "1/head_dim": 1.0 / config.head_dim,
        "1/sqrt(width)": config.width**-0.5,
        "1/sqrt(n_heads)": config.n_heads**-0.5,
        "1/sqrt(n_heads*head_dim)": (config.n_heads * config.head_dim) ** -0.5,
        "1/sqrt(width/n_heads)": (config.width / config.n_heads) ** -0.5,
        "sqrt(head_dim)": config.head_dim**0.5,
    }


def _standard_scale(config: DecoderConfig) -> Value:
    """The decoder's own, by its name where it has one."""
    names = _named_scales(config).items()
    return next((name for name, one in names if np.isclose(one, config.scale_of_scores)), config.scale_of_scores)


@convention("attention.scale", SCORES, _standard_scale, number=scale_factor)
def scale(question: Question) -> Iterator[Value]:
    """What q times k is multiplied by: 1/sqrt(head_dim); 1 where it is missing; 1/head_dim where it is applied twice;
    the root of another width; or a number.
    """
    known: list[float] = []
    for name, number in _named_scales(question.case.config).items():
        if not np.isclose(number, known, rtol=1e-9, atol=0).any():
            known.append(number)
            yield name


@scale.fitted
def solved_scale(question: Question) -> Iterator[Fitted]:
    """Solved through the region: the scores are linear in it."""
    yield from solve(question, "attention.scale", [question.case.config.head_dim**-0.5])


@convention("attention.mask", SCORES, "causal")
def mask(question: Question) -> Iterator[Value]:
    """Which keys a query sees: causal, itself and those before; missing, all; sees_next, one too many; not_self, one
    too few; reversed, itself and those after. In steps: top_left, the first keys, as if nothing came before; past_unseen,
    none of the steps before; new_unseen, those of the steps before alone.
    """
    yield from ("missing", "sees_next", "not_self", "reversed")
    if in_steps(question.case):
        yield from ("top_left", "past_unseen", "new_unseen")


def _standard_window(config: DecoderConfig) -> Value:
    of_blocks = {config.window(block) for block in range(config.n_blocks)}
    return of_blocks.pop() if len(of_blocks) == 1 else AS_CONFIGURED


def _windows(config: DecoderConfig) -> str:
    known = Counter(config.windows[: config.n_blocks])
    return ", ".join(f"{size} in {n} of {config.n_blocks} blocks" for size, n in known.items())


@convention("attention.window", SCORES, _standard_window, rank=1, configured=_windows)
def window(question: Question) -> Iterator[Value]:
    """How many keys a query sees at most, itself included; None where there is no sliding window; as_configured, as many
    as the configuration says of the block.
    """
    if question.case.config.windows:
        yield None
        yield from sorted({one + more for one in question.case.config.windows if one for more in (-1, 0, 1)} - {0})


@window.fitted
def counted_window(question: Question) -> Iterator[Fitted]:
    """Read off the masked scores or the zero probabilities; every width where the region shows neither."""
    length = len(question.case.tokens)
    if question.case.stage in ("attn_scores", "attn_probs"):
        output = question.output
        hidden = is_masked(output) if question.case.stage == "attn_scores" else output == 0
        yield Fitted((int((~hidden[:, -1]).sum(axis=-1).max()),))
    else:
        yield from (Fitted((width,)) for width in range(length - 1, 0, -1))


@convention("attention.softcap", SCORES, lambda config: config.score_softcap, rank=1)
def softcap(question: Question) -> Iterator[Value]:
    """The cap c of the scores, c * tanh(scores / c), before the mask; None where there is none."""
    yield from (None, 50.0, 30.0)


@softcap.fitted
def solved_softcap(question: Question) -> Iterator[Fitted]:
    """Solved through the region."""
    yield from solve(question, "attention.softcap", [30.0, 3.0], logarithmic=True)


@convention("attention.kv_heads", ("attn_scores", "attn_context"), "repeated")
def kv_heads(question: Question) -> Iterator[Value]:
    """Which KV head query head h reads: repeated, h // (H/KV); tiled, h % KV; or tiled for k or v alone."""
    yield from ("tiled", "k_tiled", "v_tiled")


@convention("attention.softmax", PROBS, "keys")
def softmax(question: Question) -> Iterator[Value]:
    """What the softmax runs over: the keys; by mistake the queries or the heads; plus_one, the keys with one added to
    the sum; or it is missing.
    """
    yield from ("queries", "heads", "missing", "plus_one")


@convention("attention.sinks", PROBS, "in_sum")
def sinks(question: Question) -> Iterator[Value]:
    """What becomes of the heads' sinks: each adds its exp to the sum that softmax divides by; or they are left out (missing)."""
    if question.case.config.sinks:
        yield "missing"


@convention("attention.alibi", SCORES, lambda config: config.max_alibi_bias)
def alibi(question: Question) -> Iterator[Value]:
    """ALiBi's largest bias, from which the slopes of the heads are made; None where the scores have no bias by position."""
    yield from (None, 8.0)


@convention(
    "attention.clip", ("q_rope", "k_rope", "attn_scores", "attn_context"), lambda config: config.clip_qkv, rank=1
)
def clip(question: Question) -> Iterator[Value]:
    """The largest size of q, k and v, which are clipped behind their norms; None where they are not."""
    yield None


@clip.fitted
def solved_clip(question: Question) -> Iterator[Fitted]:
    """Solved through the region."""
    own = question.case.config.clip_qkv
    if own is not None:
        yield from solve(question, "attention.clip", [own, own / 2, own * 2], logarithmic=True)
