"""Wrong answers to the exercises of notebook 01, noise."""

WRONG = {
    "exercise_1_1": [
        ("def exercise_1_1(x0, noise, alpha_cumprod):\n    return alpha_cumprod * x0 + (1 - alpha_cumprod) * noise",
         "square roots"),
        ("def exercise_1_1(x0, noise, alpha_cumprod):\n"
         "    return (1 - alpha_cumprod) ** 0.5 * x0 + alpha_cumprod ** 0.5 * noise", "changed places"),
        ("def exercise_1_1(x0, noise, alpha_cumprod):\n    return alpha_cumprod ** 0.5 * x0 + noise", "not scaled"),
        ("def exercise_1_1(x0, noise, alpha_cumprod):\n    return (x0 + noise)[0]", "shape (2, 3, 8, 8)"),
        ("def exercise_1_1(x0, noise, alpha_cumprod):\n    return x0 * undefined", "stopped with NameError"),
    ],
    "exercise_1_2": [
        ("def exercise_1_2(sigma):\n    return 1 / (sigma + 1)", "square it"),
        ("def exercise_1_2(sigma):\n    return sigma ** 2 / (1 + sigma ** 2)", "share of the noise"),
        ("def exercise_1_2(sigma):\n    return 1 / sigma ** 2", "signal-to-noise"),
    ],
    "exercise_1_3": [
        ("def exercise_1_3(x_s, noise, a, b):\n    return b**0.5 * x_s + (1 - b) ** 0.5 * noise",
         "the leap from the clean picture"),
        ("def exercise_1_3(x_s, noise, a, b):\n    return (b / a)**0.5 * x_s + (1 - b) ** 0.5 * noise", "too much"),
        ("def exercise_1_3(x_s, noise, a, b):\n    return (b / a)**0.5 * x_s + (a - b) ** 0.5 * noise", "too little"),
        ("def exercise_1_3(x_s, noise, a, b):\n    return b / a * x_s + (1 - b / a) * noise", "square roots"),
    ],
    "exercise_1_4": [
        ("def exercise_1_4(alphas_cumprod):\n    return 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]",
         "One β is missing"),
        ("def exercise_1_4(alphas_cumprod):\n"
         "    before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])\n    return alphas_cumprod / before",
         "missing from it to 1"),
        ("def exercise_1_4(alphas_cumprod):\n"
         "    return -torch.diff(alphas_cumprod, prepend=torch.ones(1))", "not the difference"),
    ],
    "exercise_1_5": [
        ("def exercise_1_5(betas):\n    betas = betas.clone()\n    betas[-1] = 1\n    return betas", "with a jump"),
        ("def exercise_1_5(betas):\n    a = torch.cumprod(1 - betas, 0).sqrt()\n    a = (a - a[-1]) ** 2\n"
         "    return 1 - a / torch.cat([torch.ones(1), a[:-1]])", "the beginning has moved"),
        ("def exercise_1_5(betas):\n    a = torch.cumprod(1 - betas, 0)\n    a = (a - a[-1]) * a[0] / (a[0] - a[-1])\n"
         "    return 1 - a / torch.cat([torch.ones(1), a[:-1]])", "You stretched ᾱ"),
    ],
}
