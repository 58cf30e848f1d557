"""The declarations of llama.cpp's C interface, held against the library itself.

The real library has a process of its own: its symbols are for the whole process.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from llmwit_magic.engines.backends.llamacpp import llama_h
from llmwit_magic.engines.backends.llamacpp.llama_sources import source
from tests.support.apart import python_apart
from tests.support.fake_llama import FakeNative, context_params, model_params

SOURCE = source()
needs_library = pytest.mark.skipif(
    bool(SOURCE.problem or SOURCE.bindings),
    reason=SOURCE.problem or f"{SOURCE.name} has declarations of its own",
)

FACTS = """
import ctypes, json, os, re, sys
from llmwit_magic.engines.backends.llamacpp import llama_h
from llmwit_magic.engines.backends.llamacpp.llama_library import library
from llmwit_magic.engines.backends.llamacpp.llama_sources import source

lib = library()

def fields(struct):
    values = {name: getattr(struct, name) for name, *_ in struct._fields_}
    return {name: "set" if name == "progress_callback" and value else value
            for name, value in values.items()}

def written(name, size=1024):
    # A struct that is returned is written to the address that C passes as a hidden argument.
    function = ctypes.CDLL(str(source().find("llama")))[name]
    function.restype, function.argtypes = None, (ctypes.c_void_p,)
    results = []
    for fill in (0, 255):
        memory = (ctypes.c_uint8 * size)(*[fill] * size)
        function(ctypes.addressof(memory))
        results.append(bytes(memory))
    return [place for place in range(size) if results[0][place] == results[1][place]]

said = {
    "model": fields(lib.llama_model_default_params()),
    "context": fields(lib.llama_context_default_params()),
    "unlike": llama_h.unlike(lib),
}
if sys.argv[2] == "x86":
    said["model written"] = written("llama_model_default_params")
    said["context written"] = written("llama_context_default_params")

params = lib.llama_model_default_params()
params.n_gpu_layers, params.load_mode = 0, llama_h.MAPPED
logged = []
log = llama_h.LogCallback(lambda level, text, data: logged.append(text.decode()))
lib.llama_log_set(log, None)
model = lib.llama_model_load_from_file(os.fsencode(sys.argv[1]), params)
said["vocabulary"] = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
said["contexts"] = []
for unified in (False, True):
    settings = lib.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_seq_max = 512, 64, 2
    settings.pooling_type, settings.kv_unified = 3, unified
    settings.n_ubatch, settings.n_outputs_max, settings.n_outputs_max_per_seq = 32, 48, 2
    settings.rope_freq_base, settings.rope_freq_scale = 5000, 0.5
    settings.flash_attn_type = llama_h.NO_FLASH_ATTENTION
    logged.clear()
    context = lib.llama_init_from_model(model, settings)
    said["contexts"].append({
        "n_ctx": lib.llama_n_ctx(context),
        "n_ctx_seq": lib.llama_n_ctx_seq(context),
        "n_batch": lib.llama_n_batch(context),
        "pooling": lib.llama_pooling_type(context),
        "logged": dict(re.findall(r"^llama_context: +(\\w+) += (.*)$", "".join(logged), re.M)),
    })
    lib.llama_free(context)
lib.llama_model_free(model)
said["devices"] = []
for index in range(lib.ggml.ggml_backend_dev_count()):
    device = lib.ggml.ggml_backend_dev_get(index)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    lib.ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    said["devices"].append([
        lib.ggml.ggml_backend_dev_name(device).decode(),
        lib.ggml.ggml_backend_dev_description(device).decode(),
        lib.ggml.ggml_backend_dev_type(device), free.value, total.value,
    ])
print("SAID", json.dumps(said))
"""


@pytest.fixture(scope="module")
def facts(tiny_model: Path) -> Any:
    """What the real library says."""
    x86 = sys.platform == "linux" and platform.machine() == "x86_64"
    return python_apart(FACTS, tiny_model, "x86" if x86 else "other")


@needs_library
def test_default_parameters_read_back(facts: Any) -> None:
    """Each field of the two structs has the value that the library's source gives it."""
    assert facts["unlike"] == ""
    assert facts["model"] == {
        "devices": None, "tensor_buft_overrides": None, "n_gpu_layers": -1, "split_mode": 1,
        "load_mode": -1, "lazy_mode": 1, "main_gpu": 0, "tensor_split": None,
        "progress_callback": None, "progress_callback_user_data": None, "kv_overrides": None,
        "vocab_only": False, "check_tensors": False, "use_extra_bufts": True, "no_host": False,
        "no_alloc": False, "load_mtp": False,
    }  # fmt: skip
    assert facts["context"] == {
        "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_rs_seq": 0,
        "n_outputs_max": 0, "n_outputs_max_per_seq": 1, "n_threads": 4, "n_threads_batch": 4,
        "ctx_type": 0, "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1,
        "flash_attn_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0,
        "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0,
        "yarn_beta_slow": -1.0, "yarn_orig_ctx": 0, "defrag_thold": -1.0, "cb_eval": None,
        "cb_eval_user_data": None, "type_k": 1, "type_v": 1, "abort_callback": None,
        "abort_callback_data": None, "unknown_pointer": None, "embeddings": False,
        "offload_kqv": True, "no_perf": True, "op_offload": True, "swa_full": True,
        "kv_unified": False, "samplers": None, "n_samplers": 0, "ctx_other": None,
    }  # fmt: skip


@needs_library
@pytest.mark.parametrize(
    ("name", "struct"), [("model", llama_h.ModelParams), ("context", llama_h.ContextParams)]
)
def test_the_library_fills_the_declared_structs(name: str, struct: Any, facts: Any) -> None:
    """It writes all bytes of the declared fields, and no others: no field is unknown."""
    if f"{name} written" not in facts:
        pytest.skip("Linux on x86-64 takes the address of a returned struct as an argument")
    written = set(facts[f"{name} written"])
    for field, *_ in struct._fields_:
        place = getattr(struct, field)
        own = set(range(place.offset, place.offset + place.size))
        assert own <= written, field
        written -= own
    assert written == set()


@needs_library
def test_parameters_arrive_where_they_belong(facts: Any) -> None:
    """What is set in a context's parameters is what the context then says of itself."""
    apart, unified = facts["contexts"]
    logged = [context.pop("logged") for context in (apart, unified)]
    assert apart == {"n_ctx": 512, "n_ctx_seq": 256, "n_batch": 64, "pooling": 3}
    assert unified == apart | {"n_ctx_seq": 512}
    told = {
        "n_seq_max": "2", "n_ubatch": "32", "n_rs_seq": "0", "n_outputs_max": "48",
        "n_outputs_max_per_seq": "2", "flash_attn": "disabled", "freq_base": "5000.0",
        "freq_scale": "0.5",
    }  # fmt: skip
    assert logged[0].items() >= (told | {"kv_unified": "false"}).items()
    assert logged[1].items() >= (told | {"kv_unified": "true"}).items()
    assert facts["vocabulary"] == 600


@needs_library
def test_devices_are_told(facts: Any) -> None:
    """With the code for the processor there is one device of that type, with its memory."""
    import psutil

    ((name, description, _, free, total),) = [each for each in facts["devices"] if each[2] == 0]
    assert name == "CPU"
    assert description.isprintable()
    assert description
    assert 0 < free <= total
    assert total == pytest.approx(psutil.virtual_memory().total, rel=0.5)


def test_a_batch_has_an_item_for_each_token() -> None:
    """Its pointers lie as in C: a number, its padding, six addresses of eight bytes."""
    places = [getattr(llama_h.Batch, name).offset for name, _ in llama_h.Batch._fields_]
    assert places == [0, 8, 16, 24, 32, 40, 48]
    assert ctypes.sizeof(llama_h.Batch) == 56


def test_the_known_library_is_not_unlike() -> None:
    """Default parameters that are the known ones give an empty text."""
    assert llama_h.unlike(FakeNative()) == ""


@pytest.mark.parametrize("field", sorted(llama_h._KNOWN_MODEL))
def test_another_parameter_of_models_is_named(field: str) -> None:
    """Whichever field of the model's parameters has another value, it is named."""
    value = other_than(llama_h._KNOWN_MODEL[field])
    native = FakeNative(llama_model_default_params=lambda: model_params(**{field: value}))
    known = llama_h._KNOWN_MODEL[field]
    assert llama_h.unlike(native) == f"{field} is {value!r}, not {known!r}"


@pytest.mark.parametrize("field", sorted(llama_h._KNOWN_CONTEXT))
def test_another_parameter_of_contexts_is_named(field: str) -> None:
    """Whichever field of the context's parameters has another value, it is named."""
    value = other_than(llama_h._KNOWN_CONTEXT[field])
    native = FakeNative(llama_context_default_params=lambda: context_params(**{field: value}))
    known = llama_h._KNOWN_CONTEXT[field]
    assert llama_h.unlike(native) == f"{field} is {value!r}, not {known!r}"


def other_than(value: Any) -> Any:
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    return 4096 if value is None else value + 2


def test_the_first_difference_is_named() -> None:
    """Of several fields that differ, the one that stands first; the model's come first."""
    native = FakeNative(
        llama_model_default_params=lambda: model_params(no_alloc=True, main_gpu=3),
        llama_context_default_params=lambda: context_params(n_ctx=7),
    )
    assert llama_h.unlike(native) == "main_gpu is 3, not 0"


def test_null_pointers_to_a_type_are_none() -> None:
    """As llama-cpp-python declares fields: by the type of what they lead to."""
    fields = [(name, type_) for name, type_ in llama_h.ContextParams._fields_ if name != "samplers"]
    fields.append(("samplers", ctypes.POINTER(ctypes.c_int)))
    params = type("Params", (ctypes.Structure,), {"_fields_": fields})
    assert params().samplers is not None

    def made(**changes: Any) -> Any:
        found = params()
        for name, value in (llama_h._KNOWN_CONTEXT | changes).items():
            setattr(found, name, value)
        return found

    assert llama_h.unlike(FakeNative(llama_context_default_params=made)) == ""
    other = made(samplers=ctypes.pointer(ctypes.c_int(1)))
    assert llama_h.unlike(FakeNative(llama_context_default_params=lambda: other)).startswith(
        "samplers is "
    )


def test_fields_that_another_version_lacks() -> None:
    """Only the fields that there are can have another value."""
    fields = [field for field in llama_h.ModelParams._fields_ if field[0] != "load_mode"]
    params = type("Params", (ctypes.Structure,), {"_fields_": fields})()
    for name, value in llama_h._KNOWN_MODEL.items():
        if name != "load_mode":
            setattr(params, name, value)
    assert llama_h.unlike(FakeNative(llama_model_default_params=lambda: params)) == ""


def test_what_other_declarations_lack_is_named() -> None:
    """Functions and types alike."""
    native = FakeNative()
    llama_h.declare(native)
    assert llama_h.missing(native) == ""
    lacking = FakeNative(missing=["llama_n_ctx_seq", "llama_batch"])
    assert llama_h.missing(lacking) == "llama_n_ctx_seq, llama_batch"


def test_functions_are_declared() -> None:
    """ctypes then knows what each function takes and gives: addresses are not cut to 32 bits."""
    native = FakeNative()
    llama_h.declare(native)
    assert native.llama_decode.restype is llama_h.c_int32
    assert native.llama_decode.argtypes == (llama_h.c_void_p, llama_h.Batch)
    assert native.llama_model_load_from_file.restype is llama_h.c_void_p
    assert native.llama_get_memory.restype is llama_h.c_void_p
    assert native.llama_backend_init.restype is None


def test_functions_of_ggml_are_declared() -> None:
    """Each is taken from the first library that has it: Windows looks in no other one."""
    base = FakeNative(missing=["ggml_backend_load", "ggml_backend_dev_count"])
    found = llama_h.ggml_functions([base, native := FakeNative()])
    assert found.ggml_backend_dev_get is base.ggml_backend_dev_get
    assert found.ggml_backend_load is native.ggml_backend_load
    assert found.ggml_backend_dev_get.restype is llama_h.c_void_p
    assert found.ggml_backend_dev_name.argtypes == (llama_h.c_void_p,)
    assert found.ggml_backend_dev_memory.restype is None


@pytest.mark.parametrize("name", sorted(llama_h._GGML_FUNCTIONS))
def test_a_missing_function_of_ggml_is_named(name: str) -> None:
    """It is one that none of the libraries has."""
    with pytest.raises(AttributeError, match=name):
        llama_h.ggml_functions([FakeNative(missing=[name]), FakeNative(missing=[name])])


@pytest.mark.parametrize("name", sorted(llama_h._FUNCTIONS))
def test_a_missing_function_is_named(name: str) -> None:
    """A library that lacks any of the declared functions raises an error with its name."""
    with pytest.raises(AttributeError, match=name):
        llama_h.declare(FakeNative(missing=[name]))
