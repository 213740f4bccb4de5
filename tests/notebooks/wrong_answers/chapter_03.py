"""Answers to the exercises of notebook 03, samplers."""

RAISED = """def exercise_3_1(denoise, x, fresh, sigma, raised, sigma_next):
    x = x + (raised ** 2 - sigma ** 2) ** 0.5 * fresh
    slope = (x - denoise(x, raised)) / raised
    return x + (sigma_next - raised) * slope"""
DDIM = """def exercise_3_2(x_t, noise, fresh, now, before, eta):
    variance = eta ** 2 * (1 - now / before) * (1 - before) / (1 - now)
    x0 = (x_t - (1 - now) ** 0.5 * noise) / now ** 0.5
    return before ** 0.5 * x0 + (1 - before - variance) ** 0.5 * noise + variance ** 0.5 * fresh"""
LEADING = "def exercise_3_3(steps, offset):\n    return "
LINE = """def exercise_3_4(sigma_before, sigma, sigma_next):
    step, last = sigma_next - sigma, sigma - sigma_before
    return step * (1 + step / (2 * last)), -step * step / (2 * last)"""
MIDPOINT = """def exercise_3_5(slope, x, sigmas):
    for now, after in zip(sigmas, sigmas[1:]):
        middle = x + (after - now) / 2 * slope(x, now)
        x = x + (after - now) * slope(middle, (now + after) / 2)
    return x"""

WRONG = {
    "exercise_3_1": [
        (RAISED.replace("(raised ** 2 - sigma ** 2) ** 0.5", "(raised - sigma)"), "*Variances* add up"),
        (RAISED.replace("(raised ** 2 - sigma ** 2) ** 0.5", "(raised ** 2 - sigma ** 2)"), "its square root"),
        (RAISED.replace("(raised ** 2 - sigma ** 2) ** 0.5", "raised"), "on top"),
        (RAISED.replace("denoise(x, raised)", "denoise(x, sigma)"), "that there now is"),
        (RAISED.replace("sigma_next - raised", "sigma_next - sigma"), "its length is sigma_next - raised"),
        (RAISED.replace("/ raised", "/ sigma"), "divide by `raised`"),
        (RAISED.replace("(x - denoise(x, raised)) / raised", "x - denoise(x, raised)"), "the division is missing"),
        (RAISED.replace("sigma_next - raised", "raised - sigma_next"), "uphill"),
        ("def exercise_3_1(denoise, x, fresh, sigma, raised, sigma_next):\n"
         "    return x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma", "Euler's step without dice"),
        ("def exercise_3_1(denoise, x, fresh, sigma, raised, sigma_next):\n"
         "    return denoise(x + (raised ** 2 - sigma ** 2) ** 0.5 * fresh, raised)", "the jump to the end"),
    ],
    "exercise_3_2": [
        (DDIM.replace("- variance) ** 0.5 * noise", ") ** 0.5 * noise"), "gives no room"),
        (DDIM.replace("variance ** 0.5 * fresh", "variance * fresh"), "standard deviation"),
        (DDIM.replace("eta ** 2 *", "eta *"), "you have η"),
        (DDIM.replace("eta ** 2 *", "0 *"), "no dice"),
        (DDIM.replace("eta ** 2 *", ""), "That is DDPM"),
        (DDIM.replace("before ** 0.5 * x0", "now ** 0.5 * x0"), "not with √ᾱ_now"),
        (DDIM.replace("before ** 0.5 * x0", "before * x0"), "the square root is missing"),
        (DDIM.replace("(1 - before - variance) ** 0.5", "((1 - before) ** 0.5 - variance ** 0.5)"),
         "*Variances* add up"),
        (DDIM.replace("(1 - before - variance) ** 0.5 * noise + ", ""), "Where is the old noise?"),
    ],
    "exercise_3_3": [
        (LEADING + "list(range(offset, 1000, 1000 // steps))[:steps]", "from clean to noisy"),
        (LEADING + "[k * (1000 // steps) for k in range(steps - 1, -1, -1)]", "offset is missing"),
        (LEADING + "[999 - k * 999 / (steps - 1) for k in range(steps)]", "linspace"),
        (LEADING + "[round(1000 - k * 1000 / steps) - 1 for k in range(steps)]", "trailing"),
        (LEADING + "[k * 1000 / steps + offset for k in range(steps)][::-1]", "no whole number"),
        (LEADING + "[round(k * 1000 / steps) + offset for k in range(steps)][::-1]", "You rounded each time"),
        (LEADING + "[k * round(1000 / steps) + offset for k in range(steps)][::-1]", "rounded *down*"),
        (LEADING + "[1000 - (k + 1) * (1000 // steps) + offset for k in range(steps)]", "at the noisy end"),
    ],
    "exercise_3_4": [
        ("def exercise_3_4(before, now, after):\n    return 1.5 * (after - now), -0.5 * (after - now)",
         "for equal steps"),
        (LINE.replace("return step * (1 + step / (2 * last)), -step * step / (2 * last)",
                      "return -step * step / (2 * last), step * (1 + step / (2 * last))"), "wrong order"),
        (LINE.replace("2 * last", "last"), "in the *middle*"),
        (LINE.replace("return step * (1 + step / (2 * last)), -step * step / (2 * last)",
                      "return step * (1 + last / (2 * step)), -step * last / (2 * step)"), "upside down"),
        (LINE.replace("return step * (1 + step / (2 * last)), -step * step / (2 * last)",
                      "return 1 + step / (2 * last), -step / (2 * last)"), "Times the step's length"),
        (LINE.replace("sigma_next - sigma, sigma - sigma_before", "sigma - sigma_next, sigma_before - sigma"),
         "which is negative"),
        ("def exercise_3_4(before, now, after):\n    return after - now, 0", "remembers nothing"),
        ("def exercise_3_4(before, now, after):\n    return (after - now) / 2, (after - now) / 2", "Go on along"),
    ],
    "exercise_3_5": [
        (MIDPOINT.replace("slope(middle, (now + after) / 2)", "slope(x, now)"), "That is Euler"),
        (MIDPOINT.replace("slope(middle,", "slope(x,"), "with the x of the beginning"),
        (MIDPOINT.replace("slope(middle, (now + after) / 2)", "slope(middle, now)"), "the middle σ, too"),
        (MIDPOINT.replace("(after - now) / 2 *", "(after - now) *"), "a whole step to look"),
        (MIDPOINT.replace("x = x + (after - now) * slope", "x = middle + (after - now) / 2 * slope"),
         "two half steps of Euler"),
        (MIDPOINT.replace("x = x + (after - now) * slope", "x = middle + (after - now) * slope"), "too far"),
        (MIDPOINT.replace("middle = x + (after - now) / 2 *", "middle = x + (after - now) *")
         .replace("slope(middle, (now + after) / 2)", "(slope(x, now) + slope(middle, after)) / 2"), "That is Heun"),
        (MIDPOINT.replace("    return x", "        return x"), "the first step alone"),
    ],
}

RIGHT = {
    "exercise_3_1": [
        ("def exercise_3_1(denoise, x, fresh, sigma, raised, sigma_next):  # keeps the guess, shrinks the rest\n"
         "    x = x + fresh * (raised * raised - sigma * sigma) ** 0.5\n    x0 = denoise(x, raised)\n"
         "    return x0 + sigma_next / raised * (x - x0)"),
        ("import math\ndef exercise_3_1(denoise, x, fresh, sigma, raised, sigma_next):\n"
         "    x = torch.add(x, fresh, alpha=math.sqrt((raised - sigma) * (raised + sigma)))\n"
         "    return torch.lerp(denoise(x, raised), x, sigma_next / raised)"),
        ("def exercise_3_1(denoise, x, fresh, sigma, raised, sigma_next):  # in place, in double precision\n"
         "    x = x.double()\n    x += fresh * (raised**2 - sigma**2) ** 0.5\n"
         "    x -= (x - denoise(x, raised)) * (1 - sigma_next / raised)\n    return x"),
        ("def exercise_3_1(denoise, x, fresh, sigma, raised, sigma_next):\n"
         "    noisier = x + sigma * ((raised / sigma) ** 2 - 1) ** 0.5 * fresh\n"
         "    noise = (noisier - denoise(noisier, raised)) / raised\n"
         "    return (noisier - raised * noise + sigma_next * noise).numpy()"),
    ],
    "exercise_3_2": [
        ("import math\ndef exercise_3_2(x_t, noise, fresh, now, before, eta):\n"
         "    std = eta * math.sqrt((1 - before) / (1 - now)) * math.sqrt(1 - now / before)  # equation 16 of DDIM\n"
         "    x0 = (x_t - math.sqrt(1 - now) * noise) / math.sqrt(now)\n"
         "    return math.sqrt(before) * x0 + math.sqrt(1 - before - std * std) * noise + std * fresh"),
        ("def exercise_3_2(x_t, noise, fresh, now, before, eta):  # without x0\n    alpha = now / before\n"
         "    v = eta**2 * (1 - alpha) * (1 - before) / (1 - now)\n"
         "    keep = (1 - before - v) ** 0.5 - ((1 - now) / alpha) ** 0.5\n"
         "    return x_t / alpha**0.5 + keep * noise + v**0.5 * fresh"),
        ("def exercise_3_2(x_t, noise, fresh, now, before, eta):\n"
         "    now, before = torch.tensor([now, before], dtype=torch.float64)\n"
         "    v = eta**2 * (1 - now / before) * (1 - before) / (1 - now)\n"
         "    x0 = (x_t - (1 - now).sqrt() * noise) / now.sqrt()\n"
         "    return before.sqrt() * x0 + (1 - before - v).sqrt() * noise + v.sqrt() * fresh"),
        ("def exercise_3_2(x_t, noise, fresh, now, before, eta):\n"
         "    v = eta**2 * (1 - now / before) * (1 - before) / (1 - now)\n"
         "    weights = torch.tensor([before**0.5, (1 - before - v) ** 0.5, v**0.5])\n"
         "    x0 = x_t / now**0.5 - (1 / now - 1) ** 0.5 * noise\n"
         "    return torch.tensordot(weights, torch.stack([x0, noise, fresh]), 1)"),
    ],
    "exercise_3_3": [
        LEADING + "torch.arange(steps - 1, -1, -1) * (1000 // steps) + offset",
        ("import numpy as np\n" + LEADING + "(np.arange(steps) * (1000 // steps)).round()[::-1].astype(int) + offset"),
        LEADING + "range((steps - 1) * (1000 // steps) + offset, offset - 1, -(1000 // steps))",
        ("import math\n" + LEADING + "sorted((k * math.floor(1000 / steps) + offset for k in range(steps)), "
         "reverse=True)"),
    ],
    "exercise_3_4": [
        ("def exercise_3_4(before, now, after):  # the line's value in the middle, as weights\n"
         "    far = ((now + after) / 2 - before) / (now - before)\n"
         "    return [far * (after - now), (1 - far) * (after - now)]"),
        ("import numpy as np\ndef exercise_3_4(before, now, after):  # Lagrange, integrated\n    found = []\n"
         "    for k, other in ((now, before), (before, now)):\n"
         "        area = (np.poly1d([other], r=True) / (k - other)).integ()\n"
         "        found.append(area(after) - area(now))\n    return np.array(found)"),
        ("def exercise_3_4(before, now, after):  # right for every straight line: two equations\n"
         "    lines = torch.tensor([[1.0, 1.0], [now, before]], dtype=torch.float64)\n"
         "    areas = torch.tensor([after - now, (after**2 - now**2) / 2], dtype=torch.float64)\n"
         "    return torch.linalg.solve(lines, areas)"),
        ("def exercise_3_4(before, now, after):\n    old = (after - now) ** 2 / (before - now) / 2\n"
         "    return after - now - old, old"),
    ],
    "exercise_3_5": [
        ("def exercise_3_5(slope, x, sigmas):\n    sigmas = torch.tensor(sigmas)\n"
         "    for now, step in zip(sigmas[:-1], sigmas.diff()):\n"
         "        x = x + step * slope(x + step / 2 * slope(x, now), now + step / 2)\n    return x"),
        ("def exercise_3_5(slope, x, sigmas):  # one step, and the rest by itself\n    if len(sigmas) == 1:\n"
         "        return x\n    now, after = sigmas[:2]\n    half = x + 0.5 * (after - now) * slope(x, now)\n"
         "    return exercise_3_5(slope, x + (after - now) * slope(half, 0.5 * (now + after)), sigmas[1:])"),
        ("from functools import reduce\ndef exercise_3_5(slope, x, sigmas):\n    def step(x, pair):\n"
         "        now, after = pair\n        h = after - now\n"
         "        return x + h * slope(x + h / 2 * slope(x, now), now + h / 2)\n"
         "    return reduce(step, zip(sigmas, sigmas[1:]), x)"),
        ("def exercise_3_5(slope, x, sigmas):\n    sigmas = list(sigmas)\n    while len(sigmas) > 1:\n"
         "        now = sigmas.pop(0)\n        middle = (now + sigmas[0]) / 2\n"
         "        x += (sigmas[0] - now) * slope(x + (middle - now) * slope(x, now), middle)\n    return x.tolist()"),
    ],
}
