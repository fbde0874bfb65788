"""Text in and out: the checkpoint's byte-level BPE tokenizer, its chat template, and streaming UTF-8."""

import codecs
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import InputError, shown
from engine.input_file import read_regular
from engine.json_file import read_object, read_object_if_any
from engine.model.checkpoint import text_folder
from engine.model.gguf_header import is_gguf, read_header
from engine.text.chat_template import MOST_SOURCE, ChatTemplate
from engine.text.encoder import Encoder
from engine.text.gguf_tokenizer import GgufTokenizer
from engine.text.literals import any_of
from engine.text.vocabulary import Vocabulary


class Tokenizer:
    """Tokens of one checkpoint. Immutable after loading, so threads may share it.

    Added tokens ("specials" here, whether marked special or not: `<|im_start|>`, `<think>`) are kept apart from the
    BPE vocabulary, so that ordinary text which spells one is encoded as ordinary tokens.
    """

    def __init__(
        self,
        tokenizer_json: Mapping[str, Any],
        eos_token_ids: tuple[int, ...] = (),
        chat_template: str | None = None,
        template_variables: Mapping[str, str] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """`tokenizer_json` is the parsed tokenizer.json, `names` what the checkpoint is called. Raises
        InputError unless it is a byte-level BPE."""
        if not _is_byte_level(tokenizer_json.get("decoder")):
            raise InputError(
                f"the tokenizer's decoder is {shown(tokenizer_json.get('decoder'))}; "
                "only byte-level BPE (ByteLevel) is supported"
            )
        self._vocabulary = Vocabulary(tokenizer_json)
        self._added, self._specials = self._vocabulary.added, self._vocabulary.specials
        self._encoder = Encoder(tokenizer_json)
        self._pattern = re.compile(f"({any_of(self._specials).pattern})")
        self.size: int = self._vocabulary.size
        """Ids at or above it do not exist (checkpoints pad their embedding beyond it)."""
        self._known: dict[int, bytes] = {}
        """Bytes of the tokens asked for so far."""
        self._whole: dict[int, str | None] = {}
        """The same as text, None where they are not whole characters."""
        self.variables = variables = template_variables or {}
        """Texts of the tokens that have a role, by its name: eos_token, bos_token ..."""
        named = [self._specials[name] for name in [variables.get("eos_token")] if name in self._specials]
        for token_id in eos_token_ids:
            self._check_id(token_id)
        self.eos_token_ids = tuple(sorted({*eos_token_ids, *named}))
        """Every id that ends a response: those of generation_config.json, config.json and tokenizer_config.json."""
        self.names, self.template_source = names, chat_template
        self._template = None if chat_template is None else ChatTemplate(chat_template, self._specials, variables)

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """Read tokenizer.json and, where present, tokenizer_config.json, chat_template.jinja, config.json and
        generation_config.json of a checkpoint directory; of a GGUF file, what lies beside it, or its own metadata.
        Raises InputError naming the file that is missing or broken.
        """
        named, directory = names_of(Path(directory)), Path(directory)
        if is_gguf(directory):
            beside = text_folder(directory)
            if beside is None:
                return cls._inside(directory, named)
            directory = beside
        config = read_object_if_any(directory / "tokenizer_config.json")
        variables = {
            name: text
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (text := _token_text(config.get(name))) is not None
        }
        eos: list[int] = []
        for name in ("generation_config.json", "config.json"):
            ids = read_object_if_any(directory / name).get("eos_token_id") or []
            ids = [ids] if isinstance(ids, int) else ids
            if not isinstance(ids, list) or not all(type(i) is int for i in ids):
                raise InputError(f"{directory / name}: eos_token_id is {shown(ids)}; give a token id or a list of them")
            eos += ids
        template = _template_source(directory, config)
        del config  # either file may take a gigabyte
        main = read_object(directory / "tokenizer.json")
        try:
            return cls(main, tuple(eos), template, variables, named)
        except InputError as error:
            raise InputError(f"{directory}: {error}") from error

    @classmethod
    def _inside(cls, file: Path, names: Sequence[str]) -> "Tokenizer":
        found = GgufTokenizer.load(file)
        try:
            return cls(found.tokenizer_json, found.eos_token_ids, found.chat_template, found.variables, names)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    def encode(self, text: str, specials: bool = False, most: int | None = None) -> list[int]:
        """Token ids of `text`, nothing added. `specials=True` reads the text of added tokens as those tokens; it then
        raises InputError where the bytes tell, without encoding them, that there would be more than `most` ids."""
        if not specials:
            return self._encoder.encode(text)
        pieces = (self._specials.get(piece, piece) for piece in self._pattern.split(text) if piece)
        return self._encode_pieces(pieces, most)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, specials shown; bytes that are not UTF-8 become U+FFFD."""
        return self.bytes_of(ids).decode("utf-8", "replace")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """The bytes that tokens stand for, joined. Raises InputError for an id out of range."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; of an added token, its text. Raises InputError for an id out of range."""
        known = self._known.get(token_id)
        if known is None:
            self._check_id(token_id)
            known = self._known[token_id] = self._vocabulary.token_bytes(token_id)
        return known

    def maybe_blank(self) -> list[int]:
        """Ids of all tokens that are white space alone or end in a newline, and of some others: few in all."""
        return self._vocabulary.maybe_blank()

    def whole_text(self, token_id: int) -> str | None:
        """The text that a token is by itself; None where its bytes are not whole characters. Raises InputError for an
        id out of range."""
        try:
            return self._whole[token_id]
        except KeyError:
            data = self.token_bytes(token_id)
        try:
            whole: str | None = data.decode("utf-8")
        except UnicodeDecodeError:
            whole = None
        self._whole[token_id] = whole
        return whole

    def special_id(self, text: str) -> int | None:
        """Id of the added token whose text is exactly `text`."""
        return self._specials.get(text)

    @property
    def has_template(self) -> bool:
        """Whether the checkpoint brings a chat template, which `render` needs."""
        return self._template is not None

    def end_warning(self) -> str | None:
        """What is to be said where a response may not end by itself: the checkpoint names no EOS, or its chat template
        ends turns with a token that is none. One line, with the way out."""
        end = None if self._template is None else self._template.turn_end()
        ends = None if end is None else f"the chat template ends turns with {shown(self.decode([end]))} (id {end})"
        if not self.eos_token_ids:
            fault = f"no EOS token is named{f', and {ends}' if ends else ''}"
        elif ends and end not in self.eos_token_ids:
            fault = f"{ends}, which is not among the EOS tokens"
        else:
            return None
        number = "" if end is None else f" {end}"
        return (
            f"{fault}; responses run on to max_tokens. Put its id{number} into eos_token_id of generation_config.json, "
            f"or give --stop-token-ids{number}"
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        most: int | None = None,
        open_end: bool = False,
    ) -> list[int]:
        """Ids of the chat template's rendering of `messages` ({"role": ..., "content": ...}).

        Special tokens come from the template alone; what the messages spell is ordinary text. For messages that
        spell none the ids equal those of transformers' `apply_chat_template`; with `open_end` they end with the text of
        the last message, as with its `continue_final_message`. Raises InputError where there is no template, where a
        message is malformed, where the template raises, and where the bytes of the rendered text tell, without encoding
        it, that there would be more than `most` ids.
        """
        if self._template is None:
            raise InputError(
                "the checkpoint has no chat template (chat_template.jinja or tokenizer_config.json); "
                "give prompt_token_ids instead"
            )
        return self._encode_pieces(self._template.render(messages, add_generation_prompt, open_end), most)

    def _encode_pieces(self, pieces: Iterable[str | int], most: int | None = None) -> list[int]:
        """Specials stay, each run of text between two of them is encoded in one go (BPE does not cross specials)."""
        ids: list[int] = []
        pending: list[str] = []
        strip_next = False
        for piece in pieces:
            if isinstance(piece, str):
                piece = piece.lstrip() if strip_next else piece
                strip_next = strip_next and not piece
                pending.append(piece)
                continue
            text = "".join(pending)
            self.extend(ids, text.rstrip() if self._added[piece].get("lstrip") else text, most)
            ids.append(piece)
            pending, strip_next = [], bool(self._added[piece].get("rstrip"))
        self.extend(ids, "".join(pending), most)
        return ids

    def extend(self, ids: list[int], text: str, most: int | None = None) -> None:
        """Put the ids of `text` behind `ids`. Raises InputError where it is known, without encoding it, that there
        would be more than `most` of them."""
        # A character has at most four bytes, and a byte gives at most one token.
        if most is not None and self._encoder.bounded and len(ids) + 4 * len(text) > most:
            least = len(ids) + self._vocabulary.least_tokens(text)
            if least > most:
                raise InputError(
                    f"the prompt has at least {least} tokens and the context holds {most}; shorten the prompt or "
                    "raise max_model_len or kv_cache_tokens"
                )
        ids += self._encoder.encode(text)

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.size:
            raise InputError(f"token id {token_id} does not exist; the tokenizer has ids 0 to {self.size - 1}")


class IncrementalDecoder:
    """Bytes of tokens in, text out, each byte looked at once.

    The pieces joined equal `Tokenizer.decode` of all ids: a character that is not complete waits for its other
    bytes, and one that never is becomes one U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

        self.waits = False
        """Whether a character is not complete. While none is, text that is whole by itself need not come through here.
        """

    def push(self, data: bytes) -> str:
        """The text that `data` completes."""
        text = self._decoder.decode(data)
        self.waits = bool(self._decoder.getstate()[0])
        return text

    def flush(self) -> str:
        """What is left of a character that was cut; the decoder is then as new."""
        text = self._decoder.decode(b"", True)
        self._decoder.reset()
        self.waits = False
        return text


def names_of(directory: Path) -> tuple[str, ...]:
    """What the checkpoint in `directory` is called: the folder's name, or in a hub's cache its repository's, and the
    name that config.json has kept; the GGUF file's name, and the one in its metadata."""
    if is_gguf(directory):
        kept = read_header(directory).values.get("general.name")
        return (directory.stem, *([kept] if isinstance(kept, str) and kept else []))
    directory = directory.resolve()
    folder = directory.parent.parent if directory.parent.name == "snapshots" else directory
    kept = read_object_if_any(directory / "config.json").get("_name_or_path")
    return (folder.name, *([kept] if isinstance(kept, str) and kept else []))


def _is_byte_level(decoder: Any) -> bool:
    """Whether it is one, or a sequence of decoders that holds one."""
    steps = decoder.get("decoders") if isinstance(decoder, Mapping) else None
    return any(
        isinstance(step, Mapping) and step.get("type") == "ByteLevel"
        for step in [decoder, *(steps if isinstance(steps, list) else [])]
    )


def _token_text(value: Any) -> str | None:
    """tokenizer_config.json writes a token as its text or as an object with `content`."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _template_source(directory: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja before tokenizer_config.json, as transformers does; of a list, the one named `default`."""
    path = directory / "chat_template.jinja"
    if os.path.lexists(path):
        try:
            return read_regular(path, 4 * MOST_SOURCE).decode("utf-8-sig")
        except ValueError as error:
            raise InputError(f"{path} is not UTF-8 text ({error}); fetch the file again") from None
    template = config.get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, Mapping)]
        template = {entry.get("name"): entry.get("template") for entry in named}.get("default")
    if not isinstance(template, (str, type(None))):
        where = directory / "tokenizer_config.json"
        raise InputError(f"{where}: chat_template is {shown(template)}; give a string, or a list of named ones")
    return template
