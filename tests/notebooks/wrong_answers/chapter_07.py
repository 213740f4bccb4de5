"""Wrong answers to the exercises of notebook 07, training."""

WRONG = {
    "exercise_7_1": [
        ("def exercise_7_1(x0, noise, a):\n    return (1 - a) ** 0.5 * x0 - a ** 0.5 * noise", "The sign is turned"),
        ("def exercise_7_1(x0, noise, a):\n    return (1 - a) ** 0.5 * noise - a ** 0.5 * x0", "changed places"),
        ("def exercise_7_1(x0, noise, a):\n    return noise", "ε-target"),
        ("def exercise_7_1(x0, noise, a):\n    return a ** 0.5 * x0 + (1 - a) ** 0.5 * noise", "x_t itself"),
    ],
    "exercise_7_2": [
        ("def exercise_7_2(alphas_cumprod, gamma):\n"
         "    return torch.clamp(alphas_cumprod / (1 - alphas_cumprod), max=gamma)", "weight for predicting x0"),
        ("def exercise_7_2(alphas_cumprod, gamma):\n    snr = alphas_cumprod / (1 - alphas_cumprod)\n"
         "    return torch.clamp(snr, max=gamma) / snr", "weight for predicting noise"),
        ("def exercise_7_2(alphas_cumprod, gamma):\n"
         "    return alphas_cumprod.clamp(max=gamma) / (alphas_cumprod + 1)", "You used ᾱ"),
        ("def exercise_7_2(alphas_cumprod, gamma):\n    snr = alphas_cumprod / (1 - alphas_cumprod)\n"
         "    return torch.clamp(snr, min=gamma) / (snr + 1)", "the *smaller*"),
    ],
    "exercise_7_3": [
        ("def exercise_7_3(average, weight, decay):\n    return (1 - decay) * average + decay * weight",
         "The other way round"),
        ("def exercise_7_3(average, weight, decay):\n    return (average + weight) / 2", "plain mean"),
        ("def exercise_7_3(average, weight, decay):\n    return decay * average + weight", "without end"),
    ],
    "exercise_7_4": [
        ("def exercise_7_4(context, empty, random, share):\n"
         "    return torch.where(random[:, None, None] < share, context, empty)", "Turned round"),
        ("def exercise_7_4(context, empty, random, share):\n"
         "    return context * (random >= share)[:, None, None]", "Zeros are not the empty caption"),
        ("def exercise_7_4(context, empty, random, share):\n    return context * (1 - share)", "a whole caption"),
    ],
    "exercise_7_5": [
        ("def exercise_7_5(gpus, gpu_hours):\n    return gpu_hours / gpus", "a day has 24"),
        ("def exercise_7_5(gpus, gpu_hours):\n    return gpu_hours * gpus / 24", "already those of all cards"),
        ("def exercise_7_5(gpus, gpu_hours):\n    return gpu_hours / 24", "at the same time"),
    ],
}
