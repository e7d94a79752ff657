"""The regular expressions that cut a text into the pieces that byte-level BPE works on.

A recipe is a list of them: the first cuts the text, the next cuts each part that the first left, and so on. A match is
a part, and so is what lies between two matches. They say what llama.cpp does, which for some names is not what the
model's own tokenizer.json says (docs/findings-tokenizers.md).

Source: the behaviour of llama.cpp's src/llama-vocab.cpp and src/unicode.cpp as shipped in llama-cpp-python 0.3.36,
written for the Oniguruma expressions of the `tokenizers` library. Where llama.cpp has no upper and lower case beyond
ASCII, or takes text along with a group of digits, so do these.
"""

Cuts = tuple[str, ...]


def _class(ranges: str) -> str:
    """The inside of a character class, from code points in hexadecimal: literal characters would not survive Unicode normalisation."""
    ends = (item.split("-") for item in ranges.split())
    return "".join("-".join(chr(int(end, 16)) for end in pair) for pair in ends)


# --- shared parts
_LOWER_CONTRACTION = r"'s|'t|'re|'ve|'m|'ll|'d"
_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ONE_LINE_SPACES = r"\s*[\r\n]|\s+(?!\S)|\s+"
_ASCII_TRIPLE = "[0-9][0-9][0-9]"
_CJK = _class("4E00-9FA5 3040-309F 30A0-30FF")

# --- GPT-2 and what was built around it
_GPT2 = rf"{_LOWER_CONTRACTION}| ?\p{{L}}+| ?\p{{N}}+|{_SYMBOLS}|\s+(?!\S)|\s+"
GPT2: Cuts = (_GPT2,)
DIGITS_THEN_GPT2: Cuts = (r"\p{N}", _GPT2)
DEFAULT: Cuts = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _ASCII_TRIPLE)
FALCON: Cuts = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, _ASCII_TRIPLE)
CHAMELEON: Cuts = (
    "<sentinel:[0-9]+>",
    "IMGIMG[A-I]{1,4}Z",
    r"[\t\n]|    |  ",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
    _GPT2,
)
_BLOOM = r" ?[^(\s|.,!?" + _class("2026 3002 FF0C 3001 964 6D4 60C") + ")]+"
BLOOM: Cuts = (_BLOOM,)
VIKING: Cuts = (_BLOOM, r"\p{N}")
SUPERBPE: Cuts = (r"\p{N}+", r"(?=(?:[0-9]{3})+(?![0-9]))")


# --- Llama 3 and what was built around it
def _modern(digits: str, contraction: str = _CONTRACTION + "|") -> str:
    return rf"{contraction}{_WORD}|{digits}|{_SYMBOLS}[\r\n]*|{_SPACES}"


LLAMA3: Cuts = (_modern(r"\p{N}{1,3}"),)
QWEN2: Cuts = (_modern(r"\p{N}"),)
UFAKZEKA: Cuts = (_modern(r"\p{N}", contraction=""),)
MINICPM5: Cuts = (r"\p{N}{1,3}", _modern(r"\p{N}+"))
LAGUNA: Cuts = (r"[^\n]+|\n+", *QWEN2)
QWEN35: Cuts = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
)
_SPACE_CASCADE = "|".join(rf"\s{{{n}}}(?!\S)" for n in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
JAIS2: Cuts = (rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}[\r\n]*|\s*[\r\n]+|{_SPACE_CASCADE}|\s",)
BAILING: Cuts = (rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}|{_SYMBOLS}[\r\n]*|{_ONE_LINE_SPACES}",)
SEED_CODER: Cuts = (rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
EXAONE_MOE: Cuts = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}|{_SYMBOLS}[\r\n/]?"
    rf"|{_ONE_LINE_SPACES}",
)


# --- GPT-4o and what was built around it: a word ends where lower case turns to upper case, in ASCII
def _cased(digits: str, letter: str, contraction: str = _CONTRACTION + "?") -> str:
    not_lower, not_upper = rf"(?:(?={letter})[^a-z])", rf"(?:(?={letter})[^A-Z])"
    start = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{start}{not_lower}*{not_upper}+{contraction}|{start}{not_lower}+{not_upper}*{contraction}"
        rf"|{digits}|{_SYMBOLS}[\r\n/]*|{_SPACES}"
    )


def _caseless(digits: str) -> str:
    return rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+{_CONTRACTION}?|{digits}|{_SYMBOLS}[\r\n/]*|{_SPACES}"


GPT4O: Cuts = (_cased(r"\p{N}{1,3}", r"\p{L}"),)
TEKKEN: Cuts = (_cased(r"\p{N}", r"\p{L}", contraction=""),)
GRANITE_MULTI: Cuts = (_cased(r"\p{N}{1,3}", r"[\p{L}\p{M}]"),)
# Groups of three digits counted from the right; the first of them takes along the text in front of it.
_GROUPS_FROM_THE_RIGHT = r"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
TINY_AYA: Cuts = (_GROUPS_FROM_THE_RIGHT, _caseless(r"\p{N}{1,3}"))
_FULL_WIDTH = _class("FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F")
YOUTU: Cuts = (
    f"[{_class('AC00-D7A3 3131-318E')}]+|[{_FULL_WIDTH}]+|[{_class('3105-312F')}]+|[{_CJK}]+",
    _caseless(r"\p{N}"),
)

# --- DeepSeek and what was built around it
_ASCII_SYMBOL_WORD = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3_WORDS = rf"{_ASCII_SYMBOL_WORD}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
DEEPSEEK3: Cuts = (r"\p{N}{1,3}", f"[{_CJK}]+", _DEEPSEEK3_WORDS)
SPARK: Cuts = (
    r"\p{N}{1,3}",
    f"[{_CJK}]+",
    rf"{_ASCII_SYMBOL_WORD}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+",
    r"\p{N}",
)
# The range from 8C48 is llama.cpp's: F900 was meant, and Unicode normalisation made 8C48 of it.
_ASIAN = _class(
    "4E00-9FFF 3400-4DBF 8C48-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF E40-E7F E80-EFF 1780-17FF 1000-109F "
    "AA60-AA7F A9E0-A9FF AC00-D7AF 1100-11FF"
)
AFMOE: Cuts = (_GROUPS_FROM_THE_RIGHT, f"[{_ASIAN}]+", _DEEPSEEK3_WORDS)
# The range from 800 to 4E00 has gaps at white space, which llama.cpp hides from classes without categories.
_HAN_TO_HANGUL = (
    "[" + _class("4E00-9FA5 800-167F 1681-1FFF 200B-2027 202A-202E 2030-205E 2060-2FFF 3001-4E00 AC00-D7FF") + "]+"
)
DEEPSEEK_CODER: Cuts = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_TO_HANGUL, r"\p{N}")
# Letters with case, but not those of some scripts and of mathematics, nor those that are younger than Unicode 11.
_OTHER_CASED = _class("560-588 10C7-10FF 1C80-1C8A 2D00-2D2D A790-AB68 10570-105BC 10D50-10D85 16E40-16E7F 1D400-1DFFF")
_CASED_LETTERS = rf"[\p{{Lu}}\p{{Ll}}\p{{Lt}}]&&[^{_OTHER_CASED}]"
DEEPSEEK_LLM: Cuts = (
    r"[\r\n]",
    rf"\s?[{_CASED_LETTERS}]+",
    rf"\s?[!-/:-~{_class('FF01-FF0F FF1A-FF5E 2018-201F 3001-3002')}]+",
    r"\s+\z",
    _HAN_TO_HANGUL,
    r"\p{N}+",
)
