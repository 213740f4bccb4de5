"""Byte-level byte-pair encoding (BPE): from a prompt to 77 numbers, exactly as CLIP does it.

Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units" (BPE); Radford et al.
2019, section 2.2 (on bytes); Radford et al. 2021, section 2.4 (CLIP's: lower case, `</w>` ends a word).
"""

import json
import unicodedata
import warnings
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Self

import regex
import torch
from torch import Tensor

from minisd.weights import atomic_folder, read_json

START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL = regex.compile(f"({regex.escape(START)}|{regex.escape(END)})")
# English contractions, runs of letters, single digits, and runs of anything else
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def byte_symbols() -> dict[int, str]:
    """A printable character for each of the 256 bytes, so that vocabulary files can be read as text.

    Bytes that print as Latin-1 characters stand for themselves; the others (spaces, controls) take the
    characters from number 256 on. The order is that of CLIP's vocabulary: printable bytes first.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


SYMBOL_OF_BYTE = byte_symbols()
BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in SYMBOL_OF_BYTE.items()}


def clean(text: str) -> str:
    """Composed characters (NFC), one space for any white space, lower case.

    This is what transformers' CLIPTokenizer does. OpenAI's own code also repaired wrong encodings (ftfy) and replaced
    HTML entities; transformers no longer does, and equal ids matter more.
    """
    text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return "".join(character.lower() for character in text)  # one by one: no special case for a final sigma


def to_symbols(word: str) -> tuple[str, ...]:
    """A word → the symbols of its UTF-8 bytes, the last one marked as the end of a word: "cat" → c, a, t</w>."""
    symbols = [SYMBOL_OF_BYTE[byte] for byte in word.encode("utf-8")]
    return (*symbols[:-1], symbols[-1] + "</w>")


def merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of a pair of neighbours: (c, a, t</w>) and pair (c, a) → (ca, t</w>)."""
    merged, i = [], 0
    while i < len(symbols):
        if symbols[i: i + 2] == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(symbols[i])
            i += 1
    return tuple(merged)


class Tokenizer:
    """Text to token ids and back.

    Args:
        vocab: token → id; must hold the start and end tokens.
        merges: pairs of symbols, those learnt first first.
        pad_id: fills the places behind the end token; None takes the end token's id, as SD 1 does (SD 2 pads with 0).
    """

    context_length = 77

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pad_id: int | None = None):
        if missing := [token for token in (START, END) if token not in vocab]:
            raise ValueError(f"vocab lacks {' and '.join(missing)}")
        self.vocab, self.merges = vocab, merges
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.token_of_id = {i: token for token, i in vocab.items()}
        self.start_id, self.end_id = vocab[START], vocab[END]
        self.pad_id = self.end_id if pad_id is None else pad_id
        self.cache: dict[str, list[str]] = {}

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    # --- text to ids ------------------------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without start and end: "pyramids" → ["pyra", "mids</w>"], or as was learnt."""
        tokens = []
        for part in SPECIAL.split(text):  # a special token in the text stands for itself
            if part in (START, END):
                tokens.append(part)
            else:
                tokens += [token for word in WORD.findall(clean(part)) for token in self._merge_word(word)]
        return tokens

    def _merge_word(self, word: str) -> list[str]:
        """Apply the merges to one word: always the one that was learnt first of those that fit."""
        if word not in self.cache:
            symbols = to_symbols(word)
            while len(symbols) > 1:
                pair = min(pairwise(symbols), key=lambda pair: self.rank.get(pair, len(self.rank)))
                if pair not in self.rank:
                    break
                symbols = merge(symbols, pair)
            self.cache[word] = list(symbols)
        return self.cache[word]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without start, end and padding. A token outside the vocabulary becomes the end token."""
        return [self.vocab.get(token, self.end_id) for token in self.tokenize(text)]

    def __call__(self, text: str | list[str]) -> Tensor:
        """Texts → ids (B, 77): start, the text's tokens, end, padding. Longer texts are cut, with a warning.

        Raises:
            TypeError: something else than a string or a list of them.
        """
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, (list, tuple)):
            raise TypeError(f"prompt must be a string or a list of strings, not {type(text).__name__}")
        rows = []
        for i, one in enumerate(texts):
            if not isinstance(one, str):
                raise TypeError(f"prompt must be a string or a list of strings; item {i} is a {type(one).__name__}")
            ids, room = self.encode(one), self.context_length - 2
            if len(ids) > room:
                warnings.warn(f"the prompt has {len(ids)} tokens and only {room} fit; this was cut off: "
                              f"{self.decode(ids[room:])!r}", stacklevel=2)
            row = [self.start_id, *ids[:room], self.end_id]
            rows.append(row + [self.pad_id] * (self.context_length - len(row)))
        return torch.tensor(rows, dtype=torch.long).view(len(rows), self.context_length)

    def decode(self, ids: list[int] | Tensor) -> str:
        """Ids → text, without special tokens and padding. Case and white space are not what they were."""
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        symbols = "".join(self.token_of_id[i] for i in ids if i != self.start_id).replace("</w>", " ")
        data = b"".join(bytes([BYTE_OF_SYMBOL[s]]) if s in BYTE_OF_SYMBOL else s.encode() for s in symbols)
        return data.decode("utf-8", errors="replace").strip()

    # --- learning, loading, saving ----------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> Self:
        """Learn merges from texts: again and again join the most frequent pair of neighbours.

        Args:
            vocab_size: 256 bytes, 256 bytes that end a word, the merges, start and end: at least 514.

        Of pairs that are equally frequent, the alphabetically first is joined. Learning stops early when every word of
        the texts is one token.
        """
        if vocab_size < 514:
            raise ValueError(f"vocab_size={vocab_size}; it must be at least 514: 256 bytes twice, start and end")
        counts = Counter(word for text in texts for word in WORD.findall(clean(text)))
        words = [to_symbols(word) for word in counts]
        often = list(counts.values())
        pair_counts, where = Counter(), defaultdict(set)  # where: in which words a pair occurs
        for i, symbols in enumerate(words):
            for pair in pairwise(symbols):
                pair_counts[pair] += often[i]
                where[pair].add(i)

        merges = []
        while len(merges) < vocab_size - 514 and pair_counts:
            best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair))
            if pair_counts[best] <= 0:
                break
            merges.append(best)
            for i in where.pop(best):  # only these words change
                for pair in pairwise(words[i]):
                    pair_counts[pair] -= often[i]
                words[i] = merge(words[i], best)
                for pair in pairwise(words[i]):
                    pair_counts[pair] += often[i]
                    where[pair].add(i)
            pair_counts = +pair_counts  # drops pairs whose count fell to zero

        bytes_ = list(SYMBOL_OF_BYTE.values())
        tokens = [*bytes_, *(symbol + "</w>" for symbol in bytes_), *(a + b for a, b in merges)]
        tokens = [*dict.fromkeys(tokens), START, END]  # two merges can spell the same token
        return cls({token: i for i, token in enumerate(tokens)}, merges)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Open a folder with `vocab.json` and `merges.txt`, or the single `tokenizer.json` of transformers 5.

        Raises:
            FileNotFoundError: neither is there.
            ValueError: a damaged file.
        """
        folder = Path(folder)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab = read_json(folder / "vocab.json")
            lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            lines = [line for line in lines if line.strip() and not line.startswith("#version")]
        elif (folder / "tokenizer.json").is_file():
            model = read_json(folder / "tokenizer.json")["model"]
            vocab, lines = model["vocab"], model["merges"]
        else:
            raise FileNotFoundError(f"no vocab.json and merges.txt, and no tokenizer.json, in {folder}")
        merges = [tuple(line.split()) if isinstance(line, str) else tuple(line) for line in lines]
        for number, pair in enumerate(merges, 1):
            if len(pair) != 2:
                raise ValueError(f"{folder}: merge {number} is {' '.join(pair)!r}; it must be two symbols")
        return cls(vocab, merges, pad_id=padding_id(folder, vocab))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files that transformers' CLIPTokenizer opens; a failed save leaves `folder` as it was."""
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self.token_of_id[self.pad_id]}
        config = special | {"model_max_length": self.context_length, "tokenizer_class": "CLIPTokenizer"}
        with atomic_folder(folder) as new:
            (new / "vocab.json").write_text(json.dumps(self.vocab, ensure_ascii=False), encoding="utf-8")
            lines = ["#version: 0.2", *(f"{a} {b}" for a, b in self.merges)]
            (new / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            (new / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
            (new / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def padding_id(folder: Path, vocab: dict[str, int]) -> int | None:
    """The padding token that a folder's config names; None if it names none."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (token := read_json(folder / name).get("pad_token")) is not None:
            token = token["content"] if isinstance(token, dict) else token
            if token not in vocab:
                raise ValueError(f"{folder / name}: pad_token {token!r} is not in the vocabulary")
            return vocab[token]
    return None
