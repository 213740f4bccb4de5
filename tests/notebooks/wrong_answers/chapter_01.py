"""Answers to the exercises of notebook 01, noise."""

TIME = """def exercise_1_1(sigma, alphas_cumprod):
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5
    return int((sigmas < sigma).sum())"""
MERGED = "def exercise_1_2(betas, k):\n    return "
JUMP = "def exercise_1_3(x_s, noise, a, b):\n    return "
BETAS = """def exercise_1_4(alphas_cumprod):
    before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before"""
STRETCHED = """def exercise_1_5(betas):
    a = torch.cumprod(1 - betas, 0).sqrt()
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    a = a ** 2
    return 1 - a / torch.cat([torch.ones(1), a[:-1]])"""

WRONG = {
    "exercise_1_1": [
        (TIME.replace(".sum())", ".sum()) - 1"), "One too early"),
        (TIME.replace(".sum())", ".sum()) + 1"), "One too late"),
        (TIME.replace(" ** 0.5", ""), "a standard deviation"),
        (TIME.replace("((1 - alphas_cumprod) / alphas_cumprod)", "(1 - alphas_cumprod)"), "divide by √ᾱ"),
        (TIME.replace("(sigmas < sigma).sum()", "(sigmas >= sigma).sum()"), "to the noisy end"),
        (TIME.replace("int((sigmas < sigma).sum())", "sigmas[(sigmas < sigma).sum()]"), "What is asked for is t"),
        (TIME.replace("int((sigmas < sigma).sum())", "(sigmas - sigma).abs().argmin()"), "nearest"),
        ("def exercise_1_1(sigma, a):\n    snr = a / (1 - a)\n    return int((snr < sigma).int().argmax())",
         "compared with the SNR"),
        ("def exercise_1_1(sigma, a):\n    return undefined", "stopped with NameError"),
    ],
    "exercise_1_2": [
        (MERGED + "betas.view(-1, k).sum(1)", "add up nearly"),
        (MERGED + "(1 - betas).view(-1, k).prod(1)", "You have what is left"),
        (MERGED + "betas.view(-1, k).prod(1)", "says nothing"),
        (MERGED + "betas[k - 1::k]", "much less noise"),
        (MERGED + "betas[::k]", "leaves steps out"),
        (MERGED + "betas.view(-1, k).mean(1)", "one small step"),
        (MERGED + "1 - (1 - betas[::k]) ** k", "the same step"),
        (MERGED + "1 - torch.sqrt(1 - betas).view(-1, k).prod(1)", "no square roots here"),
        (MERGED + "torch.cumprod(1 - betas, 0)[k - 1::k]", "Those are the ᾱ"),
        (MERGED + "1 - (1 - betas).view(k, -1).prod(0)", "do not follow one another"),
    ],
    "exercise_1_3": [
        (JUMP + "b**0.5 * x_s + (1 - b) ** 0.5 * noise", "the leap from the clean picture"),
        (JUMP + "(b / a)**0.5 * x_s + (1 - b) ** 0.5 * noise", "too much"),
        (JUMP + "(b / a)**0.5 * x_s + (a - b) ** 0.5 * noise", "too little"),
        (JUMP + "b / a * x_s + (1 - b / a) * noise", "square roots"),
        (JUMP + "(1 - a + b)**0.5 * x_s + (a - b) ** 0.5 * noise", "not a difference"),
        (JUMP + "(b / a)**0.5 * x_s + (1 - (b / a)**0.5) * noise", "which is not 1-√"),
        (JUMP + "(b / a)**0.5 * noise + (1 - b / a)**0.5 * x_s", "changed places"),
        (JUMP + "(b / a).sqrt() * x_s + (1 - b / a).sqrt() * noise", "write number ** 0.5"),
        (JUMP + "(x_s + noise)[0]", "shape (2, 3, 8, 8)"),
    ],
    "exercise_1_4": [
        ("def exercise_1_4(alphas_cumprod):\n    return 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]",
         "One β is missing"),
        (BETAS.replace("1 - alphas_cumprod / before", "alphas_cumprod / before"), "missing from it to 1"),
        ("def exercise_1_4(alphas_cumprod):\n"
         "    return -torch.diff(alphas_cumprod, prepend=torch.ones(1))", "not the difference"),
        (BETAS.replace("alphas_cumprod / before", "(alphas_cumprod / before) ** 0.5"), "under no root"),
        ("def exercise_1_4(alphas_cumprod):\n    return 1 - alphas_cumprod", "all steps up to t together"),
        (BETAS.replace("torch.ones(1)", "alphas_cumprod[:1]"), "the first β is 1-ᾱ_0"),
        (BETAS.replace("1 - alphas_cumprod / before", "before / alphas_cumprod - 1"), "upside down"),
        (BETAS.replace("1 - alphas_cumprod / before", "(1 - alphas_cumprod / before).roll(-1)"), "Shifted by one"),
    ],
    "exercise_1_5": [
        ("def exercise_1_5(betas):\n    betas = betas.clone()\n    betas[-1] = 1\n    return betas", "with a jump"),
        (STRETCHED.replace(" * a[0] / (a[0] - a[-1])", ""), "the beginning has moved"),
        (STRETCHED.replace(".sqrt()", "").replace("    a = a ** 2\n", ""), "You stretched ᾱ"),
        (STRETCHED.replace("    a = a ** 2\n    return 1 - a / torch.cat([torch.ones(1), a[:-1]])", "    return a"),
         "the stretched √ᾱ"),
        (STRETCHED.replace("return 1 - a / torch.cat([torch.ones(1), a[:-1]])", "return a"), "the stretched ᾱ"),
        (STRETCHED.replace("    a = a ** 2\n", ""), "Square it first"),
        (STRETCHED.replace(" * a[0] / (a[0]", " / (a[0]"), "you divided only"),
        ("def exercise_1_5(betas):\n    a = torch.linspace(float(1 - betas[0]) ** 0.5, 0, 1000) ** 2\n"
         "    return 1 - a / torch.cat([torch.ones(1), a[:-1]])", "straight stretch"),
    ],
}

RIGHT = {
    "exercise_1_1": [
        ("def exercise_1_1(sigma, alphas_cumprod):  # by ᾱ itself\n"
         "    return (alphas_cumprod <= 1 / (1 + sigma**2)).int().argmax()"),
        ("def exercise_1_1(sigma, alphas_cumprod):\n    for t, a in enumerate(alphas_cumprod.tolist()):\n"
         "        if ((1 - a) / a) ** 0.5 >= sigma:\n            return t"),
        ("import numpy as np\ndef exercise_1_1(sigma, alphas_cumprod):\n    a = alphas_cumprod.double().numpy()\n"
         "    return np.searchsorted(np.sqrt(1 / a - 1), sigma)"),
        ("def exercise_1_1(sigma, alphas_cumprod):\n    snr = alphas_cumprod / (1 - alphas_cumprod)\n"
         "    return torch.nonzero(snr <= sigma ** -2)[0, 0]"),
    ],
    "exercise_1_2": [
        ("def exercise_1_2(betas, k):\n    ends = torch.cumprod(1 - betas.double(), 0)[k - 1::k]\n"
         "    return 1 - ends / torch.cat([torch.ones(1), ends[:-1]])"),
        MERGED + "1 - torch.exp(torch.log1p(-betas.double()).view(-1, k).sum(dim=1))",
        ("import math\ndef exercise_1_2(betas, k):\n    left = (1 - betas).tolist()\n"
         "    return [1 - math.prod(left[i:i + k]) for i in range(0, len(left), k)]"),
        ("def exercise_1_2(betas, k):  # step by step\n    large = torch.zeros(len(betas) // k)\n"
         "    for j in range(k):\n        large = large + (1 - large) * betas[j::k]\n    return large"),
    ],
    "exercise_1_3": [
        ("import math\ndef exercise_1_3(x_s, noise, a, b):\n"
         "    return math.sqrt(b / a) * x_s + math.sqrt((a - b) / a) * noise"),
        ("def exercise_1_3(x_s, noise, a, b):  # by way of the other parameterisation\n"
         "    more = (1 - b) / b - (1 - a) / a\n    return b ** 0.5 * (x_s / a ** 0.5 + more ** 0.5 * noise)"),
        ("def exercise_1_3(x_s, noise, a, b):\n    alpha = torch.tensor(b) / torch.tensor(a)\n"
         "    return alpha.sqrt() * x_s + (1 - alpha).sqrt() * noise"),
        ("import numpy as np\ndef exercise_1_3(x_s, noise, a, b):  # a right triangle\n"
         "    angle = np.arccos(np.sqrt(b / a))\n"
         "    return np.cos(angle) * x_s.numpy() + np.sin(angle) * noise.numpy()"),
    ],
    "exercise_1_4": [
        ("def exercise_1_4(alphas_cumprod):\n    ratio = alphas_cumprod.clone()\n"
         "    ratio[1:] /= alphas_cumprod[:-1]\n    return 1 - ratio"),
        ("def exercise_1_4(alphas_cumprod):\n    logs = alphas_cumprod.double().log()\n"
         "    return -torch.expm1(torch.diff(logs, prepend=torch.zeros(1)))"),
        ("def exercise_1_4(alphas_cumprod):\n    left, found = 1.0, []\n    for a in alphas_cumprod.tolist():\n"
         "        found.append(1 - a / left)\n        left = a\n    return found"),
        ("import numpy as np\ndef exercise_1_4(alphas_cumprod):\n    a = np.append(1.0, alphas_cumprod.numpy())\n"
         "    return -np.diff(a) / a[:-1]"),
    ],
    "exercise_1_5": [
        STRETCHED,
        ("def exercise_1_5(betas):  # two equations for scale and shift\n"
         "    a = torch.cumprod(1 - betas, 0).double().sqrt()\n    scale = a[0] / (a[0] - a[-1])\n"
         "    a = (scale * a - scale * a[-1]).clamp(min=0) ** 2\n"
         "    return 1 - torch.cat([a[:1], a[1:] / a[:-1]])"),
        ("from minisd.schedulers import schedule\ndef exercise_1_5(betas):\n"
         "    return schedule.zero_terminal_snr(betas)"),
        ("import numpy as np\ndef exercise_1_5(betas):\n    a = np.sqrt(np.cumprod(1 - betas.numpy()))\n"
         "    a = np.interp(a, [a[-1], a[0]], [0, a[0]]) ** 2\n    return 1 - a / np.append(1, a[:-1])"),
    ],
}
