"""The compared ways to run a model in a notebook. Each one is cells of a real kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.kernel import Kernel, Reply

CONTEXT_LENGTH = 8192
LIBRARY = "llama.cpp's library alone"
LIBRARY_WRITING = "llama.cpp's library with its sampler"
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
"""ctransformers' own defaults. Its repeat penalty (1.1 over 64 tokens) is also our default."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a notebook gets an answer: cells that set it up, and a cell for each answer.

    `answer(prompt, tokens)` is a cell that continues the prompt and shows the
    text. `count` is an expression for the number of generated tokens, and
    `prompt_count` one for the number of tokens of the prompt.
    """

    name: str
    setup: tuple[str, ...]
    answer: Callable[[str, int], str]
    count: str
    prompt_count: str


def infer(
    threads: str = "auto", name: str = "%%infer", engine: str = "auto", more: str = ""
) -> Way:
    """This package: a cell, with its view and its log, by one of the two engines."""
    options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in SAMPLING.items())
    options += f" {more}"
    options += f" --threads {threads} --context-length {CONTEXT_LENGTH} --engine {engine}"
    return Way(
        name,
        ("%load_ext llmwit_magic",),
        lambda prompt, tokens: f"%%infer {options} --max-tokens {tokens}\n{prompt}",
        "_infer.usage.generated_token_count",
        "_infer.usage.prompt_token_count",
    )


def ctransformers(model: Path, threads: int | None = None) -> Way:
    """ctransformers as its README uses it, with the file in the form that ctransformers loads."""
    more = f", threads={threads}" if threads else ""
    return Way(
        "ctransformers",
        (
            "from ctransformers import AutoModelForCausalLM\n"
            f"llm = AutoModelForCausalLM.from_pretrained({str(model)!r}, model_type='llama', "
            f"context_length={CONTEXT_LENGTH}{more})",
        ),
        lambda prompt, tokens: (
            f"prompt, count = {prompt!r}, 0\n"
            f"for text in llm(prompt, stream=True, max_new_tokens={tokens}):\n"
            "    print(text, end='', flush=True)\n"
            "    count += 1"
        ),
        "count",
        "len(llm.tokenize(prompt))",
    )


def bare(model: Path, library: str) -> Way:
    """The least work that ctransformers can do: load with a given `lib=`, and evaluate once."""
    return Way(
        "bare ctransformers",
        (
            "from ctransformers.llm import LLM, Config\n"
            f"llm = LLM({str(model)!r}, 'llama', lib={library!r}, "
            f"config=Config(context_length={CONTEXT_LENGTH}))",
        ),
        lambda prompt, tokens: (
            f"prompt, count = {prompt!r}, 1\nllm.eval(llm.tokenize(prompt))\n"
            "print(llm.detokenize(llm.sample()))"
        ),
        "count",
        "len(llm.tokenize(prompt))",
    )


def llamacpp(model: Path) -> Way:
    """Current llama.cpp through the package xllamacpp, with the original file."""
    return Way(
        "llama.cpp",
        (
            "import xllamacpp\n"
            "params = xllamacpp.CommonParams()\n"
            f"params.model.path = {str(model)!r}\n"
            f"params.n_ctx = {CONTEXT_LENGTH}\n"
            "params.n_parallel = 1\n"
            "params.verbosity = -1\n"
            "server = xllamacpp.Server(params)",
        ),
        lambda prompt, tokens: (
            f"request = {{'prompt': {prompt!r}, 'n_predict': {tokens}, 'stream': True, "
            f"'cache_prompt': True, 'repeat_penalty': 1.1, 'repeat_last_n': 64, **{SAMPLING!r}}}\n"
            "last = {}\n"
            "def show(part):\n"
            "    global last\n"
            "    last = part\n"
            "    print(part.get('content', ''), end='', flush=True)\n"
            "server.handle_completions(request, show)"
        ),
        "last['timings']['predicted_n']",
        "last['timings']['prompt_n'] + last['timings'].get('cache_n', 0)",
    )


def library_alone(model: Path, exact: bool) -> Way:
    """llama.cpp's library with our settings: it evaluates tokens, and nothing is chosen or shown."""
    return Way(
        LIBRARY,
        (
            "from pathlib import Path\n"
            "from llmwit_magic.contract.request import ModelSpec\n"
            "from llmwit_magic.engines.backends.llamacpp.llama_loading import load\n"
            "from llmwit_magic.engines.threads import physical_cores\n"
            f"model, threads = Path({str(model)!r}), physical_cores()\n"
            f"spec = ModelSpec(model=str(model), context_length={CONTEXT_LENGTH}, gpu_layers=0, "
            f"exact={exact})\n"
            "loaded = load(model, model, spec, 1)",
        ),
        lambda prompt, tokens: (
            f"ids, count = loaded.tokenizer.encode({prompt!r}), {tokens}\n"
            "loaded.evaluator.evaluate_prompt(ids, lambda: threads, lambda done: True)\n"
            "for number in range(count - 1):\n"
            "    loaded.evaluator.evaluate_next(100 + number, threads)"
        ),
        "count",
        "len(ids)",
    )


def library_writing(model: Path, exact: bool) -> Way:
    """llama.cpp's library with our settings and its own sampler: a text, shown at its end.

    The steps of its sampler have llama.cpp's own order.
    """
    alone = library_alone(model, exact)
    steps = {
        "penalties": "64, 1.1, 0, 0", "top_k": SAMPLING["top_k"],
        "top_p": f"{SAMPLING['top_p']}, 1", "temp": SAMPLING["temperature"], "dist": 1,
    }  # fmt: skip
    types = {
        "penalties": "i32, f32, f32, f32", "top_k": "i32", "top_p": "f32, size", "temp": "f32",
        "dist": "u32",
    }  # fmt: skip
    return Way(
        LIBRARY_WRITING,
        (
            *alone.setup,
            "from ctypes import Structure, c_bool, c_float as f32, c_int32 as i32, "
            "c_size_t as size, c_uint32 as u32, c_void_p as pointer\n"
            "from llmwit_magic.engines.backends.llamacpp.llama_library import library\n"
            "lib, context = library(), loaded.evaluator._context.context\n"
            "def declared(name, result, *arguments):\n"
            "    function = getattr(lib, f'llama_sampler_{name}')\n"
            "    function.restype, function.argtypes = result, arguments\n"
            "    return function\n"
            "Params = type('Params', (Structure,), {'_fields_': [('no_perf', c_bool)]})\n"
            "chain = declared('chain_init', pointer, Params)(Params(True))\n"
            "add = declared('chain_add', None, pointer, pointer)\n"
            + "".join(
                f"add(chain, declared('init_{name}', pointer, {types[name]})({values}))\n"
                for name, values in steps.items()
            )
            + "sample = declared('sample', i32, pointer, pointer, i32)\n"
            "accept = declared('accept', None, pointer, i32)\n"
            "reset = declared('reset', None, pointer)",
        ),
        lambda prompt, tokens: (
            f"ids, count, text = loaded.tokenizer.encode({prompt!r}), {tokens}, b''\n"
            "loaded.evaluator.evaluate_prompt(ids, lambda: threads, lambda done: True)\n"
            "reset(chain)\n"
            "for token in ids[-64:]:\n"
            "    accept(chain, token)\n"
            "for number in range(count):\n"
            "    token = sample(chain, context, -1)\n"
            "    text += loaded.tokenizer.token_bytes(token)\n"
            "    if number < count - 1:\n"
            "        loaded.evaluator.evaluate_next(token, threads)\n"
            "print(text.decode(errors='replace'))"
        ),
        "count",
        "len(ids)",
    )


class Running:
    """A kernel that is set up for a way."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.kernel = Kernel()
        self.setup_seconds = sum(self._run(cell).seconds for cell in way.setup)

    def answer(self, prompt: str, tokens: int) -> Reply:
        """Continue a prompt in a cell. The reply has the seconds that the cell took."""
        return self._run(self.way.answer(prompt, tokens))

    def number(self, expression: str) -> float:
        """The value of an expression in the kernel."""
        return float(self._run(f"print({expression})").stdout)

    def close(self) -> None:
        self.kernel.close()

    def _run(self, cell: str) -> Reply:
        reply = self.kernel.run(cell, timeout=300)
        if reply.status != "ok":
            raise RuntimeError(f"{self.way.name}: {reply.error}")
        return reply


def http(port: int) -> Way:
    """A client of our HTTP server on this machine, which reads the same answer as a stream.

    It prints the whole text at the end: printing each token in a notebook takes longer than reading
    it.
    """
    return Way(
        "a client over HTTP",
        (
            "import http.client, json\n"
            f"connection = http.client.HTTPConnection('127.0.0.1', {port}, timeout=60)",
        ),
        lambda prompt, tokens: (
            f"body = {{'prompt': {prompt!r}, 'max_tokens': {tokens}, 'stream': True, "
            f"'stream_options': {{'include_usage': True}}, **{SAMPLING!r}}}\n"
            "connection.request('POST', '/v1/completions', json.dumps(body))\n"
            "text = ''\n"
            "for line in connection.getresponse():\n"
            "    if line.startswith(b'data: {'):\n"
            "        event = json.loads(line[6:])\n"
            "        usage = event.get('usage')\n"
            "        text += ''.join(choice['text'] for choice in event['choices'])\n"
            "print(text)"
        ),
        "usage['completion_tokens']",
        "usage['prompt_tokens']",
    )
