"""What is said of a family of decoders: its settings, and how they are read from its files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..fields import Fields
from ..metadata import Metadata

Settings = Mapping[str, object]  # fields of a DecoderConfig


def nothing_more(read: object) -> Settings:
    """For a family whose files say no more than those of all families."""
    return {}


@dataclass(frozen=True, slots=True)
class HfTensors:
    """How a family's tensors stand in an HF folder, where GGUF has them otherwise.

    paired_rows: the rows of q and k are in half-split order, where GGUF has the two of a pair side by side.
    gains_without_one: the norms multiply by 1 + w; GGUF holds 1 + w.
    transposed: its matrices are [in, out].
    experts_in_out: so are its experts' alone, and the rows of gate and up alternate in one tensor.
    qkv_by_head: the fused projection has q, k and v of a head after each other, where GGUF has all of q first.
    renamed: GGUF's part of what gguf's table does not have, by its name within a block without `.weight` or `.bias`; of gate
        and up of all experts in one tensor, `ffn_gate_up_exps`.
    settings: what holds one number, which the configuration has, by its name within a block.
    """

    paired_rows: bool = False
    gains_without_one: bool = False
    transposed: bool = False
    experts_in_out: bool = False
    qkv_by_head: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DecoderFamily:
    """A family of decoders: one architecture of GGUF's, one or more model types of HF's.

    settings: what its decoders have that a Llama has not, always.
    from_hf, from_gguf: what they have further, by their files. What all files say in one way (shapes, RoPE, eps) is read
        already; what is given here comes before that.
    may_have_biases: the parts beside q, k and v that have a bias where the file has it in block 0.
    hf_names: what config.json calls otherwise.
    head_dim: HF's default; None: the width by the heads.
    is_partly_rotated: whether RoPE may turn less than a head.
    gguf_names: the parts that GGUF calls otherwise here.
    """

    architecture: str
    model_types: tuple[str, ...]
    settings: Settings = field(default_factory=dict)
    from_hf: Callable[[Fields], Settings] = nothing_more
    from_gguf: Callable[[Metadata], Settings] = nothing_more
    may_have_biases: tuple[str, ...] = ()
    hf_names: Mapping[str, str] = field(default_factory=dict)
    hf_tensors: HfTensors = field(default_factory=HfTensors)
    head_dim: int | None = None
    is_partly_rotated: bool = False
    gguf_names: Mapping[str, str] = field(default_factory=dict)
