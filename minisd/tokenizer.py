"""From a prompt to 77 numbers, exactly as CLIP does it: cleaned, split into words, and these into byte pairs (bpe.py).

Source: Radford et al. 2021, section 2.4.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Self

import regex
import torch
from torch import Tensor

from minisd.added_tokens import AddedToken, read_added_tokens, splitter
from minisd.bpe import BYTE_OF_SYMBOL as BYTE_OF_SYMBOL
from minisd.bpe import END, END_OF_WORD, START, clip_vocabulary, learn_merges, merge_all, to_bytes, to_symbols
from minisd.bpe import byte_symbols as byte_symbols
from minisd.bpe import merge as merge
from minisd.cautions import warn
from minisd.files import read_json, read_text
from minisd.messages import ShownPath, quoted
from minisd.saving import atomic_folder

# A word: an English contraction, a run of letters, a single digit, or a run of anything else.
# START and END come first: in lower case, "<|ENDOFTEXT|>!" looks like an end token, and is split from the "!".
WORD = regex.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
MARKS = regex.compile(r"\P{Canonical_Combining_Class=0}{2,}")


def clean(text: str) -> str:
    """Compose characters (NFC), collapse white space, lower the case.

    This is what transformers' CLIPTokenizer does. OpenAI's own code also repaired broken encodings (ftfy) and
    replaced HTML entities; transformers no longer does, and equal ids matter more.
    """
    # NFC sorts the marks on a letter; Python's would take n² steps for n of them that are not yet in order.
    text = MARKS.sub(lambda marks: "".join(sorted(marks[0], key=unicodedata.combining)), text)
    text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return "".join(character.lower() for character in text)  # one by one: no special case for a final sigma


def split_words(text: str) -> list[str]:
    """Split a clean text: "it's 2 cats" → it, 's, 2, cats. A literal END becomes <|, endoftext, |>."""
    words = []
    for word in WORD.findall(text):
        words += [word[:2], word[2:-2], word[-2:]] if word in (START, END) else [word]
    return words


class Tokenizer:
    """Text to token ids and back.

    Args:
        vocab: token → id; must contain the start and end tokens, and the parts and the result of every merge.
        merges: pairs of symbols, in the order in which they were learnt.
        pad_id: fills the positions after the end token; None means the end token's id, as in SD 1 (SD 2: 0).
        added: tokens that stand in a text for themselves; those that the vocabulary lacks get the ids that follow.
            Start, end and padding tokens are among them anyway, as special ones, in lower case only.

    `vocab` has the added tokens, too.
    """

    context_length = 77

    def __init__(self, vocab: dict[str, int], merges: list[tuple[str, str]], pad_id: int | None = None,
                 added: Iterable[AddedToken] = ()):
        if missing := [token for token in (START, END) if token not in vocab]:
            raise ValueError(f"vocab lacks {' and '.join(missing)}")
        self.added = {token.content: token for token in added}
        new = [token for token in self.added if token not in vocab]
        self.vocab = vocab | {token: i for i, token in enumerate(new, len(vocab))}
        ids = self.vocab.values()
        if not all(type(i) is int and i >= 0 for i in ids) or len(set(ids)) < len(ids):
            raise ValueError("vocab must give every token a different whole number, 0 or more")
        for number, pair in enumerate(merges, 1):
            if len(pair) != 2 or not (pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1] in vocab):
                raise ValueError(f"merge {number} is {quoted(' '.join(pair))}; it must be two tokens of the vocabulary "
                                 "that make a third")
        self.merges, self.base_size, self.vocab_size = merges, len(vocab), len(self.vocab)
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.token_of_id = {i: token for token, i in self.vocab.items()}
        self.start_id, self.end_id = vocab[START], vocab[END]
        self.pad_id = self.end_id if pad_id is None else pad_id
        self.cache: dict[str, list[str]] = {}  # words tokenized before

    @property
    def pad_id(self) -> int:
        return self._pad_id

    @pad_id.setter
    def pad_id(self, pad_id: int) -> None:
        if pad_id not in self.token_of_id:
            raise ValueError(f"pad_id={pad_id} is not in the vocabulary of {self.vocab_size} tokens")
        self._pad_id = pad_id
        special = {text: AddedToken(text, special=True, normalized=False)
                   for text in (START, END, self.token_of_id[pad_id])}
        tokens = special | self.added
        self.special_ids = {self.vocab[text] for text, token in tokens.items() if token.special}
        verbatim = {text: token for text, token in tokens.items() if not token.normalized}
        self._in_clean_text = {clean(text): token for text, token in tokens.items() if token.normalized}
        self._at_verbatim, self._at_clean = splitter(verbatim), splitter(self._in_clean_text)

    # --- text to ids and back ---------------------------------------------------------------------------------

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, without start and end: "pyramids" → ["pyra", "mids</w>"], depending on the merges.

        Added tokens in the text stand for themselves, as in transformers; so do start, end and padding: where "!" is
        the padding (SD 2), "hi!" gives ["hi</w>", "!"], not "!</w>".
        """
        tokens = []
        for i, part in enumerate(self._at_verbatim.split(text)):
            for j, piece in enumerate([part] if i % 2 else self._at_clean.split(clean(part))):
                if i % 2:  # every second part is a token that was found
                    tokens.append(piece)
                elif j % 2:
                    tokens.append(self._in_clean_text[piece].content)
                else:
                    tokens += [token for word in split_words(piece) for token in self._merge_word(word)]
        return tokens

    def _merge_word(self, word: str) -> list[str]:
        if word not in self.cache:
            self.cache[word] = merge_all(to_symbols(word), self.rank)
        return self.cache[word]

    def spell_out(self, text: str) -> str:
        """A learnt word that takes several tokens, "<cat-toy>" → all of them, "<cat-toy> <cat-toy>_1 <cat-toy>_2".

        Textual inversion may learn several embeddings for a word; diffusers' pipelines put them in like this.
        """
        for token in dict.fromkeys(self.tokenize(text)):
            if token in self.added:
                parts = [token]
                while (part := f"{token}_{len(parts)}") in self.added:
                    parts.append(part)
                text = text.replace(token, " ".join(parts))
        return text

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
                warn(f"the text {one[:30]!r}… has {len(ids)} tokens and only {room} fit; this was cut off: {cut!r}")
            row = [self.start_id, *ids[:room], self.end_id]
            rows.append(row + [self.pad_id] * (self.context_length - len(row)))
        return torch.tensor(rows, dtype=torch.long).view(len(rows), self.context_length)

    def decode(self, ids: list[int] | Tensor) -> str:
        """One row of ids → text, without start, end and padding. Case and white space are not restored."""
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        whole = [isinstance(i, Integral) and not isinstance(i, bool) for i in ids]  # 5.0 == 5, and True == 1
        if unknown := [i for i, is_whole in zip(ids, whole) if not is_whole or i not in self.token_of_id]:
            raise ValueError(f"ids must be one row of whole numbers from 0 to {self.vocab_size - 1}; it contains "
                             f"{unknown[0]!r}")
        data = b"".join(to_bytes(self.token_of_id[i]) for i in ids if i not in self.special_ids)
        return data.decode("utf-8", errors="replace").replace(END_OF_WORD, " ").strip()

    # --- learning, loading, saving ----------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> Self:
        """Learn the merges from texts (see `bpe.learn_merges`).

        Args:
            vocab_size: 256 bytes, 256 bytes that end a word, the merges, start and end: at least 514.
        """
        if vocab_size < 514:
            raise ValueError(f"vocab_size={vocab_size}; it must be at least 514: 256 bytes twice, start and end")
        counts = Counter(word for text in check_texts("texts", texts) for word in split_words(clean(text)))
        merges = learn_merges(counts, vocab_size - 514)
        return cls(clip_vocabulary(merges), merges)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Open a folder with `vocab.json` and `merges.txt`, or the single `tokenizer.json` of transformers 5.

        Raises:
            FileNotFoundError: neither is there.
            ValueError: a damaged file, or one of another kind of tokenizer.
        """
        folder = ShownPath(folder).expanduser()
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
            added, padding = read_added_tokens(folder, vocab)
            tokenizer = cls(vocab, merges, added=added)
        except (ValueError, TypeError) as error:  # a merge of anything but strings is a TypeError
            raise ValueError(f"{folder}: {error}") from None
        tokenizer.pad_id = tokenizer.end_id if padding is None else tokenizer.vocab[padding]
        return tokenizer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files that transformers' CLIPTokenizer opens; a failed save leaves `folder` as it was."""
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": self.token_of_id[self.pad_id]}
        config: dict = special | {"model_max_length": self.context_length, "tokenizer_class": "CLIPTokenizer"}
        if self.added:
            fields = {"lstrip": False, "rstrip": False}
            config["added_tokens_decoder"] = {self.vocab[token.content]: token._asdict() | fields
                                              for token in self.added.values()}
        base = dict(list(self.vocab.items())[:self.base_size])
        with atomic_folder(folder) as new:
            (new / "vocab.json").write_text(json.dumps(base, ensure_ascii=False), encoding="utf-8")
            lines = ["#version: 0.2", *(f"{a} {b}" for a, b in self.merges)]
            (new / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            (new / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
            (new / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


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
            raise ValueError(f"{name}: item {i}, {quoted(text)}, contains an unpaired surrogate, which is not a "
                             "character")
    return texts

