"""Byte-pair encoding (BPE) of one word: its bytes, and the merges that join them to longer and longer pieces.

Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units" (BPE); Radford et
al. 2019, section 2.2 (on bytes); Radford et al. 2021, section 2.4 (CLIP's: `</w>` ends a word).
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

Pair = tuple[str, str]
START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"


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


def to_symbols(word: str) -> tuple[str, ...]:
    """A word → the symbols of its UTF-8 bytes, the last one marked as the end of a word: "cat" → c, a, t</w>."""
    symbols = [SYMBOL_OF_BYTE[byte] for byte in word.encode("utf-8")]
    return (*symbols[:-1], symbols[-1] + END_OF_WORD)


def to_bytes(token: str) -> bytes:
    """The way back; a token that is not made of such symbols (an added one, with a space in it) is plain text."""
    symbols = all(character in BYTE_OF_SYMBOL for character in token)
    return bytes(BYTE_OF_SYMBOL[character] for character in token) if symbols else token.encode("utf-8")


def merge(symbols: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Join every occurrence of a pair of neighbours: (c, a, t</w>) and pair (c, a) → (ca, t</w>)."""
    merged, i = [], 0
    while i < len(symbols):
        here = symbols[i: i + 2] == pair
        merged.append(pair[0] + pair[1] if here else symbols[i])
        i += 2 if here else 1
    return tuple(merged)


def merge_all(word: Sequence[str], rank: dict[Pair, int]) -> list[str]:
    """Apply merges to a word's symbols, at each turn the earliest-learnt that applies, at its leftmost place.

    Looking through the whole word at each turn would take n² steps; a word of 100,000 letters, hours. Here the pairs
    that may be joined wait in a heap, the places of each in a heap of its own, and each symbol knows its neighbours:
    n·log n steps.

    Args:
        rank: pair → its place in the order in which the pairs were learnt.
    """
    symbols, n = list(word), len(word)
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    places: dict[Pair, list[int]] = {}  # where a pair begins, or began until one of the two was joined to another
    for i, pair in enumerate(pairwise(symbols)):
        if pair in rank:
            places.setdefault(pair, []).append(i)
    waiting = [(rank[pair], pair) for pair in places]
    heapq.heapify(waiting)
    while waiting:
        _, pair = waiting[0]
        i = heapq.heappop(places[pair])
        if not places[pair]:
            del places[pair]
            heapq.heappop(waiting)
        j = after[i]
        if j == n or (symbols[i], symbols[j]) != pair:
            continue
        symbols[i], symbols[j] = pair[0] + pair[1], ""  # the left one takes the right one in
        after[i] = after[j]
        if after[i] < n:
            before[after[i]] = i
        for left in (before[i], i):
            right = after[left] if left >= 0 else n
            if right < n and (new := (symbols[left], symbols[right])) in rank:
                if new not in places:
                    places[new] = []
                    heapq.heappush(waiting, (rank[new], new))
                heapq.heappush(places[new], left)
    return [symbol for symbol in symbols if symbol]


def learn_merges(counts: Counter[str], number: int) -> list[Pair]:
    """Join the most frequent pair of neighbours, again and again; of equally frequent ones, the alphabetically first.

    Learning stops early once every word is a single symbol.

    Args:
        counts: how often each word occurs.
        number: of merges.
    """
    words, often = [to_symbols(word) for word in counts], list(counts.values())
    pair_counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)  # the words in which a pair occurs

    def count(i: int, sign: int) -> None:
        for pair in pairwise(words[i]):
            pair_counts[pair] += sign * often[i]
            where[pair].add(i)

    for i in range(len(words)):
        count(i, +1)
    merges: list[Pair] = []
    while len(merges) < number and any(pair_counts.values()):
        best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair))
        merges.append(best)
        for i in list(where[best]):  # only these words change
            count(i, -1)
            words[i] = merge(words[i], best)
            count(i, +1)
        del pair_counts[best], where[best]
    return merges


def clip_vocabulary(merges: list[Pair]) -> dict[str, int]:
    """Token → id in CLIP's order: 256 bytes, 256 bytes that end a word, the merges' results, start, end."""
    symbols = list(SYMBOL_OF_BYTE.values())
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols), *(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}
