"""Wrong answers to the exercises of notebook 06, the U-Net."""

CLOCK = "def exercise_6_1(t, channels):\n    half = channels // 2\n    angles = t[:, None] * 10_000 ** "
ATTEND = ("def exercise_6_4(pixels, words, to_q, to_k, to_v):\n"
          "    q, k, v = pixels @ to_q, words @ to_k, words @ to_v\n    scores = q @ k.mT")
BLOCK = ("def exercise_6_5(block, x, time):\n    shift = block.time_emb_proj({})[:, :, None, None]\n"
         "    shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)\n"
         "    h = block.conv1(F.silu(block.norm1(x)))\n")

WRONG = {
    "exercise_6_1": [
        (CLOCK + "(-torch.arange(half) / half)\n    return torch.cat([angles.sin(), angles.cos()], dim=1)",
         "changed places"),
        (CLOCK + "(-torch.arange(half) / (half - 1))\n    return torch.cat([angles.cos(), angles.sin()], dim=1)",
         "half - 1"),
        (CLOCK + "(-torch.arange(half) / half)\n    return torch.stack([angles.cos(), angles.sin()], dim=2).flatten(1)",
         "Not by turns"),
        (CLOCK + "(-2 * torch.arange(half) / half / 4)\n    return torch.cat([angles.cos(), angles.sin()], dim=1)",
         "fall too slowly"),
    ],
    "exercise_6_2": [
        ("def exercise_6_2(in_channels, out_channels, kernel):\n    return kernel ** 2 * in_channels * out_channels",
         "bias is missing"),
        ("def exercise_6_2(in_channels, out_channels, kernel):\n    return (in_channels * kernel + 1) * out_channels",
         "a square"),
        ("def exercise_6_2(in_channels, out_channels, kernel):\n    return in_channels * kernel ** 2 + out_channels",
         "That is one filter"),
        ("def exercise_6_2(in_channels, out_channels, kernel):\n"
         "    return (out_channels * kernel ** 2 + 1) * in_channels", "one for each input channel"),
    ],
    "exercise_6_3": [
        ("def exercise_6_3(widths, layers):\n    skips = []\n    for width in widths:\n"
         "        skips += [width] * (layers + 1)\n    return skips[:-1]", "very first skip is missing"),
        ("def exercise_6_3(widths, layers):\n    skips = [widths[0]]\n    for width in widths:\n"
         "        skips += [width] * (layers + 1)\n    return skips", "One too many"),
        ("def exercise_6_3(widths, layers):\n    return [widths[0]] + [w for w in widths for _ in range(layers)]",
         "halvings lay down"),
        ("def exercise_6_3(widths, layers):\n    skips = [widths[0]]\n    for width in widths:\n"
         "        skips += [width] * (layers + 1)\n    return skips[:-1][::-1]", "order in which they are taken"),
    ],
    "exercise_6_4": [
        (ATTEND + " / q.shape[-1] ** 0.5\n    return scores.softmax(dim=1) @ v", "along the wrong side"),
        (ATTEND + "\n    return scores.softmax(dim=-1) @ v", "Divide the scores"),
        (ATTEND + " / q.shape[-1]\n    return scores.softmax(dim=-1) @ v", "by √d, not by d"),
        (ATTEND + " / q.shape[-1] ** 0.5\n    return scores @ v", "softmax is missing"),
        (ATTEND + " / q.shape[-1] ** 0.5\n    return scores.mT.softmax(dim=-1) @ q", "the words ask"),
        (ATTEND + " / q.shape[-1] ** 0.5\n    return scores.softmax(dim=-1).mT @ q", "shape (2, 9, 8)"),
    ],
    "exercise_6_5": [
        (BLOCK.format("time") + "    return shortcut + block.conv2(F.silu(block.norm2(h + shift)))", "not bent"),
        (BLOCK.format("F.silu(time)") + "    return block.conv2(F.silu(block.norm2(h + shift)))", "not residual"),
        (BLOCK.format("F.silu(time)") + "    return shortcut + shift + block.conv2(F.silu(block.norm2(h)))",
         "too late"),
        (BLOCK.format("F.silu(time)") + "    return shortcut + block.conv2(F.silu(block.norm2(h) + shift))",
         "after norm2"),
        (BLOCK.format("F.silu(time)") + "    return shortcut + block.conv2(F.silu(block.norm2(h)))", "time is missing"),
        (BLOCK.format("F.silu(time)") + "    return x + block.conv2(F.silu(block.norm2(h + shift)))", "stopped with"),
    ],
}
