"""llama.cpp as the independent reader of a GGUF file.

It comes from the optional package `xllamacpp`. The server runs in its own process (`llama_server.py`) and is called
over the loopback interface with a private key.
"""

from __future__ import annotations

import json
import math
import secrets
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from veneer.data.forms.turns import Message
from veneer.errors import ConfigError, ModelError
from veneer.exports.certificate import Answer, TokenDistribution
from veneer.runtime.own_module import command_of
from veneer.runtime.packages import installed
from veneer.text.strict_json import to_text

PACKAGE, EXTRA = "xllamacpp", "llama-cpp"
MISSING = (
    f"llama.cpp is not installed, so no GGUF file can be run; install the extra: pip install 'veneer[{EXTRA}]' "
    f"(the package {PACKAGE})"
)
CONTEXT = 4096
"""The tokens that a prompt and its answer may have, unless more are asked for."""
ANSWER_SECONDS = 600
"""The time limit of one answer, in seconds."""
ENDING_SECONDS = 20
"""The time limit for a server that did not start to end, in seconds."""
ERROR_LINES = 6


def available() -> bool:
    """Whether llama.cpp can be run here."""
    return installed(PACKAGE)


class LlamaCpp:
    """A GGUF model (and adapter) that llama.cpp holds open; `opened` makes it."""

    def __init__(self, address: str, key: str, source: Path, child: subprocess.Popen[str], messages: IO[str]):
        self._address, self._key, self._source = address, key, source
        self._child, self._messages = child, messages
        # No proxy is used, because the address is on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a text without anything put around it.

        Args:
            text: any text.
            special: whether control tokens that are spelled out count as such.
        """
        answer = self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": special})
        return [int(token) for token in answer["tokens"]]

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The conversation as the file's chat template writes it, up to where the assistant is to go on.

        Args:
            messages: the turns; if the last is an assistant's, the server continues it as the answer.
            tools: descriptions of the tools that may be called.
            variables: further variables of the template.
        """
        body: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True}
        if tools:
            body["tools"] = list(tools)
        if variables:
            body["chat_template_kwargs"] = dict(variables)
        return str(self._ask("/apply-template", body)["prompt"])

    def continued(self, prompt: Sequence[int], max_new_tokens: int, *, top: int = 10) -> Answer:
        """Continue a prompt greedily.

        Args:
            prompt: the token ids, used unchanged.
            max_new_tokens: the largest number of new tokens.
            top: the number of tokens to return of every distribution.

        Raises:
            ModelError: the server refuses, or has crashed; its last messages are given.
        """
        body = {
            "prompt": list(prompt), "n_predict": max_new_tokens, "n_probs": top, "temperature": 0.0,
            "cache_prompt": False, "return_tokens": True, "samplers": ["temperature"],
        }  # fmt: skip
        answer = self._ask("/completion", body)
        tokens = tuple(int(token) for token in answer["tokens"])
        listed = answer.get("completion_probabilities", [])
        if len(listed) == len(tokens):
            steps = tuple(_step(one["top_logprobs"]) for one in listed)
        else:
            # The server holds back a token that ends within a character.
            steps = tuple(self._alone([*prompt, *tokens[:at]], body) for at in range(len(tokens)))
        # The token that ended the answer is among them.
        return Answer(tokens[:-1] if answer["stop_type"] == "eos" else tokens, str(answer["content"]), steps)

    def _alone(self, prompt: Sequence[int], body: Mapping[str, Any]) -> TokenDistribution:
        """The distribution after a prompt. A bias makes the server choose a plain letter, which it never holds back.

        The server's log-probabilities are those of the model, before the bias that makes it choose the letter.
        """
        letter = self.tokenize("a")[-1]
        answer = self._ask(
            "/completion", {**body, "prompt": list(prompt), "n_predict": 1, "logit_bias": [[letter, 1e6]]}
        )
        return _step(answer["completion_probabilities"][0]["top_logprobs"])

    def logprobs(self, prompt: Sequence[int], *, top: int = 10) -> TokenDistribution:
        """The likeliest next tokens of a prompt; see `continued`."""
        return self.continued(prompt, 1, top=top).steps[0]

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            self._address + path,
            data=to_text(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:500]
            raise ModelError(f"{self._source}: llama.cpp refuses {path}: {said}") from error
        except (OSError, ValueError) as error:
            ended = "" if self._child.poll() is None else f" and has ended with code {self._child.returncode}"
            raise ModelError(
                f"{self._source}: llama.cpp does not answer{ended}: {error}{_last(self._messages)}"
            ) from error


def _step(likeliest: Sequence[Mapping[str, Any]]) -> TokenDistribution:
    # JSON knows no NaN: the server writes null for it.
    values = [math.nan if one["logprob"] is None else float(one["logprob"]) for one in likeliest]
    return TokenDistribution(tuple(int(one["id"]) for one in likeliest), tuple(values))


@contextmanager
def opened(
    model: str | Path, *, adapter: str | Path | None = None, context: int = CONTEXT, threads: int = 1
) -> Iterator[LlamaCpp]:
    """Run llama.cpp on a GGUF file for the length of the block.

    Args:
        model: the file.
        adapter: a GGUF adapter to put on it.
        context: the tokens that a prompt and its answer may have.
        threads: the number of threads that compute.

    Raises:
        ConfigError: llama.cpp is not installed.
        ModelError: it does not accept the file; its last messages are given.
    """
    if not available():
        raise ConfigError(MISSING)
    model, adapter = Path(model), None if adapter is None else Path(adapter)
    key = secrets.token_hex(16)
    order = {
        "model": str(model), "adapter": None if adapter is None else str(adapter), "context": context,
        "threads": threads, "key": key,
    }  # fmt: skip
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as messages:
        child = subprocess.Popen(
            command_of("veneer.exports.llama_server"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            encoding="utf-8",
            errors="replace",
        )
        try:
            yield LlamaCpp(_started(child, order, model, messages), key, model, child, messages)
        finally:
            _stop(child)


def _started(child: subprocess.Popen[str], order: Mapping[str, Any], model: Path, messages: IO[str]) -> str:
    """Give the server its settings, and wait for its address."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(to_text(order) + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
    except BrokenPipeError:
        line = ""
    said = json.loads(line) if line.startswith("{") else {}
    if "address" not in said:
        # A separate thread writes its messages; they are complete when the process has ended.
        with suppress(subprocess.TimeoutExpired):
            child.wait(ENDING_SECONDS)
        how = str(said.get("error", "it has crashed"))
        raise ModelError(f"{model}: llama.cpp cannot open it: {how}{_last(messages)}")
    return str(said["address"])


def _last(messages: IO[str]) -> str:
    messages.seek(0)
    lines = [line.strip() for line in messages.read().splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in lines[-ERROR_LINES:])


def _stop(child: subprocess.Popen[str]) -> None:
    """Killing the server damages nothing, and its own shutdown takes seconds."""
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
