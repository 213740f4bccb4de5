"""Wrong answers to the exercises of notebook 03, samplers."""

DDIM = """def exercise_3_2(x_t, noise, fresh, now, before, eta):
    variance = eta ** 2 * (1 - now / before) * (1 - before) / (1 - now)
    x0 = (x_t - (1 - now) ** 0.5 * noise) / now ** 0.5
    return before ** 0.5 * x0 + (1 - before - variance) ** 0.5 * noise + variance ** 0.5 * fresh"""
MIDPOINT = """def exercise_3_5(slope, x, sigmas):
    for now, after in zip(sigmas, sigmas[1:]):
        middle = x + (after - now) / 2 * slope(x, now)
        x = x + (after - now) * slope(middle, (now + after) / 2)
    return x"""

WRONG = {
    "exercise_3_1": [
        ("def exercise_3_1(x, sigma, sigma_next, denoised):\n"
         "    return x + (sigma - sigma_next) * (x - denoised) / sigma", "uphill"),
        ("def exercise_3_1(x, sigma, sigma_next, denoised):\n"
         "    return x + (sigma_next - sigma) * (x - denoised)", "left out the division"),
        ("def exercise_3_1(x, sigma, sigma_next, denoised):\n    return denoised", "the jump to the end"),
    ],
    "exercise_3_2": [
        (DDIM.replace("- variance) ** 0.5 * noise", ") ** 0.5 * noise"), "gives no room"),
        (DDIM.replace("variance ** 0.5 * fresh", "variance * fresh"), "standard deviation"),
        (DDIM.replace("eta ** 2 *", "eta *"), "you have η"),
        (DDIM.replace("eta ** 2 *", "0 *"), "no dice"),
        (DDIM.replace("before ** 0.5 * x0", "now ** 0.5 * x0"), "not with √ᾱ_now"),
        (DDIM.replace("(1 - before - variance) ** 0.5", "((1 - before) ** 0.5 - variance ** 0.5)"),
         "*Variances* add up"),
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
    "exercise_3_5": [
        (MIDPOINT.replace("slope(middle, (now + after) / 2)", "slope(x, now)"), "That is Euler"),
        (MIDPOINT.replace("slope(middle,", "slope(x,"), "with the x of the beginning"),
        (MIDPOINT.replace("slope(middle, (now + after) / 2)", "slope(middle, now)"), "the middle σ, too"),
        (MIDPOINT.replace("x = x + (after - now) * slope", "x = middle + (after - now) / 2 * slope"),
         "two half steps of Euler"),
        (MIDPOINT.replace("x = x + (after - now) * slope", "x = middle + (after - now) * slope"), "too far"),
        (MIDPOINT.replace("middle = x + (after - now) / 2 *", "middle = x + (after - now) *")
         .replace("slope(middle, (now + after) / 2)", "(slope(x, now) + slope(middle, after)) / 2"), "That is Heun"),
    ],
}
