"""Wrong answers to the exercises of notebook 08, guidance."""

WRONG = {
    "exercise_8_1": [
        ("def exercise_8_1(reference, positive, w):\n    return reference + w * (positive - reference)",
         "You took w for the package's scale"),
        ("def exercise_8_1(reference, positive, w):\n    return (1 + w) * reference - w * positive",
         "changed places"),
        ("def exercise_8_1(reference, positive, w):\n    return (1 + w) * positive + w * reference", "Sign"),
        ("def exercise_8_1(reference, positive, w):\n    return positive + (1 + w) * (positive - reference)",
         "start from the positive opinion"),
        ("def exercise_8_1(reference, positive, w):\n    return reference + (w - 1) * (positive - reference)",
         "one less"),
    ],
    "exercise_8_2": [
        ("def exercise_8_2(x, sigma, v):\n    return x - sigma * v", "You took v for noise"),
        ("def exercise_8_2(x, sigma, v):\n    seen = x / (1 + sigma**2) ** 0.5\n"
         "    return (v + sigma * seen) / (1 + sigma**2) ** 0.5", "That is the noise"),
        ("def exercise_8_2(x, sigma, v):\n    return (x - sigma * v) / (1 + sigma**2) ** 0.5", "The network saw"),
        ("def exercise_8_2(x, sigma, v):\n"
         "    return x / (1 + sigma**2) + sigma * v / (1 + sigma**2) ** 0.5", "Plus for minus"),
    ],
    "exercise_8_3": [
        ("def exercise_8_3(sigmas, scale, low, high):\n    return scale * ((low < sigmas) & (sigmas <= high)).float()",
         "would not hear the words"),
        ("def exercise_8_3(sigmas, scale, low, high):\n"
         "    return torch.where((low < sigmas) & (sigmas <= high), 1.0, scale)", "changed places"),
        ("def exercise_8_3(sigmas, scale, low, high):\n"
         "    return torch.where((low <= sigmas) & (sigmas < high), scale, 1.0)", "σ = high is still inside"),
        ("def exercise_8_3(sigmas, scale, low, high):\n"
         "    return torch.where((low <= sigmas) & (sigmas <= high), scale, 1.0)", "no longer inside"),
    ],
    "exercise_8_4": [
        ("def exercise_8_4(reference, predictions, scales):\n    scales = scales[:, None, None, None]\n"
         "    return reference + (scales * (predictions - reference)).mean(0)", "you took their mean"),
        ("def exercise_8_4(reference, predictions, scales):\n"
         "    return reference + torch.einsum('n,nchw->chw', scales, predictions)", "prediction minus reference"),
        ("def exercise_8_4(reference, predictions, scales):\n"
         "    return torch.einsum('n,nchw->chw', scales, predictions - reference)", "The reference itself is missing"),
        ("def exercise_8_4(reference, predictions, scales):\n"
         "    return sum(reference + s * (p - reference) for s, p in zip(scales, predictions))", "it counts once"),
        ("def exercise_8_4(reference, predictions, scales):\n    return reference + scales * (predictions - reference)",
         "stopped with RuntimeError"),
    ],
    "exercise_8_5": [
        ("def exercise_8_5(guided, positive, share):\n"
         "    small = guided * positive.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)\n"
         "    return (1 - share) * small + share * guided", "wrong way round"),
        ("def exercise_8_5(guided, positive, share):\n"
         "    return share * guided * positive.std() / guided.std() + (1 - share) * guided", "whole batch"),
        ("def exercise_8_5(guided, positive, share):\n"
         "    return guided * positive.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)",
         "shrunk prediction alone"),
        ("def exercise_8_5(guided, positive, share):\n"
         "    longer = guided * guided.std((1, 2, 3), keepdim=True) / positive.std((1, 2, 3), keepdim=True)\n"
         "    return share * longer + (1 - share) * guided", "upside down"),
        ("def exercise_8_5(guided, positive, share):\n"
         "    small = guided * positive.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)\n"
         "    return share * small + (1 - share) * positive", "mixed with the positive"),
        ("def exercise_8_5(guided, positive, share):\n"
         "    small = guided * positive.std((2, 3), keepdim=True) / guided.std((2, 3), keepdim=True)\n"
         "    return share * small + (1 - share) * guided", "would change colours"),
    ],
}
