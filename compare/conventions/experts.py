"""Mixtures of experts: `expert_choice`, `router_weights`, `expert_out`, `shared_out`. The router itself is a linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ...graphs.decoder_config import DecoderConfig, Experts
from .case import Array
from .evaluate import CannotEvaluate, Run
from .feed_forward import activated, sigmoid
from .fit import Fitted, Question, solve
from .norm import ffn_input
from .registry import convention, model
from .settings import Value

CHOICE, WEIGHTS, OUT, SHARED = ("expert_choice",), ("router_weights",), ("expert_out",), ("shared_out",)
CORRECTION = "exp_probs_b.bias"
TINY = 1e-20  # keeps a sum of sigmoids from being 0


@model("expert_choice")
def expert_choice(run: Run, block: int | None) -> Array:
    """The chosen experts of each token, the highest score first: whole numbers, [T, k]."""
    experts = _experts(run, block)
    scores = _corrected(run, block, _scores(run, block))
    if experts.groups > 1 and run.setting("experts.groups") != "none":
        scores = _of_the_best_groups(run, experts, scores)
    return np.asarray(np.argsort(-scores, axis=-1, kind="stable")[:, : experts.chosen], np.float64)


@model("router_weights")
def router_weights(run: Run, block: int | None) -> Array:
    """What the chosen experts' outputs are multiplied by, [T, k]."""
    scores = _scores(run, block)
    if run.setting("experts.correction") == "in_weights":
        scores = _corrected(run, block, scores)
    weights = np.take_along_axis(scores, _chosen(run, block), axis=-1)
    if run.setting("experts.score") == "softmax_of_chosen":
        weights = _softmax(weights)
    if run.setting("experts.normalised") != "no":
        over = scores if run.setting("experts.normalised") == "over_all" else weights
        total = over.sum(axis=-1, keepdims=True)
        weights = weights / (total + TINY if run.setting("experts.score") == "sigmoid" else total)
    return weights * run.number("experts.scale")


@model("expert_out")
def expert_out(run: Run, block: int | None) -> Array:
    """The chosen experts' outputs, weighted and summed, [T, C]."""
    x, choice, place = ffn_input(run, block), _chosen(run, block), run.setting("experts.weighted")
    weights = run.tap("router_weights", block) if place != "missing" else np.ones(choice.shape)
    total = np.zeros_like(x)
    for expert in np.unique(choice):
        rows, columns = np.nonzero(choice == expert)
        factors = weights[rows, columns][:, None]
        given = x[rows] * factors if place == "inputs" else x[rows]
        out = _expert(run, block, int(expert), given)
        np.add.at(total, rows, out if place == "inputs" else out * factors)
    return total


@model("shared_out")
def shared_out(run: Run, block: int | None) -> Array:
    """What the experts give that all tokens go through, [T, C]."""
    x, name = ffn_input(run, block), f"blk.{block}."
    gate, up = (_multiplied(run, x, f"{name}ffn_{part}_shexp.weight") for part in ("gate", "up"))
    out = _multiplied(run, activated(run, block, gate) * up, f"{name}ffn_down_shexp.weight")
    tensor = f"{name}ffn_gate_inp_shexp.weight"
    if tensor not in run.case.weights or run.setting("experts.shared_gate") == "missing":
        return out
    gated = x @ np.asarray(run.tensor(tensor), np.float64).reshape(-1, 1)
    return out * (gated if run.setting("experts.shared_gate") == "linear" else sigmoid(gated))


def _experts(run: Run, block: int | None) -> Experts:
    experts = run.config.experts_of(block or 0)
    if experts is None:
        raise CannotEvaluate(f"block {block} has no experts")
    return experts


def _scores(run: Run, block: int | None) -> Array:
    """What the experts are chosen by before any correction, [T, E]."""
    logits, score = run.tap("router_logits", block), run.setting("experts.score")
    return _softmax(logits) if score == "softmax" else sigmoid(logits) if score == "sigmoid" else logits


def _softmax(x: Array) -> Array:
    taken = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(taken / taken.sum(axis=-1, keepdims=True))


def _corrected(run: Run, block: int | None, scores: Array) -> Array:
    """The scores with the bias that is for the choice; as they are where there is none, or it is left out."""
    tensor = f"blk.{block}.{CORRECTION}"
    if tensor not in run.case.weights or run.setting("experts.correction") == "missing":
        return scores
    return scores + np.asarray(run.tensor(tensor), np.float64)


def _of_the_best_groups(run: Run, experts: Experts, scores: Array) -> Array:
    """The scores [T, E], -inf outside of the chosen groups: those whose best two, or best one, are highest."""
    groups = np.sort(scores.reshape(len(scores), experts.groups, -1), axis=-1)
    n_best = 1 if run.setting("experts.groups") == "best_one" else 2
    order = np.argsort(-groups[..., -n_best:].sum(axis=-1), axis=-1, kind="stable")[:, : experts.chosen_groups]
    is_chosen = (np.arange(experts.groups)[None, :, None] == order[:, None, :]).any(axis=-1)  # [T, G]
    return np.where(np.repeat(is_chosen, experts.count // experts.groups, axis=-1), scores, -np.inf)


def _chosen(run: Run, block: int | None) -> NDArray[np.intp]:
    """[T, k]; what is no expert's number is an error of who recorded it."""
    choice = run.tap("expert_choice", block)
    n_experts = _experts(run, block).count
    if not np.isfinite(choice).all() or choice.min() < 0 or choice.max() >= n_experts:
        raise CannotEvaluate(f"tap blk.{block}.expert_choice: not the numbers of {n_experts} experts")
    return choice.astype(np.intp)


def _expert(run: Run, block: int | None, expert: int, x: Array) -> Array:
    """The rows x [n, C] through one expert."""
    gate, up = (_of_expert(run, block, f"ffn_{part}_exps", expert, x) for part in ("gate", "up"))
    if run.setting("experts.gate_up") == "swapped":
        gate, up = up, gate
    return _of_expert(run, block, "ffn_down_exps", expert, _active(run, block, gate, up))


def _active(run: Run, block: int | None, gate: Array, up: Array) -> Array:
    """The gated activation; gpt-oss's is clamped, and takes up + 1."""
    experts = run.config.experts
    if experts is None or experts.swiglu_limit is None or run.setting("experts.swiglu") == "plain":
        return activated(run, block, gate) * up
    limit = run.setting("experts.swiglu_limit")
    if limit is not None:
        most = float(limit)  # type: ignore[arg-type]
        gate, up = np.minimum(gate, most), np.clip(up, -most, most)
    up = up + 1 if run.setting("experts.swiglu") == "one_plus_up" else up
    return up * gate * sigmoid(gate * run.number("experts.swiglu_alpha"))


def _of_expert(run: Run, block: int | None, part: str, expert: int, x: Array) -> Array:
    y = _multiplied(run, x, f"blk.{block}.{part}.weight", expert)
    bias = f"blk.{block}.{part}.bias"
    if bias not in run.case.weights or run.setting("experts.bias") == "missing":
        return y
    return y + np.asarray(run.tensor(bias)[expert], np.float64)


def _multiplied(run: Run, x: Array, tensor: str, expert: int | None = None) -> Array:
    weight = run.tensor(tensor) if expert is None else run.tensor(tensor)[expert]
    run.memo.n_multiplied += weight.size
    return run.case.multiply(x, weight)


def _field(name: str, otherwise: Value) -> Callable[[DecoderConfig], Value]:
    """The standard value of a convention that is a field of the experts; what it is in words, where that is yes or no."""

    def standard(config: DecoderConfig) -> Value:
        value: Value = otherwise if config.experts is None else getattr(config.experts, name)
        return ("yes" if value else "no") if isinstance(value, bool) else value

    return standard


@convention("experts.score", (*CHOICE, *WEIGHTS), _field("score", "softmax"))
def score(question: Question) -> Iterator[Value]:
    """What becomes of the router's logits: softmax, over all experts; sigmoid; softmax_of_chosen, over the chosen ones alone."""
    yield from ("softmax", "sigmoid", "softmax_of_chosen")


@convention("experts.normalised", WEIGHTS, _field("normalised", "no"))
def normalised(question: Question) -> Iterator[Value]:
    """Whether the chosen experts' scores are divided by their sum; or by that of all experts (over_all)."""
    yield from ("yes", "no", "over_all")


@convention("experts.scale", WEIGHTS, _field("scale", 1.0), rank=1)
def scale(question: Question) -> Iterator[Value]:
    """What the chosen experts' scores are multiplied by in the end."""
    yield 1.0


@scale.fitted
def solved_scale(question: Question) -> Iterator[Fitted]:
    """Solved: the weights are linear in it."""
    yield from solve(question, "experts.scale", [1.0])


@convention("experts.correction", (*CHOICE, *WEIGHTS), "for_choice")
def correction(question: Question) -> Iterator[Value]:
    """What becomes of the bias of the experts' scores: it is added for the choice alone; in the weights too; or is missing."""
    if f"blk.{question.case.block}.{CORRECTION}" in question.case.weights:
        yield from ("in_weights", "missing")


@convention("experts.groups", CHOICE, "best_two")
def groups(question: Question) -> Iterator[Value]:
    """By what groups of experts are chosen before the experts: the sum of their best two scores; their best_one; or they are
    not (none).
    """
    yield from ("best_one", "none")


@convention("experts.weighted", OUT, _field("weighted", "outputs"))
def weighted(question: Question) -> Iterator[Value]:
    """What the router's weights multiply: the experts' outputs; their inputs, as in Llama 4; or nothing (missing)."""
    yield from ("outputs", "inputs", "missing")


@convention("experts.gate_up", OUT, "own")
def gate_up(question: Question) -> Iterator[Value]:
    """Whether the gate and up matrices of the experts are swapped."""
    yield "swapped"


@convention("experts.bias", OUT, "added")
def bias(question: Question) -> Iterator[Value]:
    """What becomes of the biases of experts that have them: they are added, or missing."""
    yield "missing"


@convention("experts.swiglu", OUT, "one_plus_up")
def swiglu(question: Question) -> Iterator[Value]:
    """gpt-oss's activation: (up + 1) * gate * sigmoid(alpha * gate), clamped; the same with up itself; or plain, the
    decoder's own activation of the gate, times up.
    """
    yield from ("up", "plain")


@convention("experts.swiglu_limit", OUT, _field("swiglu_limit", None), rank=1)
def swiglu_limit(question: Question) -> Iterator[Value]:
    """The size at which gpt-oss's gate, from above, and up, from both sides, are clamped; None where they are not."""
    yield from (None, 7.0)


@swiglu_limit.fitted
def solved_limit(question: Question) -> Iterator[Fitted]:
    """Solved through the region."""
    if question.run().config.experts is not None:
        yield from solve(question, "experts.swiglu_limit", [1.0, 7.0], logarithmic=True)


@convention("experts.swiglu_alpha", OUT, _field("swiglu_alpha", 1.702), rank=1)
def swiglu_alpha(question: Question) -> Iterator[Value]:
    """What the gate is multiplied by inside of the sigmoid of gpt-oss's activation."""
    yield 1.0


@swiglu_alpha.fitted
def solved_alpha(question: Question) -> Iterator[Fitted]:
    """Solved through the region."""
    yield from solve(question, "experts.swiglu_alpha", [1.702])


@convention("experts.shared_gate", SHARED, "sigmoid")
def shared_gate(question: Question) -> Iterator[Value]:
    """What multiplies the output of the shared experts: the sigmoid of their own gate; that gate itself (linear); or nothing
    (missing).
    """
    yield from ("missing", "linear")


@convention("experts.shared", ("ffn_post_norm", "ffn_residual"), "added")
def shared(question: Question) -> Iterator[Value]:
    """What becomes of the output of the shared experts: it is added, or missing."""
    yield "missing"
