"""Byte-level byte-pair encoding (BPE): from a prompt to 77 numbers, exactly as CLIP does it.

Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units" (BPE); Radford et
al. 2019, section 2.2 (on bytes); Radford et al. 2021, section 2.4 (CLIP's: lower case, `</w>` ends a word).
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

from minisd.files import atomic_folder, read_json, read_text

START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
# A word: an English contraction, a run of letters, a single digit, or a run of anything else.
# START and END come first: in lower case, "<|ENDOFTEXT|>!" looks like an end token, and is split from the "!".
WORD = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")


def byte_symbols() -> dict[int, str]:
    """A printable character for each of the 256 bytes, so that vocabulary files can be read as text.

    Bytes that print as Latin-1 characters stand for themselves; the others (spaces, control characters) take the
    code points from 256 on. The order is that of CLIP's vocabulary: printable bytes first.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


SYMBOL_OF_BYTE = byte_symbols()
BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in SYMBOL_OF_BYTE.items()}


def clean(text: str) -> str:
    """Compose characters (NFC), collapse white space, lower the case.

    This is what transformers' CLIPTokenizer does. OpenAI's own code also repaired broken encodings (ftfy) and
    replaced HTML entities; transformers no longer does, and equal ids matter more.
    """
    text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return "".join(character.lower() for character in text)  # one by one: no special case for a final sigma


def split_words(text: str) -> list[str]:
    """Clean a text and split it: "It's  2 cats" → it, 's, 2, cats. A literal END becomes <|, endoftext, |>."""
    words = []
    for word in WORD.findall(clean(text)):
        words += [word[:2], word[2:-2], word[-2:]] if word in (START, END) else [word]
    return words


def to_symbols(word: str) -> tuple[str, ...]:
    """A word → the symbols of its UTF-8 bytes, the last one marked as the end of a word: "cat" → c, a, t</w>."""
    symbols = [SYMBOL_OF_BYTE[byte] for byte in word.encode("utf-8")]
    return (*symbols[:-1], symbols[-1] + END_OF_WORD)


def merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of a pair of neighbours: (c, a, t</w>) and pair (c, a) → (ca, t</w>)."""
    merged, i = [], 0
    while i < len(symbols):
        here = symbols[i: i + 2] == pair
        merged.append(pair[0] + pair[1] if here else symbols[i])
        i += 2 if here else 1
    return tuple(merged)


def clip_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Token → id in CLIP's order: 256 bytes, 256 bytes that end a word, the merges' results, start, end."""
    symbols = list(SYMBOL_OF_BYTE.values())
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols), *(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


class Tokenizer:
    """Text to token ids and back.

    Args:
        vocab: token → id; must contain the start and end tokens, and the parts and the result of every merge.
        merges: pairs of symbols, in the order in which they were learnt.
        pad_id: fills the positions after the end token; None means the end token's id, as in SD 1 (SD 2: 0).
    """

    context_length = 77

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pad_id: int | None = None):
        ids = vocab.values()
        if not all(type(i) is int and i >= 0 for i in ids) or len(set(ids)) < len(ids):
            raise ValueError("vocab must give every token a different whole number, 0 or more")
        if missing := [token for token in (START, END) if token not in vocab]:
            raise ValueError(f"vocab lacks {' and '.join(missing)}")
        for number, pair in enumerate(merges, 1):
            if len(pair) != 2 or not (pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab):
                raise ValueError(f"merge {number} is {' '.join(pair)!r}; it must be two tokens of the vocabulary "
                                 "that make a third")
        self.vocab, self.merges, self.vocab_size = vocab, merges, len(vocab)
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.token_of_id = {i: token for token, i in vocab.items()}
        self.start_id, self.end_id = vocab[START], vocab[END]
        self.pad_id = self.end_id if pad_id is None else pad_id
        if self.pad_id not in self.token_of_id:
            raise ValueError(f"pad_id={pad_id} is not in the vocabulary of {len(vocab)} tokens")
        self.cache: dict[str, list[str]] = {}  # words tokenized before

    # --- text to ids and back ---------------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without start and end: "pyramids" → ["pyra", "mids</w>"], depending on the merges.

        Start, end and padding tokens in the text stand for themselves, as in transformers (in lower case only):
        where "!" is the padding (SD 2), "hi!" gives ["hi</w>", "!"], not "!</w>".
        """
        special = [START, END, self.token_of_id[self.pad_id]]
        tokens = []
        for part in regex.split(f"({'|'.join(map(regex.escape, special))})", text):
            if part in special:
                tokens.append(part)
            else:
                tokens += [token for word in split_words(part) for token in self._merge_word(word)]
        return tokens

    def _merge_word(self, word: str) -> list[str]:
        """Apply the merges to one word, at each turn the earliest-learnt one that applies."""
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
        """Ids of a text, without start, end and padding; a token not in the vocabulary becomes the end token."""
        return [self.vocab.get(token, self.end_id) for token in self.tokenize(text)]

    def __call__(self, text: str | list[str]) -> Tensor:
        """Texts → ids (B, 77): start, the text's tokens, end, padding. Longer texts are cut, with a warning.

        Raises:
            TypeError: neither a string nor a list of strings.
            ValueError: a text contains an unpaired surrogate, which is not a character.
        """
        rows, room = [], self.context_length - 2
        for one in check_texts("prompt", [text] if isinstance(text, str) else text):
            ids = self.encode(one)
            if len(ids) > room:
                cut = self.decode(ids[room:])
                cut = cut if len(cut) <= 200 else f"{cut[:200]} …"
                warnings.warn(f"the text {one[:30]!r}… has {len(ids)} tokens and only {room} fit; "
                              f"this was cut off: {cut!r}", stacklevel=2)
            row = [self.start_id, *ids[:room], self.end_id]
            rows.append(row + [self.pad_id] * (self.context_length - len(row)))
        return torch.tensor(rows, dtype=torch.long).view(len(rows), self.context_length)

    def decode(self, ids: list[int] | Tensor) -> str:
        """One row of ids → text, without start, end and padding. Case and white space are not restored."""
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        if unknown := [i for i in ids if isinstance(i, list) or i not in self.token_of_id]:
            raise ValueError(f"ids must be one row of numbers below {self.vocab_size}; it contains {unknown[0]}")
        tokens = [self.token_of_id[i] for i in ids if i not in (self.start_id, self.end_id, self.pad_id)]
        data = b"".join(bytes([BYTE_OF_SYMBOL[s]]) if s in BYTE_OF_SYMBOL else s.encode() for s in "".join(tokens))
        return data.decode("utf-8", errors="replace").replace(END_OF_WORD, " ").strip()

    # --- learning, loading, saving ----------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> Self:
        """Learn merges from texts: join the most frequent pair of neighbours, again and again.

        Among equally frequent pairs, the alphabetically first is joined (by its first symbol, then its second).
        Learning stops early once every word of the texts is a single token.

        Args:
            vocab_size: 256 bytes, 256 bytes that end a word, the merges, start and end: at least 514.
        """
        if vocab_size < 514:
            raise ValueError(f"vocab_size={vocab_size}; it must be at least 514: 256 bytes twice, start and end")
        counts = Counter(word for text in check_texts("texts", texts) for word in split_words(text))
        words, often = [to_symbols(word) for word in counts], list(counts.values())
        pair_counts: Counter[tuple[str, str]] = Counter()
        where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # the words in which a pair occurs

        def count(i: int, sign: int) -> None:
            for pair in pairwise(words[i]):
                pair_counts[pair] += sign * often[i]
                where[pair].add(i)

        for i in range(len(words)):
            count(i, +1)
        merges: list[tuple[str, str]] = []
        while len(merges) < vocab_size - 514 and any(pair_counts.values()):
            best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair))
            merges.append(best)
            for i in list(where[best]):  # only these words change
                count(i, -1)
                words[i] = merge(words[i], best)
                count(i, +1)
            del pair_counts[best], where[best]
        return cls(clip_vocabulary(merges), merges)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Open a folder with `vocab.json` and `merges.txt`, or the single `tokenizer.json` of transformers 5.

        Raises:
            FileNotFoundError: neither is there.
            ValueError: a damaged file, or one of another kind of tokenizer.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
            model = read_json(folder / "tokenizer.json").get("model")
            model = model if isinstance(model, dict) else {}
            vocab, lines = model.get("vocab"), model.get("merges")
            if (model.get("type"), model.get("end_of_word_suffix")) != ("BPE", END_OF_WORD) or not (
                    isinstance(vocab, dict) and isinstance(lines, list)):
                raise ValueError(f"{folder / 'tokenizer.json'} is not a CLIP tokenizer's: its model must be BPE, with "
                                 f"{END_OF_WORD} after words, a vocabulary and merges")
        elif missing := [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]:
            raise FileNotFoundError(f"no {' and no '.join(missing)} in {folder}, and no tokenizer.json instead")
        else:
            vocab = read_json(folder / "vocab.json")
            lines = read_text(folder / "merges.txt").splitlines()
            lines = lines[1:] if lines and lines[0].startswith("#version") else lines
        try:
            merges: list = [tuple(line.split()) if isinstance(line, str) else tuple(line) for line in lines if line]
            return cls(vocab, merges, pad_id=padding_id(folder, vocab))
        except (ValueError, TypeError) as error:  # a merge of anything but strings is a TypeError
            raise ValueError(f"{folder}: {error}") from None

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
        (Path(folder) / "tokenizer.json").unlink(missing_ok=True)  # an older one, which transformers would prefer


def check_texts(name: str, texts: list[str]) -> list[str]:
    """Return the texts unchanged; raise an error that names the first one that is not a string."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a list of strings, not a single one")
    if not isinstance(texts, (list, tuple)):
        raise TypeError(f"{name} must be a string or a list of strings, not {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string or a list of strings; item {i} is a {type(text).__name__}")
        if regex.search(r"\p{Cs}", text):
            raise ValueError(f"{name}: item {i}, {text!r}, contains an unpaired surrogate, which is not a character")
    return texts


def padding_id(folder: Path, vocab: dict[str, int]) -> int | None:
    """The id of the padding token that a folder's config names; None if it names none."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (token := read_json(folder / name).get("pad_token")) is not None:
            token = token.get("content") if isinstance(token, dict) else token
            if not isinstance(token, str) or token not in vocab:
                raise ValueError(f"{name}: pad_token {token!r} is not in the vocabulary")
            return vocab[token]
    return None
