"""The tokenizer on its own: CLIP's known ids, training against a plain reference, files, and bad input."""

import json
import random
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minisd.bpe import merge_all
from minisd.files import assets_folder
from minisd.tokenizer import BYTE_OF_SYMBOL, END, START, Tokenizer, clean, clip_vocabulary, merge, to_symbols

MERGES = assets_folder() / "clip-tokenizer" / "merges.txt"
CAPTIONS = [
    "a 3d render of a red apple on a blue background", "a flat icon of a cat face", "a sticker of a small duck",
    "a cartoon of a pizza next to a cat face", "a 3d render of a rocket on a red background", "a café's crêpe: £5!",
]


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    lines = MERGES.read_text(encoding="utf-8").splitlines()[1:]
    merges = [tuple(line.split()) for line in lines]
    return Tokenizer(clip_vocabulary(merges), merges)


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(CAPTIONS, 560)


@pytest.fixture
def folder(small, tmp_path) -> Path:
    small.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


# --- CLIP's vocabulary ----------------------------------------------------------------------------------------


def test_clip_known_ids(clip):
    assert clip.vocab_size == 49408
    assert (clip.start_id, clip.end_id, clip.pad_id) == (49406, 49407, 49407)
    ids = clip("a photo of a cat")
    assert ids.shape == (1, 77)
    assert ids.dtype == torch.int64
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    assert clip("").tolist() == [[49406] + [49407] * 76]
    assert clip([]).shape == (0, 77)


def test_clean_up(clip):
    assert clip.tokenize("  A\tPHOTO\n of…") == ["a</w>", "photo</w>", "of</w>", "âĢ¦</w>"]
    assert clip.encode("cafe\u0301") == clip.encode("café")  # composed (NFC) first
    assert clip.tokenize("it's 42") == ["it</w>", "'s</w>", "4</w>", "2</w>"]
    assert clip.encode("ΑΣ") == clip.encode("ας".replace("ς", "σ"))  # no final sigma
    assert clip.encode("&amp;") != clip.encode("&")  # HTML stays as it is


def test_special_tokens_in_the_text(clip):
    assert clip.tokenize("a<|endoftext|>b!") == ["a</w>", END, "b</w>", "!</w>"]
    assert clip.tokenize("<|ENDOFTEXT|>!") == ["<", "|</w>", "endof", "text</w>", "|", "></w>", "!</w>"]
    sd2 = Tokenizer(clip.vocab, clip.merges, pad_id=0)
    assert sd2.tokenize("a b!!") == ["a</w>", "b</w>", "!", "!"]
    assert sd2("a b")[0, -1] == 0
    assert sd2.decode(sd2("a cat")[0]) == "a cat"


def test_truncation_warns_with_the_cut_text(clip):
    words = [f"{colour} cat" for colour in ("red", "blue")] * 19  # 76 tokens
    with pytest.warns(UserWarning, match=r"76 tokens and only 75 fit; this was cut off: 'cat'"):
        ids = clip(", ".join(words).replace(",", ""))
    assert ids.shape == (1, 77)
    assert ids[0, -1] == clip.end_id
    assert ids[0, -2] == clip.vocab["blue</w>"]
    clip(" ".join(words)[:-4])  # 75 tokens: no warning, which would be an error here


def test_decode(clip):
    assert clip.decode(clip("A photo,  of a CAT")[0]) == "a photo , of a cat"
    assert clip.decode([clip.vocab["Ð"]]) == "\N{REPLACEMENT CHARACTER}"  # half of a character
    for bad in (49408, -1, 5.0, True):
        with pytest.raises(ValueError, match=f"whole numbers from 0 to 49407; it contains {bad}"):
            clip.decode([320, bad])
    with pytest.raises(ValueError, match="one row"):
        clip.decode(clip("a cat"))


@given(st.lists(st.text(st.characters(categories=["L"]), min_size=1, max_size=8)))
@settings(max_examples=200, deadline=None)
def test_words_come_back(clip, words):
    text = clip.decode(clip.encode(" ".join(words)))
    assert clip.encode(text) == clip.encode(" ".join(words))


# --- long words -----------------------------------------------------------------------------------------------


def merge_plainly(word: str, tokenizer: Tokenizer) -> list[str]:
    """BPE as in its paper: look through the whole word for every merge."""
    symbols = to_symbols(word)
    while known := [pair for pair in pairwise(symbols) if pair in tokenizer.rank]:
        symbols = merge(symbols, min(known, key=tokenizer.rank.__getitem__))
    return list(symbols)


@given(st.text(st.sampled_from("aabcdeinorst"), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None)
def test_merging_equals_plain_merging(clip, word):
    assert clip.tokenize(word) == merge_plainly(word, clip)


class CountedRanks(dict):
    """Ranks that count how often a pair is looked up."""

    times = 0

    def __contains__(self, pair):
        self.times += 1
        return super().__contains__(pair)


@pytest.mark.parametrize("letters", ["abcdefghij", "a"])
def test_the_work_grows_like_the_length_of_a_word(clip, letters):
    """Plain merging would take 256 times as long for a word 16 times as long."""
    looked_up = []
    for length in (1_000, 16_000):
        rank = CountedRanks(clip.rank)
        merge_all(to_symbols("".join(random.Random(0).choices(letters, k=length))), rank)
        looked_up.append(rank.times)
    assert looked_up[0] >= 1_000
    assert looked_up[1] < 20 * looked_up[0]


def test_marks_are_in_order_before_they_are_composed(clip, monkeypatch):
    """Python sorts them as it composes, in n² steps: 100,000 of them would take minutes."""
    given = []
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: given.append(text) or text)
    clean("a" + "\u0301\u0323" * 50_000)
    classes = [unicodedata.combining(mark) for mark in given[0][1:]]
    assert len(classes) == 100_000
    assert classes == sorted(classes)


@pytest.mark.parametrize("word", ["".join(random.Random(0).choices("abcdefghij", k=100_000)), "a" * 100_000,
                                  "a" + "\u0301\u0323" * 50_000], ids=["letters", "one-letter", "marks"])
def test_a_word_of_100_000_letters(clip, word):
    with pytest.warns(UserWarning, match="tokens and only 75 fit"):
        assert clip(word).shape == (1, 77)
    assert clip.decode(clip.encode(word)).replace(" ", "") == clean(word)  # marks are a word of their own


# --- learning -------------------------------------------------------------------------------------------------


def train_plainly(words: list[str], number: int) -> list[tuple[str, str]]:
    """BPE as in its paper: count all pairs again for every merge."""
    counts = Counter(to_symbols(word) for word in words)
    merges = []
    while len(merges) < number:
        pairs = Counter()
        for symbols, often in counts.items():
            for pair in pairwise(symbols):
                pairs[pair] += often
        if not pairs:
            break
        best = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[0]
        merges.append(best)
        joined = Counter()
        for symbols, often in counts.items():
            joined[merge(symbols, best)] += often
        counts = joined
    return merges


@given(st.lists(st.text("abcé", min_size=1, max_size=9), max_size=30), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_training_equals_plain_training(words, number):
    trained = Tokenizer.train([" ".join(words)], 514 + number)
    assert trained.merges == train_plainly(words, number)
    assert trained.vocab_size == 514 + len(trained.merges)  # no two merges give the same token


def test_vocabulary_order(small):
    tokens = list(small.vocab)
    assert list(small.vocab.values()) == list(range(560))
    assert tokens[:2] == ["!", '"']
    assert tokens[256:258] == ["!</w>", '"</w>']
    assert tokens[512:558] == [a + b for a, b in small.merges]
    assert tokens[558:] == [START, END]
    assert small.pad_id == small.end_id == 559
    assert sorted(BYTE_OF_SYMBOL.values()) == list(range(256))


def test_training_is_deterministic_and_breaks_ties_by_alphabet():
    texts = CAPTIONS * 3
    first = Tokenizer.train(texts, 700)
    random.Random(0).shuffle(texts)
    assert Tokenizer.train(texts, 700).merges == first.merges
    assert Tokenizer.train(["zy", "xw"], 515).merges == [("x", "w</w>")]
    assert Tokenizer.train(["zy", "xw"], 2000).vocab_size == 516  # nothing left to join
    assert Tokenizer.train([], 514).vocab_size == 514


# --- files ----------------------------------------------------------------------------------------------------


def test_save_and_load(small, folder):
    assert sorted(path.name for path in folder.parent.rglob("*") if path.is_file()) == [
        "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json"]
    again = Tokenizer.from_pretrained(folder)
    assert (again.vocab, again.merges, again.pad_id) == (small.vocab, small.merges, small.pad_id)
    small_sd2 = Tokenizer(small.vocab, small.merges, pad_id=0)
    (folder / "tokenizer.json").write_text("{}")
    small_sd2.save_pretrained(str(folder))
    assert not (folder / "tokenizer.json").exists()  # it would belong to an older tokenizer
    assert Tokenizer.from_pretrained(str(folder)).pad_id == 0


def test_padding_token_from_either_file(folder):
    (folder / "special_tokens_map.json").unlink()
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"pad_token": {"content": "!", "normalized": True}}))
    assert Tokenizer.from_pretrained(folder).pad_id == 0
    config.write_text(json.dumps({"pad_token": "<pad>"}))
    with pytest.raises(ValueError, match=r"tokenizer_config.json: pad_token '<pad>' is not in the vocabulary"):
        Tokenizer.from_pretrained(folder)
    config.unlink()
    tokenizer = Tokenizer.from_pretrained(folder)
    assert tokenizer.pad_id == tokenizer.end_id


def test_a_failed_save_leaves_the_folder_alone(small, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def disk_full(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", disk_full)
        with pytest.raises(OSError, match="No space left"):
            Tokenizer.train(["other"], 516).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no {name} in .*tokenizer"):
        Tokenizer.from_pretrained(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no vocab.json and no merges.txt in .*nowhere"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("line", ["a", "a b c", "zz qq", "x x"])
def test_broken_merges(folder, line):
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    (folder / "merges.txt").write_text("\n".join([*lines[:4], line, *lines[4:]]), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"tokenizer: merge 4 is '{line}'; it must be two tokens"):
        Tokenizer.from_pretrained(folder)


def test_other_headers_of_merges(small, folder):
    path = folder / "merges.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_bytes("\r\n".join(["#version: 0.2 - by someone", *lines[1:], "", ""]).encode("utf-8"))
    assert Tokenizer.from_pretrained(folder).merges == small.merges
    path.write_text("\n".join(lines[1:]), encoding="utf-8")
    assert Tokenizer.from_pretrained(folder).merges == small.merges


def test_damaged_vocabulary(folder):
    path = folder / "vocab.json"
    vocab = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({token: i for token, i in vocab.items() if token != START}), encoding="utf-8")
    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer: vocab lacks <\|startoftext\|>"):
        Tokenizer.from_pretrained(folder)
    path.write_text('{"a": 1', encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab.json is not valid JSON"):
        Tokenizer.from_pretrained(folder)


def test_tokenizer_json_of_another_model(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": {}}}))
    with pytest.raises(ValueError, match=r"tokenizer.json is not a CLIP tokenizer's"):
        Tokenizer.from_pretrained(tmp_path)


BPE = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}, "merges": []}


@pytest.mark.parametrize("model", [None, [], BPE | {"vocab": None}, BPE | {"vocab": ["a"]}, BPE | {"merges": None},
                                   BPE | {"merges": [5]}, BPE | {"merges": [[1, 2]]}, BPE | {"merges": [["a", ["b"]]]}])
def test_tokenizer_json_of_other_types(tmp_path, model):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": BPE}))
    assert Tokenizer.from_pretrained(tmp_path).vocab_size == 2
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(ValueError, match=str(tmp_path)):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("token", [5, [], {}, {"content": None}, {"content": ["!"]}, True])
def test_padding_tokens_that_are_no_words(folder, token):
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": token}))
    with pytest.raises(ValueError, match=r"special_tokens_map.json: pad_token .* is not in the vocabulary"):
        Tokenizer.from_pretrained(folder)


def test_added_tokens_are_not_left_behind(small, folder):
    """Those of an older tokenizer go with it."""
    (folder / "added_tokens.json").write_text(json.dumps({"<cat-toy>": 560}))
    assert Tokenizer.from_pretrained(folder).encode("<cat-toy>") == [560]
    small.save_pretrained(folder)
    assert Tokenizer.from_pretrained(folder).vocab == small.vocab


@pytest.mark.parametrize(("name", "content", "message"), [
    ("added_tokens.json", {"<cat-toy>": 563}, "tokenizer: the added token '<cat-toy>' has the id 563; it must be 560"),
    ("added_tokens.json", {"a": 3}, "'a' has the id 3; it must be 64"),
    ("added_tokens.json", {"<cat-toy>": -1}, "added_tokens.json: '<cat-toy>' with the id -1 is no added token"),
    ("added_tokens.json", {"": 560}, "added_tokens.json: '' with the id 560 is no added token"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"560": {"content": 3}}}, "with the id '560' is no added token"),
    ("tokenizer_config.json", {"added_tokens_decoder": []}, "the added tokens in .* are damaged"),
    ("tokenizer.json", {"added_tokens": [3]}, "the added tokens in .* are damaged"),
])
def test_damaged_added_tokens(folder, name, content, message):
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_pretrained(folder)


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [None, 3, b"cat", {"a": 1}])
def test_prompt_of_another_type(small, prompt):
    with pytest.raises(TypeError, match=f"list of strings, not {type(prompt).__name__}"):
        small(prompt)


def test_item_of_another_type(small):
    with pytest.raises(TypeError, match="item 1 is a NoneType"):
        small(["a cat", None])
    with pytest.raises(TypeError, match="texts must be a string or a list of strings; item 0 is a int"):
        Tokenizer.train([1], 600)
    with pytest.raises(TypeError, match="texts must be a list of strings, not a single one"):
        Tokenizer.train("a cat", 600)


def test_half_a_surrogate_pair(small):
    with pytest.raises(ValueError, match=r"item 0, 'a \\ud83d', contains an unpaired surrogate"):
        small("a \ud83d")


def test_numbers_out_of_range(small):
    with pytest.raises(ValueError, match="vocab_size=513; it must be at least 514"):
        Tokenizer.train(CAPTIONS, 513)
    with pytest.raises(ValueError, match="pad_id=560 is not in the vocabulary of 560 tokens"):
        Tokenizer(small.vocab, small.merges, pad_id=560)
