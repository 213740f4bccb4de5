"""Wrong answers to the exercises of notebook 02, DDPM."""

SAMPLER = """def exercise_2_5(predict, alphas_cumprod, times, dice):
    x = dice[0]
    for k, t in enumerate(times):
        now = alphas_cumprod[t]
        before = alphas_cumprod[times[k + 1]] if k + 1 < len(times) else torch.tensor(1.0)
        noise = predict(x, t)
        x0 = (x - (1 - now).sqrt() * noise) / now.sqrt()
        alpha = now / before
        x = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * x) / (1 - now)
        x = x + ((1 - alpha) * (1 - before) / (1 - now)).sqrt() * dice[k + 1]
    return x"""
LAST_LINE = "        x = x + ((1 - alpha) * (1 - before) / (1 - now)).sqrt() * dice[k + 1]\n"

WRONG = {
    "exercise_2_1": [
        ("def exercise_2_1(x_t, noise, a):\n    return x_t - (1 - a) ** 0.5 * noise", "divided by √ᾱ"),
        ("def exercise_2_1(x_t, noise, a):\n    return (x_t - (1 - a) * noise) / a ** 0.5", "the square root"),
        ("def exercise_2_1(x_t, noise, a):\n    return (x_t - noise) / a ** 0.5", "full strength"),
    ],
    "exercise_2_2": [
        ("def exercise_2_2(x_t, noise, now, before):\n    alpha = now / before\n    return (before ** 0.5 * (1 - alpha)"
         " * noise + alpha ** 0.5 * (1 - before) * x_t) / (1 - now)", "First make x0 of it"),
        ("def exercise_2_2(x_t, noise, now, before):\n    alpha = now / before\n"
         "    return x_t - (1 - alpha) / (1 - now) ** 0.5 * noise", "divided by √α"),
        ("def exercise_2_2(x_t, noise, now, before):\n    alpha = now / before\n"
         "    return (x_t - (1 - alpha) / (1 - before) ** 0.5 * noise) / alpha ** 0.5", "of the other time"),
        ("def exercise_2_2(x_t, noise, now, before):\n    alpha = now / before\n"
         "    return (x_t - (1 - alpha) / (1 - now) * noise) / alpha ** 0.5", "in the denominator"),
        ("def exercise_2_2(x_t, noise, now, before):\n    alpha = now / before\n"
         "    return (x_t - (1 - alpha) ** 0.5 * noise) / alpha ** 0.5", "as if this step's noise"),
    ],
    "exercise_2_3": [
        ("def exercise_2_3(now, before):\n    return (1 - before) ** 0.5", "fresh noise finds room"),
        ("def exercise_2_3(now, before):\n"
         "    return ((1 - now / before) * (1 - before) / (1 - now)) ** 0.5", "the *fresh* noise"),
        ("def exercise_2_3(now, before):\n    return (now / before) ** 0.5 * (1 - before) / (1 - now)",
         "the weight of x_t"),
        ("def exercise_2_3(now, before):\n    return (1 - before) / (1 - now) ** 0.5", "√α is missing"),
    ],
    "exercise_2_4": [
        ("def exercise_2_4(x_t, data, a):\n    d = ((x_t - a ** 0.5 * data) ** 2).sum(1)\n"
         "    return torch.softmax(-d / (2 * (1 - a)), 0) @ data", "Which noise does it mean?"),
        ("def exercise_2_4(x_t, data, a):\n    d = ((x_t - data) ** 2).sum(1)\n    x0 = torch.softmax(-d / (2 * (1 - "
         "a)), 0) @ data\n    return (x_t - a ** 0.5 * x0) / (1 - a) ** 0.5", "scale the data"),
        ("def exercise_2_4(x_t, data, a):\n    d = ((x_t - a ** 0.5 * data) ** 2).sum(1)\n    x0 = torch.softmax(-d / "
         "(1 - a), 0) @ data\n    return (x_t - a ** 0.5 * x0) / (1 - a) ** 0.5", "*twice* the variance"),
        ("def exercise_2_4(x_t, data, a):\n    d = ((x_t - a ** 0.5 * data) ** 2).sum(1)\n"
         "    return (x_t - a ** 0.5 * data[d.argmin()]) / (1 - a) ** 0.5", "have a vote"),
    ],
    "exercise_2_5": [
        (SAMPLER.replace(LAST_LINE, ""), "No fresh noise"),
        (SAMPLER.replace(".sqrt() * dice", " * dice"), "standard deviation"),
        (SAMPLER.replace("dice[k + 1]", "dice[k]"), "dice[0] is what you begin with"),
        (SAMPLER.replace("enumerate(times)", "enumerate(times[:-1])"), "One step more"),
        (SAMPLER.replace("predict(x, t)", "predict(x, times[k + 1] if k + 1 < len(times) else 0)"), "where x is"),
    ],
}
