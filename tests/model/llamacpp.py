"""llama.cpp as the reference to compare with, through the package xllamacpp.

It runs in a child process: it aborts on files it does not like, and it logs. The server that
xllamacpp runs on the loopback interface is the way to llama.cpp's tokenizer, since the package
has none for Python.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def tokenize(model_path: Path, texts: Sequence[str]) -> list[list[int]]:
    """llama.cpp's ids of each text, with special tokens recognised and added as the file asks."""
    return _in_child(model_path=str(model_path), context_length=256, texts=list(texts))


def best_next_tokens(
    model_path: Path, token_ids: Sequence[int], positions: Sequence[int]
) -> list[int]:
    """The likeliest next id after `token_ids[:position]`, for each position (all above 0)."""
    return _in_child(
        model_path=str(model_path),
        context_length=len(token_ids) + 16,
        prompts=[list(token_ids[:position]) for position in positions],
    )


def embeddings(model_path: Path, texts: Sequence[str]) -> list[list[float]]:
    """llama.cpp's vector of each text: the state of the last token, not normalised."""
    return _in_child(model_path=str(model_path), context_length=256, embed=list(texts))


def _in_child(**job: Any) -> Any:
    child = subprocess.run(
        [sys.executable, __file__], input=json.dumps(job), capture_output=True, text=True
    )
    if child.returncode:
        raise RuntimeError(f"llama.cpp ended with {child.returncode}: {child.stderr[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])


def _serve(model_path: str, context_length: int, embedding: bool) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model_path
    params.n_ctx = context_length
    params.n_parallel = 1
    params.warmup = False
    if embedding:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
        params.embd_normalize = -1
    # Threads of several engines that share the cores would wait for each other.
    params.cpuparams.n_threads = 1
    return xllamacpp.Server(params)


def _tokenize(server: Any, text: str) -> list[int]:
    request = urllib.request.Request(
        f"{server.listening_address}/tokenize",
        json.dumps({"content": text, "add_special": True, "parse_special": True}).encode(),
        {"Content-Type": "application/json"},
    )
    # A proxy of the environment must not come between two ends of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return json.load(response)["tokens"]


def _best_next_token(server: Any, prompt: list[int]) -> int:
    answer = server.handle_completions(
        {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 1, "cache_prompt": True}
    )
    # The sampled token is left out where it ends the text; its candidates are not.
    return answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["id"]


def _embeddings(server: Any, texts: list[str]) -> list[list[float]]:
    vectors = server.handle_embeddings({"input": texts})["data"]
    return [entry["embedding"] for entry in sorted(vectors, key=lambda entry: entry["index"])]


def _main() -> None:
    job = json.load(sys.stdin)
    server = _serve(job["model_path"], job["context_length"], "embed" in job)
    if "embed" in job:
        answer: Any = _embeddings(server, job["embed"])
    elif "texts" in job:
        answer = [_tokenize(server, text) for text in job["texts"]]
    else:
        answer = [_best_next_token(server, prompt) for prompt in job["prompts"]]
    print(f"\n{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    _main()
