"""Which tensors of a watched pass are taps, and what each is called: a stage where it has one, else its module's path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from torch import nn

from ...graphs.stages import is_stage
from .hf_axes import axes_of
from .hf_record import OfAttention, Place, Recorder, Seen

# The names that transformers' families share: of linear layers and norms inside attention, and of linear layers outside.
IN_ATTENTION = {
    **dict.fromkeys(("q_proj", "query"), "q_proj"),
    **dict.fromkeys(("k_proj", "key"), "k_proj"),
    **dict.fromkeys(("v_proj", "value"), "v_proj"),
    **dict.fromkeys(("o_proj", "out_proj", "dense", "c_proj"), "o_proj"),
    **dict.fromkeys(("q_norm", "q_layernorm"), "q_norm"),
    **dict.fromkeys(("k_norm", "k_layernorm"), "k_norm"),
}
IN_FFN = {
    **dict.fromkeys(("gate_proj", "w1"), "ffn_gate"),
    **dict.fromkeys(("up_proj", "w3", "fc1", "fc_in", "c_fc", "dense_h_to_4h"), "ffn_up"),
    **dict.fromkeys(("down_proj", "w2", "fc2", "fc_out", "c_proj", "dense_4h_to_h"), "ffn_down"),
}
MAPS = ("scores", "probs")
_NORM = re.compile(r"norm|(?:^|_)ln(?:_|\d|$)", re.IGNORECASE)
_ROUTER = re.compile(r"gate|router")


@dataclass(frozen=True, slots=True)
class Planned:
    """A tap: its name, and a word for each dimension."""

    name: str
    axes: str


@dataclass(frozen=True, slots=True)
class Plan:
    """taps: by place; where several places have one name, the first that a pass comes to is tapped. copied: places whose
    tensor is read on as a copy, since the model writes to it or gives it on as another stage.
    """

    taps: Mapping[Place, Planned]
    copied: frozenset[Place]


@dataclass(frozen=True, slots=True)
class _Call:
    """A module that ran: the tensors that it was given, and that it gave."""

    path: str
    number: int
    inputs: list[Seen] = field(default_factory=list)
    outputs: list[Seen] = field(default_factory=list)

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]


def plan(model: nn.Module, recorder: Recorder, logits: Seen, n_blocks: int, n_tokens: int) -> Plan:
    """Decide on the taps of a pass.

    Args:
        logits: what the model gave, which is tapped by itself.
        n_blocks: as the configuration has it. n_tokens: of the pass.
    """
    namer = _Namer(model, recorder.seen, n_tokens, logits.shape[0])
    namer.taken.add(logits.memory)
    blocks = blocks_path(model, n_blocks)
    calls = _calls(recorder.seen)
    insides = [_Block(namer, model, f"{blocks}.{n}", n, calls) for n in range(_length(model, blocks))] if blocks else []
    insides = [block for block in insides if block.itself is not None]
    if insides:
        _name_outside(namer, calls, insides)
    for block in insides:
        block.name_stages()
    for one in recorder.seen:
        if one.place.what == "function":
            namer.by_name(one, _path_name(one.place.path, blocks))
    for call in reversed(calls):  # what is inside comes first
        namer.by_path(call, blocks)
    copied = recorder.overwritten() | {place for block in insides for place in block.given_on()}
    return Plan(namer.taps, copied)


def blocks_path(model: nn.Module, n_blocks: int) -> str:
    """The path of the list that holds the decoder's blocks, the longest where none is as long; empty where there is none."""
    lists = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [(path, m) for path, m in lists if not any(path.startswith(f"{other}.") for other, _ in lists)]
    by_fit = sorted(outermost, key=lambda pair: (len(pair[1]) != n_blocks, -len(pair[1])))
    return by_fit[0][0] if by_fit else ""


def _length(model: nn.Module, path: str) -> int:
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    return len(blocks)


def _calls(seen: Sequence[Seen]) -> list[_Call]:
    """The modules that ran, in the order in which they began."""
    calls: dict[tuple[str, int], _Call] = {}
    for one in seen:
        place = one.place
        if place.what in ("input", "output"):
            call = calls.setdefault((place.path, place.call), _Call(place.path, place.call))
            (call.inputs if place.what == "input" else call.outputs).append(one)
    return list(calls.values())


def _is_norm(model: nn.Module, path: str) -> bool:
    kind = type(model.get_submodule(path)).__name__
    return bool(_NORM.search(path.rpartition(".")[2]) or _NORM.search(kind))


def _floats(seen: Iterable[Seen]) -> list[Seen]:
    return [one for one in seen if one.is_float]


class _Namer:
    """Collects the taps. A stage is one wherever it stands; a path is one only for a tensor that has no name yet."""

    def __init__(self, model: nn.Module, seen: Sequence[Seen], n_tokens: int, n_rows: int) -> None:
        self.taps: dict[Place, Planned] = {}
        self.taken: set[tuple[object, ...]] = set()
        self._model = model
        self._names: set[str] = {"logits"}
        self._whole: list[str] = []
        of_attention = [one for one in seen if one.place.what in get_args(OfAttention)]
        self.of_attention = [o for o in of_attention if o.place.what not in MAPS or _is_map(o.shape, n_tokens)]
        self.n_tokens, self.n_rows = n_tokens, n_rows

    def of_module(self, name: str, call: _Call) -> bool:
        """Give a stage to what a linear layer or a norm gives; what it may be made of has no taps then."""
        self._whole.append(f"{call.path}.")
        return self.stage(name, call.outputs[0])

    def stage(self, name: str, *places: Seen | None) -> bool:
        """Give a stage to the first of these places, each of which may be the one that has it; False where it has one."""
        found = [one for one in places if one is not None]
        if name in self._names or not found:
            return False
        self._names.add(name)
        for one in found:
            words = axes_of(name.rpartition(".")[2], one.shape, self.n_tokens, self.n_rows)
            self.taps.setdefault(one.place, Planned(name, words))
            self.taken |= {one.memory, one.copy}
        return True

    def by_path(self, call: _Call, blocks: str) -> None:
        """Taps under the module's path, of what it computes with tensors of its own."""
        module = self._model.get_submodule(call.path)
        inside = call.path.startswith(tuple(self._whole)) or ".experts." in call.path
        if not call.path or next(module.parameters(), None) is None or inside:
            return  # experts run on the tokens only that are routed to them
        is_leaf = next(module.children(), None) is None  # what others give beside is of modules inside
        for n, one in enumerate(_floats(call.outputs if is_leaf else call.outputs[:1])):
            self.by_name(one, _path_name(call.path, blocks) + (f".{n}" if n else ""))

    def by_name(self, one: Seen, name: str) -> None:
        if not {one.memory, one.copy} & self.taken and one.place not in self.taps and one.shape:
            self.stage(self._free_name(name, one.place.call), one)

    def _free_name(self, name: str, call: int) -> str:
        name = f"{name}.call{call}" if call else name
        return f"{name}.output" if is_stage(name) or name in self._names else name


def _path_name(path: str, blocks: str) -> str:
    """`model.layers.3.mamba.conv1d` is `blk.3.mamba.conv1d`; a block itself is `blk.3.output`."""
    found = re.fullmatch(rf"{re.escape(blocks)}\.(\d+)(?:\.(.+))?", path) if blocks else None
    return f"blk.{found[1]}.{found[2] or 'output'}" if found else path


def _name_outside(namer: _Namer, calls: Sequence[_Call], blocks: Sequence[_Block]) -> None:
    """What stands before and behind the blocks: the embedding is what the first block reads, but for one of positions."""
    first, last = blocks[0].itself, blocks[-1].itself
    assert first is not None
    assert last is not None
    read = next(iter(_floats(first.inputs)), None)
    model = blocks[0].model
    outside = [call for call in calls if not any(call.path.startswith(block.path) for block in blocks)]
    if read is not None:
        giving = [call for call in outside if any(one.copy == read.memory for one in call.outputs[:1])]
        tables = [call for call in outside if isinstance(model.get_submodule(call.path), nn.Embedding) and call.outputs]
        if giving:
            namer.of_module("embed", giving[-1])
        elif len(tables) > 1:
            namer.of_module("embed", tables[0])
            namer.stage("position_embed", read)
        else:
            namer.stage("embed", read)
    behind = calls[calls.index(last) + 1 :]
    norms = [call for call in behind if call in outside and _is_norm(model, call.path) and call.outputs]
    if norms:
        namer.of_module("final_norm", norms[-1])


class _Block:
    """One block: its units are the modules that it holds itself, and what each is shows in what it calls and reads."""

    def __init__(self, namer: _Namer, model: nn.Module, path: str, number: int, calls: Sequence[_Call]) -> None:
        self._namer, self.model, self.path, self._number = namer, model, path, number
        self._calls = [call for call in calls if call.path.startswith(f"{path}.")]
        self.itself = next((call for call in calls if call.path == path and call.number == 0), None)
        self._functions = [one for one in namer.of_attention if one.place.path.startswith(f"{path}.")]
        self._units = [call for call in self._calls if "." not in self._inner(call)]
        self._attention = {self._unit(one.place.path) for one in self._functions if one.place.what in ("q", "scores")}
        self._ffn = {self._unit(call.path) for call in self._calls if self._is_ffn(call)} - self._attention

    def name_stages(self) -> None:
        self._name_linears()
        self._name_norms()
        self._name_attention()
        self._name_experts()
        self._name_sums()

    def given_on(self) -> Iterator[Place]:
        """What attention gives on as it is: it is then no tap of its own, and the sum behind it is another."""
        for call in self._units:
            if self._unit(call.path) in self._attention and not self._namer.taps.keys() & {
                o.place for o in call.outputs
            }:
                yield from (one.place for one in call.outputs[:1] if one.memory in self._namer.taken)

    def _inner(self, call: _Call) -> str:
        return call.path.removeprefix(f"{self.path}.")

    def _unit(self, path: str) -> str:
        return path.removeprefix(f"{self.path}.").partition(".")[0]

    def _is_ffn(self, call: _Call) -> bool:
        return call.last in IN_FFN or _routed(call) is not None

    def _stage(self, stage: str, *places: Seen | None) -> bool:
        return self._namer.stage(self._tap(stage), *places)

    def _tap(self, stage: str) -> str:
        return f"blk.{self._number}.{stage}"

    def _name_linears(self) -> None:
        """By the names that families share; of experts only those that every token runs through have one."""
        for call in self._calls:
            unit = self._unit(call.path)
            table = IN_ATTENTION if unit in self._attention else {} if unit in self._routing() else IN_FFN
            stage = table.get(call.last)
            if stage is None or not call.outputs or "shared" in call.path:
                continue
            if self._namer.of_module(self._tap(stage), call) and stage == "ffn_down":
                self._stage("ffn_act", next(iter(call.inputs), None))

    def _routing(self) -> set[str]:
        return {self._unit(call.path) for call in self._calls if _routed(call) is not None}

    def _name_norms(self) -> None:
        """A norm is what reads it; one that no other module reads is what it reads."""
        for call in self._calls:
            inner = self._inner(call)
            if "." in inner or not _is_norm(self.model, call.path) or not call.outputs or not call.inputs:
                continue
            stage = self._read_as(call) or self._behind(call)
            if stage is not None:
                self._namer.of_module(self._tap(stage), call)

    def _read_as(self, norm: _Call) -> str | None:
        readers = {
            self._unit(call.path)
            for call in self._calls
            if call is not norm and any(one.memory == norm.outputs[0].copy for one in call.inputs)
        }
        return "attn_norm" if readers & self._attention else "ffn_norm" if readers & self._ffn else None

    def _behind(self, norm: _Call) -> str | None:
        for call in self._units:
            if any(one.copy == norm.inputs[0].memory for one in call.outputs):
                unit = self._unit(call.path)
                return "attn_post_norm" if unit in self._attention else "ffn_post_norm" if unit in self._ffn else None
        return None

    def _name_attention(self) -> None:
        """Of rotations that turn only a part of the channels, the whole is what attention reads."""
        seen = {one.place.what: one for one in reversed(self._functions)}  # the first of each
        self._name_maps(seen.get("scores"), seen.get("probs"), seen.get("weights"), seen.get("k"))
        self._stage("attn_context", seen.get("context"), self._read_by_o_proj())
        is_rotary_somewhere = any(one.place.what == "rotated_q" for one in self._namer.of_attention)
        for x in ("q", "k"):
            given, rotated, read = (seen.get(f"{kind}{x}") for kind in ("rotary_", "rotated_", ""))  # type: ignore[call-overload]
            is_whole = rotated is not None and (read is None or rotated.shape[-1] == read.shape[-1])
            if is_rotary_somewhere:
                self._stage(f"{x}_rope", rotated if is_whole else None, read)
            before = given if is_whole else None if is_rotary_somewhere else read
            if before is not None and before.memory not in self._namer.taken:
                self._stage(f"{x}_proj", before)
        value = seen.get("v")
        if value is not None and value.memory not in self._namer.taken:
            self._stage("v_proj", value)

    def _name_maps(self, scores: Seen | None, probs: Seen | None, weights: Seen | None, keys: Seen | None) -> None:
        """Where a sink takes part in the softmax, the probabilities are what attention gives beside the context."""
        has_sink = scores is not None and keys is not None and scores.shape[-1] > keys.shape[-2]
        if not has_sink:
            self._stage("attn_scores", scores)
            self._stage("attn_probs", probs)
        elif weights is not None:
            self._stage("attn_probs", weights)

    def _read_by_o_proj(self) -> Seen | None:
        for call in self._calls:
            if self._unit(call.path) in self._attention and IN_ATTENTION.get(call.last) == "o_proj":
                return next(iter(call.inputs), None)
        return None

    def _name_experts(self) -> None:
        for call in self._calls:
            routed = _routed(call)
            if routed is None or not call.outputs:
                continue
            choice, weights = routed
            self._stage("router_logits", self._router_of(call, choice))
            self._stage("router_weights", weights)
            self._stage("expert_choice", choice)
            self._stage("expert_out", call.outputs[0])
        if self._routing():
            shared = [call for call in self._calls if "shared" in call.last and call.outputs]
            if not any("gate" in call.last for call in shared):  # its product with a gate is no module's
                self._stage("shared_out", *(call.outputs[0] for call in shared[:1]))

    def _router_of(self, experts: _Call, choice: Seen) -> Seen | None:
        """What the router gives first, of which the experts are chosen."""
        n_experts = getattr(self.model.get_submodule(experts.path), "num_experts", None)
        unit = self._unit(experts.path)
        for call in self._calls:
            if self._unit(call.path) == unit and _ROUTER.search(call.last) and "shared" not in call.last:
                scores = [one for one in _floats(call.outputs) if one.shape[-1:] == (n_experts,)]
                if scores:
                    return scores[0]
        return None

    def _name_sums(self) -> None:
        """The residual stream behind attention, as the feed-forward reads it or its norm, and behind the block."""
        assert self.itself is not None
        begun = {one.memory for one in self.itself.inputs}
        norms = [c for c in self._units if c.outputs and self._is_stage(c.outputs[0], "ffn_norm")]
        readers = norms or [c for c in self._units if self._unit(c.path) in self._ffn]
        if self._attention and readers:
            read = next(iter(_floats(readers[0].inputs)), None)
            if read is not None and read.memory not in begun and not self._is_of_norm(read):
                self._stage("attn_residual", read)
        out = next(iter(_floats(self.itself.outputs)), None)
        if self._ffn:
            self._stage("ffn_residual", out)
        elif self._attention:
            self._stage("attn_residual", out)

    def _is_stage(self, seen: Seen, stage: str) -> bool:
        planned = self._namer.taps.get(seen.place)
        return planned is not None and planned.name == self._tap(stage)

    def _is_of_norm(self, seen: Seen) -> bool:
        return any(one.copy == seen.memory for c in self._units if _is_norm(self.model, c.path) for one in c.outputs)


def _is_map(shape: Sequence[int], n_tokens: int) -> bool:
    """Whether a softmax is over what the queries see: over heads, queries, and keys with one for nothing, it may be."""
    return len(shape) in (3, 4) and shape[-2] == n_tokens and shape[-1] in (n_tokens, n_tokens + 1)


def _routed(call: _Call) -> tuple[Seen, Seen] | None:
    """The choice and the weights that experts are given: two tensors of one shape, of whole numbers and of floats."""
    for choice in call.inputs:
        if not choice.is_float and len(choice.shape) == 2:
            for weights in call.inputs:
                if weights.is_float and weights.shape == choice.shape:
                    return choice, weights
    return None
