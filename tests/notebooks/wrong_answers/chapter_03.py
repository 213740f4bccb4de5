"""Wrong answers to the exercises of notebook 03, samplers."""

WRONG = {
    "exercise_3_1": [
        ("def exercise_3_1(x, sigma, sigma_next, denoised):\n"
         "    return x + (sigma - sigma_next) * (x - denoised) / sigma", "uphill"),
        ("def exercise_3_1(x, sigma, sigma_next, denoised):\n"
         "    return x + (sigma_next - sigma) * (x - denoised)", "left out the division"),
        ("def exercise_3_1(x, sigma, sigma_next, denoised):\n    return denoised", "the jump to the end"),
    ],
    "exercise_3_2": [
        ("def exercise_3_2(x_t, noise, now, before):\n    return (x_t - (1 - now) ** 0.5 * noise) / now ** 0.5",
         "stops at x0"),
        ("def exercise_3_2(x_t, noise, now, before):\n    x0 = (x_t - (1 - now) ** 0.5 * noise) / now ** 0.5\n"
         "    return before ** 0.5 * x0 + (1 - now) ** 0.5 * noise", "there is less of it now"),
    ],
    "exercise_3_3": [
        ("def exercise_3_3(steps, offset):\n    return list(range(offset, 1000, 1000 // steps))[:steps]",
         "from clean to noisy"),
        ("def exercise_3_3(steps, offset):\n    return [k * (1000 // steps) for k in range(steps - 1, -1, -1)]",
         "offset is missing"),
        ("def exercise_3_3(steps, offset):\n    return [999 - k * 999 / (steps - 1) for k in range(steps)]",
         "linspace"),
    ],
    "exercise_3_4": [
        ("def exercise_3_4(sigma_max, sigma_min, steps):\n    return torch.linspace(sigma_max, sigma_min, steps)",
         "heavy noise"),
        ("def exercise_3_4(sigma_max, sigma_min, steps):\n"
         "    return torch.linspace(sigma_max ** (1 / 7), sigma_min ** (1 / 7), steps)", "raise to the power"),
    ],
}
