"""A byte-level vocabulary that tells pre-tokenizers apart: it has tokens across every boundary."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from tests.support.scripts import comparison_texts
from tests.support.vocabularies import CONTROL, UNKNOWN, USER_DEFINED


@cache
def trained_byte_level() -> dict[str, Any]:
    """Metadata of a byte-level BPE trained on the texts uncut, with some merges taken out.

    A token whose merge is missing tells whether merges are ignored for whole words.
    """
    trained = HuggingFaceTokenizer(BPE())
    trained.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    trained.train_from_iterator(
        comparison_texts() * 2,
        BpeTrainer(
            vocab_size=5000,
            min_frequency=2,
            max_token_length=12,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    model = json.loads(trained.to_str())["model"]
    head = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<us", "<user>"]
    tokens = head + [t for t in sorted(model["vocab"], key=model["vocab"].get) if t not in head]
    merges = [" ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [token.encode() for token in tokens],
        "tokenizer.ggml.token_type": [UNKNOWN, *[CONTROL] * 6, USER_DEFINED]
        + [1] * (len(tokens) - len(head)),
        "tokenizer.ggml.merges": [m.encode() for i, m in enumerate(merges) if i % 10 != 9],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
