"""The tokenizer gives the same ids as transformers' CLIPTokenizer, with CLIP's vocabulary and with one of our own."""

import json
import random
import unicodedata
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AddedToken, CLIPTokenizer

from minisd.files import assets_folder
from minisd.tokenizer import END, START, Tokenizer, clip_vocabulary

MERGES = assets_folder() / "clip-tokenizer" / "merges.txt"

BY_HAND = [
    "", " ", " \t\r\n ", "a photo of a cat", "A  Photo\tOF\na CAT.",
    "an astronaut, riding a horse; 8k, (masterpiece:1.2)",
    # apostrophes and numbers
    "it's the dog's, they'll we've I'm he'd don't you're",
    "IT'S 'S 'tis rock'n'roll '' 'sing 's's's", "it’s", "!'s ''s",
    "1234567890 3.14 1,000 ½ ² Ⅷ ٣ 第１ 2nd x2y",
    "a_b snake_case __init__ C++ a/b\\c #tag @me 50% $5 £5 €5",
    # emoji, with joiners, skin tones, flags, keycaps
    "🍎🚀", "a 🍕 next to 😺", "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 1️⃣ ❤️ ❤", "\u200d\ufe0f\u20e3",
    # scripts
    "一张猫的照片", "宇宙飛行士が馬に乗る、ｶﾀｶﾅ", "고양이 사진 \u1100\u1161", "صورة قطة", "תמונה של חתול",
    "बिल्ली की तस्वीर", "แมวน่ารัก", "Кошка ЁЖ",
    "ΣΊΣΥΦΟΣ ΣΑΣ σς", "İSTANBUL Iıİi ŞĞ", "ﬁ ﬀ Straße STRASSE ẞ", "Ǆ ǅ ǆ Ǳ",
    "Ω K Å \u2126\u212a\u212b", "𝔘𝔫𝔦 𝐀 Ⓐ Ａ",
    # composed and decomposed
    "café cafe\u0301 CAFE\u0301", "n\u0303 ñ o\u0323\u0302 ộ \u0344 \u0958",
    "a\u0300\u0301\u0302\u0303" * 5, "\u0301a", "q\u0307\u0323",
    # HTML entities, broken encodings: left as they are
    "cats &amp; dogs", "&lt;b&gt; &#39;x&#39; &nbsp;&quot;", "<b>bold</b>",
    "cafÃ© â€œquotedâ€\x9d", "“curly” ‘quotes’ – — …",
    # control characters and odd white space
    "a\x00b\x01\x02", "\x1ca\x1db\x1ec\x1fd", "a\x0bb\x0cc\x85d\xa0e",
    "a\u2028b\u2029c\u3000d\u2003e\u200bf\u180eg\ufeffh\u00adi",
    "\x7f\x80\x9f", "\ufffd\uffff\ufffe\U0010ffff", "\ue000\U000f0000", "\u202etac\u202c",
    # the special tokens, and lookalikes
    "<|endoftext|>", "a<|endoftext|>b", "<|startoftext|> a cat <|endoftext|>",
    "<|ENDOFTEXT|><|StartOfText|>", "!<|ENDOFTEXT|>!", "<|EndOfText|>!", "<|endoftext|",
    "<|endoftext|><|endoftext|>!<|startoftext|>'s", "<| endoftext |>", "'<|endoftext|>'s",
    "</w> a</w>b </W>", "[PAD] <pad> <s>",
    "e<|endoftext|>\u0301", "Hello, world!", "! !! !!! a!b ?!", "!important", "Ġ Ġa Ċ ĠĠ Ã©",
    # long
    "a" * 5000, "ab" * 3000, "!" * 2000, "猫" * 500,
    "pneumonoultramicroscopicsilicovolcanoconiosis", "a cat " * 100, " " * 9999, "9" * 300,
    "🍎" * 200, "x\u0301" * 500, "the quick brown fox jumps over the lazy dog " * 20,
]

# Libraries disagree about the class of characters that are newer than this Python.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
PIECES = st.sampled_from([
    START, END, START.upper(), END.title(), "!", "'s", "'LL", "</w>", "&amp;", "<|", "|>", "\u0301", "\u200d", "İ", "Σ",
    "ß", "🍎", "👍🏽", "猫", "7", "  ", "\x1c",
    "\x85", "\u2028", "cat", "Photograph", "astronaut", "é", "e\u0301", "\x00", "_", "-",
])
TEXTS = st.lists(st.one_of(PIECES, st.text(CHARACTERS, max_size=6)), max_size=30).map("".join)


def our_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about truncated texts
        return tokenizer(text)[0].tolist()


def assert_same(ours: Tokenizer, theirs: CLIPTokenizer, text: str) -> None:
    assert [ours.start_id, *ours.encode(text), ours.end_id] == theirs(text).input_ids
    padded = theirs(text, padding="max_length", truncation=True, max_length=77).input_ids
    assert our_ids(ours, text) == padded
    assert ours.decode(padded) == theirs.decode(padded, skip_special_tokens=True)


@pytest.fixture(scope="module", params=[END, "!"], ids=["sd1", "sd2"])
def pair(request) -> tuple[Tokenizer, CLIPTokenizer]:
    """Both tokenizers with CLIP's vocabulary, padding as in Stable Diffusion 1 and 2."""
    merges = [tuple(line.split()) for line in MERGES.read_text(encoding="utf-8").splitlines()[1:]]
    vocab = clip_vocabulary(merges)
    return Tokenizer(vocab, merges, vocab[request.param]), CLIPTokenizer(vocab, merges, pad_token=request.param)


@pytest.mark.parametrize("text", BY_HAND, ids=lambda text: ascii(text[:20]))
def test_by_hand(pair, text):
    assert_same(*pair, text)


@given(TEXTS)
@example("\ufb1d\u05b4")
@settings(max_examples=1200, deadline=None)
def test_any_text(pair, text):
    assert_same(*pair, text)


def test_every_character(pair):
    """Each of the first 12,288 characters between two letters, and every 61st of the others."""
    ours, theirs = pair
    numbers = [*range(0x3000), *range(0x3000, 0x110000, 61)]
    texts = [f"a{chr(n)}b {chr(n)}" for n in numbers if unicodedata.category(chr(n)) not in ("Cs", "Cn")]
    assert len(texts) > 10_000
    rows = theirs(texts).input_ids
    assert [t for t, row in zip(texts, rows) if [ours.start_id, *ours.encode(t), ours.end_id] != row] == []


def test_words_of_the_vocabulary(pair):
    """Sentences of 12 of CLIP's own tokens, so that most merges are used."""
    ours, theirs = pair
    words = [token.removesuffix("</w>") for token in ours.vocab if token.isascii()]
    random.Random(0).shuffle(words)
    texts = [" ".join(words[i: i + 12]) for i in range(0, len(words), 12)]
    assert len(texts) > 3000
    assert [[ours.start_id, *ours.encode(text), ours.end_id] for text in texts] == theirs(texts).input_ids


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train([text for text in BY_HAND if len(text) < 100], 1200)


@pytest.mark.parametrize("pad", [END, "!"])
def test_a_trained_tokenizer_opens_in_transformers(trained, tmp_path, pad):
    ours = Tokenizer(trained.vocab, trained.merges, trained.vocab[pad])
    ours.save_pretrained(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    assert theirs.get_vocab() == ours.vocab
    assert (theirs.pad_token_id, theirs.model_max_length) == (ours.pad_id, 77)
    for text in BY_HAND:
        assert_same(ours, theirs, text)

    # and back: transformers 5 writes a tokenizer.json but no vocab.json
    theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.json").exists()
    again = Tokenizer.from_pretrained(tmp_path / "theirs")
    assert (again.vocab, again.merges, again.pad_id) == (ours.vocab, ours.merges, ours.pad_id)


def test_a_published_config(trained, tmp_path):
    """Stable Diffusion 1's folders describe their special tokens as "normalized" objects.

    transformers looks for such tokens in the cleaned text, so "<|STARTOFTEXT|>" becomes the start token.
    """
    trained.save_pretrained(tmp_path)
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {"bos_token": token | {"content": START}, "eos_token": token | {"content": END},
               "unk_token": token | {"content": END}, "pad_token": END}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    config = {name: token if isinstance(token, str) else token | {"__type": "AddedToken"}
              for name, token in special.items()}
    config |= {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": 77, "errors": "replace"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = Tokenizer.from_pretrained(tmp_path), CLIPTokenizer.from_pretrained(tmp_path)
    assert ours.tokenize(START.upper()) == [START]
    for text in BY_HAND:
        assert_same(ours, theirs, text)


# --- added tokens ---------------------------------------------------------------------------------------------

FLAGS = {"lstrip": False, "rstrip": False, "single_word": False}
CAT_TOY = {"content": "<cat-toy>", "normalized": True, "special": False}
WITH_ADDED = [
    "a 3d render of a <cat-toy> on a beach", "a<CAT-TOY>b <cat-toy><cat-toy>", "<cat-toy", "<cat-toy>_1 <cat-toy>s",
    "my  thing, My Thing!", "singles single! single", "<Special> <special>", "<|ENDOFTEXT|> <|endoftext|> ! <cat-toy>!"]


def opened(folder, **files) -> tuple[Tokenizer, CLIPTokenizer]:
    """Both tokenizers from a folder to which files are added; of tokenizer_config.json, fields."""
    for name, content in files.items():
        path = folder / f"{name}.json"
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(before | content))
    return Tokenizer.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("form", ["added_tokens", "decoder", "map", "transformers 5"])
def test_added_tokens(trained, tmp_path, form):
    """As textual inversion leaves them, in all files in which libraries have written them."""
    trained.save_pretrained(tmp_path)
    size = trained.vocab_size
    if form == "added_tokens":
        ours, theirs = opened(tmp_path, added_tokens={"my thing": size + 1, "<cat-toy>": size, END: trained.end_id})
    elif form == "decoder":
        decoder = {size: FLAGS | CAT_TOY, size + 1: FLAGS | CAT_TOY | {"content": "<cat-toy>_1", "normalized": False},
                   trained.end_id: FLAGS | {"content": END, "normalized": True, "special": True},
                   size + 2: FLAGS | CAT_TOY | {"content": "single", "single_word": True}}
        ours, theirs = opened(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
    elif form == "map":
        ours, theirs = opened(tmp_path, added_tokens={"<Special>": size, "<cat-toy>": size + 1},
                              special_tokens_map={"additional_special_tokens": ["<Special>"], "pad_token": "<Special>"})
        assert ours.pad_id == theirs.pad_token_id == size
    else:
        theirs = CLIPTokenizer.from_pretrained(tmp_path)
        theirs.add_tokens(["<cat-toy>", "my thing", AddedToken("single", single_word=True)])
        theirs.add_special_tokens({"additional_special_tokens": ["<Special>"]})
        theirs.save_pretrained(tmp_path / "5")
        ours = Tokenizer.from_pretrained(tmp_path / "5")
    assert ours.vocab == theirs.get_vocab()
    assert ours.vocab["<cat-toy>"] in ours.encode("a 3d render of a <cat-toy> on a beach")
    for text in [*WITH_ADDED, *BY_HAND]:
        assert_same(ours, theirs, text)

    ours.save_pretrained(tmp_path / "saved")  # and back
    again, theirs = Tokenizer.from_pretrained(tmp_path / "saved"), CLIPTokenizer.from_pretrained(tmp_path / "saved")
    assert (again.vocab, again.added, again.pad_id) == (ours.vocab, ours.added, ours.pad_id)
    for text in WITH_ADDED:
        assert_same(again, theirs, text)


def test_words_of_several_embeddings(trained, tmp_path):
    """diffusers' pipelines put all of them in for the first."""
    from diffusers.loaders import TextualInversionLoaderMixin

    trained.save_pretrained(tmp_path)
    tokens = ["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2", "<dog>", "my thing"]
    ours, theirs = opened(tmp_path, added_tokens={token: trained.vocab_size + i for i, token in enumerate(tokens)})
    for text in ["a <cat-toy> beside a <dog> and a <cat-toy>", "my thing", "", *WITH_ADDED[1:3]]:
        assert ours.spell_out(text) == TextualInversionLoaderMixin().maybe_convert_prompt(text, theirs)
    assert ours.spell_out("a <cat-toy>") == "a <cat-toy> <cat-toy>_1 <cat-toy>_2"


# --- padding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_map", "in_config"), [(END, "!"), ("!", END), (None, "!"), ("!", None)])
def test_which_file_names_the_padding_token(trained, tmp_path, in_map, in_config):
    trained.save_pretrained(tmp_path)
    for name, token in (("special_tokens_map.json", in_map), ("tokenizer_config.json", in_config)):
        values = json.loads((tmp_path / name).read_text()) | {"pad_token": token}
        (tmp_path / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    assert Tokenizer.from_pretrained(tmp_path).pad_id == CLIPTokenizer.from_pretrained(tmp_path).pad_token_id
