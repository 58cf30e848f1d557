"""The columns of the run log, each once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["integer", "real", "text", "boolean", "time", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the log, of its DataFrame and of its exports.

    `brief` columns are those that `%infer_log` shows of a whole row. `few`
    columns have few values in a log, which many rows share. `otel` is
    the attribute that says the same in OpenTelemetry's semantic conventions
    for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/).
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    brief: bool = False
    few: bool = False
    otel: str = ""


COLUMNS = (
    Column("run_id", "integer", "number of the run", brief=True),
    Column("started_at", "time", "when the run started", "UTC", brief=True),
    Column(
        "status",
        "text",
        "running, ok, interrupted, error, or lost (its kernel is gone, or for two days unknown)",
        brief=True, few=True),
    Column("model", "text", "name of the model, as asked for", brief=True,
           otel="gen_ai.request.model", few=True),
    Column("prompt", "text", "the prompt as given, variables filled in", brief=True,
           otel="gen_ai.input.messages"),
    Column("text", "text", "the generated text, without the stop sequence", brief=True,
           otel="gen_ai.output.messages"),
    Column("finish_reason", "text", "stop, length or content_filter",
           otel="gen_ai.response.finish_reasons", few=True),
    Column("finish_detail", "text", "eos, stop_sequence, max_tokens, context_full, content_filter",
           brief=True, few=True),
    Column("stop_sequence", "text", "the stop sequence that was reached", few=True),
    Column("prompt_token_count", "integer", "tokens of the prompt", "tokens", otel="gen_ai.usage.input_tokens"),
    Column("generated_token_count", "integer", "tokens generated, end of text not counted",
           "tokens", brief=True, otel="gen_ai.usage.output_tokens"),
    Column("cached_token_count", "integer", "prompt tokens known from an earlier run", "tokens",
           otel="gen_ai.usage.cache_read.input_tokens"),
    Column("max_tokens", "integer", "limit of generated tokens; missing: none", "tokens",
           otel="gen_ai.request.max_tokens", few=True),
    Column("temperature", "real", "0 is greedy", brief=True, otel="gen_ai.request.temperature"),
    Column("top_k", "integer", "0: off", "tokens", otel="gen_ai.request.top_k", few=True),
    Column("top_p", "real", "1: off", otel="gen_ai.request.top_p"),
    Column("repeat_penalty", "real", "1: off"),
    Column("repeat_penalty_last_n_token_count", "integer", "0: off", "tokens", few=True),
    Column("stop", "json", "list of stop sequences", otel="gen_ai.request.stop_sequences"),
    Column("seed", "integer", "the seed as used, drawn or given", otel="gen_ai.request.seed"),
    Column("chat", "boolean", "whether the chat template was used", few=True),
    Column("system", "text", "the system message", otel="gen_ai.system_instructions", few=True),
    Column("chat_template", "text", "which of the model's named chat templates; missing: its own",
           few=True),
    Column("control_tokens", "text", "where control tokens were recognised: none, typed, all; "
           "missing: everywhere, as version 0.1 did", few=True),
    Column("data_spans", "json", "parts of the prompt that are values which a control token stands "
           "in, as pairs of positions in characters"),
    Column("first_token_seconds", "real", "from the start to the first token", "s",
           otel="gen_ai.response.time_to_first_chunk"),
    Column("tokens_per_second", "real",
           "generated tokens after the first one, over decode_seconds", "tokens/s", brief=True),
    Column("total_seconds", "real", "from the start to the end", "s"),
    Column("load_seconds", "real", "fetch, check, adapt and load the model", "s"),
    Column("prompt_seconds", "real", "evaluate the prompt", "s"),
    Column("decode_seconds", "real", "from the evaluated prompt to the last token", "s"),
    Column("model_sha256", "text", "hash of the model file", few=True),
    Column("model_path", "text", "the model file", few=True),
    Column("model_type", "text", "format of an old GGML file", few=True),
    Column("architecture", "text", "architecture of the model", few=True),
    Column("quantisation", "text", "tensor type of most of the weights", few=True),
    Column("device", "text", "where the model ran", few=True),
    Column("device_reason", "text", "why there", few=True),
    Column("library", "text", "the build of ctransformers that ran it", few=True),
    Column("gpu_layers_requested", "text", "a number, or auto", few=True),
    Column("gpu_layers", "integer", "layers that ran on the GPU", "layers", few=True),
    Column("device_memory_bytes", "integer", "device memory that the model took", "bytes", few=True),
    Column("threads_requested", "text", "a number, or auto", few=True),
    Column("threads", "integer", "processor threads at the start; auto changes them with the load",
           "threads", few=True),
    Column("context_length_requested", "integer", "as asked for; missing: the model's own",
           "tokens", few=True),
    Column("anyway", "boolean", "whether it was asked for beyond what the model was trained with",
           few=True),
    Column("accept", "text", "what --accept named, with commas between: context, file, filters",
           few=True),
    Column("context_length", "integer", "room for prompt and answer", "tokens", few=True),
    Column("rendered_prompt", "text", "the prompt as the model got it, where a template was used"),
    Column("notices", "json", "what there was to know of how the prompt was made"),
    Column("top_logprobs", "integer", "alternatives recorded for each token", "tokens", few=True),
    Column(
        "tokens",
        "json",
        "id, bytes (base64), log-probability, rank, alternatives of each token that is wholly in "
        "the text: not of a stop sequence, nor of what a filter cut",
    ),
    Column("content_filters", "json", "list of patterns; functions by name"),
    Column("error_type", "text", "class of the error", otel="error.type", few=True),
    Column("error_message", "text", "its message"),
    Column("tags", "json", "what --tag gave, by key"),
    Column("rating", "integer", "thumbs: 1 up, -1 down", brief=True, few=True),
    Column("note", "text", "what a person wrote about the run"),
    Column("group_id", "text", "the same for all runs of a sweep, a tuning panel or a batch"),
    Column("replay_of", "integer", "run_id of the run that this one repeats"),
    Column("session_id", "text", "the kernel's session", few=True),
    Column("version", "text", "version of llmwit-magic that ran it", few=True),
)  # fmt: skip

NAMES = tuple(column.name for column in COLUMNS)
