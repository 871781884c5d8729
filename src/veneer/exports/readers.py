"""The readers of an export: our own loader, and transformers, PEFT and llama.cpp if they are installed.

The other programs are imported when they are asked, and none of them is needed to export.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from veneer.data.encoded.chat import stop_tokens, token_ids
from veneer.data.encoded.encoding import encoder_of
from veneer.enums import Backend
from veneer.errors import ModelError, VeneerError
from veneer.exports.certificate import LISTED, Answer, ReaderOutput
from veneer.exports.llama_cpp import opened
from veneer.exports.server_renderings import server_rendering
from veneer.exports.veneer_reader import ReaderInput, composes, folder, led, own, steps_of
from veneer.io.checkpoint import open_checkpoint
from veneer.io.protocol import Checkpoint
from veneer.io.tokenizer import Tokenizer, from_directory
from veneer.machine.out_of_memory import is_out_of_memory

TRANSFORMERS, PEFT = "transformers", "peft"
COMPOSED = (
    "texts were compared with their characters composed (NFC), because transformers composes those of every Qwen2, and "
    "this model's own tokenizer does not"
)


@dataclass(frozen=True, slots=True)
class Reader:
    """A program that reads an export."""

    name: str
    read: Callable[[ReaderInput], ReaderOutput]
    rounds: bool = False
    """Whether it rounds the inputs of its products, and is therefore judged with a floor."""


def veneer_folder(path: Path, device: torch.device, backend: Backend = Backend.AUTO) -> Reader:
    """Our own loader on a model's directory or GGUF file."""

    def read(asked: ReaderInput) -> ReaderOutput:
        found = own(folder(path, device, backend), asked)
        return found if path.is_dir() else replace(found, stop_ids=_file_ends(open_checkpoint(path), asked))

    return Reader("veneer", read)


def llama_cpp(model: Path, adapter: Path | None = None) -> Reader:
    """llama.cpp on a GGUF model, with a GGUF adapter on it."""

    def read(asked: ReaderInput) -> ReaderOutput:
        # No more than is needed: llama.cpp chooses the factors of LongRoPE by the context, whereas the model's own
        # definition uses the length of the text.
        context = asked.prompts.longest + 1
        checkpoint = open_checkpoint(model)
        tokenizer = checkpoint.tokenizer()
        with opened(model, adapter=adapter, context=context, threads=torch.get_num_threads()) as server:
            written = [
                server_rendering(server, tokenizer, prompt, reference)
                for prompt, reference in zip(asked.prompts.prompts, asked.renderings, strict=True)
            ]
            ids = tuple(tuple(server.tokenize(text)) for text in asked.texts)
            answers = tuple(
                server.continued(prompt.tokens, asked.prompts.new_tokens, top=LISTED)
                for prompt in asked.prompts.prompts
            )
        return ReaderOutput(
            "llama.cpp",
            tuple(one.text for one in written),
            ids,
            answers,
            stop_ids=_file_ends(checkpoint, asked),
            notes=tuple(dict.fromkeys(one.note for one in written if one.note)),
        )

    return Reader("llama.cpp", read, rounds=True)


def _file_ends(checkpoint: Checkpoint, asked: ReaderInput) -> frozenset[int]:
    """The tokens that end an answer by a GGUF file, as llama.cpp reads it, regardless of the template.

    Ids in the base's settings that have no token can never be generated, so they are no loss.
    """
    rows = checkpoint.config["vocab_size"]
    never_said = {token for token in asked.stop_ids if not 0 <= token < rows}
    return frozenset(token_ids(checkpoint.generation_config.get("eos_token_id")) | never_said)


def transformers_folder(path: Path, device: torch.device) -> Reader:
    """transformers on a model's directory."""

    def read(asked: ReaderInput) -> ReaderOutput:
        with quiet():
            return _theirs(TRANSFORMERS, _load_model(path).to(device), path, asked)

    return Reader(TRANSFORMERS, read)


def only_transformers_composes(checkpoint: Checkpoint) -> bool:
    """Whether transformers composes characters (NFC), but the model's tokenizer does not: transformers has its own
    tokenizer for every Qwen2, whatever tokenizer.json says."""
    return checkpoint.config.get("model_type") == "qwen2" and not composes(checkpoint.tokenizer())


def peft_folder(base: Path, adapter: Path, rows: int, tokenizer: Path, device: torch.device) -> Reader:
    """PEFT on the base's directory and an adapter's.

    Args:
        base: the directory of the base model.
        adapter: the directory of the adapter.
        rows: the least number of rows of the embedding, for the adapter's new tokens.
        tokenizer: the directory of the tokenizer that goes with the adapter.
        device: the device that computes.
    """

    def read(asked: ReaderInput) -> ReaderOutput:
        from peft import PeftModel

        with quiet():
            model = _load_model(base)
            with _failing(f"{adapter}: {PEFT} cannot open it"):
                if model.get_input_embeddings().weight.shape[0] < rows:
                    model.resize_token_embeddings(rows, mean_resizing=False)
                model = PeftModel.from_pretrained(model, adapter).eval()
            return _theirs(PEFT, model.to(device), tokenizer, asked)

    return Reader(PEFT, read)


def _load_model(path: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with _failing(f"{path}: {TRANSFORMERS} cannot open it"):
        config: Any = AutoConfig.from_pretrained(path, local_files_only=True)
        # torch's grouped product, which is the default, needs rows of whole 16 bytes, and gains nothing here.
        config._experts_implementation = "eager"
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=torch.float32, local_files_only=True
        )
    return model.eval()


@contextmanager
def _failing(problem: str) -> Iterator[None]:
    """Turn errors of another program within the block, except for out-of-memory errors, into problems of the export.

    Raises:
        ModelError: the program raised an error. Errors of veneer pass through.
    """
    try:
        yield
    except VeneerError:
        raise
    # tokenizers raises no narrower class, and jinja2 and huggingface_hub have their own classes.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{problem}: {error}") from error


def _theirs(name: str, model: Any, tokenizer_folder: Path, asked: ReaderInput) -> ReaderOutput:
    """A transformers model led along the reference's answers, with transformers' tokenizer.

    Raises:
        ModelError: it cannot compute with these files.
    """
    with _failing(f"{name} cannot compute with it"), torch.no_grad():
        return _led(name, model, tokenizer_folder, asked)


def _led(name: str, model: Any, tokenizer_folder: Path, asked: ReaderInput) -> ReaderOutput:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    renderings = tuple(
        None
        if prompt.messages is None or tokenizer.chat_template is None
        else tokenizer.apply_chat_template(
            list(prompt.messages), tools=prompt.tools, add_generation_prompt=True, tokenize=False
        )
        for prompt in asked.prompts.prompts
    )
    ids = tuple(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in asked.texts)
    plain = from_directory(tokenizer_folder)
    stop_ids = _stop_ids(model, tokenizer, plain)
    answers: list[Answer] = []
    for prompt, answer in zip(asked.prompts.prompts, asked.answers, strict=True):
        tokens = torch.tensor([[*prompt.tokens, *answer.tokens]], device=model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt.tokens) - 1 :]
        answers.append(led(steps_of(logits), asked, stop_ids, plain))
    return ReaderOutput(name, renderings, ids, tuple(answers), dict(tokenizer.get_vocab()), stop_ids)


def _stop_ids(model: Any, tokenizer: Any, plain: Tokenizer) -> frozenset[int]:
    """The tokens that end an answer by the files that transformers has read, and by the chat template."""
    ends = stop_tokens(plain, {"eos_token_id": model.generation_config.eos_token_id}, encoder_of(plain))
    return ends if tokenizer.eos_token_id is None else ends | {int(tokenizer.eos_token_id)}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers and PEFT within the block: problems show in the comparison."""
    import transformers.utils.logging

    their_logging: Any = transformers.utils.logging
    logger = logging.getLogger("transformers")
    level, bars = logger.level, their_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if bars:
            their_logging.enable_progress_bar()
