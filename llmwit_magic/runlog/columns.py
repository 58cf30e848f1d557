"""The columns of the run log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["integer", "real", "text", "boolean", "time", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the log, of its DataFrame and of its exports.

    `brief` columns are those that `%infer_log` shows by default. `few` columns have few different
    values in a log, which many rows share. `otel` is the attribute with the same meaning in
    OpenTelemetry's semantic conventions for generative AI
    (https://opentelemetry.io/docs/specs/semconv/gen-ai/).

    A column that keeps a field of a request or of its params has the name of that field. Where
    the names differ, `field` is the field's name.
    """

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    brief: bool = False
    few: bool = False
    otel: str = ""
    field: str = ""


COLUMNS = (
    Column("run_id", "integer", "number of the run", brief=True),
    Column("started_at", "time", "when the run started", "UTC", brief=True),
    Column(
        "status",
        "text",
        "running, ok, interrupted, error or lost; lost: its kernel is gone, or cannot be looked "
        "for and the run started over two days ago",
        brief=True, few=True),
    Column("kind", "text", "what the run made: text, score or embedding; missing: text", few=True),
    Column("model", "text", "name of the model, as asked for", brief=True,
           otel="gen_ai.request.model", few=True),
    Column("prompt", "text", "the prompt as given, with the values of its variables; of an "
           "embedding the first text", brief=True, otel="gen_ai.input.messages"),
    Column("text_count", "integer", "number of different texts that an embedding was to make "
           "vectors of", "texts"),
    Column("text", "text", "the generated text, without the stop sequence", brief=True,
           otel="gen_ai.output.messages"),
    Column("reasoning", "text", "what the model wrote before its answer, where it marks that",
           otel="gen_ai.output.messages"),
    Column("finish_reason", "text", "stop, length or content_filter",
           otel="gen_ai.response.finish_reasons", few=True),
    Column("finish_detail", "text",
           "eos, stop_sequence, max_tokens, context_full, content_filter, constraint, scored, or "
           "unknown where a server does not say it", brief=True, few=True),
    Column("stop_sequence", "text", "the stop sequence that was reached", few=True),
    Column("prompt_token_count", "integer", "tokens of the prompt", "tokens",
           otel="gen_ai.usage.input_tokens"),
    Column("generated_token_count", "integer", "tokens generated, without the end of text",
           "tokens", brief=True, otel="gen_ai.usage.output_tokens"),
    Column("cached_token_count", "integer", "prompt tokens that an earlier run had evaluated",
           "tokens", otel="gen_ai.usage.cache_read.input_tokens"),
    Column("reasoning_token_count", "integer", "generated tokens that are not of the answer: the "
           "reasoning, and the marks around both", "tokens",
           otel="gen_ai.usage.reasoning.output_tokens"),
    Column("max_tokens", "integer", "limit of generated tokens; missing: no limit", "tokens",
           otel="gen_ai.request.max_tokens", few=True),
    Column("temperature", "real", "0 is greedy", brief=True, otel="gen_ai.request.temperature"),
    Column("top_k", "integer", "0: off", "tokens", otel="gen_ai.request.top_k", few=True),
    Column("top_p", "real", "1: off", otel="gen_ai.request.top_p"),
    Column("repeat_penalty", "real", "1: off"),
    Column("repeat_penalty_last_n_token_count", "integer", "0: off", "tokens", few=True),
    Column("stop", "json", "list of stop sequences", otel="gen_ai.request.stop_sequences"),
    Column("seed", "integer", "the seed that was used, given or drawn", otel="gen_ai.request.seed"),
    Column("chat", "boolean", "whether the chat template was used", few=True),
    Column("system", "text", "the system message", otel="gen_ai.system_instructions", few=True),
    Column("history", "json", "list of the messages between the system message and the prompt, each "
           "with its role and content"),
    Column("chat_template", "text", "the name of the chat template; missing: the model's default "
           "one", few=True),
    Column("template_options", "json", "variables given to the chat template, by name", few=True),
    Column("control_tokens", "text", "where control tokens were recognised: none, typed or all; "
           "missing: everywhere, as in version 0.1", few=True),
    Column("data_spans", "json", "values in the prompt that hold the name of a control token, each "
           "as its start and end in characters"),
    Column("constraint_kind", "text", "what the answer had to be: choices, regex, json_schema or "
           "grammar; missing: any text", few=True),
    # "constraint" alone is a reserved word of SQL.
    Column("constraint_source", "text", "the choices as a JSON list, the expression, the JSON "
           "schema or the grammar", few=True, field="constraint"),
    Column("constraint_hash", "text", "SHA-256 of constraint_kind and constraint_source", few=True),
    Column("continuation", "text", "the text that was scored after the prompt; missing: none"),
    Column("prompt_logprobs", "boolean", "whether the prompt's own tokens were scored, too",
           few=True),
    Column("probabilities_requested", "boolean", "whether the choices of constraint_source were "
           "given probabilities, and nothing was generated", few=True, field="probabilities"),
    Column("normalize", "text", "what the probabilities of choices are made of: sum (the "
           "log-probability), token (that per token) or empty-prompt (that less the one after an "
           "empty prompt)", few=True),
    Column("end_of_text", "text", "whether the end of text belongs to each choice: auto, always or "
           "never", few=True),
    Column("score_logprob", "real", "log-probability of the text that was scored: the sum over its "
           "tokens", "nats"),
    Column("score_token_count", "integer", "tokens of that text that have a log-probability",
           "tokens"),
    Column("score_perplexity", "real", "exp(-score_logprob / score_token_count)"),
    Column("score_exact", "boolean", "whether the log-probabilities of a score are the model's own "
           "for each token", few=True),
    Column("choice_scores", "json", "for each choice: its probability among the choices, its "
           "log-probability in nats (logprob), its tokens as in the column tokens, the "
           "log-probability of the end of text after it (end_logprob), and its log-probability after "
           "an empty prompt (empty_prompt_logprob)"),
    Column("prompt_tokens", "json", "the tokens of the prompt but the first one, as in the column "
           "tokens, where a score asked for them"),
    Column("value", "json", "the answer as a value, where there was a constraint: the text, or what "
           "its JSON says"),
    Column("value_error", "text", "why an answer with a constraint has no value"),
    Column("first_token_seconds", "real", "from the start to the first token", "s",
           otel="gen_ai.response.time_to_first_chunk"),
    Column("tokens_per_second", "real",
           "generated tokens after the first one, divided by decode_seconds", "tokens/s",
           brief=True),
    Column("total_seconds", "real", "from the start to the end", "s"),
    Column("load_seconds", "real", "time to fetch, check, adapt and load the model", "s"),
    Column("prompt_seconds", "real", "time to evaluate the prompt", "s"),
    Column("decode_seconds", "real", "from the evaluated prompt to the last token", "s"),
    Column("model_sha256", "text", "SHA-256 of the model file, or of the list of its parts' "
           "hashes; missing where a server ran it", few=True),
    Column("model_path", "text", "path of the model file; on a server its address, # and the "
           "model's name there", few=True),
    Column("model_type", "text", "model type that was given for an old GGML file", few=True),
    Column("architecture", "text", "architecture of the model", few=True),
    Column("quantisation", "text", "tensor type of most of the weights", few=True),
    Column("device", "text", "device that the model ran on", few=True),
    Column("device_reason", "text", "why it ran on that device", few=True),
    Column("engine_requested", "text", "engine asked for: auto, ctransformers or llama.cpp",
           few=True, field="engine"),
    Column("engine", "text", "what ran the model: ctransformers, llama.cpp, or the kind of the "
           "server, such as vllm; missing: ctransformers", few=True),
    Column("tokenizer", "text", "whose tokenizer made the token ids: llmwit-magic, or that of the "
           "engine; missing: llmwit-magic, or ctransformers for an old GGML file", few=True),
    Column("library", "text", "the build of the engine that ran the model", few=True),
    Column("exact_requested", "boolean", "whether the same text for the same seed was asked for; "
           "missing: yes", few=True, field="exact"),
    Column("exact", "boolean", "whether the same seed gives the same text again; missing: yes",
           few=True),
    Column("gpu_layers_requested", "text", "layers asked for on the GPU: a number, or auto",
           few=True, field="gpu_layers"),
    Column("device_requested", "text", "device asked for; missing: the first usable one", few=True,
           field="device"),
    Column("gpu_layers", "integer", "layers that ran on the GPU", "layers", few=True),
    Column("device_memory_bytes", "integer", "device memory that the model took", "bytes",
           few=True),
    Column("threads_requested", "text", "threads asked for: a number, or auto", few=True,
           field="threads"),
    Column("threads", "integer", "processor threads at the start of the run; auto changes them "
           "with the load", "threads", few=True),
    Column("context_length_requested", "integer", "context length asked for; missing: the model's "
           "own", "tokens", few=True, field="context_length"),
    Column("anyway", "boolean", "whether the context length may be more than the model was "
           "trained with", few=True),
    Column("accept", "text", "the words of --accept, separated by commas: context, file, "
           "filters, engine, unsupported", few=True),
    Column("context_length", "integer", "tokens that prompt and answer may have together",
           "tokens", few=True),
    Column("rendered_prompt", "text", "the prompt as the model got it, where that differs from "
           "prompt"),
    Column("notices", "json", "list of remarks about how the prompt was made, and about what a "
           "server did or did not say"),
    Column("not_honoured", "json", "list of the settings that the engine could not honour"),
    Column("top_logprobs", "integer", "number of alternatives recorded for each token", "tokens",
           few=True),
    Column(
        "tokens",
        "json",
        "id, bytes (base64), log-probability, rank and alternatives of each token in the text or "
        "in the reasoning, which of the two it is in, and its log-probability among what a "
        "constraint left: tokens of a stop sequence, of a mark of "
        "reasoning, or of what a filter cut, are left out",
    ),
    Column("content_filters", "json", "list of patterns, and of functions by their names"),
    Column("error_type", "text", "class of the error", otel="error.type", few=True),
    Column("error_message", "text", "message of the error"),
    Column("tags", "json", "the tags, by key"),
    Column("rating", "integer", "1 for thumbs up, -1 for thumbs down", brief=True, few=True),
    Column("note", "text", "what a person wrote about the run"),
    Column("preset", "text", "name of the preset that settings were taken from", few=True),
    Column("metrics", "json", "numbers that judge the answer, by name"),
    Column("prompt_name", "text", "name of the prompt among those of its sweep (--prompts)", few=True),
    Column("group_id", "text", "the same for all runs of a sweep, a tuning panel or a batch"),
    Column("replay_of", "integer", "run_id of the run that this one replays"),
    Column("conversation_id", "text", "ID of the conversation that the run is a turn of", few=True,
           otel="gen_ai.conversation.id"),
    Column("turn", "integer", "number of the turn in its conversation, from 1 on"),
    Column("reply_to", "integer", "run_id of the turn before"),
    Column("dropped_turns", "integer", "how many of the conversation's oldest turns were not sent"),
    Column("session_id", "text", "ID of the kernel's session", few=True),
    Column("version", "text", "version of llmwit-magic that made the run", few=True),
)  # fmt: skip

NAMES = tuple(column.name for column in COLUMNS)

TAG = "tag."
"""In a DataFrame, the columns of tags begin with this: `tag.KEY`."""
METRIC = "metric."
"""In a DataFrame, the columns of metrics begin with this: `metric.NAME`."""
