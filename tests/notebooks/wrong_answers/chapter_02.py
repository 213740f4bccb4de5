"""Answers to the exercises of notebook 02, DDPM."""

PIXELS = "def exercise_2_1(x_t, a):\n    return "
MEAN = """def exercise_2_2(x_t, noise, now, before):
    alpha = now / before
    x0 = (x_t - (1 - now) ** 0.5 * noise) / now ** 0.5
    return (before ** 0.5 * (1 - alpha) * x0 + alpha ** 0.5 * (1 - before) * x_t) / (1 - now)"""
OLD = "def exercise_2_3(now, before):\n    return "
NOISE = """def exercise_2_4(x_t, data, a):
    d = ((x_t - a ** 0.5 * data) ** 2).sum(1)
    x0 = torch.softmax(-d / (2 * (1 - a)), 0) @ data
    return (x_t - a ** 0.5 * x0) / (1 - a) ** 0.5"""

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
        (PIXELS + "torch.where(x_t > 0, 1.0, -1.0)", "the winner alone"),
        (PIXELS + "1 / (1 + torch.exp(-2 * a ** 0.5 * x_t / (1 - a)))", "how likely white is"),
        (PIXELS + "torch.tanh(2 * a ** 0.5 * x_t / (1 - a))", "*twice* the variance"),
        (PIXELS + "torch.tanh(a ** 0.5 * x_t / (2 * (1 - a)))", "another factor"),
        (PIXELS + "torch.tanh(x_t / (1 - a))", "was shrunk"),
        (PIXELS + "torch.tanh(a * x_t / (1 - a))", "not by ᾱ"),
        (PIXELS + "torch.tanh(a ** 0.5 * x_t / (1 - a) ** 0.5)", "divided by its root"),
        (PIXELS + "torch.tanh(a ** 0.5 * x_t)", "1-ᾱ is missing"),
        (PIXELS + "x_t / a ** 0.5", "let the two vote"),
        (PIXELS + "torch.tanh(a.sqrt() * x_t / (1 - a))", "write number ** 0.5"),
        (PIXELS + "torch.tanh(torch.sqrt(a) * x_t / (1 - a))", "takes tensors only"),
    ],
    "exercise_2_2": [
        ("def exercise_2_2(x_t, noise, now, before):\n    alpha = now / before\n    return (before ** 0.5 * (1 - alpha)"
         " * noise + alpha ** 0.5 * (1 - before) * x_t) / (1 - now)", "First make x0 of it"),
        (MEAN.replace(" / now ** 0.5", ""), "must be divided by √ᾱ_now"),
        (MEAN.replace("(before ** 0.5 * (1", "(now ** 0.5 * (1"), "of the time where the step ends"),
        (MEAN.replace("(before ** 0.5 * (1", "(before * (1"), "Before x0 stands √ᾱ_before; the square root is missing"),
        (MEAN.replace("(1 - now) ** 0.5 * noise", "(1 - now) * noise"), "In x0 the noise has the weight √(1-ᾱ_now)"),
        (MEAN.replace("(1 - now) ** 0.5 * noise) / now ** 0.5", "(1 - alpha) ** 0.5 * noise) / alpha ** 0.5"),
         "the share of a single step"),
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
        (OLD + "(1 - before) ** 0.5", "fresh noise finds room"),
        (OLD + "((1 - now / before) * (1 - before) / (1 - now)) ** 0.5", "the *fresh* noise"),
        (OLD + "(now / before) ** 0.5 * (1 - before) / (1 - now)", "the weight of x_t"),
        (OLD + "(1 - before) / (1 - now) ** 0.5", "√α is missing"),
        (OLD + "now / before * (1 - before) ** 2 / (1 - now)", "That is c²"),
        (OLD + "now / before * (1 - before) / (1 - now) ** 0.5", "you have α itself"),
        (OLD + "(1 - before) ** 0.5 - ((1 - now / before) * (1 - before) / (1 - now)) ** 0.5", "*Variances* add up"),
    ],
    "exercise_2_4": [
        ("def exercise_2_4(x_t, data, a):\n    d = ((x_t - a ** 0.5 * data) ** 2).sum(1)\n"
         "    return torch.softmax(-d / (2 * (1 - a)), 0) @ data", "Which noise does it mean?"),
        (NOISE.replace("(x_t - a ** 0.5 * data)", "(x_t - data)"), "scale the data"),
        (NOISE.replace("(x_t - a ** 0.5 * data)", "(x_t - a * data)"), "√ᾱ, not ᾱ"),
        (NOISE.replace("(2 * (1 - a))", "(1 - a)"), "*twice* the variance"),
        (NOISE.replace("sum(1)", "sum(1) ** 0.5"), "must be squared"),
        (NOISE.replace("torch.softmax(-d / (2 * (1 - a)), 0) @ data", "data[d.argmin()]"), "have a vote"),
        (NOISE.replace("a ** 0.5 * x0", "x0"), "comes off x_t with its weight"),
        (NOISE.replace("(x_t - a ** 0.5 * x0) / (1 - a) ** 0.5", "x_t - a ** 0.5 * x0"), "divide by that"),
        (NOISE.replace("(1 - a) ** 0.5", "(1 - a)"), "divide by its root"),
    ],
    "exercise_2_5": [
        (SAMPLER.replace(LAST_LINE, ""), "No fresh noise"),
        (SAMPLER.replace(".sqrt() * dice", " * dice"), "standard deviation"),
        (SAMPLER.replace("dice[k + 1]", "dice[k]"), "dice[0] is what you begin with"),
        (SAMPLER.replace("enumerate(times)", "enumerate(times[:-1])"), "One step more"),
        (SAMPLER.replace("predict(x, t)", "predict(x, times[k + 1] if k + 1 < len(times) else 0)"), "where x is"),
        (SAMPLER.replace(" / now.sqrt()", ""), "must be divided by √ᾱ_now"),
        (SAMPLER.replace("(1 - now).sqrt() * noise", "(1 - now) * noise"), "the square root is missing"),
        (SAMPLER.replace("(before.sqrt() * (1", "(now.sqrt() * (1"), "section 7's bug"),
        (SAMPLER.replace("(1 - alpha) * (1 - before) / (1 - now)).sqrt()", "1 - alpha).sqrt()"), "β is not"),
    ],
}

RIGHT = {
    "exercise_2_1": [
        (PIXELS + "2 * torch.sigmoid(2 * a ** 0.5 * x_t / (1 - a)) - 1"),
        ("def exercise_2_1(x_t, a):  # the vote of section 2\n    voters = torch.tensor([-1.0, 1.0])\n"
         "    distances = (x_t[..., None] - a ** 0.5 * voters) ** 2\n"
         "    return (-distances / (2 * (1 - a))).softmax(dim=-1) @ voters"),
        ("import numpy as np\ndef exercise_2_1(x_t, a):  # the score\n    x = x_t.double().numpy()\n"
         "    p = [np.exp(-(x - s * a**0.5) ** 2 / (2 * (1 - a))) for s in (-1, 1)]\n"
         "    return (p[1] - p[0]) / (p[0] + p[1])"),
        ("import math\ndef exercise_2_1(x_t, a):\n    k = math.sqrt(a) / (1 - a)\n"
         "    return torch.tensor([[math.tanh(k * v) for v in row] for row in x_t.tolist()])"),
    ],
    "exercise_2_2": [
        MEAN,
        ("def exercise_2_2(x_t, noise, now, before):  # new picture, and what is left of the old noise\n"
         "    x0 = (x_t - (1 - now) ** 0.5 * noise) / now ** 0.5\n"
         "    return before ** 0.5 * x0 + (now / before) ** 0.5 * (1 - before) / (1 - now) ** 0.5 * noise"),
        ("def exercise_2_2(x_t, noise, now, before):\n    import math\n    beta = 1 - now / before\n"
         "    return (x_t - beta / math.sqrt(1 - now) * noise) / math.sqrt(1 - beta)"),
        ("def exercise_2_2(x_t, noise, now, before):  # two bells, multiplied\n    alpha = now / before\n"
         "    x0 = (x_t - (1 - now) ** 0.5 * noise) / now ** 0.5\n"
         "    one, two = 1 / (1 - before), alpha / (1 - alpha)\n"
         "    return (one * before ** 0.5 * x0 + two * x_t / alpha ** 0.5) / (one + two)"),
    ],
    "exercise_2_3": [
        OLD + "(1 - before - (1 - now / before) * (1 - before) / (1 - now)) ** 0.5  # what is due, less the fresh",
        OLD + "((1 - now) ** 0.5 - (1 - now / before) / (1 - now) ** 0.5) / (now / before) ** 0.5  # from 2.2",
        ("import math\ndef exercise_2_3(now, before):\n    now, before = torch.tensor([now, before]).double()\n"
         "    return torch.sqrt(now / before / (1 - now)) * (1 - before)"),
        ("import numpy as np\ndef exercise_2_3(now, before):  # the mean of a point at zero whose noise is one\n"
         "    x_t, alpha = np.sqrt(1 - now), now / before\n"
         "    return np.sqrt(alpha) * (1 - before) * x_t / (1 - now)"),
    ],
    "exercise_2_4": [
        ("def exercise_2_4(x_t, data, a):  # the mean of the noises themselves\n"
         "    noises = (x_t - a ** 0.5 * data) / (1 - a) ** 0.5\n"
         "    return torch.softmax(-noises.square().sum(dim=1) / 2, dim=0) @ noises"),
        ("def exercise_2_4(x_t, data, a):  # the gradient of log p\n    with torch.enable_grad():\n"
         "        x = x_t.clone().requires_grad_()\n"
         "        (-(x - a ** 0.5 * data).square().sum(1) / (2 * (1 - a))).logsumexp(0).backward()\n"
         "    return -(1 - a) ** 0.5 * x.grad"),
        ("def exercise_2_4(x_t, data, a):\n    d = torch.cdist(x_t[None].double(), a ** 0.5 * data.double())[0] ** 2\n"
         "    w = torch.exp(-(d - d.min()) / (2 * (1 - a)))\n    x0 = (w[:, None] * data).sum(0) / w.sum()\n"
         "    return (x_t - a ** 0.5 * x0) / (1 - a) ** 0.5"),
        ("import numpy as np\ndef exercise_2_4(x_t, data, a):  # distances left out that are common to all\n"
         "    x_t, data = x_t.double().numpy(), data.double().numpy()\n"
         "    score = (a ** 0.5 * data @ x_t - a / 2 * (data**2).sum(1)) / (1 - a)\n"
         "    w = np.exp(score - score.max())\n"
         "    return (x_t - a ** 0.5 * (w @ data) / w.sum()) / np.sqrt(1 - a)"),
    ],
    "exercise_2_5": [
        SAMPLER,
        ("def exercise_2_5(predict, alphas_cumprod, times, dice):  # equation 11 of DDPM\n    x, *dice = dice\n"
         "    for t, s, z in zip(times, [*times[1:], None], dice):\n        now = alphas_cumprod[t].item()\n"
         "        before = 1.0 if s is None else alphas_cumprod[s].item()\n        alpha = now / before\n"
         "        mean = (x - (1 - alpha) / (1 - now) ** 0.5 * predict(x, t)) / alpha ** 0.5\n"
         "        x = mean + ((1 - alpha) * (1 - before) / (1 - now)) ** 0.5 * z\n    return x"),
        ("def exercise_2_5(predict, alphas_cumprod, times, dice):  # DDIM with η = 1\n    x = dice[0]\n"
         "    levels = torch.cat([alphas_cumprod[times], torch.ones(1)])\n    for k, t in enumerate(times):\n"
         "        now, before, noise = levels[k], levels[k + 1], predict(x, t)\n"
         "        v = (1 - now / before) * (1 - before) / (1 - now)\n"
         "        x = before.sqrt() * (x - (1 - now).sqrt() * noise) / now.sqrt()\n"
         "        x = x + (1 - before - v).sqrt() * noise + v.sqrt() * dice[k + 1]\n    return x"),
        ("def exercise_2_5(predict, alphas_cumprod, times, dice):  # the last step is a jump\n    x = dice[0]\n"
         "    def clean(t):\n        a = alphas_cumprod[t]\n"
         "        return (x - (1 - a).sqrt() * predict(x, t)) / a.sqrt()\n"
         "    for k in range(len(times) - 1):\n        t, s = times[k:k + 2]\n"
         "        now, before = alphas_cumprod[t], alphas_cumprod[s]\n        alpha = now / before\n"
         "        x = ((before.sqrt() * (1 - alpha) * clean(t) + alpha.sqrt() * (1 - before) * x) / (1 - now)\n"
         "             + ((1 - alpha) * (1 - before) / (1 - now)).sqrt() * dice[k + 1])\n    return clean(times[-1])"),
    ],
}
