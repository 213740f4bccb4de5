"""Answers to the exercises of notebook 06, the U-Net: wrong ones with words of their hints, and unusual right ones."""

LIKE = ("def exercise_6_1(difference, channels):\n    half = channels // 2\n"
        "    angles = difference[:, None] * 10_000 ** (-torch.arange(half) / half)\n")
COUNT = "def exercise_6_2(a, b, t):\n"
ROWS = "    for s in strides:\n"
SEES = "def exercise_6_3(strides):\n"
HEAD = "def exercise_6_4(pixels, words, to_q, to_k, to_v, lengths):\n"
ATTEND = HEAD + "    q, k, v = pixels @ to_q, words @ to_k, words @ to_v\n    s = q @ k.mT"
HIDE = "    s[(torch.arange(words.shape[1]) >= lengths[:, None])[:, None].expand_as(s)] = -torch.inf\n"
BLOCK = ("def exercise_6_5(block, x, time):\n    shift = block.time_emb_proj({})[:, :, None, None]\n"
         "    shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)\n"
         "    h = block.conv1(F.silu(block.norm1(x)))\n")

WRONG = {
    "exercise_6_1": [
        (LIKE + "    return angles.cos().sum(dim=1)", "how long the clocks are"),
        (LIKE + "    return angles.cos().sum(dim=1) / channels", "number of *hands*"),
        (LIKE + "    return angles.sin().mean(dim=1)", "Cosines, not sines"),
        (LIKE.replace(" / half)", " / (half - 1))") + "    return angles.cos().mean(dim=1)", "half - 1"),
        (LIKE.replace(" / half)", " / channels)") + "    return angles.cos().mean(dim=1)", "fall too slowly"),
        (LIKE + "    return angles.cos()", "hand by hand"),
        (LIKE + "    return angles.cos().mean(dim=1).clamp(-1, 1).acos()", "not the angle"),
    ],
    "exercise_6_2": [
        (COUNT + "    return 9*a*b + b + 9*b*b + b + t*b + b + (a*b + b if a != b else 0)",
         "group norms have parameters"),
        (COUNT + "    return 9*a*b + 9*b*b + t*b + 2*a + 2*b + (a*b if a != b else 0)", "biases are missing"),
        (COUNT + "    return 9*a*b + b + 9*b*b + b + 2*a + 2*b + (a*b + b if a != b else 0)", "The time is missing"),
        (COUNT + "    return 9*a*b + b + 9*b*b + b + t*b + b + 2*a + 2*b", "you left it out"),
        (COUNT + "    return 9*a*b + b + 9*b*b + b + t*b + b + 2*a + 2*b + a*b + b", "no shortcut convolution"),
        (COUNT + "    return 9*a*b + b + 9*b*b + b + t*b + b + 2*a + 2*b + (9*a*b + b if a != b else 0)",
         "no neighbours"),
        (COUNT + "    return 2*(9*a*b + b) + t*b + b + 2*a + 2*b + (a*b + b if a != b else 0)", "from out_channels to"),
        (COUNT + "    return 9*a*b + b + 9*b*b + b + t*b + b + 4*b + (a*b + b if a != b else 0)", "norm2 the output's"),
    ],
    "exercise_6_3": [
        (SEES + "    return 2 * len(strides) + 1", "two pixels of its own"),
        (SEES + "    side = jump = 1\n" + ROWS + "        jump *= s\n        side += 2 * jump\n    return side",
         "does not yet count"),
        (SEES + "    side, before = 1, 1\n" + ROWS + "        side += 2 * before\n        before = s\n"
         "    return side", "Strides multiply"),
        (SEES + "    side = 1\n" + ROWS + "        side = s * side + 2\n    return side", "go back from one pixel"),
        (SEES + "    side = jump = 1\n" + ROWS + "        side += jump\n        jump *= s\n    return side",
         "to *both* sides"),
        (SEES + "    side, jump = 0, 1\n" + ROWS + "        side += 2 * jump\n        jump *= s\n    return side",
         "sees itself"),
        (SEES + "    side = jump = 1\n" + ROWS + "        side += 2 * jump\n        jump *= s\n"
         "    return side * side", "the side of the square"),
    ],
    "exercise_6_4": [
        (ATTEND + " / q.shape[-1] ** 0.5\n    return s.softmax(dim=-1) @ v", "padding is heard"),
        (ATTEND + " / q.shape[-1] ** 0.5\n" + HIDE.replace(">=", "<") + "    return s.softmax(dim=-1) @ v",
         "turned round"),
        (ATTEND + " / q.shape[-1] ** 0.5\n    w = s.softmax(dim=-1)\n"
         "    return (w * (torch.arange(w.shape[2]) < lengths[:, None])[:, None]) @ v", "after the softmax"),
        (ATTEND + " / q.shape[-1] ** 0.5\n" + HIDE.replace("-torch.inf", "0") + "    return s.softmax(dim=-1) @ v",
         "A score of 0"),
        (ATTEND + " / q.shape[-1] ** 0.5\n" + HIDE.replace(">=", ">") + "    return s.softmax(dim=-1) @ v",
         "One position too many"),
        (ATTEND + "\n" + HIDE + "    return s.softmax(dim=-1) @ v", "Divide the scores"),
        (ATTEND + " / q.shape[-1]\n" + HIDE + "    return s.softmax(dim=-1) @ v", "by √d, not by d"),
        (ATTEND + " / q.shape[-1] ** 0.5\n" + HIDE.replace("-torch.inf", "0") + "    return s @ v",
         "softmax is missing"),
        (ATTEND + " / q.shape[-1] ** 0.5\n    return s.mT.softmax(dim=-1) @ q", "the words ask"),
    ],
    "exercise_6_5": [
        (BLOCK.format("time") + "    return shortcut + block.conv2(F.silu(block.norm2(h + shift)))", "not bent"),
        (BLOCK.format("F.silu(time)") + "    return block.conv2(F.silu(block.norm2(h + shift)))", "not residual"),
        (BLOCK.format("F.silu(time)") + "    return shortcut + shift + block.conv2(F.silu(block.norm2(h)))",
         "too late"),
        (BLOCK.format("F.silu(time)") + "    return shortcut + block.conv2(F.silu(block.norm2(h) + shift))",
         "after norm2"),
        (BLOCK.format("F.silu(time)") + "    return shortcut + block.conv2(F.silu(block.norm2(h)))", "time is missing"),
        (BLOCK.replace("F.silu(block", "(block").format("F.silu(time)")
         + "    return shortcut + block.conv2(block.norm2(h + shift))", "no more than one"),
        (BLOCK.replace("F.silu(block", "F.relu(block").format("F.silu(time)")
         + "    return shortcut + block.conv2(F.relu(block.norm2(h + shift)))", "That is ReLU"),
        (BLOCK.format("F.silu(time)") + "    return x + block.conv2(F.silu(block.norm2(h + shift)))", "stopped with"),
        ("def exercise_6_5(block, x, time):\n    return block(x, time)", "from its parts"),
        ("def exercise_6_5(block, x, time):\n    return block.forward(x, time)", "from its parts"),
    ],
}

RIGHT = {
    "exercise_6_1": [
        "from minisd.unet import sinusoidal_embedding\ndef exercise_6_1(difference, channels):\n"
        "    a, b = sinusoidal_embedding(difference, channels), sinusoidal_embedding(0 * difference, channels)\n"
        "    return F.cosine_similarity(a, b)",
        "def exercise_6_1(difference, channels):\n    half = channels // 2\n    clock = lambda t: torch.cat([\n"
        "        wave(t[:, None] * 10_000 ** (-torch.arange(half) / half)) for wave in (torch.sin, torch.cos)], 1)\n"
        "    return (clock(difference + 7) * clock(0 * difference + 7)).sum(dim=1) / half",
        "def exercise_6_1(difference, channels):\n    import math\n    half = channels // 2\n"
        "    return [sum(math.cos(d / 10_000 ** (i / half)) for i in range(half)) / half for d in difference.tolist()]",
        "def exercise_6_1(difference, channels):\n    half = channels // 2\n"
        "    hands = torch.logspace(0, -4, half + 1)[:-1].double()\n"
        "    return 1 - 2 * (torch.outer(difference.double(), hands) / 2).sin().square().mean(dim=1)",
    ],
    "exercise_6_2": [
        "from minisd.blocks import ResidualBlock\n" + COUNT
        + "    block = ResidualBlock(a, b, groups=1, eps=1e-5, time_channels=t)\n"
        "    return sum(p.numel() for p in block.parameters())",
        COUNT + "    conv = lambda i, o, k: (i * k * k + 1) * o\n"
        "    return 2*a + conv(a, b, 3) + conv(t, b, 1) + 2*b + conv(b, b, 3) + (a != b) * conv(a, b, 1)",
        COUNT + "    return 9*b*(a + b) + b*(t + 5) + 2*a + (0 if a == b else b*(a + 1))",
        COUNT + "    shapes = [(a,)]*2 + [(b, a, 3, 3), (b,), (b, t), (b,)] + [(b,)]*2 + [(b, b, 3, 3), (b,)]\n"
        "    shapes += [] if a == b else [(b, a, 1, 1), (b,)]\n    return sum(torch.Size(s).numel() for s in shapes)",
    ],
    "exercise_6_3": [
        SEES + "    side = 1\n    for s in reversed(strides):\n        side = (side - 1) * s + 3\n    return side",
        SEES + "    import math\n    return 1 + 2 * sum(math.prod(strides[:i]) for i in range(len(strides)))",
        SEES + "    return 1 if not strides else (exercise_6_3(strides[1:]) - 1) * strides[0] + 3",
        SEES + "    x = first = torch.zeros(1, 1, 65, 65, requires_grad=True)\n    for s in strides:\n"
        "        x = F.conv2d(x, torch.ones(1, 1, 3, 3), stride=s, padding=1)\n"
        "    x[0, 0, x.shape[2] // 2, x.shape[3] // 2].backward()\n"
        "    return int((first.grad[0, 0] != 0).any(dim=0).sum())",
    ],
    "exercise_6_4": [
        HEAD + "    rows = []\n    for p, w, n in zip(pixels, words, lengths.tolist()):\n        w = w[:n]\n"
        "        s = (p @ to_q) @ (w @ to_k).T / to_q.shape[1] ** 0.5\n"
        "        rows.append(s.softmax(dim=1) @ (w @ to_v))\n    return torch.stack(rows)",
        HEAD + "    mask = (torch.arange(words.shape[1]) < lengths[:, None])[:, None]\n"
        "    return F.scaled_dot_product_attention(pixels @ to_q, words @ to_k, words @ to_v, attn_mask=mask)",
        ATTEND + " / q.shape[-1] ** 0.5\n    e = s.exp() * (torch.arange(s.shape[2]) < lengths[:, None])[:, None]\n"
        "    return e / e.sum(dim=-1, keepdim=True) @ v",
        HEAD + "    s = torch.einsum('bnc,cd,bme,ed->bnm', pixels, to_q, words, to_k) * to_q.shape[1] ** -0.5\n"
        "    s = s - 1e9 * (torch.arange(s.shape[2])[None, None] > lengths[:, None, None] - 1)\n"
        "    return torch.einsum('bnm,bme,ed->bnd', s.softmax(-1), words, to_v)",
    ],
    "exercise_6_5": [
        BLOCK.format("F.silu(time)") + "    return block.conv2(F.silu(block.norm2(h + shift))) + shortcut",
        "def exercise_6_5(block, x, time):\n    silu = lambda a: a * torch.sigmoid(a)\n"
        "    h = block.conv1(silu(block.norm1(x)))\n"
        "    h += block.time_emb_proj(silu(time)).unsqueeze(-1).unsqueeze(-1)\n"
        "    h = block.conv2(silu(block.norm2(h)))\n    return h + (block.conv_shortcut or (lambda a: a))(x)",
        "def exercise_6_5(block, x, time):\n    act = torch.nn.SiLU()\n    t = block.time_emb_proj(act(time))\n"
        "    h = block.conv1(act(block.norm1(x))) + t.view(*t.shape, 1, 1)\n"
        "    return torch.stack([block.conv2(act(block.norm2(h))),\n"
        "                        block.conv_shortcut(x) if block.conv_shortcut else x]).sum(0)",
        "from torch.nn.functional import conv2d, group_norm, linear, silu\n"
        "def exercise_6_5(block, x, time):\n"
        "    norm = lambda n, h: group_norm(h, n.num_groups, n.weight, n.bias, n.eps)\n"
        "    h = conv2d(silu(norm(block.norm1, x)), block.conv1.weight, block.conv1.bias, padding=1)\n"
        "    t = linear(silu(time), block.time_emb_proj.weight, block.time_emb_proj.bias)\n"
        "    h = silu(norm(block.norm2, h + t[..., None, None]))\n"
        "    h = conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)\n"
        "    return h + (x if block.conv_shortcut is None else block.conv_shortcut(x))",
    ],
}
