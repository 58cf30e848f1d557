r"""The pre-tokenizers of byte-level BPE vocabularies, by their GGUF name.

A GGUF file names its pre-tokenizer in `tokenizer.ggml.pre`. The expressions for the names are in
llama.cpp's `src/llama-vocab.cpp`; the code that applies them is in its `src/unicode.cpp`. Here they
are written for Oniguruma, such that both cut a text at the same places. Two differences matter:

- llama.cpp counts every non-ASCII letter as both upper and lower case. So its `\p{Lu}` and similar
  classes are written here as classes that tell only ASCII case apart.
- In an expression without Unicode categories, white space beyond ASCII belongs to no class of
  llama.cpp but `\s`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import ModelNotSupported


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is cut into words, and what else llama.cpp derives from the name.

    The first of `patterns` cuts the text, and each further one cuts the words of the one before.
    A match is a word, and so is the text between two matches. With `ignore_merges`, a word that
    is a token is not merged. `add_bos` and `bos_id` apply to a file that does not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    # 11 is llama.cpp's default. It is the id of <|endoftext|> in Falcon's vocabulary.
    bos_id: int | None = 11


_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
# Escaped, because an editor that normalises Unicode would change some of these letters.
_DEEPSEEK_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    "\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
    "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
)
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER = r"[\p{L}&&[^a-z]]"
_LOWER = r"[\p{L}&&[^A-Z]]"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_CJK = "[\u0800-\u9fa5\uac00-\ud7ff&&\\S]+"


def _cased_words(ending: str, digits: str) -> str:
    """The expression of Tekken and GPT-4o. It starts a new word where upper case follows lower."""
    lead = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{lead}{_UPPER}*{_LOWER}+{ending}|{lead}{_UPPER}+{_LOWER}*{ending}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_DEEPSEEK_CASED_LETTERS}]+",
    "\\s?[[!-/:-~！-／：-～‘-‟\u3000-。]&&\\S]+",
    r"\s+\z",
    _CJK,
    r"\p{N}+",
)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)

_BY_PATTERNS = {
    PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9]{3}")): "default",
    PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9]{3}")): "falcon",
    PreTokenizer((_GPT2,)): (
        "gpt-2 phi-2 gigachat a.x-4.0 mellum exaone4 mpt olmo jais trillion granite-docling"
    ),
    PreTokenizer((r"\p{N}", _GPT2)): (
        "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"
    ),
    PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True): (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2"
    ),
    PreTokenizer((_LLAMA3,)): "dbrx smaug-bpe",
    PreTokenizer((_LLAMA3,), bos_id=None): "chatglm-bpe",
    PreTokenizer((_LLAMA3,), ignore_merges=True, bos_id=None): "glm4 glm5",
    PreTokenizer((r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), ignore_merges=True): "minicpm5",
    PreTokenizer((_QWEN2,)): (
        "qwen2 deepseek-r1-qwen megrez kormo stablelm2 hunyuan grok-2 solar-open"
        " bailingmoe bailingmoe2 llada-moe f2llmv2"
    ),
    PreTokenizer((_QWEN35,)): "qwen35",
    PreTokenizer((r"[^\n]+|\n+", _QWEN2)): "laguna",
    PreTokenizer((_QWEN2.removeprefix(f"{_CONTRACTION}|"),)): "ufakzeka",
    PreTokenizer((_QWEN2.replace(r"\p{N}]+[\r\n]*", r"\p{N}\r\n]+"),)): "seed-coder",
    PreTokenizer((_cased_words("", r"\p{N}"),), ignore_merges=True, add_bos=True): "tekken",
    PreTokenizer((_cased_words(f"{_CONTRACTION}?", r"\p{N}{1,3}"),)): (
        "gpt-4o llama4 kanana2 talkie minimax-m2"
    ),
    PreTokenizer(_DEEPSEEK_LLM): "deepseek-llm",
    PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")): "deepseek-coder",
    PreTokenizer(_DEEPSEEK_V3): "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    PreTokenizer((_BLOOM,)): "bloom poro-chat gpt3-finnish",
    PreTokenizer((_BLOOM, r"\p{N}")): "viking",
}

PRETOKENIZERS: dict[str, PreTokenizer] = {
    name: pretokenizer for pretokenizer, names in _BY_PATTERNS.items() for name in names.split()
}


def pretokenizer_named(name: Any) -> PreTokenizer:
    """The pre-tokenizer of a file whose `tokenizer.ggml.pre` is `name`.

    A file without that key has the one named `default`. Raises ModelNotSupported for a name that
    is not known.
    """
    name = name or "default"
    if not isinstance(name, str) or name not in PRETOKENIZERS:
        raise ModelNotSupported(f"pre-tokenizer '{name}': not one that llmwit-magic knows")
    return PRETOKENIZERS[name]
