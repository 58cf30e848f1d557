from ..errors import InvalidInput

try:
    import wasmtime as _needed  # noqa: F401
except ImportError:
    raise InvalidInput('components need wasmtime: pip install "llmwit-magic[wasm]"') from None
