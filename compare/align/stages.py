"""Which values of a graph are stages of a decoder: told by its softmaxes, its weights and what reads what, not by names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ...graphs.adopt.flat import Flat, Ran
from ...graphs.stages import tap_name
from .anchors import Anchor, anchors_of, norm_input, root
from .values import is_move

_NEAR = 24  # steps between two stages, at most
_MULTIPLY = ("MatMul", "FusedMatMul")  # the second is onnxruntime's: it scales and transposes too
_SCALES = ("Mul", "Div")
_REPEATS = ("Expand", "Tile")
_PARTS = ("Split", "Slice", "Gather")


def stages_of(flat: Flat) -> dict[str, str]:
    """The values that are stages, before they are moved elsewhere, and their tap names; none where this is no decoder."""
    found = _Stages(flat)
    found.all()
    return found.names


@dataclass
class _Stages:
    flat: Flat
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        anchors = anchors_of(self.flat)
        self._anchors = anchors
        self._by_y = {anchor.y: anchor for anchor in anchors}
        self._products = [anchor for anchor in anchors if anchor.role == "product"]

    def all(self) -> None:
        softmaxes = [node for node in self.flat.nodes if node.operator == "Softmax"]
        blocks = [attention for node in softmaxes if (attention := self._attention(node)) is not None]
        if not blocks:
            return
        for anchor in self._anchors:
            if anchor.role == "table" and root(self.flat, anchor.x)[0] in self.flat.inputs:
                self._name("embed", None, self._with_bias(anchor.y))
                break
        ends = [*(block.first for block in blocks[1:]), len(self.flat.nodes)]
        for number, (block, end) in enumerate(zip(blocks, ends, strict=True)):
            for stage, value in block.stages.items():
                self._name(stage, number, value)
            self._feed_forward(number, block, end)
        self._head(blocks[-1])

    def _name(self, stage: str, block: int | None, value: str | None) -> None:
        if value is not None:
            self.names.setdefault(root(self.flat, value)[0], tap_name(stage, block))

    def _attention(self, softmax: Ran) -> _Attention | None:
        """The stages around a softmax; None where it is not that of an attention."""
        flat = self.flat
        scores, probs = softmax.reads[0], softmax.outputs[0]
        product, context = self._above(scores, self._is_any_product), self._below(probs, self._is_any_product)
        if product is None or context is None or not (self._is_of_values(product) and self._is_of_values(context)):
            return None  # a router's scores are a product with a weight
        q, k = (self._without_repeats(name) for name in product.reads)
        others = [name for name in context.reads if self._above(name, lambda node: node is softmax) is None]
        if not others:
            return None
        v = self._without_repeats(others[0])
        found: dict[str, str | None] = {"attn_scores": scores, "attn_probs": probs, "attn_context": context.outputs[0]}
        projections = {name: self._projection(value) for name, value in (("q", q), ("k", k), ("v", v))}
        shared = [anchor.place for anchor in projections.values() if anchor is not None]
        first = min(shared, default=softmax.place)
        for letter, value in (("q", q), ("k", k)):
            anchor = projections[letter]
            norm = None if anchor is None else self._norm_between(value, anchor)
            is_merged = anchor is not None and shared.count(anchor.place) > 1
            projected = None if anchor is None else self._projected(anchor, is_merged, value)
            found[f"{letter}_proj"] = projected
            found[f"{letter}_norm"] = norm
            last = norm or projected
            found[f"{letter}_rope"] = (
                None if last is not None and root(flat, value)[0] == root(flat, last)[0] else value
            )
        anchor = projections["v"]
        if anchor is not None:
            found["v_proj"] = self._projected(anchor, shared.count(anchor.place) > 1, v)
        if projections["q"] is not None:
            found["attn_norm"] = projections["q"].x
        output = self._product_below(context.outputs[0])
        if output is not None:
            found["o_proj"] = self._with_bias(output.y)
            found["attn_residual"] = self._residual(found["o_proj"])
        return _Attention(found, first, output)

    def _feed_forward(self, block: int, attention: _Attention, end: int) -> None:
        """The stages between an attention and the next one: the last product on the way to a residual is the down one."""
        if attention.output is None:
            return
        products = [one for one in self._products if attention.output.place < one.place < end]
        downs = [one for one in products if self._residual(self._with_bias(one.y)) is not None]
        if not downs:
            self._experts(block, attention, products)
            return
        down = downs[-1] if self._head_of() is not downs[-1] else downs[0]
        into = [one for one in products if one.place < down.place]
        self._name("ffn_down", block, self._with_bias(down.y))
        self._name("ffn_residual", block, self._residual(self._with_bias(down.y)))
        self._name("ffn_act", block, down.x)
        if len(into) == 1:
            self._name("ffn_up", block, self._with_bias(into[0].y))
        elif len(into) == 2:
            gate = next((one for one in into if self._is_gate(one)), None)
            for one in into:
                self._name("ffn_gate" if one is gate else "ffn_up", block, self._with_bias(one.y))
        if into:
            self._name("ffn_norm", block, into[0].x)

    def _experts(self, block: int, attention: _Attention, products: Sequence[Anchor]) -> None:
        """The stages of a block whose experts are picked by index, so that the router's is its only product with a weight."""
        router = next((one for one in products if self._below(one.y, _is_choice) is not None), None)
        if router is not None:
            self._name("ffn_norm", block, router.x)
            self._name("router_logits", block, self._with_bias(router.y))
            self._name("ffn_residual", block, self._residual(attention.stages.get("attn_residual")))

    def _is_gate(self, anchor: Anchor) -> bool:
        """Whether a product goes through something that is no multiplication of two values first."""
        readers = list(self._readers(self._with_bias(anchor.y)))
        return not (len(readers) == 1 and readers[0].operator == "Mul" and self._is_of_two(readers[0]))

    def _is_product(self, node: Ran) -> bool:
        anchor = self._by_y.get(node.outputs[0])
        return anchor is not None and anchor.role == "product"

    def _is_any_product(self, node: Ran) -> bool:
        return self._is_product(node) or self._is_of_values(node)

    def _is_of_values(self, node: Ran) -> bool:
        return node.operator in _MULTIPLY and self._is_of_two(node)

    def _is_of_two(self, node: Ran) -> bool:
        return all(map(self.flat.is_data, node.reads))

    def _head_of(self) -> Anchor | None:
        return self._products[-1] if self._products else None

    def _head(self, last: _Attention) -> None:
        head = self._head_of()
        if head is None or last.output is None or head.place <= last.output.place:
            return
        for end in self.flat.outputs.values():
            if self._above(end, lambda node: node.outputs[0] == head.y) is not None:
                self.names.setdefault(root(self.flat, end)[0], tap_name("logits", None))
                break
        self._name("final_norm", None, head.x)

    def _projection(self, value: str) -> Anchor | None:
        """The nearest product with a weight above a value."""
        node = self._above(value, self._is_product)
        return None if node is None else self._by_y[node.outputs[0]]

    def _norm_between(self, value: str, projection: Anchor) -> str | None:
        """The output of a norm's gain between a projection and what it is used as."""

        def is_gain(node: Ran) -> bool:
            anchor = self._by_y.get(node.outputs[0])
            return anchor is not None and anchor.role == "gain" and norm_input(self.flat, anchor) is not None

        node = self._above(value, lambda one: one.place <= projection.place or is_gain(one))
        return None if node is None or node.place <= projection.place else node.outputs[0]

    def _with_bias(self, value: str) -> str:
        """A product with the bias that is added to it."""
        for reader in self._readers(value):
            anchor = self._by_y.get(reader.outputs[0])
            if anchor is not None and anchor.role == "bias":
                return anchor.y
        return value

    def _projected(self, anchor: Anchor, is_merged: bool, value: str) -> str | None:
        """A product with its bias; of one that is of q, k and v at once, the part on which a value hangs."""
        whole = self._with_bias(anchor.y)
        return self._part_of(whole, value) if is_merged else whole

    def _part_of(self, whole: str, value: str) -> str | None:
        """The part of a product, that of q, k and v at once, on which a value hangs."""
        flat, level = self.flat, [value]
        whole = root(flat, whole)[0]
        for _ in range(_NEAR):
            makers = [(name, flat.maker[name]) for name in dict.fromkeys(level) if name in flat.maker]
            for name, node in makers:
                if node.operator in _PARTS and not node.domain and root(flat, node.reads[0])[0] == whole:
                    return name
            level = [name for _, node in makers for name in node.reads if name and flat.is_data(name)]
        return None

    def _residual(self, value: str | None) -> str | None:
        """The sum of a value with another one that hangs on the input."""
        if value is None:
            return None
        sums = (r for r in self._readers(value) if r.operator in ("Add", "Sum") and self._is_of_two(r))
        found = next(sums, None)
        return None if found is None else found.outputs[0]

    def _product_below(self, value: str) -> Anchor | None:
        node = self._below(value, self._is_product)
        return None if node is None else self._by_y[node.outputs[0]]

    def _without_repeats(self, name: str) -> str:
        """A value before it is moved, scaled by a number, or repeated for more heads."""
        flat = self.flat
        while True:
            name = root(flat, name)[0]
            node = flat.maker.get(name)
            if node is None or node.domain:
                return name
            data = [one for one in node.reads if one and flat.is_data(one)]
            is_scaled = node.operator in _SCALES and len(data) == 1 and _is_number(flat, node)
            is_repeated = node.operator in _REPEATS
            if not is_scaled and not is_repeated:
                return name
            name = data[0]

    def _readers(self, value: str) -> Iterator[Ran]:
        """What reads a value, wherever it is moved first."""
        stack = [value]
        while stack:
            for node in self.flat.readers.get(stack.pop(), ()):
                if is_move(node):
                    stack.append(node.outputs[0])
                else:
                    yield node

    def _above(self, value: str, is_it: Callable[[Ran], bool]) -> Ran | None:
        """The nearest node above a value of which this holds."""
        maker, is_data = self.flat.maker, self.flat.is_data
        return _nearest(
            value,
            is_it,
            lambda name: [maker[name]] if name in maker else [],
            lambda node: [name for name in node.reads if name and is_data(name)],
        )

    def _below(self, value: str, is_it: Callable[[Ran], bool]) -> Ran | None:
        """The nearest node that hangs on a value of which this holds."""
        return _nearest(value, is_it, lambda name: self.flat.readers.get(name, []), lambda node: node.outputs)


@dataclass(frozen=True)
class _Attention:
    """An attention's stages; where its first projection runs, and the product behind it."""

    stages: dict[str, str | None]
    first: int
    output: Anchor | None


def _is_choice(node: Ran) -> bool:
    return node.operator == "TopK"


def _is_number(flat: Flat, node: Ran) -> bool:
    return all(flat.array(name).size == 1 for name in node.reads if name and not flat.is_data(name))


def _nearest(
    value: str,
    is_it: Callable[[Ran], bool],
    near: Callable[[str], Sequence[Ran]],
    on: Callable[[Ran], Sequence[str]],
) -> Ran | None:
    """The first node of which this holds, level by level: `near` a value, and from there `on` to others."""
    level, seen = [value], {value}
    for _ in range(_NEAR):
        after: list[str] = []
        for name in level:
            for node in near(name):
                if is_it(node):
                    return node
                after.extend(one for one in on(node) if one not in seen)
        seen.update(after)
        level = list(dict.fromkeys(after))
    return None
