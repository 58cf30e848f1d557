"""Texts in many scripts, which tokenizers are compared over."""

from __future__ import annotations

import random
import unicodedata
from functools import cache

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<user>", "<us", "<s>", "</s>", "<unk>"]
TEXTS = [
    "",
    "Hello, world! It's 12345 o'clock; we'LL see. I'm 'S 'RE HELLO'S don'T",
    "Grüße aus Köln – schön, ÄÖÜß. camelCaseÉtéÀB iPhone McDonald's",
    "Привет, как дела? Всё хорошо.",
    "日本語で答えてください。東京は12時です",
    "你好，世界！我有３个苹果",
    "안녕하세요 세계 가나다",
    "مرحبا بالعالم ١٢٣، كيف؟ שלום עולם",
    "नमस्ते दुनिया १२३ क्षत्रिय বাংলা ভাষা ৪৫৬",
    "สวัสดีชาวโลก ๑๒๓",
    "Γειά σου Κόσμε ὦ ὅ ქართული ენა Հայերեն",
    "👨‍👩‍👧‍👦 family 🏳️‍🌈 flag 😀😀😀 🇩🇪",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n",
    "for(int i=0;i<10;++i){a[i]+=~b^c|d&e%f$g`h`;}",
    "http://example.com/a/b?c=d&e=f#g /// //\n/",
    "   leading, trailing   ",
    "a\r\nb\r\n\r\nc\rd\n\n\n e\n \n \t\n  f",
    " " * 37 + "x" + "\t" * 9 + "\n" * 7 + " \n \n",
    "".join(map(chr, range(32))) + "\x7f\x80\x85\x9f\xa0\xad",
    "a\0b \0 c\x04\x06\x13",
    "<|im_start|>system\nYou are.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
    "x<|im_end|>y<|endoftext|>z<|im_start|><|im_start|> <|im_ <user><us<users",
    "1 22 333 4444 55555 666666 7777777 1234567890123 ½ ² ⅷ ①②③ 12½34²5 ₁₂₃ a₁ ١٢٣٤٥٦٧",
    "~tilde ~~ a~b ~1 ~\n…。，、।۔، foo…bar。baz (a|b)",
    "e\u0301a\u0300 \u0301 x\u200by\u200d\ufeff\u2028\u2029\u3000z\u1680",
    "ſ 'ſ K 'K ǅ ǆ ªº ʰ \ue000\U000f0000\ufffd\uffff 𝐀𝟘 𐐀𐐨 ㍿",
]


@cache
def comparison_texts() -> list[str]:
    """The texts above and 600 random mixtures of them, always the same ones."""
    draw = random.Random(1)
    characters = [
        chr(code) for code in range(0x20000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")
    ]
    ascii_bits = [*"abcXYZ0123456789 \n\t\r'.,!?-_~$+|<>(){}[]/\\\"#@`^*&%"]
    ascii_bits += ["'s", "'LL", "  ", "   ", "\n\n", " \n", "\r\n"]
    words = [word for text in TEXTS for word in text.split(" ")]
    kinds = [ascii_bits, words, characters, SPECIALS]
    return TEXTS + [
        "".join(
            draw.choice(draw.choices(kinds, weights=[55, 25, 15, 5])[0])
            for _ in range(draw.randint(1, 25))
        )
        for _ in range(600)
    ]
