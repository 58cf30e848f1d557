"""Servers in cells, magics and panels, over loopback servers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets import TraitError
from traitlets.config import Config

from llmwit_magic.contract.request import Request
from llmwit_magic.engines.server import addresses
from llmwit_magic.engines.server.addresses import address_of, configured, names_server
from llmwit_magic.errors import InvalidInput, ModelNotFound
from llmwit_magic.magics import extension, infer
from llmwit_magic.requests.options import SLIDERS
from llmwit_magic.running.session import Session
from llmwit_magic.views.text import status_parts
from llmwit_magic.views.tuning import TuningPanel
from tests.support.speaking import KEY, SpeakingServer, speaking

__all__ = ["speaking"]
Start = Callable[[str], SpeakingServer]


@pytest.fixture
def shell(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(infer, "current_session", lambda: session)
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    extension.load(shell)
    yield shell
    extension.unload(shell)


@pytest.fixture
def lab(shell: Any, speaking: Start, monkeypatch: pytest.MonkeyPatch) -> SpeakingServer:
    """A vLLM under the name `lab` in the shell."""
    monkeypatch.setenv("LAB_KEY", KEY)
    server = speaking("vllm")
    shell.user_ns["servers"] = {"lab": {"url": server.url, "api_key_env": "LAB_KEY"}}
    shell.run_line_magic("config", "InferMagics.servers = servers")
    return server


LINE = "-m lab::m --temperature 0"


def test_a_cell_runs_on_a_server(
    shell: Any, lab: SpeakingServer, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell_magic("infer", f"{LINE} --stop 's b' -o answer", "The capital\n")
    answer = shell.user_ns["answer"]
    assert (answer.text, answer.stop_sequence) == (" Paris. It i", "s b")
    line = " · ".join(status_parts(answer))
    assert f"lab::m · vllm 0.32.0 at 127.0.0.1:{lab.server_port}" in line
    (row,) = session.log.rows()
    assert (row["engine"], row["library"], row["device"]) == (
        "vllm", "0.32.0", f"127.0.0.1:{lab.server_port}",
    )  # fmt: skip
    assert row["model_path"] == f"{lab.url}#m"
    copied = shell.find_cell_magic("infer").__self__.forms(answer_request(session))["cell"]
    assert copied.startswith("%%infer --model lab::m ")
    assert KEY not in repr(capsys.readouterr()) + copied + line + repr(row)


def answer_request(session: Session) -> Request:
    return session.log[1].request


def test_what_a_server_cannot_honour_is_said_before_the_run(
    shell: Any, lab: SpeakingServer
) -> None:
    line = f"{LINE} --repeat-penalty 1.2 --repeat-penalty-last-n 5"
    shell.run_cell(f"%%infer {line}\nThe capital")
    assert shell.user_ns["_infer"].status == "error"
    assert not any(path == "/v1/completions" for path, _ in lab.asked)
    shell.run_cell_magic("infer", f"{line} --accept unsupported", "The capital\n")
    result = shell.user_ns["_infer"]
    assert result.not_honoured == ("repeat_penalty_last_n_token_count",)
    assert "not honoured: repeat_penalty_last_n_token_count" in status_parts(result)


def test_the_models_of_a_server_are_listed(
    shell: Any, lab: SpeakingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.plain["/v1/models"]["data"].append({"id": "n/o:p"})
    shell.run_line_magic("infer_models", "lab::")
    shell.run_line_magic("infer_models", lab.url.replace("127.0.0.1", "localhost"))
    shell.user_ns["servers"]["httpbox"] = {"url": lab.url}
    shell.run_line_magic("config", "InferMagics.servers = dict(servers)")
    shell.run_line_magic("infer_models", "httpbox::")
    shell.run_line_magic("infer_models", "local::")
    said = capsys.readouterr().out
    assert said.endswith("local:: has no models now\n")
    assert "httpbox::m\nhttpbox::n/o:p\n" in said
    assert "lab::m\n" in said
    assert "lab::n/o:p\n" in said
    assert f"{lab.url.replace('127.0.0.1', 'localhost')}#n/o:p\n" in said


def test_a_dry_run_tells_what_is_known(
    shell: Any, lab: SpeakingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell_magic("infer", f"{LINE} --dry-run", "The capital\n")
    said = capsys.readouterr().out
    assert "2 prompt tokens, 62 of 64 left for the answer" in said
    assert f"lab::m on 127.0.0.1:{lab.server_port}, (a server)" in said


def test_a_panel_runs_on_a_server(session: Session, shell: Any, lab: SpeakingServer) -> None:
    request = Request(model="lab::m", prompt="The", params={"temperature": 0, "seed": 1})
    panel = TuningPanel(session, request, shell.find_cell_magic("infer").__self__.forms, SLIDERS)
    assert panel.wait(20)
    panel.controls["max_tokens"].value = 2
    assert panel.wait(20)
    assert "--model lab::m" in panel.line.value
    panel.close()
    assert panel.wait(10)
    assert [(row["text"], row["engine"]) for row in session.log.rows()] == [
        (" Paris. It is big.", "vllm"), (" Paris.", "vllm"),
    ]  # fmt: skip


def test_servers_are_checked_when_they_are_set(shell: Any, lab: SpeakingServer) -> None:
    """The old ones stay."""
    magics = shell.find_cell_magic("infer").__self__
    for bad, said in (
        ({"a b": {"url": "http://x"}}, "the server's name 'a b' is not valid"),
        ({"a": {"url": "ftp://x"}}, "write it as http://host:port/v1"),
        ({"a": {"url": "http://me:secret@x"}}, "at x has a user name or a password in it"),
        ({"a": {"url": "http://x/v1?api_key=secret"}}, "at x has a query"),
        ({"a": {"url": "http://x:secret"}}, "write it as http://host:port/v1"),
        ({"a": {"url": "secret"}}, "write it as http://host:port/v1"),
        ({"a": {"url": "http://x", "kind": "tgi"}}, "kind"),
        ({"a": {"url": "http://x", "api_key": "k"}}, "api_key"),
        ({"a": {"url": "http://x", "api_key_env": "sk-secret"}}, "is not the name of an env"),
        ({"a": {"url": "http://x", "api_key_env": ["secret"]}}, "is not the name of an env"),
        ({"a": "http://x"}, "the server 'a'"),
    ):
        with pytest.raises(TraitError, match=said) as caught:
            magics.servers = bad
        assert "secret" not in str(caught.value)
    assert list(magics.servers) == ["lab"]


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@x/v1", "HTTP://me:secret@x/v1", "https://secret@x/v1",
        "http://x/v1?api_key=secret", "http://me:secret", "http://[secret", "http://",
        "http://me:secret\N{CARE OF}@x",
    ],
)  # fmt: skip
def test_a_secret_in_an_address_reaches_no_row_and_no_output(
    url: str, shell: Any, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell(f"%%infer -m '{url}#m'\nThe capital")
    shell.run_line_magic("config", f"InferMagics.model = '{url}#m'")
    shell.run_cell("%%infer\nThe capital")
    shell.run_cell(f"%infer_models {url}")
    shell.run_cell(f"%infer_llama_server {url}")
    said = capsys.readouterr()
    assert "the server's address" in said.out + said.err
    assert "secret" not in said.out + said.err
    assert session.log.rows() == []
    with pytest.raises(InvalidInput, match="the server's address"):
        Request(model=url, prompt="")
    assert Request(model="http://x:1/v1#a?b=c@d", prompt="").model.endswith("#a?b=c@d")


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("lab::Qwen3-8B", True), ("lab::a/b:c", True), ("lab::", True),
        ("http://h:1/v1#a/b:c", True), ("https://h/v1", True),
        ("owner/repo", False), ("owner/repo:file", False), ("C:\\models\\a.gguf", False),
        ("./a::b.gguf", False), ("/models/a::b", False), ("a:b", False), ("smollm2", False),
    ],
)  # fmt: skip
def test_which_names_lead_to_servers(name: str, server: bool) -> None:
    assert names_server(name) is server


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", f" {KEY}\n")
    servers = configured({
        "lab": {"url": "http://localhost:8000/v1/", "api_key_env": "LAB_KEY"},
        "far": {"url": "http://far:8000/v1", "api_key_env": "LAB_KEY"},
        "told": {"url": "http://far:8000/v1", "api_key_env": "LAB_KEY", "plain_http": True},
        "safe": {"url": "https://far/v1", "api_key_env": "LAB_KEY"},
    })  # fmt: skip
    address = address_of("lab::a/b:c", servers)
    assert (address.url, address.model, address.key) == ("http://localhost:8000/v1", "a/b:c", KEY)
    assert (address.root, address.host) == ("http://localhost:8000", "localhost:8000")
    assert KEY not in repr(address)
    with pytest.raises(InvalidInput, match="would be sent unencrypted to far:8000"):
        address_of("far::m", servers)
    assert address_of("told::m", servers).key == address_of("safe::m", servers).key == KEY
    assert address_of("http://far:8000/v1#m", servers).key is None
    assert [address_of(name, servers).sign for name in ("lab::", "http://x:1/v1#a::b")] == [
        "lab::", "http://x:1/v1#",
    ]  # fmt: skip
    with pytest.raises(ModelNotFound, match=r"no server 'lob' .*known: far, lab, safe, told"):
        address_of("lob::m", servers)
    monkeypatch.delenv("LAB_KEY")
    with pytest.raises(InvalidInput, match="that its api_key_env names is not set") as caught:
        address_of("lab::m", servers)
    assert "LAB_KEY" not in str(caught.value)  # it may be a key, put there by mistake
    monkeypatch.setenv("LAB_KEY", "a\x07b")
    with pytest.raises(InvalidInput, match="has characters that no key can have"):
        address_of("lab::m", servers)


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    """It is read each time: the key may change."""
    file = tmp_path / "key"
    config = {"url": "http://localhost/v1", "api_key_file": str(file)}
    servers = configured({"lab": config})
    for key in (KEY, KEY[::-1]):
        file.write_text(f"{key}\n")
        assert address_of("lab::m", servers).key == key
    file.unlink()
    with pytest.raises(InvalidInput, match="the key of the server 'lab' cannot be read"):
        address_of("lab::m", servers)


def test_a_key_may_be_in_the_keyring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the service `llmwit-magic`, by the server's name. A keyring that fails is none.

    It is asked once in a while, and not for each row of a batch.
    """
    (tmp_path / "keyring.py").write_text(
        "asked = []\n"
        "def get_password(service, name):\n"
        "    asked.append(name)\n"
        "    if name == 'locked': raise RuntimeError('locked')\n"
        "    return f'{service}-{name}-key\\n'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    servers = configured({name: {"url": "http://localhost/v1"} for name in ("lab", "locked")})
    monkeypatch.setattr(addresses, "KEYRING_SECONDS", 1e9)
    for _ in range(3):
        assert address_of("lab::m", servers).key == "llmwit-magic-lab-key"
        assert address_of("locked::m", servers).key is None
    assert sys.modules["keyring"].asked == ["lab", "locked"]
    del sys.modules["keyring"]  # the next test shall not find this one
