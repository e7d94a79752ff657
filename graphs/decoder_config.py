"""What a decoder is, in numbers and in the choices that distinguish one family from another."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Literal, Self, get_args, get_origin

import numpy as np

from .errors import InputError

_LARGEST = 2**31 - 1
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
MOST_BLOCKS = 10_000
AGAIN = "give the text that to_json wrote"


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How RoPE's frequencies are changed for a longer context, and by what its cosines and sines are multiplied.

    kind: linear: all are divided by `factor`; dynamic: the base grows with the tokens beyond `original_context`; llama3, yarn:
        low frequencies are divided by `factor`, high ones are not; longrope: each is divided by a factor of its own, of the long
        list where there are more tokens than `original_context`; factors: each by its own of the tensor rope_freqs.weight.
    short_factors, long_factors: those of longrope; none where they are tensors, rope_factors_short.weight and
        rope_factors_long.weight.
    truncated: whether yarn's bounds between low and high are rounded to whole channels.
    """

    kind: Literal["linear", "dynamic", "llama3", "yarn", "longrope", "factors"]
    factor: float = 1.0
    original_context: int | None = None
    attention_factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncated: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed feed-forward networks of a block, and those that all tokens share.

    count, chosen: how many there are, and how many of them each token goes through.
    width: of one of them.
    score: what becomes of the router's logits: softmax, sigmoid, or the softmax of the chosen ones alone.
    normalised: whether the chosen scores are divided by their sum; `scale`: what they are multiplied by in the end.
    weighted: whether the scores multiply what the chosen experts give, or what they read, as in Llama 4.
    correction_bias: whether a bias is added to the scores for the choice alone.
    groups, chosen_groups: of how many groups of experts the token chooses in how many, those whose best two scores are highest.
    shared_width: of the shared experts together; None: there are none; shared_gate: whether they have a gate of their own.
    biases: whether the router and the experts have biases.
    swiglu_limit: gpt-oss's clamped activation, (min(up, limit) + 1) * gate * sigmoid(alpha * gate); None: the decoder's own.
    """

    count: int
    chosen: int
    width: int
    score: Literal["softmax", "sigmoid", "softmax_of_chosen"] = "softmax"
    normalised: bool = False
    scale: float = 1.0
    weighted: Literal["outputs", "inputs"] = "outputs"
    correction_bias: bool = False
    groups: int = 1
    chosen_groups: int = 1
    shared_width: int | None = None
    shared_gate: bool = False
    biases: bool = False
    swiglu_limit: float | None = None
    swiglu_alpha: float = 1.702

    def __post_init__(self) -> None:
        check_fields(self)
        if self.chosen > self.count or self.count % self.groups or self.chosen_groups > self.groups:
            raise InputError(
                f"config: {self.chosen} of {self.count} experts in {self.chosen_groups} of {self.groups} groups cannot be; "
                "correct them at their source"
            )


@dataclass(frozen=True, slots=True)
class Xielu:
    """The numbers of one block's xIELU: a x^2 + beta x where x > 0, else b (exp(min(x, eps)) - 1 - x) + beta x.

    alpha_p, alpha_n: as they are learned: a is softplus(alpha_p), b is beta + softplus(alpha_n).
    """

    alpha_p: float
    alpha_n: float
    beta: float
    eps: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) not in (int, float) or not abs(value) <= _LARGEST_FLOAT:  # NaN is not
                raise InputError(
                    f"config: {field.name} of xIELU is {value!r:.80}, no finite number; correct it at its source"
                )


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The shape, the constants and the choices of one decoder. What has a default is so in a Llama.

    `rope_base` and `rms_norm_eps` are the shortest decimals that round to the float32 in the file: 1e-05, and not
    9.999999747378752e-06, so that they read as their author wrote them. In float32 there is no difference.

    rms_norm_eps: the eps of every norm, of LayerNorms too.
    norm_place: before a sublayer, after it, or both.
    parallel: whether the feed-forward network reads the block's input too, behind attention's norm or behind its own.
    qk_norm_over: one mean for each head with one gain for all; for the whole projection; or each head with its own gain.
    attention_bias: whether q, k and v have biases; `biases`: which other parts have.
    interleaved: whether RoPE turns the pairs (2i, 2i + 1); of the architecture `llama`, whose rows GGUF permutes, it always does.
    rotary_dim: how many channels of a head RoPE turns, where it is not all of them.
    rotates: which blocks do; empty: all.
    windows: how many keys a query sees at most, itself included, in each block; empty: all in each of them.
    local_rope_base: RoPE's base in blocks with a window, where it is another one there, without scaling.
    position_offset: the row of the first position in the table of learned ones; None: 0.
    max_alibi_bias: ALiBi's, 8 as published; None: there is none.
    attention_scale: what q times k is multiplied by; None: 1 / sqrt(head_dim).
    clip_qkv: the largest size of q, k and v.
    logit_scale: what the logits are multiplied by.
    expert_blocks: which blocks have experts, where there are `experts`; empty: all.
    xielu: the numbers of each block's activation, where that is xielu.
    """

    architecture: str
    n_blocks: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    context_length: int
    rope_base: float
    rms_norm_eps: float
    tied_head: bool
    qk_norm: bool
    attention_bias: bool
    norm_kind: Literal["rms", "layer_norm"] = "rms"
    norm_place: Literal["before", "after", "both"] = "before"
    parallel: Literal["no", "one_norm", "two_norms"] = "no"
    qk_norm_over: Literal["head", "projection", "each_head"] = "head"
    biases: tuple[str, ...] = ()
    activation: Literal["silu", "gelu", "gelu_tanh", "relu2", "xielu"] = "silu"
    gated: bool = True
    positions: Literal["rotary", "learned", "none"] = "rotary"
    position_offset: int | None = None
    interleaved: bool = False
    rotary_dim: int | None = None
    rotates: tuple[bool, ...] = ()
    rope_scaling: RopeScaling | None = None
    local_rope_base: float | None = None
    windows: tuple[int | None, ...] = ()
    max_alibi_bias: float | None = None
    sinks: bool = False
    attention_scale: float | None = None
    score_softcap: float | None = None
    logit_softcap: float | None = None
    clip_qkv: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    experts: Experts | None = None
    expert_blocks: tuple[bool, ...] = ()
    xielu: tuple[Xielu, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.n_blocks > MOST_BLOCKS:
            raise InputError(f"config: {self.n_blocks} blocks, where {MOST_BLOCKS} are the most that opdiff reads")
        if self.n_heads % self.n_kv_heads:
            raise InputError(
                f"config: n_heads {self.n_heads} is no multiple of n_kv_heads {self.n_kv_heads}; correct them"
            )
        rotated = self.rotary_dim or self.head_dim
        if rotated % 2 or rotated > self.head_dim:
            name = "head_dim" if self.rotary_dim is None else f"rotary_dim {rotated} of head_dim"
            odd = "is odd, and RoPE turns pairs" if rotated % 2 else "is more than there is"
            raise InputError(f"config: {name} {self.head_dim} {odd}; correct it")
        if self.activation == "xielu" and not self.xielu:
            raise InputError("config: the activation is xielu, and its numbers are missing; correct it at its source")
        for name in ("windows", "rotates", "expert_blocks", "xielu"):
            if 0 < len(getattr(self, name)) < self.n_blocks:
                raise InputError(f"config: {name} tells of {len(getattr(self, name))} of {self.n_blocks} blocks")

    @property
    def pairing(self) -> str:
        """Which channels RoPE turns together."""
        return "interleaved" if self.interleaved or self.architecture == "llama" else "half_split"

    @property
    def scale_of_scores(self) -> float:
        """What q times k is multiplied by."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    def window(self, block: int) -> int | None:
        """How many keys a query of the block sees at most; None: all."""
        return self.windows[block] if self.windows else None

    def is_rotated(self, block: int) -> bool:
        """Whether q and k of the block are rotated."""
        return self.positions == "rotary" and (not self.rotates or self.rotates[block])

    def experts_of(self, block: int) -> Experts | None:
        """The block's experts; None where it has one feed-forward network."""
        return self.experts if not self.expert_blocks or self.expert_blocks[block] else None

    @property
    def has_equal_blocks(self) -> bool:
        """Whether all blocks compute the same of their weights."""
        of_all = (self.windows, self.rotates, self.expert_blocks, self.xielu)
        return all(len(set(of_blocks)) <= 1 for of_blocks in of_all)

    @property
    def is_plain(self) -> bool:
        """Whether every choice is as in a Llama, a Qwen2 or a Qwen3."""
        return not any(True for _ in self.other_choices())

    def other_choices(self) -> Iterator[tuple[str, object]]:
        """The fields with defaults that have another value."""
        for field in fields(self):
            if field.default is not MISSING and getattr(self, field.name) != field.default:
                yield field.name, getattr(self, field.name)

    def to_json(self) -> str:
        """One JSON object with every field; `from_json` gives back an equal config."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote, now or before there were so many fields. Raises InputError for anything else."""
        try:
            values = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"config: not JSON ({error!s:.80}); {AGAIN}") from error
        made = _made(values, cls)
        assert isinstance(made, cls)
        return made


def check_fields(record: object) -> None:
    """Raise InputError where a field of a record is not of its type, or a number that cannot be."""
    for field in fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if not _is_sane(value, field.type):
            raise InputError(f"config: {field.name} is {value!r:.80}, which cannot be; correct it at its source")


def _is_sane(value: object, kind: object) -> bool:
    if kind is int:
        return type(value) is int and 1 <= value <= _LARGEST
    if kind is float:
        return type(value) in (int, float) and 0 < value <= _LARGEST_FLOAT  # type: ignore[operator]
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, UnionType):
        return any(_is_sane(value, part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return type(value) is tuple and all(_is_sane(one, get_args(kind)[0]) for one in value)
    return type(value) is kind and value != ""


def _made(value: object, kind: object) -> object:
    """A value of a field from JSON's own: a record from an object, a tuple from an array."""
    if isinstance(kind, UnionType):
        inner = next(part for part in get_args(kind) if part is not NoneType)
        return None if value is None else _made(value, inner)
    if get_origin(kind) is tuple:
        return tuple(_made(one, get_args(kind)[0]) for one in value) if isinstance(value, list) else value
    return _record(value, kind) if isinstance(kind, type) and is_dataclass(kind) else value


def _record(values: object, kind: type) -> object:
    known = {field.name: field for field in fields(kind)}
    needed = {name for name, field in known.items() if field.default is MISSING}
    if not isinstance(values, dict) or not needed <= set(values) <= set(known):
        wrong = (
            sorted(set(values) - set(known) | needed - set(values))[:3] if isinstance(values, dict) else type(values)
        )
        raise InputError(f"config: not a config's fields ({wrong!r:.120}); {AGAIN}")
    return kind(**{name: _made(value, known[name].type) for name, value in values.items()})
