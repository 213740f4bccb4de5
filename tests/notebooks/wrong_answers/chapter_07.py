"""Answers to the exercises of notebook 07, training: wrong ones with words of their hints, and unusual right ones."""

SNR = "def exercise_7_1(target, alphas_cumprod, gamma):\n    snr = alphas_cumprod / (1 - alphas_cumprod)\n"
KARRAS = "def exercise_7_2(sigma, sigma_data):\n"
STEPS = "def exercise_7_3(decay, share):\n"
MEAN = "def exercise_7_4(gradients, counts):\n"
ORTHOGONAL = "def exercise_7_5(gradient):\n"

WRONG = {
    "exercise_7_1": [
        (SNR + "    return snr.clamp(max=gamma) / (snr + 1)", "right for v only"),
        (SNR + "    w = torch.minimum(snr, torch.tensor(gamma))\n"
         "    return {'noise': w, 'x0': w / snr, 'v': w / (snr + 1)}[target]", "changed places"),
        (SNR.replace(" / (1 - alphas_cumprod)", "") + "    w = snr.clamp(max=gamma)\n"
         "    return w / snr if target == 'noise' else w if target == 'x0' else w / (1 + snr)", "You used ᾱ"),
        (SNR + "    snr = 1 / snr\n    w = snr.clamp(max=gamma)\n"
         "    return w / snr if target == 'noise' else w if target == 'x0' else w / (1 + snr)", "upside down"),
        (SNR + "    snr = snr.sqrt()\n    w = snr.clamp(max=gamma)\n"
         "    return w / snr if target == 'noise' else w if target == 'x0' else w / (1 + snr)", "you took the root"),
        (SNR + "    w = snr.clamp(min=gamma)\n"
         "    return w / snr if target == 'noise' else w if target == 'x0' else w / (1 + snr)", "the *smaller*"),
        (SNR + "    return {'noise': 1 + 0 * snr, 'x0': snr, 'v': snr / (snr + 1)}[target]", "γ has no effect"),
        (SNR + "    w = snr.clamp(max=gamma)\n"
         "    return w * snr if target == 'noise' else w if target == 'x0' else w * (1 + snr)", "wrong way round"),
    ],
    "exercise_7_2": [
        (KARRAS + "    return 1 / (1 + sigma ** 2), sigma / (1 + sigma ** 2) ** 0.5", "spread 1 only"),
        (KARRAS + "    total = sigma ** 2 + sigma_data ** 2\n"
         "    return sigma ** 2 / total, sigma * sigma_data / total.sqrt()", "the noise's share"),
        (KARRAS + "    return sigma_data / (sigma + sigma_data), sigma * sigma_data / (sigma + sigma_data)",
         "Variances add up"),
        (KARRAS + "    total = sigma ** 2 + sigma_data ** 2\n"
         "    return sigma_data ** 2 / total, sigma ** 2 * sigma_data ** 2 / total", "take the root"),
        (KARRAS + "    total = sigma ** 2 + sigma_data ** 2\n"
         "    return sigma_data / total.sqrt(), sigma * sigma_data / total.sqrt()", "without a root"),
        (KARRAS + "    total = sigma ** 2 + sigma_data ** 2\n"
         "    return sigma_data ** 2 / total, sigma / total.sqrt()", "variances add up to"),
        (KARRAS + "    total = sigma ** 2 + sigma_data ** 2\n"
         "    return sigma_data ** 2 / total, sigma_data + 0 * sigma", "not that of x0"),
        (KARRAS + "    total = sigma ** 2 + sigma_data ** 2\n"
         "    return sigma * sigma_data / total.sqrt(), sigma_data ** 2 / total", "changed places"),
    ],
    "exercise_7_3": [
        (STEPS + "    import math\n    return int(math.log(share) / math.log(decay))", "Round up"),
        (STEPS + "    import math\n    return math.log(share, decay)", "whole ones"),
        (STEPS + "    return round(1 / (1 - decay))", "the average's memory"),
        (STEPS + "    import math\n    return math.ceil(math.log(share) / math.log(1 - decay))", "not `1 - decay`"),
        (STEPS + "    import math\n    return math.ceil((1 - share) / (1 - decay))", "the same *factor*"),
        (STEPS + "    n, left = 0, 1.0\n    while left >= 1 - share:\n        left *= decay\n"
         "        n += 1\n    return n",
         "have *lost* that share"),
        (STEPS + "    n, left = 1, 1.0\n    while left >= share:\n        left *= decay\n        n += 1\n    return n",
         "One too many"),
    ],
    "exercise_7_4": [
        (MEAN + "    return torch.stack(gradients).mean(dim=0)", "The plain mean"),
        (MEAN + "    return sum(gradients)", "sum of the means"),
        (MEAN + "    return sum(n * g for n, g in zip(counts, gradients)) / len(counts)", "number of *samples*"),
        (MEAN + "    return sum(n * g for n, g in zip(counts, gradients))", "Divide by the number of all samples"),
        (MEAN + "    w = [1 / n for n in counts]\n    return sum(a * g for a, g in zip(w, gradients)) / sum(w)",
         "The other way round"),
        (MEAN + "    return sum(g / n for n, g in zip(counts, gradients)) / len(gradients)", "already a mean"),
        (MEAN + "    return sum(gradients) / sum(counts)", "weigh each by its count"),
        (MEAN + "    return gradients[counts.index(max(counts))]", "one process's gradient alone"),
    ],
    "exercise_7_5": [
        ("from minisd.training.muon import orthogonalise\n" + ORTHOGONAL + "    return orthogonalise(gradient)",
         "Muon's approximation"),
        (ORTHOGONAL + "    return gradient.sign()", "Adam's first step"),
        (ORTHOGONAL + "    return gradient / gradient.square().sum().sqrt()", "shrink by the same factor"),
        (ORTHOGONAL + "    return gradient / torch.linalg.svdvals(gradient)[0]", "as small beside it"),
        (ORTHOGONAL + "    return gradient / gradient.norm(dim=1, keepdim=True)", "Rows of length 1"),
        (ORTHOGONAL + "    return gradient / gradient.norm(dim=0, keepdim=True)", "Columns of length 1"),
        (ORTHOGONAL + "    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)\n    return vh.T @ u.T",
         "transposed"),
        (ORTHOGONAL + "    u, s, vh = torch.linalg.svd(gradient, full_matrices=False)\n    return u @ s.diag() @ vh",
         "the gradient again"),
        (ORTHOGONAL + "    return torch.linalg.svd(gradient)[1]", "the singular values"),
        (ORTHOGONAL + "    u, s, vh = torch.linalg.svd(gradient)\n    return u @ vh", "stopped with"),
    ],
}

RIGHT = {
    "exercise_7_1": [
        "def exercise_7_1(target, alphas_cumprod, gamma):\n    a = alphas_cumprod\n"
        "    of_v = torch.minimum(a, gamma * (1 - a))\n"
        "    return of_v / {'noise': a, 'x0': 1 - a, 'v': 1}[target]",
        SNR + "    w = torch.where(snr < gamma, snr, gamma)\n"
        "    return w / (snr ** (target == 'noise') + (snr if target == 'v' else 0))",
        SNR + "    return [min(float(s), gamma) / (1 if target == 'x0' else s + 1 if target == 'v' else s)\n"
        "            for s in snr]",
        SNR + "    inverse = 1 / snr\n    w = 1 / inverse.clamp(min=1 / gamma)\n"
        "    if target == 'noise':\n        return w * inverse\n"
        "    return w if target == 'x0' else w * (1 - alphas_cumprod)",
    ],
    "exercise_7_2": [
        KARRAS + "    r = (sigma / sigma_data) ** 2\n    return [1 / (1 + r), sigma / (1 + r) ** 0.5]",
        KARRAS + "    c = 1 / (1 / sigma ** 2 + 1 / sigma_data ** 2)\n    return c / sigma ** 2, c.sqrt()",
        KARRAS + "    c = sigma_data ** 2 / (sigma ** 2 + sigma_data ** 2)\n"
        "    return c, ((1 - c) ** 2 * sigma_data ** 2 + c ** 2 * sigma ** 2).sqrt()",
        KARRAS + "    angle = torch.atan2(sigma, torch.tensor(sigma_data))\n"
        "    return angle.cos() ** 2, sigma_data * angle.sin()",
    ],
    "exercise_7_3": [
        STEPS + "    n, left = 0, 1.0\n    while left >= share:\n        left *= decay\n        n += 1\n    return n",
        STEPS + "    import math\n    return 1 + int(math.log(share, decay))",
        STEPS + "    return torch.ceil(torch.log(torch.tensor(share)) / torch.log(torch.tensor(decay)))",
        STEPS + "    import numpy as np\n    return np.argmax(decay ** np.arange(30_000.0) < share)",
    ],
    "exercise_7_4": [
        MEAN + "    return torch.stack([g for n, g in zip(counts, gradients) for _ in range(n)]).mean(dim=0)",
        MEAN + "    w = torch.tensor(counts, dtype=torch.float)\n"
        "    return torch.einsum('p,p...->...', w / w.sum(), torch.stack(gradients))",
        MEAN + "    mean, seen = torch.zeros_like(gradients[0]), 0\n    for n, g in zip(counts, gradients):\n"
        "        seen += n\n        mean += (g - mean) * n / seen\n    return mean",
        MEAN + "    import numpy as np\n    return np.average([g.numpy() for g in gradients], axis=0, weights=counts)",
    ],
    "exercise_7_5": [
        ORTHOGONAL + "    u, s, v = torch.svd(gradient)\n    return u @ v.T",
        ORTHOGONAL + "    x = gradient / gradient.norm()\n    for _ in range(60):\n"
        "        x = 1.5 * x - 0.5 * x @ x.T @ x\n    return x",
        ORTHOGONAL + "    g = gradient.double()\n    s, q = torch.linalg.eigh(g.T @ g)\n    keep = s > 1e-9\n"
        "    return g @ (q[:, keep] / s[keep].sqrt()) @ q[:, keep].T",
        ORTHOGONAL + "    import numpy as np\n    u, s, vh = np.linalg.svd(gradient.numpy(), full_matrices=False)\n"
        "    return (u * s ** 0) @ vh",
    ],
}
