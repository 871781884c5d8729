"""Foreign clients at one server for minutes or hours: is every answer the one that a cold server gives?

    python benchmarks/serving_soak.py [MODEL] [--minutes 60] [--adapters 24] [--clients 12] [--folder FOLDER]

Clients of openai-python, langchain-openai and Ollama's package ask questions of a fixed set, whole and streamed, greedy
and drawn with a seed, of the base and of adapters of rank 16. Every answer is compared with the one that another server
of the same model gave before, where each question was asked by itself. Meanwhile clients vanish in the middle of a
stream or of a request, adapters are unloaded and loaded anew, names are asked for that do not exist, and some prompts
hold a canary: a word that nobody else knows. Budgets are small, so that adapters and cached prompts come and go all the
time.

A line a minute says how many requests there were, how often a sequence gave its cache up, and the server's memory. What
is wrong is said at once: an answer that differs, a canary that stands in another answer or in the log, a request that
fails or that takes five minutes. The exit code is 1 then.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ollama
import openai
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from serving_load import Server, prompts
from serving_systems import make_adapters, name_of, veneer_server

from veneer.bundled import bundled_model

KEY, ADMIN = "soak-user-0123456789", "soak-admin-0123456789"
QUESTIONS = 150
ADAPTER_MB, CACHE_MB = 60, 16
"""Room for six adapters, and for some 700 tokens."""
WAIT = 300.0


@dataclass(slots=True)
class Question:
    """A request that is asked again and again."""

    model: str
    prompt: str
    chat: bool
    fields: dict[str, Any]
    """`max_tokens`, `temperature` and `seed`."""
    expected: str = ""

    @property
    def drawn(self) -> bool:
        """Whether its answer is drawn."""
        return bool(self.fields["temperature"] > 0)


@dataclass(slots=True)
class Soak:
    """What all clients share."""

    server: Server
    questions: list[Question]
    names: list[str]
    """Models that are asked for."""
    spare: str
    """An adapter that nobody asks for, and that may be away."""
    end: float
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    canaries: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Of the server."""
        return f"http://{self.server.host}:{self.server.port}"

    def openai(self) -> openai.OpenAI:
        """A client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=WAIT)

    def fault(self, text: str) -> None:
        """Take down what is wrong, and say it at once."""
        self.wrong.append(text)
        print(f"  wrong: {text}", flush=True)

    def compare(self, who: str, question: Question, found: str) -> None:
        """Take an answer down."""
        self.done[who] += 1
        if found != question.expected:
            asked = f"{question.model} {question.fields}"
            self.fault(f"{who}: {asked}: {found[:60]!r} in place of {question.expected[:60]!r}")
        if any(word in found for word in [*self.canaries]):
            self.fault(f"{who}: a canary in an answer to {question.model}")


def questions_of(names: list[str], seed: int) -> list[Question]:
    """Short and long ones, some with a beginning in common."""
    source = random.Random(seed)
    shared = prompts(1, 120, seed)[0]
    found = []
    for words in source.choices((3, 10, 40, 150, 400), k=QUESTIONS):
        text = prompts(1, words, source.randrange(10**9))[0]
        found.append(
            Question(
                model=source.choice(names),
                prompt=f"{shared} {text}" if source.random() < 0.3 else text,
                chat=source.random() < 0.7,
                fields={
                    "max_tokens": source.choice((1, 8, 24, 60)),
                    "temperature": source.choice((0, 0, 1.0)),
                    "seed": source.randrange(1000),
                },
            )
        )
    return found


def answer(client: openai.OpenAI, one: Question, *, stream: bool) -> str:
    """The answer to a question, by openai-python."""
    if one.chat:
        messages: Any = [{"role": "user", "content": one.prompt}]
        if not stream:
            made = client.chat.completions.create(model=one.model, messages=messages, **one.fields)
            return made.choices[0].message.content or ""
        parts = client.chat.completions.create(model=one.model, messages=messages, stream=True, **one.fields)
        return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    if not stream:
        return client.completions.create(model=one.model, prompt=one.prompt, **one.fields).choices[0].text
    pieces = client.completions.create(model=one.model, prompt=one.prompt, stream=True, **one.fields)
    return "".join(piece.choices[0].text for piece in pieces if piece.choices)


def ask_openai(soak: Soak) -> None:
    """A question, whole or streamed."""
    one = random.choice(soak.questions)
    soak.compare("openai", one, answer(soak.openai(), one, stream=random.random() < 0.5))


def ask_langchain(soak: Soak) -> None:
    """A chat."""
    one = random.choice([question for question in soak.questions if question.chat])
    client = ChatOpenAI(base_url=f"{soak.url}/v1", api_key=SecretStr(KEY), model=one.model, max_retries=0, **one.fields)
    if random.random() < 0.5:
        soak.compare("langchain", one, "".join(str(part.content) for part in client.stream(one.prompt)))
    else:
        soak.compare("langchain", one, str(client.invoke(one.prompt).content))


def ask_ollama(soak: Soak) -> None:
    """A greedy chat: Ollama draws with other settings of its own."""
    one = random.choice([question for question in soak.questions if question.chat and not question.drawn])
    client = ollama.Client(host=soak.url, headers={"Authorization": f"Bearer {KEY}"})
    options = {"num_predict": one.fields["max_tokens"], "temperature": 0}
    made = client.chat(model=one.model, messages=[{"role": "user", "content": one.prompt}], options=options)
    soak.compare("ollama", one, made.message.content or "")


def plant_canary(soak: Soak) -> None:
    """A prompt with a word of its own, which only its own answer may hold."""
    word = f"CANARY{random.getrandbits(60)}"
    soak.canaries.add(word)
    messages: Any = [{"role": "user", "content": f"Repeat this secret: {word}"}]
    model = random.choice(soak.names)
    soak.openai().chat.completions.create(model=model, messages=messages, max_tokens=12, user=word)
    soak.done["canaries"] += 1
    time.sleep(0.5)


def vanish(soak: Soak) -> None:
    """Ask for a long stream, and go away: at once, after some bytes, or by a reset."""
    words = prompts(1, random.choice((5, 300)), random.randrange(10**9))[0]
    messages = [{"role": "user", "content": words}]
    body = json.dumps({"model": random.choice(soak.names), "messages": messages, "max_tokens": 200, "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((soak.server.host, soak.server.port)) as line:
        line.settimeout(5)
        line.sendall((head + body).encode())
        try:
            line.recv(random.choice((1, 500, 3000)))
        except TimeoutError:
            soak.done["left before the first byte"] += 1
        if random.random() < 0.5:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    soak.done["vanished"] += 1
    time.sleep(random.random())


def half_a_request(soak: Soak) -> None:
    """A connection that never says all that it has to say."""
    with socket.create_connection((soak.server.host, soak.server.port)) as line:
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")
        time.sleep(random.choice((0.1, 5)))
    soak.done["half a request"] += 1
    time.sleep(1)


def load_anew(soak: Soak) -> None:
    """Load an adapter anew, or the spare one after it was unloaded. Requests under way keep the one that they have."""
    name = random.choice([*soak.names[1:], *[soak.spare] * 8])
    if name == soak.spare:
        manage(soak, "unload", name)
    manage(soak, "load", name)
    time.sleep(3)


def manage(soak: Soak, what: str, name: str) -> None:
    """Load or unload an adapter."""
    line = http.client.HTTPConnection(soak.server.host, soak.server.port, timeout=WAIT)
    headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
    line.request("POST", f"/v1/{what}_lora_adapter", json.dumps({"lora_name": name}), headers)
    status = line.getresponse().status
    line.close()
    soak.done[f"{what}ed"] += 1
    if status != 200:
        soak.fault(f"{what} {name}: status {status}")


def ask_nobody(soak: Soak) -> None:
    """A model that there is not."""
    messages: Any = [{"role": "user", "content": "Hello"}]
    try:
        soak.openai().chat.completions.create(model="nobody", messages=messages)
        soak.fault("a model that does not exist answered")
    except openai.NotFoundError:
        soak.done["not found"] += 1
    time.sleep(2)


def client_of(act: Callable[[Soak], None], soak: Soak) -> threading.Thread:
    """A thread that does something again and again."""

    def run() -> None:
        while time.monotonic() < soak.end:
            try:
                act(soak)
            except Exception as error:  # whatever it is, it is counted against the server
                soak.fault(f"{act.__name__}: {type(error).__name__}: {str(error)[:200]}")
                time.sleep(1)

    return threading.Thread(target=run, daemon=True)


def preemptions(server: Server) -> int:
    """How often sequences gave their cache up."""
    line = http.client.HTTPConnection(server.host, server.port, timeout=WAIT)
    line.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    text = line.getresponse().read().decode()
    line.close()
    return sum(
        int(float(row.rpartition(" ")[2])) for row in text.splitlines() if row.startswith("vllm:num_preemptions_total")
    )


def soak_for(soak: Soak, clients: int, before: int) -> None:
    """Let all clients loose until the end, and say every minute how it goes."""
    acts = [*[ask_openai] * max(1, clients - 4), *[ask_langchain] * 2, *[ask_ollama] * 2, *[plant_canary] * 2]
    acts += [*[vanish] * 3, half_a_request, load_anew, ask_nobody]
    threads = [client_of(act, soak) for act in acts]
    for thread in threads:
        thread.start()
    while (left := soak.end - time.monotonic()) > 0:
        time.sleep(min(60.0, left))
        counts = ", ".join(f"{what} {count:,}" for what, count in sorted(soak.done.items()))
        memory = f"{soak.server.resident() / 1e6:,.0f} MB ({before / 1e6:,.0f} before)"
        given_up, minutes = preemptions(soak.server), max(0.0, soak.end - time.monotonic()) / 60
        print(
            f"{minutes:5.1f} min left, {memory}, {given_up:,} preemptions, {len(soak.wrong)} wrong; {counts}",
            flush=True,
        )
    for thread in threads:
        thread.join(WAIT)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=None, help="what veneer opens; the bundled model by default")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--adapters", type=int, default=24)
    parser.add_argument("--clients", type=int, default=12, help="of those that compare answers")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--folder", type=Path, help="where the adapters go; by default one that is deleted")
    args = parser.parse_args()
    model = args.model or bundled_model()
    with tempfile.TemporaryDirectory() as own:
        folder = args.folder or Path(own)
        if not (folder / "adapters").exists():
            make_adapters(model, folder, args.adapters, gguf=False)
        files = {name: Path(own, name) for name in ("keys", "admin-keys")}
        for file, key in zip(files.values(), (KEY, ADMIN), strict=True):
            file.touch(mode=0o600)
            file.write_text(f"{key}\n")
        options = ["--key-file", str(files["keys"]), "--admin-key-file", str(files["admin-keys"])]
        *names, spare = ["base", *map(name_of, range(args.adapters))]
        questions = questions_of(names, args.seed)
        server_of = partial(veneer_server, model, folder / "adapters", args.threads, options=options)
        with server_of() as cold:
            client = Soak(cold, questions, names, spare, 0.0).openai()
            for question in questions:
                question.expected = answer(client, question, stream=False)
        print(f"{len(questions)} questions were answered by a cold server, one after another", flush=True)
        log = Path(own, "log")
        with server_of(adapter_mb=ADAPTER_MB, cache_mb=CACHE_MB, log=log) as server:
            soak = Soak(server, questions, names, spare, time.monotonic() + 60 * args.minutes)
            soak_for(soak, args.clients, server.resident())
        said = log.read_text()
    for word in soak.canaries:
        if word in said:
            soak.fault(f"{word} stands in the log")
    for question in questions:
        if question.prompt in said:
            soak.fault(f"the prompt {question.prompt[:60]!r} stands in the log")
    if not soak.wrong:
        print("every answer was the cold server's, and no canary left its own answer")
    sys.exit(1 if soak.wrong else 0)


if __name__ == "__main__":
    main()
