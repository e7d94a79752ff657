"""Which tokens are special, and how a text is taken apart at them, as llama.cpp does both.

llama.cpp looks for one special token after the other, the longest first, through the whole text. HF's library goes
through the text once and takes the longest at the leftmost place: with special tokens `ab` and `bcd`, the text `abcd`
is `a` `bcd` in llama.cpp and `ab` `cd` in HF's library.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ..checkpoints.gguf_header import Value

Metadata = Callable[[str], Value | None]
_C_SPACES = " \t\n\v\f\r"


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that is found by its text.

    always: also where special tokens are to be plain text (user-defined ones are). strip_left, strip_right: the white
    space beside it belongs to it.
    """

    id: int
    text: str
    always: bool
    strip_left: bool = False
    strip_right: bool = False


# Texts that llama.cpp takes for control tokens, whatever type the file gives them.
_ENDS = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
]
# By the metadata keys that name such a token: where a key is given, no text is looked for.
_FILL_IN = {
    ("fim_pre_token_id", "prefix_token_id"): "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> "
    "<|code_prefix|> <|prefix|>",
    ("fim_suf_token_id", "suffix_token_id"): "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> "
    "<|code_suffix|> <|suffix|>",
    ("fim_mid_token_id", "middle_token_id"): "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> "
    "<|code_middle|> <|middle|>",
    ("fim_pad_token_id",): "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]",
    ("fim_rep_token_id",): "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>",
    ("fim_sep_token_id",): "<|file_sep|>",
}
_SHOWN = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]


def special_tokens(tokens: Sequence[str], types: Sequence[int], metadata: Metadata) -> tuple[SpecialToken, ...]:
    """The special tokens, in the order in which they are looked for.

    Not reproduced: of several fill-in-the-middle spellings in one vocabulary llama.cpp takes the one that comes first
    in a hash table, here all are taken; of equally long texts that overlap, its order is unspecified, here it is by id.
    Source: llama.cpp's src/llama-vocab.cpp, llama_vocab::impl::load.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    settled = list(types)
    for text in (*_ENDS, *_fill_in(metadata)):
        if text in ids:
            settled[ids[text]] = TokenType.CONTROL
    for text in _SHOWN:
        if text in ids:
            settled[ids[text]] = TokenType.USER_DEFINED
    _settle_ends(ids, settled)
    left, right = _strips(ids, metadata)
    looked_for = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    found = [
        SpecialToken(index, tokens[index], kind == TokenType.USER_DEFINED, left(index), right(index))
        for index, kind in enumerate(settled)
        if kind in looked_for
    ]
    return tuple(sorted(found, key=lambda token: -len(token.text.encode())))


def _fill_in(metadata: Metadata) -> Iterator[str]:
    for keys, texts in _FILL_IN.items():
        if all(metadata("tokenizer.ggml." + key) is None for key in keys):
            yield from texts.split()


def _settle_ends(ids: dict[str, int], settled: list[int]) -> None:
    """gpt-oss and Solar write `<|end|>` inside an answer, Gemma 4 has `</s>` as an ordinary token."""
    call = "<|call|>" in ids or "<|calls|>" in ids
    if call and ("<|return|>" in ids or "<|flush|>" in ids) and "<|end|>" in ids:
        settled[ids["<|end|>"]] = TokenType.USER_DEFINED
    if "<|tool_response>" in ids and "</s>" in ids:
        settled[ids["</s>"]] = TokenType.NORMAL


def _strips(ids: dict[str, int], metadata: Metadata) -> tuple[Callable[[int], bool], Callable[[int], bool]]:
    """Who takes the white space to the left and to the right: known by the names in the file alone."""
    pre, architecture = str(metadata("tokenizer.ggml.pre") or ""), str(metadata("general.architecture") or "")
    name = str(metadata("general.name") or "").lower()
    if re.search("jina-v2-(de|es|code)", pre) or re.search("nomic-bert-moe|jina-bert-v3", architecture):
        return lambda index: index == ids.get("<mask>"), lambda index: False
    if "phi-3" in name or "phi3" in name:
        kept = {ids.get("<unk>"), ids.get("<s>"), ids.get("<|endoftext|>")}
        return lambda index: False, lambda index: index not in kept
    if "modern-bert" in name:
        return lambda index: index == ids.get("[MASK]"), lambda index: False
    return lambda index: False, lambda index: False


def take_apart(text: str, special: Sequence[SpecialToken], all_special: bool) -> list[str | int]:
    """The text as pieces of plain text and ids of special tokens, in order; no empty pieces.

    Args:
        special: in the order in which they are looked for.
        all_special: False: only those that are `always` special.
    """
    parts: list[str | int] = [text] if text else []
    for token in special:
        if (all_special or token.always) and token.text in text:
            parts = [piece for part in parts for piece in _split(part, token)]
    return parts


def _split(part: str | int, token: SpecialToken) -> Iterator[str | int]:
    if isinstance(part, int):
        yield part
        return
    rest = part
    while (at := rest.find(token.text)) >= 0:
        left, rest = rest[:at], rest[at + len(token.text) :]
        if token.strip_left:
            left = left.rstrip(_C_SPACES)
        if token.strip_right:
            rest = rest.lstrip(_C_SPACES)
        if left:
            yield left
        yield token.id
    if rest:
        yield rest
