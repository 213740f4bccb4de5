"""Wrong answers to the exercises of notebook 02, DDPM."""

WRONG = {
    "exercise_2_1": [
        ("def exercise_2_1(x_t, noise, a):\n    return x_t - (1 - a) ** 0.5 * noise", "divided by √ᾱ"),
        ("def exercise_2_1(x_t, noise, a):\n    return (x_t - (1 - a) * noise) / a ** 0.5", "the square root"),
        ("def exercise_2_1(x_t, noise, a):\n    return (x_t - noise) / a ** 0.5", "full strength"),
    ],
    "exercise_2_2": [
        ("def exercise_2_2(x_t, x0, now, before):\n    return before ** 0.5 * x0", "forgets x_t"),
        ("def exercise_2_2(x_t, x0, now, before):\n    alpha = now / before\n"
         "    return (before ** 0.5 * (1 - alpha) * x0 + alpha * (1 - before) * x_t) / (1 - now)", "comes with √α"),
        ("def exercise_2_2(x_t, x0, now, before):\n    alpha = now / before\n"
         "    return (now ** 0.5 * (1 - alpha) * x0 + alpha ** 0.5 * (1 - before) * x_t) / (1 - now)", "*earlier*"),
    ],
    "exercise_2_3": [
        ("def exercise_2_3(now, before):\n    return 1 - now / before", "That is β"),
        ("def exercise_2_3(now, before):\n"
         "    return ((1 - now / before) * (1 - before) / (1 - now)) ** 0.5", "standard deviation"),
        ("def exercise_2_3(now, before):\n    return (1 - now / before) * (1 - now) / (1 - before)", "upside down"),
    ],
    "exercise_2_4": [
        ("def exercise_2_4(x_t, data, a):\n"
         "    return torch.softmax(-((x_t - data) ** 2).sum(1) / (2 * (1 - a)), 0)", "scale the data first"),
        ("def exercise_2_4(x_t, data, a):\n"
         "    return torch.exp(-((x_t - a ** 0.5 * data) ** 2).sum(1) / (2 * (1 - a)))", "add up to 1"),
        ("def exercise_2_4(x_t, data, a):\n"
         "    return torch.softmax(-((x_t - a ** 0.5 * data) ** 2).sum(1) / (1 - a), 0)", "*twice* the variance"),
    ],
}
