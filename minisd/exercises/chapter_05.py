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


def rows_of_ids() -> list[tuple]:
    return [([1, 2, 3, 1, 2], (1, 2), 9), ([5, 5, 5], (5, 5), 6), ([2, 1, 3, 2], (1, 2), 9),
            ([1, 2, 2, 1, 2], (1, 2), 7), ([4], (4, 4), 8)]


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
    return [tuple(2 * torch.randn(3, n, d, generator=generator)) for n, d in ((5, 4), (7, 16))]


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, ahead: int | None = 1) -> Tensor:
    """ahead: the first diagonal that is hidden; None hides nothing."""
    scores = q @ k.T * (q.shape[-1] ** -0.5 if scale is None else scale)
    if ahead is not None:
        scores = scores.masked_fill(torch.ones_like(scores).triu(ahead).bool(), -torch.inf)
    return scores.softmax(dim=-1) @ v


def looking_forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.T / q.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores).tril(-1).bool(), -torch.inf).softmax(dim=-1) @ v


def masked_afterwards(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(dim=-1).tril() @ v


def masked_with_zeros(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.T / q.shape[-1] ** 0.5).tril().softmax(dim=-1) @ v


def down_the_columns(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.T / q.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(dim=0) @ v


def couples() -> list[tuple]:
    """Vectors of texts and pictures, of very different lengths, that match more or less well."""
    generator, made = torch.Generator().manual_seed(1), []
    for count, noise in ((40, 0.6), (30, 0.9)):
        text = torch.randn(count, 8, generator=generator)
        pictures = text + noise * torch.randn(count, 8, generator=generator)
        lengths = torch.rand(2, count, 1, generator=generator) * 3 + 0.2
        made.append((text * lengths[0], pictures * lengths[1]))
    return made


def verdicts(text: Tensor, pictures: Tensor) -> Tensor:
    table = F.normalize(text, dim=-1) @ F.normalize(pictures, dim=-1).T
    return table.argmax(dim=1) == torch.arange(len(text))


def found(text: Tensor, pictures: Tensor) -> float:
    return float(verdicts(text, pictures).float().mean())


def found_without_length(text: Tensor, pictures: Tensor) -> float:
    return float(((text @ pictures.T).argmax(dim=1) == torch.arange(len(text))).float().mean())


def likeness(text: Tensor, pictures: Tensor) -> float:
    return float(F.cosine_similarity(text, pictures, dim=-1).mean())


EXERCISES = {
    "5.1": Exercise(lambda k: 512 + k, lambda: [(0,), (1,), (36365,), (48893,)], {
        "There are 512 tokens before the merges: the 256 bytes come a second time, as ends of words.":
            lambda k: 256 + k,
        "That is the number of the merge. What stands before the merges in the vocabulary?": lambda k: k,
        "Start and end stand behind the merges, not before them.": lambda k: 514 + k,
        "One too many: merge 0 makes the first token after the 512 bytes, and ids count from 0 as well.":
            lambda k: 513 + k,
    }),
    "5.2": Exercise(merged, rows_of_ids, {
        "Every occurrence is to be replaced, not only the first.": merged_once,
        "In a, a, a the middle one can be used only once: after a merge, go on behind the pair.": overlapping,
        "The second of the pair is still there: two ids become one, so the row gets shorter.": keeping_second,
        "Only a followed by b counts; you also merged b followed by a.":
            lambda ids, pair, new: merged(merged(ids, pair, new), pair[::-1], new),
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
        "Every place sees all others: hide what stands behind it.": lambda q, k, v: attention(q, k, v, ahead=None),
        "The mask is the wrong way round: a place may see those before it, not those after it.": looking_forward,
        "The scores are not divided by √d.": lambda q, k, v: attention(q, k, v, scale=1),
        "You divided by d; it is √d.": lambda q, k, v: attention(q, k, v, scale=1 / q.shape[-1]),
        "You masked after the softmax, so the shares of a row no longer add up to one: mask the scores, with -inf.":
            masked_afterwards,
        "A score of 0 is not \"nothing\": the softmax still gives it a share. Hidden scores must be -inf.":
            masked_with_zeros,
        "The softmax must run along the keys, the last dimension: each row adds up to one.": down_the_columns,
        "Queries and keys have changed places: row i of the scores is query i, compared with all keys.":
            lambda q, k, v: attention(k, q, v),
        "You divided by the root of the number of places; d is the width of a query.":
            lambda q, k, v: attention(q, k, v, scale=len(q) ** -0.5),
        "The softmax is missing: shares are positive and add up to one.":
            lambda q, k, v: (q @ k.T / q.shape[-1] ** 0.5).tril() @ v,
    }),
    "5.5": Exercise(found, couples, {
        "Longer vectors win here: divide each by its length first, so that only the direction counts.":
            found_without_length,
        "You looked for each picture's best text; asked is each text's best picture (mind the dimension of argmax).":
            lambda text, pictures: found(pictures, text),
        "That is how alike partners are on average; asked is how often the partner is the *best* of all.": likeness,
        "That is how many; divide by the number of texts.": lambda text, pictures: found(text, pictures) * len(text),
        "That is the share of those that do *not* find it.": lambda text, pictures: 1 - found(text, pictures),
        "Each vector is divided by its own length: normalise along the width, the last dimension.":
            lambda text, pictures: found_without_length(F.normalize(text, dim=0), F.normalize(pictures, dim=0)),
        "That is one verdict a text; average them.": verdicts,
    }),
}
