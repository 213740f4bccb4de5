"""Answers to the exercises of notebook 05, text: wrong ones with words of their hints, and unusual right ones."""

HEADS = ("def exercise_5_4(q, k, v, heads):\n"
         "    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))\n    n, d = q.shape[1:]\n")
HIDE = "    s = s.masked_fill(torch.ones(n, n).triu(1) == 1, -torch.inf)\n"
JOIN = ".transpose(0, 1).flatten(1)"
MERGE = "def exercise_5_2(ids, pair, new_id):\n"
FRAME = "def exercise_5_3(ids, start, end, pad):\n"
TABLE = ("def exercise_5_5(text, pictures, k):\n"
         "    table = F.normalize(text, dim=1) @ F.normalize(pictures, dim=1).T\n")

WRONG = {
    "exercise_5_1": [
        ("def exercise_5_1(k):\n    return 256 + k", "a second time"),
        ("def exercise_5_1(k):\n    return k", "number of the merge"),
        ("def exercise_5_1(k):\n    return 2 + 256 + 256 + k", "behind the merges"),
        ("def exercise_5_1(k):\n    return 512 + k + 1", "One too many"),
        ("def exercise_5_1(k):\n    return 511 + k", "One too few"),
        ("def exercise_5_1(k):\n    return 256 + 2 + k", "start and end stand behind"),
        ("def exercise_5_1(k):\n    return 49408 - 2 - 1 - k", "from the end"),
    ],
    "exercise_5_2": [
        ("def exercise_5_2(ids, pair, new_id):\n    for i in range(len(ids) - 1):\n"
         "        if (ids[i], ids[i + 1]) == pair:\n            return ids[:i] + [new_id] + ids[i + 2:]\n"
         "    return ids", "not only the first"),
        ("def exercise_5_2(ids, pair, new_id):\n    made, skip = [], False\n    for i in range(len(ids)):\n"
         "        if tuple(ids[i:i + 2]) == pair:\n            made.append(new_id)\n            skip = True\n"
         "        elif skip:\n            skip = False\n        else:\n            made.append(ids[i])\n"
         "    return made", "used only once"),
        ("def exercise_5_2(ids, pair, new_id):\n    made = list(ids)\n    for i in range(len(ids) - 1):\n"
         "        if (ids[i], ids[i + 1]) == pair:\n            made[i] = new_id\n    return made",
         "still there"),
        ("def exercise_5_2(ids, pair, new_id):\n    return [new_id if i in pair else i for i in ids]",
         "stays as it is"),
        (MERGE + "    text = ', '.join(map(str, ids)).replace(', '.join(map(str, pair)), str(new_id))\n"
         "    return [int(i) for i in text.split(', ')]", "Compare ids, not digits"),
        (MERGE + "    made = list(ids)\n    for i in range(len(made) - 2, -1, -1):\n"
         "        if tuple(made[i:i + 2]) == pair:\n            made[i:i + 2] = [new_id]\n    return made",
         "Begin at the left"),
    ],
    "exercise_5_3": [
        ("def exercise_5_3(ids, start, end, pad):\n    row = [start] + ids + [end]\n"
         "    return (row + [pad] * 77)[:77]", "lost its end"),
        ("def exercise_5_3(ids, start, end, pad):\n    row = [start] + ids[:75] + [end]\n"
         "    return row + [end] * (77 - len(row))", "padded with the end"),
        ("def exercise_5_3(ids, start, end, pad):\n    return [start] + ids[:75] + [end]", "padding is missing"),
        ("def exercise_5_3(ids, start, end, pad):\n"
         "    return [start] + (ids + [pad] * 75)[:75] + [end]", "right behind the text"),
        ("def exercise_5_3(ids, start, end, pad):\n    row = [start] + ids[:74] + [end]\n"
         "    return row + [pad] * (77 - len(row))", "One too few"),
        ("def exercise_5_3(ids, start, end, pad):\n    row = [start] + ids[:75]\n"
         "    return row + [pad] * (77 - len(row))", "no end token"),
    ],
    "exercise_5_4": [
        (HEADS + "    s = q @ k.mT / d ** 0.5\n    return (s.softmax(-1) @ v)" + JOIN, "hide what stands"),
        (HEADS + "    s = q @ k.mT / d ** 0.5\n    s[:, torch.ones(n, n).tril(-1) == 1] = -torch.inf\n"
         "    return (s.softmax(-1) @ v)" + JOIN, "wrong way round"),
        (HEADS + "    s = q @ k.mT / d ** 0.5\n    s[:, torch.ones(n, n).triu(0) == 1] = -torch.inf\n"
         "    return (s.softmax(-1) @ v)" + JOIN, "hear itself"),
        (HEADS + "    s = q @ k.mT\n" + HIDE + "    return (s.softmax(-1) @ v)" + JOIN, "not divided"),
        (HEADS + "    s = q @ k.mT / d\n" + HIDE + "    return (s.softmax(-1) @ v)" + JOIN, "it is √d"),
        (HEADS + "    s = q @ k.mT / (heads * d) ** 0.5\n" + HIDE + "    return (s.softmax(-1) @ v)" + JOIN,
         "root of the whole width"),
        (HEADS + "    s = q @ k.mT / n ** 0.5\n" + HIDE + "    return (s.softmax(-1) @ v)" + JOIN, "number of places"),
        (HEADS + "    return ((q @ k.mT / d ** 0.5).softmax(-1).tril() @ v)" + JOIN, "after the softmax"),
        (HEADS + "    return ((q @ k.mT / d ** 0.5).tril().softmax(-1) @ v)" + JOIN, "A score of 0"),
        (HEADS + "    s = q @ k.mT / d ** 0.5\n" + HIDE + "    return (s.softmax(1) @ v)" + JOIN, "along the keys"),
        (HEADS + "    s = k @ q.mT / d ** 0.5\n" + HIDE + "    return (s.softmax(-1) @ v)" + JOIN, "changed places"),
        (HEADS + "    return ((q @ k.mT / d ** 0.5).tril() @ v)" + JOIN, "softmax is missing"),
        ("def exercise_5_4(q, k, v, heads):\n    n = len(q)\n    s = q @ k.T / q.shape[1] ** 0.5\n" + HIDE
         + "    return s.softmax(-1) @ v", "one head as wide as all"),
        (HEADS.replace("x.view(len(x), heads, -1).transpose(0, 1)", "x.view(heads, len(x), -1)")
         + "    s = q @ k.mT / d ** 0.5\n" + HIDE + "    return (s.softmax(-1) @ v).reshape(n, -1)",
         "mix numbers of several places"),
        (HEADS.replace("heads, -1).transpose(0, 1)", "-1, heads).permute(2, 0, 1)") + "    s = q @ k.mT / d ** 0.5\n"
         + HIDE + "    return (s.softmax(-1) @ v).permute(1, 2, 0).flatten(1)", "not every second or third"),
    ],
    "exercise_5_5": [
        ("def exercise_5_5(text, pictures, k):\n    best = (text @ pictures.T).topk(k).indices\n"
         "    return sum(i in row for i, row in enumerate(best)) / len(text)", "Longer vectors win"),
        (TABLE + "    best = table.topk(k, dim=0).indices.T\n"
         "    return sum(i in row for i, row in enumerate(best)) / len(text)", "each picture's best texts"),
        (TABLE + "    return (table.argmax(1) == torch.arange(len(text))).float().mean()", "among the k best"),
        (TABLE + "    return table.diagonal().mean()", "among the *best*"),
        (TABLE + "    best = table.topk(k).indices\n    return sum(i in row for i, row in enumerate(best))",
         "how many; divide"),
        (TABLE + "    best = table.topk(k).indices\n"
         "    return (best == torch.arange(len(text))[:, None]).float().mean()", "all places among the best"),
        (TABLE.replace("dim=1", "dim=0") + "    best = table.topk(k).indices\n"
         "    return sum(i in row for i, row in enumerate(best)) / len(text)", "along the width"),
        (TABLE + "    return [i in row for i, row in enumerate(table.topk(k).indices)]", "verdict a text"),
        (TABLE + "    rank = (table > table.diagonal()[:, None]).sum(1)\n    return (rank <= k).float().mean()",
         "One too many"),
    ],
}

RIGHT = {
    "exercise_5_1": [
        "def exercise_5_1(k):\n    return k + 0x200",
        "def exercise_5_1(k):\n    return 49408 - 2 - 48894 + k",
        "def exercise_5_1(k):\n    return len([*range(256), *range(256), *range(k)])",
        "def exercise_5_1(k):\n    return torch.tensor([256, 256, k]).sum()",
    ],
    "exercise_5_2": [
        MERGE + "    if len(ids) < 2:\n        return list(ids)\n    if tuple(ids[:2]) == pair:\n"
        "        return [new_id] + exercise_5_2(ids[2:], pair, new_id)\n"
        "    return ids[:1] + exercise_5_2(ids[1:], pair, new_id)",
        MERGE + "    made, merged = [], False\n    for one in ids:\n"
        "        if made and not merged and (made[-1], one) == pair:\n            made[-1], merged = new_id, True\n"
        "        else:\n            made.append(one)\n            merged = False\n    return made",
        MERGE + "    i = 0\n    while i < len(ids) - 1:\n        if ids[i:i + 2] == list(pair):\n"
        "            ids[i:i + 2] = [new_id]\n        i += 1\n    return ids",
        MERGE + "    text = ' ' + '  '.join(map(str, ids)) + ' '\n"
        "    text = text.replace(f' {pair[0]}  {pair[1]} ', f' {new_id} ')\n    return tuple(map(int, text.split()))",
    ],
    "exercise_5_3": [
        FRAME + "    row = [pad] * 77\n    row[0] = start\n    kept = ids[:75]\n    row[1:len(kept) + 1] = kept\n"
        "    row[len(kept) + 1] = end\n    return row",
        FRAME + "    kept = ids[:75]\n    return torch.tensor([start] + kept + [end] + (75 - len(kept)) * [pad])",
        FRAME + "    row = [start]\n    for i in ids:\n        if len(row) < 76:\n            row.append(i)\n"
        "    row.append(end)\n    while len(row) < 77:\n        row.append(pad)\n    return row",
        FRAME + "    row = ([start] + ids + [end] + 77 * [pad])[:77]\n    if end not in row:\n        row[-1] = end\n"
        "    return tuple(row)",
    ],
    "exercise_5_4": [
        "def exercise_5_4(q, k, v, heads):\n    split = lambda x: x.unflatten(1, (heads, -1)).transpose(0, 1)[None]\n"
        "    made = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=True)\n"
        "    return made[0].transpose(0, 1).flatten(1)",
        "def exercise_5_4(q, k, v, heads):\n    rows = []\n    for i in range(len(q)):\n        parts = []\n"
        "        for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1)):\n"
        "            w = (b[:i + 1] @ a[i] / a.shape[1] ** 0.5).softmax(0)\n            parts.append(w @ c[:i + 1])\n"
        "        rows.append(torch.cat(parts))\n    return torch.stack(rows)",
        "def exercise_5_4(q, k, v, heads):\n    n, d = len(q), q.shape[1] // heads\n"
        "    q, k, v = (x.reshape(n, heads, d) for x in (q, k, v))\n"
        "    e = (torch.einsum('ihd,jhd->hij', q, k) * d ** -0.5).exp().tril()\n"
        "    return torch.einsum('hij,jhd->ihd', e / e.sum(-1, keepdim=True), v).reshape(n, -1)",
        HEADS + "    s = q @ k.mT / d ** 0.5 - 1e9 * torch.ones(n, n).triu(1)\n"
        "    return torch.cat(list(s.softmax(-1) @ v), dim=1)",
    ],
    "exercise_5_5": [
        TABLE + "    rank = (table > table.diagonal()[:, None]).sum(1)\n    return (rank < k).float().mean()",
        TABLE + "    order = table.argsort(dim=1, descending=True)[:, :k]\n"
        "    return sum(i in row.tolist() for i, row in enumerate(order)) / len(text)",
        "def exercise_5_5(text, pictures, k):\n    hits = 0\n    for i, one in enumerate(text):\n"
        "        alike = F.cosine_similarity(one[None], pictures)\n"
        "        hits += int(i in alike.topk(k).indices)\n    return hits / len(text)",
        TABLE + "    limit = table.topk(k).values[:, -1]\n    return 1 - (table.diagonal() < limit).double().mean()",
    ],
}
