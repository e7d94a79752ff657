"""llama.cpp's names of pre-tokenisers (`tokenizer.ggml.pre`): how each cuts a text, and what else the name implies.

Source: llama.cpp's src/llama-vocab.cpp as shipped in llama-cpp-python 0.3.36.
Not covered: `kimi-k2`, which has no merges, and what is not byte-level (`gemma4`, `granite-embed-multi-311m`,
`sarvam-moe`, `whitespace`).
"""

from dataclasses import dataclass

from ...graphs.errors import InputError
from ..checkpoints.gguf_header import quoted
from . import cuts


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What a name stands for.

    cuts: the regular expressions, to be applied one after the other.
    ignore_merges: a piece that is a token is that token, whether or not merges lead to it.
    add_bos: whether BOS goes first, where the file does not say.
    default_bos: the id of BOS, where the file does not say; None: there is none.
    """

    name: str
    cuts: cuts.Cuts
    ignore_merges: bool = False
    add_bos: bool = False
    default_bos: int | None = 11


_CUTS: dict[cuts.Cuts, str] = {
    cuts.DEFAULT: "default",
    cuts.GPT2: "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en "
    "jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling exaone4",
    cuts.DIGITS_THEN_GPT2: "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
    cuts.FALCON: "falcon",
    cuts.CHAMELEON: "chameleon",
    cuts.BLOOM: "poro-chat bloom gpt3-finnish",
    cuts.VIKING: "viking",
    cuts.SUPERBPE: "superbpe",
    cuts.LLAMA3: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe "
    "chatglm-bpe glm4 glm5",
    cuts.QWEN2: "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
    cuts.UFAKZEKA: "ufakzeka",
    cuts.MINICPM5: "minicpm5",
    cuts.LAGUNA: "laguna",
    cuts.QWEN35: "qwen35",
    cuts.JAIS2: "jais-2",
    cuts.BAILING: "bailingmoe bailingmoe2 llada-moe",
    cuts.SEED_CODER: "seed-coder",
    cuts.EXAONE_MOE: "exaone-moe",
    cuts.GPT4O: "gpt-4o llama4 kanana2 talkie minimax-m2",
    cuts.TEKKEN: "tekken",
    cuts.GRANITE_MULTI: "granite-embed-multi-97m",
    cuts.TINY_AYA: "tiny_aya cohere2moe",
    cuts.YOUTU: "youtu",
    cuts.DEEPSEEK3: "deepseek-v3 hunyuan-dense hy_v4 joyai-llm",
    cuts.SPARK: "spark2_5",
    cuts.AFMOE: "afmoe",
    cuts.DEEPSEEK_CODER: "deepseek-coder",
    cuts.DEEPSEEK_LLM: "deepseek-llm",
}
_LLAMA3 = ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"]
_IGNORE_MERGES = {*_LLAMA3, "minicpm5", "youtu", "glm4", "glm5", "tekken", "granite-embed-multi-97m"}
_ADD_BOS = {*_LLAMA3, "tekken", "chameleon"}
_NO_BOS = {"chatglm-bpe", "glm4", "glm5"}
_UNSUPPORTED = {
    "kimi-k2": "it has no merges",
    "gemma4": "it is not byte-level",
    "granite-embed-multi-311m": "it is not byte-level",
    "sarvam-moe": "it is not byte-level",
    "whitespace": "it is not byte-level",
}

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    name: PreTokenizer(name, cuts_, name in _IGNORE_MERGES, name in _ADD_BOS, None if name in _NO_BOS else 11)
    for cuts_, names in _CUTS.items()
    for name in names.split()
}


def pre_tokenizer(name: str) -> PreTokenizer:
    """What a name stands for; an empty one is `default`, as llama.cpp has it.

    Raises:
        InputError: a name that llama.cpp does not have, or whose rule cannot be expressed here. The message does not
            name the file.
    """
    if name in _UNSUPPORTED:
        raise InputError(
            f"tokenizer.ggml.pre {quoted(name)} is not supported ({_UNSUPPORTED[name]}); give token ids instead of text"
        )
    try:
        return PRE_TOKENIZERS[name or "default"]
    except KeyError as error:
        raise InputError(
            f"tokenizer.ggml.pre {quoted(name)} is an unknown pre-tokeniser; convert the checkpoint again, or give token "
            "ids instead of text"
        ) from error
