"""The families of decoders that opdiff's own decoder covers, each in a file of its own."""

from ..fields import Unsupported
from .apertus import APERTUS
from .cohere2 import COHERE2
from .family import DecoderFamily
from .gemma import GEMMA2, GEMMA3
from .glm4 import GLM4, GLM4_MOE
from .gpt2 import GPT2
from .gpt_neox import GPT_NEOX
from .gpt_oss import GPT_OSS
from .granite import GRANITE, GRANITE_MOE
from .llama import LLAMA
from .olmo import OLMO2, OLMOE
from .phi3 import PHI3
from .qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE
from .smollm3 import SMOLLM3
from .stablelm import STABLELM
from .starcoder2 import STARCODER2

FAMILIES = (
    *(QWEN3, QWEN2, LLAMA, GEMMA2, GEMMA3, PHI3, OLMO2, GRANITE, GLM4, COHERE2, SMOLLM3, STABLELM, GPT_NEOX, GPT2),
    *(STARCODER2, QWEN3_MOE, QWEN2_MOE, OLMOE, GRANITE_MOE, GLM4_MOE, GPT_OSS, APERTUS),
)


def family_of_architecture(architecture: object) -> DecoderFamily:
    """The family of GGUF's `general.architecture`. Raises InputError for another."""
    return _found(architecture, "architecture", {family.architecture: family for family in FAMILIES})


def family_of_model_type(model_type: object) -> DecoderFamily:
    """The family of HF's `model_type`. Raises InputError for another."""
    return _found(model_type, "model_type", {name: family for family in FAMILIES for name in family.model_types})


def _found(name: object, what: str, families: dict[str, DecoderFamily]) -> DecoderFamily:
    if not isinstance(name, str) or name not in families:
        known = ", ".join(families)
        raise Unsupported(f"{what} {name!r:.80} is not supported; give a checkpoint of one of: {known}")
    return families[name]
