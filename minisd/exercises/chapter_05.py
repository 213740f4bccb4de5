"""Checks for notebook 05, text."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minisd.exercises import Exercise


def merged(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    made, i = [], 0
    while i < len(ids):
        here = tuple(ids[i: i + 2]) == tuple(pair)
        made.append(new_id if here else ids[i])
        i += 2 if here else 1
    return made


def merged_once(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == tuple(pair):
            return [*ids[:i], new_id, *ids[i + 2:]]
    return ids


def overlapping(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Merges a symbol again, with the one after it, although it was already merged with the one before."""
    made, used = [], set()
    for i, one in enumerate(ids):
        if tuple(ids[i: i + 2]) == tuple(pair):
            made.append(new_id)
            used.add(i + 1)
        elif i not in used:
            made.append(one)
    return made


def keeping_second(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    return [new_id if tuple(ids[i: i + 2]) == tuple(pair) else one for i, one in enumerate(ids)]


def replaced_as_text(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Finds 1, 2 in 11, 2 and in 1, 23 as well."""
    text = " ".join(map(str, ids)).replace(f"{pair[0]} {pair[1]}", str(new_id))
    return [int(word) for word in text.split()]


def from_the_right(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    return merged(ids[::-1], pair[::-1], new_id)[::-1]


def until_nothing_changes(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Removes single ids of the pair that lie apart, too."""
    return [one for one in merged(ids, pair, new_id) if one not in pair]


def rows_of_ids() -> list[tuple]:
    return [([1, 2, 3, 1, 2], (1, 2), 9), ([5, 5, 5, 8], (5, 5), 6), ([2, 1, 3, 2], (1, 2), 9),
            ([1, 2, 2, 1, 2], (1, 2), 7), ([11, 2, 1, 23, 1, 2], (1, 2), 9), ([4], (4, 4), 8)]


def framed(ids: list[int], start: int, end: int, pad: int) -> list[int]:
    row = [start, *ids[:75], end]
    return row + [pad] * (77 - len(row))


def frames() -> list[tuple]:
    return [([320, 5, 7], 1000, 1001, 1001), (list(range(10, 18)), 1000, 1001, 0), (list(range(90)), 1000, 1001, 0),
            ([], 1000, 1001, 0)]


def unframed(ids: list[int], pad: int, *last: int) -> list[int]:
    row = [*ids, *last][:77]
    return row + [pad] * (77 - len(row))


def queries() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [(*(2 * torch.randn(3, n, heads * d, generator=generator)), heads)
            for n, d, heads in ((5, 4, 2), (7, 16, 3))]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, scale: float | None = None, ahead: int | None = 1,
              mask: str = "before", axis: int | None = -1) -> Tensor:
    """scale: of the scores, if not 1/√d; ahead: the first diagonal that is hidden, None hides nothing; mask: "before"
    the softmax, "after" it, or with "zeros"; axis: of the softmax, None for no softmax."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k, v))  # (heads, N, d)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    hidden = torch.zeros_like(scores[0]).bool() if ahead is None else torch.ones_like(scores[0]).triu(ahead).bool()
    if mask != "after":
        scores = scores.masked_fill(hidden, 0 if mask == "zeros" or axis is None else -torch.inf)
    shares = scores if axis is None else scores.softmax(dim=axis)
    shares = shares.masked_fill(hidden, 0) if mask == "after" else shares
    return (shares @ v).transpose(0, 1).flatten(1)


def looking_forward(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    return attention(q.flip(0), k.flip(0), v.flip(0), heads).flip(0)


def every_nth_column(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Head 0 has columns 0, heads, 2·heads, …: split the wrong way round, and put together as it was split."""
    q, k, v = (x.unflatten(-1, (-1, heads)).mT.flatten(-2) for x in (q, k, v))
    return attention(q, k, v, heads).unflatten(-1, (heads, -1)).mT.flatten(-2)


def mixing_places(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`reshape` where `transpose` is meant: each head gets numbers of several places."""
    q, k, v = (x.reshape(heads, len(x), -1) for x in (q, k, v))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
    return (scores.softmax(dim=-1) @ v).reshape(v.shape[1], -1)


def couples() -> list[tuple]:
    """Vectors of texts and pictures, of very different lengths, that match more or less well, and k."""
    generator, made = torch.Generator().manual_seed(1), []
    for count, noise, k in ((40, 0.6, 1), (30, 0.9, 3)):
        text = torch.randn(count, 8, generator=generator)
        pictures = text + noise * torch.randn(count, 8, generator=generator)
        lengths = torch.rand(2, count, 1, generator=generator) * 3 + 0.2
        made.append((text * lengths[0], pictures * lengths[1], k))
    return made


def verdicts(text: Tensor, pictures: Tensor, k: int, unit: bool = True, down: bool = False) -> Tensor:
    """Whether each text's partner is among the k best. down: go through the table the other way."""
    table = F.normalize(text, dim=-1) @ F.normalize(pictures, dim=-1).T if unit else text @ pictures.T
    best = (table.T if down else table).topk(k, dim=1).indices
    return (best == torch.arange(len(text))[:, None]).any(dim=1)


def found(text: Tensor, pictures: Tensor, k: int, **how: bool) -> float:
    return float(verdicts(text, pictures, k, **how).float().mean())


def likeness(text: Tensor, pictures: Tensor, k: int) -> float:
    return float(F.cosine_similarity(text, pictures, dim=-1).mean())


EXERCISES = {
    "5.1": Exercise(lambda k: 512 + k, lambda: [(0,), (1,), (36365,), (48893,)], {
        "There are 512 tokens before the merges: the 256 bytes come a second time, as ends of words.":
            lambda k: 256 + k,
        "That is the number of the merge. What stands before the merges in the vocabulary?": lambda k: k,
        "Start and end stand behind the merges, not before them.": lambda k: 514 + k,
        "One too many: merge 0 makes the first token after the 512 bytes, and ids count from 0 as well.":
            lambda k: 513 + k,
        "One too few: ids count from 0, and so does k.": lambda k: 511 + k,
        "The 256 bytes come a second time, as ends of words; and start and end stand behind the merges.":
            lambda k: 258 + k,
        "Counted from the end? Ids are numbered in the order in which merges were learnt.": lambda k: 49405 - k,
    }),
    "5.2": Exercise(merged, rows_of_ids, {
        "Every occurrence is to be replaced, not only the first.": merged_once,
        "In a, a, a the middle one can be used only once: after a merge, go on behind the pair.": overlapping,
        "The second of the pair is still there: two ids become one, so the row gets shorter.": keeping_second,
        "Only a followed by b counts; you also merged b followed by a.":
            lambda ids, pair, new: merged(merged(ids, pair, new), pair[::-1], new),
        "As text, 11, 2 contains “1, 2”; but 11 is one id. Compare ids, not digits.": replaced_as_text,
        "Begin at the left: in a, a, a it is the first two that become one.": from_the_right,
        "Ids of the pair that lie apart must stay.": until_nothing_changes,
        "An a or a b alone stays as it is; only the two side by side are replaced.":
            lambda ids, pair, new: [new if one in pair else one for one in ids],
    }),
    "5.3": Exercise(framed, frames, {
        "A text that is too long has lost its end token: cut the text to 75, then add the end.":
            lambda ids, start, end, pad: unframed([start, *ids], pad, end),
        "You padded with the end token; take pad, which another tokenizer may have set to 0.":
            lambda ids, start, end, pad: framed(ids, start, end, end),
        "The start token is missing.": lambda ids, start, end, pad: [*ids[:76], end, *[pad] * (76 - len(ids))],
        "The end token comes right behind the text; the padding stands after it.":
            lambda ids, start, end, pad: [start, *ids[:75], *[pad] * (75 - len(ids)), end],
        "Your rows are not 77 long: the padding is missing.": lambda ids, start, end, pad: [start, *ids[:75], end],
        "There is no end token: it comes right behind the text, before the padding.":
            lambda ids, start, end, pad: unframed([start, *ids[:75]], pad),
        "One too few: beside start and end there is room for 75 tokens of text.":
            lambda ids, start, end, pad: framed(ids[:74], start, end, pad),
        "The padding stands in front; it belongs behind the end token.":
            lambda ids, start, end, pad: [*[pad] * (75 - len(ids)), start, *ids[:75], end],
    }),
    "5.4": Exercise(attention, queries, {
        "Every place sees all others: hide what stands behind it.": lambda *given: attention(*given, ahead=None),
        "The mask is the wrong way round: a place may see those before it, not those after it.": looking_forward,
        "A place may hear itself, too: hide what lies *above* the diagonal, triu(1). (Place 0 would have nobody.)":
            lambda *given: attention(*given, ahead=0),
        "A place sees one place too far: triu(2) leaves the next one open.": lambda *given: attention(*given, ahead=2),
        "The scores are not divided by √d.": lambda *given: attention(*given, scale=1),
        "You divided by d; it is √d.":
            lambda q, k, v, heads: attention(q, k, v, heads, scale=heads / q.shape[-1]),
        "You divided by the root of the whole width; d is the width of one head.":
            lambda q, k, v, heads: attention(q, k, v, heads, scale=q.shape[-1] ** -0.5),
        "You divided by the root of the number of places; d is the width of a query.":
            lambda q, k, v, heads: attention(q, k, v, heads, scale=len(q) ** -0.5),
        "You masked after the softmax, so the shares of a row no longer add up to one: mask the scores, with -inf.":
            lambda *given: attention(*given, mask="after"),
        "A score of 0 is not \"nothing\": the softmax still gives it a share. Hidden scores must be -inf.":
            lambda *given: attention(*given, mask="zeros"),
        "The softmax must run along the keys, the last dimension: each row adds up to one.":
            lambda *given: attention(*given, axis=-2),
        "The softmax is missing: shares are positive and add up to one.": lambda *given: attention(*given, axis=None),
        "Queries and keys have changed places: row i of the scores is query i, compared with all keys.":
            lambda q, k, v, heads: attention(k, q, v, heads),
        "That is one head as wide as all: split q, k and v first.": lambda q, k, v, heads: attention(q, k, v, 1),
        "Head 0 has the *first* d columns, not every second or third one: unflatten to (heads, d), not to (d, heads).":
            every_nth_column,
        "Your heads mix numbers of several places: split the columns, (N, heads, d), and then transpose.":
            mixing_places,
    }),
    "5.5": Exercise(found, couples, {
        "Longer vectors win here: divide each by its length first, so that only the direction counts.":
            lambda text, pictures, k: found(text, pictures, k, unit=False),
        "You looked for each picture's best texts; asked are each text's best pictures (mind the dimension).":
            lambda text, pictures, k: found(text, pictures, k, down=True),
        "That is the share for the single best picture; it need only be among the k best.":
            lambda text, pictures, k: found(text, pictures, 1),
        "One too many: among the k best, not k + 1.": lambda text, pictures, k: found(text, pictures, k + 1),
        "That is how alike partners are on average; asked is how often the partner is among the *best*.": likeness,
        "That is how many; divide by the number of texts.":
            lambda text, pictures, k: found(text, pictures, k) * len(text),
        "Divide by the number of texts, not by that of all places among the best.":
            lambda text, pictures, k: found(text, pictures, k) / k,
        "That is the share of those that do *not* find it.": lambda text, pictures, k: 1 - found(text, pictures, k),
        "Each vector is divided by its own length: normalise along the width, the last dimension.":
            lambda text, pictures, k: found(F.normalize(text, dim=0), F.normalize(pictures, dim=0), k, unit=False),
        "That is one verdict a text; average them.": verdicts,
    }),
}
