"""Wrong answers to the exercises of notebook 09, image-to-image."""

WRONG = {
    "exercise_9_1": [
        ("def exercise_9_1(steps, strength):\n    return steps - int(steps * strength)", "left out"),
        ("def exercise_9_1(steps, strength):\n    return steps * strength", "Rounded down"),
        ("def exercise_9_1(steps, strength):\n    return round(steps * strength)", "rounded to the nearest"),
        ("def exercise_9_1(steps, strength):\n    return int(steps * strength + 0.5)", "rounded to the nearest"),
        ("def exercise_9_1(steps, strength):\n    return -int(-steps * strength // 1)", "rounded up"),
        ("def exercise_9_1(steps, strength):\n    return int(1000 * strength)", "count to 1000"),
    ],
    "exercise_9_2": [
        ("def exercise_9_2(z, noise, alphas_cumprod, t):\n"
         "    return alphas_cumprod[t] * z + (1 - alphas_cumprod[t]) * noise", "square roots"),
        ("def exercise_9_2(z, noise, alphas_cumprod, t):\n"
         "    return z + (1 - alphas_cumprod[t]) ** 0.5 * noise", "must shrink"),
        ("def exercise_9_2(z, noise, alphas_cumprod, t):\n"
         "    return (1 - alphas_cumprod[t]) ** 0.5 * z + alphas_cumprod[t] ** 0.5 * noise", "changed places"),
    ],
    "exercise_9_3": [
        ("def exercise_9_3(times, strength):\n    return times[:int(len(times) * strength)]", "noisiest ones"),
        ("def exercise_9_3(times, strength):\n    return times[int(len(times) * strength):]",
         "as many as should be run"),
        ("def exercise_9_3(times, strength):\n    return times[:len(times) - int(len(times) * strength)]",
         "left out"),
    ],
    "exercise_9_4": [
        ("def exercise_9_4(x0, noise, now, then):\n    return now ** 0.5 * x0 + (1 - now) ** 0.5 * noise",
         "stays at `now`"),
        ("def exercise_9_4(x0, noise, now, then):\n    return then ** 0.5 * x0 + (1 - now) ** 0.5 * noise",
         "the time at which the step arrives"),
        ("def exercise_9_4(x0, noise, now, then):\n    return then * x0 + (1 - then) * noise", "square roots"),
        ("def exercise_9_4(x0, noise, now, then):\n    return (1 - then) ** 0.5 * x0 + then ** 0.5 * noise",
         "changed places"),
        ("def exercise_9_4(x0, noise, now, then):\n    x = now ** 0.5 * x0 + (1 - now) ** 0.5 * noise\n"
         "    share = then / now\n    return share ** 0.5 * x + (1 - share) ** 0.5 * noise", "a step of notebook 01"),
    ],
}
