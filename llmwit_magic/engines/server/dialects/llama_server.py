"""llama-server, by its own functions: they take token ids, and say why an answer ended.

Source: tools/server/README.md of llama.cpp.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from ....contract.request import Request
from ....contract.spans import Spans
from ....contract.wit import FinishDetail, InferencingParams
from ....errors import InvalidInput
from ...reasoning import Splitter, family_of, splitter_for
from ..addresses import Address
from ..answers import Ask, Facts, Part
from ..http_client import HttpClient
from .dialect import (
    SEEDS_OF_32_BITS,
    empty_prompt,
    listed,
    messages_of,
    refuse_too_long,
    token_info,
    unhonoured_params,
    unknown_model,
)

_LEAST_PROBABILITIES = 20
"""So many alternatives are asked for at least: one of them is the token itself, as a rule."""


class LlamaServer:
    """Everything of the contract but seeds of more than 32 bits."""

    kind = "llama-server"
    counts_end_of_text = True
    loads = ()

    def not_honoured(self, request: Request, facts: Facts) -> list[str]:
        wanted = unhonoured_params(request.params, InferencingParams.model_fields)
        too_long = (request.params.seed or 0) > SEEDS_OF_32_BITS
        return [*wanted, *(["seed"] if too_long else [])]

    async def facts(self, http: HttpClient, address: Address) -> Facts:
        names = await self.models(http, address)
        if address.model and address.model not in (*names, *map(_file_name, names)):
            raise unknown_model(names, address)  # the server would take any name for its model
        props = await http.json(address, "/props")
        return Facts(
            version=str(props.get("build_info") or ""),
            model=address.model or (names[0] if names else ""),
            context_length=(props.get("default_generation_settings") or {}).get("n_ctx"),
            slots=props.get("total_slots"),
            quantisation=props.get("model_ftype"),
            template=str(props.get("chat_template") or ""),
        )

    async def models(self, http: HttpClient, address: Address) -> list[str]:
        models = listed(await http.json(address, "models"), address)
        names = [name for model in models for name in (model["id"], *model.get("aliases", ()))]
        return list(dict.fromkeys(map(str, names)))

    async def ask(self, http: HttpClient, address: Address, facts: Facts, request: Request) -> Ask:
        prompt, ids, notices = await self._prompt(http, address, request)
        if not ids:
            raise empty_prompt()
        refuse_too_long(request, len(ids), facts.context_length)
        params, splitter = (
            request.params,
            await self._splitter(http, address, facts, request, prompt),
        )
        body = {
            "prompt": ids,
            "stream": True,
            "n_predict": -1 if params.max_tokens is None else params.max_tokens,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "repeat_penalty": params.repeat_penalty,
            "repeat_last_n": params.repeat_penalty_last_n_token_count,
            "seed": params.seed,
            # A token that the server holds back for a stop sequence comes without its bytes. And it
            # would find stop sequences in the marks of the reasoning, and over them.
            "stop": list(params.stop) if request.top_logprobs is None and not splitter else [],
            # The contract's steps in the contract's order, and none of the server's own.
            "samplers": ["penalties", "temperature", "top_k", "top_p"],
            "min_p": 0.0, "typical_p": 1.0, "top_n_sigma": -1.0, "dynatemp_range": 0.0,
            "presence_penalty": 0.0, "frequency_penalty": 0.0, "dry_multiplier": 0.0,
            "xtc_probability": 0.0, "mirostat": 0, "ignore_eos": False, "n_keep": 0,
            "grammar": "", "cache_prompt": True, "return_tokens": True,
            "post_sampling_probs": False, "timings_per_token": True,
        }  # fmt: skip
        if request.top_logprobs is not None:
            body["n_probs"] = max(request.top_logprobs, _LEAST_PROBABILITIES)
        if splitter is not None:  # else it leaves out control tokens, as marks may be
            body["preserved_tokens"] = list(splitter.family.mark_names)
        return Ask(
            "/completion", body, prompt, len(ids), facts.context_length, tuple(notices), splitter
        )

    async def _prompt(
        self, http: HttpClient, address: Address, request: Request
    ) -> tuple[str, list[int], list[str]]:
        """The prompt, its token ids, and notices."""
        if request.is_chat:
            messages = messages_of(request)
            if request.control_tokens != "all":
                for message in messages:
                    await self._refuse_control_tokens(http, address, message["content"])
            prompt = await self._rendered(http, address, request)
            return prompt, await self._ids(http, address, prompt, True), []
        prompt = request.prompt
        whole = ((0, len(prompt)),)
        data: Spans = {"none": whole, "typed": request.data_spans, "all": ()}[
            request.control_tokens
        ]
        if not data:
            return prompt, await self._ids(http, address, prompt, True), []
        ids, as_text = await asyncio.gather(
            self._ids(http, address, prompt, True), self._ids(http, address, prompt, False)
        )
        if ids == as_text:
            return prompt, ids, []
        # There is a control token. Typed parts and data are read apart, each in its own way, unless
        # all control tokens stand in data: then none is wanted, and the text is read as a whole.
        found: list[int] = []
        withheld: list[str] = []
        any_typed = False
        place = 0
        for start, end in (*data, (len(prompt), len(prompt))):
            for text, typed in ((prompt[place:start], True), (prompt[start:end], False)):
                if not text:
                    continue
                special, plain = [
                    await self._ids(http, address, text, wanted, first=not found)
                    for wanted in (True, False)
                ]
                if special != plain and typed:
                    any_typed = True
                elif special != plain:
                    withheld.append(text)
                found += special if typed else plain
            place = end
        names = ", ".join(repr(text[:40]) for text in dict.fromkeys(withheld))
        said = [f"text, and no control token, in the data: {names}"] if withheld else []
        if not any_typed:
            found = await self._ids(http, address, prompt, False)
        return prompt, found, said

    async def _rendered(self, http: HttpClient, address: Address, request: Request) -> str:
        """What the model's template writes."""
        body: dict[str, Any] = {"messages": messages_of(request)}
        if request.template_options:
            body["chat_template_kwargs"] = dict(request.template_options)
        return str((await http.json(address, "/apply-template", body))["prompt"])

    async def _splitter(
        self, http: HttpClient, address: Address, facts: Facts, request: Request, prompt: str
    ) -> Splitter | None:
        """What keeps the reasoning apart: the answer comes with its marks in it."""
        if not request.is_chat or family_of(facts.template, ()) is None:
            return None
        # Only what the template writes after the message may open the reasoning. Where that begins,
        # another message shows: the real one may have marks in it, or be a part of one.
        other = f"\N{ASTERISM}{secrets.token_hex(8)}\N{ASTERISM}"
        rendered = await self._rendered(http, address, request.model_copy(update={"prompt": other}))
        end = rendered.rpartition(other)[2]
        length = len(prompt) - len(end) if prompt.endswith(end) else len(prompt)
        return splitter_for(facts.template, (), prompt, ((0, length),))

    async def _ids(
        self, http: HttpClient, address: Address, text: str, special: bool, first: bool = True
    ) -> list[int]:
        """The token ids; with `special`, names of control tokens are those. `first` begins a text."""
        body = {"content": text, "add_special": first, "parse_special": special}
        ids: list[int] = (await http.json(address, "/tokenize", body))["tokens"]
        if first and special and len(ids) > 1 and ids[0] == ids[1]:
            # A template that writes the beginning-of-text token itself has it twice now.
            plain = await self._ids(http, address, text, True, first=False)
            return plain if plain == ids[1:] else ids
        return ids

    async def _refuse_control_tokens(self, http: HttpClient, address: Address, text: str) -> None:
        if await self._ids(http, address, text, True) != await self._ids(
            http, address, text, False
        ):
            raise InvalidInput(
                "a chat message has the name of a control token in it, which the server would take "
                "for one: take it out, or --control-tokens all sends it as it is"
            )

    def part(self, event: Any, request: Request) -> Part:
        probabilities = event.get("completion_probabilities") or ()
        most = request.top_logprobs or 0
        tokens = tuple(token_info(_with_bytes(item), most) for item in probabilities)
        known = {
            "text": event.get("content", ""),
            "tokens": tokens if request.top_logprobs is not None else (),
            "prompt_token_count": event.get("tokens_evaluated"),
            "generated_token_count": event.get("tokens_predicted"),
            "reasoning_token_count": 0,  # nothing is hidden; what has marks is counted as it is split
        }
        known["cached_token_count"] = (event.get("timings") or {}).get("cache_n")
        if not event.get("stop"):
            return Part(**known)
        return Part(**known | _ending(event, request), last=True)


def _with_bytes(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The token with its bytes. They are missing where it ends in the middle of a character, but
    not where it stands among its alternatives."""
    if item.get("bytes"):
        return item
    same = (other for other in item["top_logprobs"] if other["id"] == item["id"])
    return {**item, "bytes": next(same, item).get("bytes")}


def _file_name(model: str) -> str:
    return model.replace("\\", "/").rpartition("/")[2]


def _ending(event: Mapping[str, Any], request: Request) -> dict[str, Any]:
    generated = event.get("tokens_predicted")
    match event.get("stop_type"):
        case "eos":
            return {"finish_detail": FinishDetail.EOS}
        case "word":
            return {
                "finish_detail": FinishDetail.STOP_SEQUENCE,
                "stop_sequence": event.get("stopping_word"),
            }
        case "limit":
            limit = request.params.max_tokens
            reached = limit is not None and generated is not None and generated >= limit
            detail = FinishDetail.MAX_TOKENS if reached else FinishDetail.CONTEXT_FULL
            return {"finish_detail": detail}
    return {"finish_detail": FinishDetail.UNKNOWN}
