"""Tokens that are found in a text as they stand, before it is split into words: start, end and padding, and those
that were added to a vocabulary, such as "<cat-toy>", whose embedding textual inversion has learnt (Gal et al. 2022).

A folder names them in up to four files, by libraries of different years; they are read as transformers 5 reads them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import regex

from minisd.bpe import END, START
from minisd.files import read_json
from minisd.messages import quoted, shown

CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"


class AddedToken(NamedTuple):
    content: str
    special: bool = False  # says something about the text, and is left out when ids are decoded
    normalized: bool = True  # looked for in the cleaned text, and so in any case
    single_word: bool = False  # not found within a longer word


def splitter(tokens: dict[str, AddedToken]) -> regex.Pattern:
    """Splits a text where one of these is found, and keeps it; of two that begin at one place, the longer is found."""
    patterns = [rf"(?<!\w){regex.escape(text)}(?!\w)" if tokens[text].single_word else regex.escape(text)
                for text in sorted(tokens, key=len, reverse=True)]
    return regex.compile(f"({'|'.join(patterns) or '(?!)'})")


def read_added_tokens(folder: Path, vocab: dict[str, int]) -> tuple[list[AddedToken], str | None]:
    """The added tokens of a folder, and the padding token that it names (None: it names none).

    Tokens that the vocabulary lacks come in the order of their ids, which go on where the vocabulary's end. A special
    token that has no id anywhere has no embedding, and is left out; so are start, end and padding, if nothing is said
    of them, as every tokenizer has them.

    Raises:
        ValueError: something that is no token, an id that is not the next, or padding without an id.
    """
    try:
        config, listed = describe(folder)
    except (AttributeError, KeyError, TypeError):
        raise ValueError("the added tokens in added_tokens.json, tokenizer.json or tokenizer_config.json are "
                         "damaged") from None
    ids, fields_of = {}, {}
    for file, fields, number in listed:
        name = content_of(fields)
        if name is None or not str(number).isdecimal():
            raise ValueError(f"{file}: {quoted(fields)} with the id {quoted(number)} is no added token")
        ids[name], fields_of[name] = int(str(number)), fields
    new = sorted(ids.keys() - vocab.keys(), key=ids.__getitem__)
    known = vocab | {name: i for i, name in enumerate(new, len(vocab))}
    for name, number in ids.items():
        if number != known[name]:
            raise ValueError(f"the added token {quoted(name)} has the id {shown(number)}; it must be {known[name]}")

    named = [token for key, token in config.items() if key.endswith("_token")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        named += config[key] if isinstance(config.get(key), list) else []
    special = {text: token for token in named if (text := content_of(token)) is not None}
    pad = padding(folder, config, known)
    fields_of = {text: token for text, token in special.items() if text in vocab
                 and (isinstance(token, dict) or text not in (START, END, pad))} | fields_of
    tokens = {text: make_token(text, fields, text in special) for text, fields in fields_of.items()}
    return [tokens.pop(text) for text in new] + list(tokens.values()), pad


def describe(folder: Path) -> tuple[dict, list[tuple[str, Any, Any]]]:
    """What a folder says of its special tokens; and file, token and id of its added ones."""
    config = optional(folder / CONFIG)
    if (decoder := config.get("added_tokens_decoder")) is not None:
        return config, [(CONFIG, token, i) for i, token in decoder.items()]
    added = optional(folder / "added_tokens.json").items()
    in_json = optional(folder / "tokenizer.json").get("added_tokens") or []
    return config | special_tokens_map(folder), [*(("added_tokens.json", text, i) for text, i in added),
                                                 *(("tokenizer.json", token, token["id"]) for token in in_json)]


def special_tokens_map(folder: Path) -> dict:
    return {key: token for key, token in optional(folder / MAP).items() if token is not None}


def padding(folder: Path, config: dict, known: dict[str, int]) -> str | None:
    """The padding token that is named, if it is known."""
    if (token := config.get("pad_token")) is None:
        return None
    if (text := content_of(token)) not in known:
        file = MAP if special_tokens_map(folder).get("pad_token") == token else CONFIG
        raise ValueError(f"{file}: pad_token {quoted(text or token)} is not in the vocabulary")
    return text


def optional(path: Path) -> dict:
    return read_json(path) if path.exists() else {}


def content_of(token: Any) -> str | None:
    """A token's text, whether the file has the text alone or an object; None if it is neither."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def make_token(text: str, fields: Any, special: bool) -> AddedToken:
    fields = fields if isinstance(fields, dict) else {}
    special = special or fields.get("special") is True
    return AddedToken(text, special, fields.get("normalized", not special) is True, fields.get("single_word") is True)
