"""Wrong answers to the exercises of notebook 05, text."""

WRONG = {
    "exercise_5_1": [
        ("def exercise_5_1(k):\n    return 256 + k", "a second time"),
        ("def exercise_5_1(k):\n    return k", "number of the merge"),
        ("def exercise_5_1(k):\n    return 2 + 256 + 256 + k", "behind the merges"),
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
        ("def exercise_5_4(q, k, v):\n    return (q @ k.T / q.shape[1] ** 0.5).softmax(-1) @ v", "hide what stands"),
        ("def exercise_5_4(q, k, v):\n    s = q @ k.T / q.shape[1] ** 0.5\n    n = len(s)\n"
         "    s[torch.ones(n, n).tril(-1) == 1] = -torch.inf\n    return s.softmax(-1) @ v", "wrong way round"),
        ("def exercise_5_4(q, k, v):\n    s = q @ k.T\n    n = len(s)\n"
         "    s[torch.ones(n, n).triu(1) == 1] = -torch.inf\n    return s.softmax(-1) @ v", "not divided"),
        ("def exercise_5_4(q, k, v):\n    return torch.tril(torch.softmax(q @ k.T / q.shape[1] ** 0.5, -1)) @ v",
         "after the softmax"),
        ("def exercise_5_4(q, k, v):\n    return torch.softmax(torch.tril(q @ k.T / q.shape[1] ** 0.5), -1) @ v",
         "A score of 0"),
        ("def exercise_5_4(q, k, v):\n    s = k @ q.T / q.shape[1] ** 0.5\n    n = len(s)\n"
         "    s[torch.ones(n, n).triu(1) == 1] = -torch.inf\n    return s.softmax(-1) @ v", "changed places"),
        ("def exercise_5_4(q, k, v):\n    return (q @ k.T / q.shape[1] ** 0.5).tril() @ v", "softmax is missing"),
    ],
    "exercise_5_5": [
        ("def exercise_5_5(text, pictures):\n"
         "    return ((text @ pictures.T).argmax(1) == torch.arange(len(text))).float().mean()",
         "Longer vectors win"),
        ("def exercise_5_5(text, pictures):\n    table = F.normalize(text, dim=1) @ F.normalize(pictures, dim=1).T\n"
         "    return (table.argmax(0) == torch.arange(len(text))).float().mean()", "each picture's best text"),
        ("def exercise_5_5(text, pictures):\n    return F.cosine_similarity(text, pictures).mean()",
         "the *best* of all"),
        ("def exercise_5_5(text, pictures):\n    table = F.normalize(text, dim=0) @ F.normalize(pictures, dim=0).T\n"
         "    return (table.argmax(1) == torch.arange(len(text))).float().mean()", "along the width"),
        ("def exercise_5_5(text, pictures):\n    table = F.normalize(text, dim=1) @ F.normalize(pictures, dim=1).T\n"
         "    return table.argmax(1) == torch.arange(len(text))", "one verdict a text"),
    ],
}
