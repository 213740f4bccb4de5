"""Wrong answers to the exercises of notebook 10, inpainting."""

WRONG = {
    "exercise_10_1": [
        ("def exercise_10_1(painted, known, mask):\n    return torch.where(mask.bool(), known, painted)",
         "The other way round"),
        ("def exercise_10_1(painted, known, mask):\n    return known + mask * painted",
         "The known part must be multiplied"),
        ("def exercise_10_1(painted, known, mask):\n    return painted + (1 - mask) * known",
         "The painted part must be multiplied"),
    ],
    "exercise_10_2": [
        ("def exercise_10_2(noisy, small_mask, masked_latents):\n"
         "    return torch.cat([noisy, masked_latents, small_mask], dim=1)", "have changed places"),
        ("def exercise_10_2(noisy, small_mask, masked_latents):\n"
         "    return torch.cat([small_mask, masked_latents, noisy], dim=1)", "noisy latents come first"),
        ("def exercise_10_2(noisy, small_mask, masked_latents):\n"
         "    return torch.cat([noisy, small_mask, masked_latents])", "stopped with RuntimeError"),
    ],
    "exercise_10_3": [
        ("def exercise_10_3(mask, factor):\n"
         "    return torch.nn.functional.interpolate(mask, scale_factor=1 / factor)", "one pixel of each square"),
        ("def exercise_10_3(mask, factor):\n"
         "    return torch.nn.functional.avg_pool2d(mask, factor)", "the share of white pixels"),
        ("def exercise_10_3(mask, factor):\n"
         "    return (torch.nn.functional.avg_pool2d(mask, factor) == 1).float()", "*all* pixels"),
    ],
    "exercise_10_4": [
        ("def exercise_10_4(answer, target, small_mask):\n"
         "    return ((answer - target) ** 2 * small_mask).mean()", "You divided by all places"),
        ("def exercise_10_4(answer, target, small_mask):\n"
         "    return ((answer - target) ** 2 * small_mask).sum() / small_mask.sum()", "sum over the channels"),
        ("def exercise_10_4(answer, target, small_mask):\n"
         "    return ((answer - target) ** 2).mean()", "counts the whole picture"),
        ("def exercise_10_4(answer, target, small_mask):\n"
         "    inside = small_mask.expand_as(answer).bool()\n"
         "    return (answer - target)[inside].square().mean().sqrt()", "the root of it"),
        ("def exercise_10_4(answer, target, small_mask):\n"
         "    inside = small_mask.expand_as(answer).bool()\n"
         "    return (answer - target)[inside].abs().mean()", "absolute differences"),
    ],
    "exercise_10_5": [
        ("def exercise_10_5(painted, original, mask, radius):\n"
         "    return torch.where(mask.bool(), painted, original)", "The edge is hard"),
        ("def exercise_10_5(painted, original, mask, radius):\n"
         "    side = 2 * radius + 1\n"
         "    soft = torch.nn.functional.avg_pool2d(mask, side, stride=1, padding=radius)\n"
         "    return soft * painted + (1 - soft) * original", "count_include_pad"),
        ("def exercise_10_5(painted, original, mask, radius):\n"
         "    side = 2 * radius + 1\n"
         "    soft = torch.nn.functional.avg_pool2d(mask, side, 1, radius, count_include_pad=False)\n"
         "    return soft * painted + (1 - mask) * original", "the *same* soft mask"),
    ],
}
