"""Wrong answers to the exercises of notebook 04, the VAE."""

WRONG = {
    "exercise_4_1": [
        ("def exercise_4_1(mean, log_variance, noise):\n    return mean + torch.exp(log_variance) * noise",
         "multiplied by the variance"),
        ("def exercise_4_1(mean, log_variance, noise):\n    return mean + log_variance * noise", "the *logarithm*"),
        ("def exercise_4_1(mean, log_variance, noise):\n    return mean + noise", "not scaled"),
        ("def exercise_4_1(mean, log_variance, noise):\n    return mean", "no dice"),
        ("def exercise_4_1(mean, log_variance, noise):\n    return noise * torch.exp(log_variance / 2)",
         "The mean is missing"),
        ("def exercise_4_1(mean, log_variance, noise):\n    return (mean + noise) * torch.exp(log_variance / 2)",
         "stays where it is"),
    ],
    "exercise_4_2": [
        ("def exercise_4_2(mean, log_variance):\n"
         "    return 0.5 * (mean**2 + log_variance.exp() - log_variance).flatten(1).sum(1)", "must cost nothing"),
        ("def exercise_4_2(mean, log_variance):\n"
         "    return 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).flatten(1).sum(1)", "never below 0"),
        ("def exercise_4_2(mean, log_variance):\n"
         "    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)", "their sum"),
        ("def exercise_4_2(mean, log_variance):\n"
         "    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()", "whole batch"),
        ("def exercise_4_2(mean, log_variance):\n    variance = log_variance.exp()\n"
         "    return 0.5 * (mean**2 + variance**2 - 1 - log_variance).sum(dim=(1, 2, 3))", "square it again"),
        ("def exercise_4_2(mean, log_variance):\n"
         "    return 0.5 * (mean**2 + log_variance.exp() - 1 - 2 * log_variance).sum(dim=(1, 2, 3))", "no 2 in front"),
        ("def exercise_4_2(mean, log_variance):\n"
         "    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)", "one number a latent"),
    ],
    "exercise_4_3": [
        ("def exercise_4_3(downscale, latent_channels):\n    return downscale**2", "counts places"),
        ("def exercise_4_3(downscale, latent_channels):\n    return 3 * downscale / latent_channels", "both ways"),
        ("def exercise_4_3(downscale, latent_channels):\n    return latent_channels / (3 * downscale**2)",
         "Upside down"),
        ("def exercise_4_3(downscale, latent_channels):\n    return 3 * 512 * 512 / (4 * 64 * 64)",
         "use both arguments"),
    ],
    "exercise_4_4": [
        ("def exercise_4_4(images, again):\n"
         "    mse = (images - again).square().flatten(1).mean(1)\n    return (-10 * mse.log10()).mean()",
         "6 dB too low"),
        ("def exercise_4_4(images, again):\n"
         "    mse = (images - again).square().mean()\n    return 10 * torch.log10(4 / mse)",
         "before the logarithm"),
        ("def exercise_4_4(images, again):\n"
         "    mse = (images - again).square().flatten(1).mean(1)\n    return 10 * torch.log10(4 / mse)",
         "average over the pictures"),
        ("def exercise_4_4(images, again):\n"
         "    mse = (images - again).square().mean(dim=(1, 2, 3))\n    return (10 * torch.log(4 / mse)).mean()",
         "base ten"),
        ("def exercise_4_4(images, again):\n"
         "    error = (images - again).abs().mean(dim=(1, 2, 3))\n    return (10 * torch.log10(4 / error)).mean()",
         "square it before"),
    ],
    "exercise_4_5": [
        ("def exercise_4_5(mean, std):\n    return 1 / mean.std()", "how wide the *means* are"),
        ("def exercise_4_5(mean, std):\n    return 1 / (mean.std() + std.mean())", "do not add up"),
        ("def exercise_4_5(mean, std):\n    return (mean.var() + std.square().mean()).sqrt()", "divides by it"),
        ("def exercise_4_5(mean, std):\n    return 1 / (mean.var() + std.mean()**2).sqrt()", "square of the mean"),
        ("def exercise_4_5(mean, std):\n    return (mean.var() + std.mean())**-0.5", "square their widths"),
    ],
}
