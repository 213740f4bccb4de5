"""Checks for notebook 00, first picture."""

from minisd.exercises import Exercise


def latent_numbers(height, width):
    return 4 * (height // 8) * (width // 8)


EXERCISES = {
    "0.1": Exercise(latent_numbers, lambda: [(512, 512), (768, 512), (256, 1024)], {
        "That counts the pixels' numbers; the U-Net never sees those.": lambda h, w: 3 * h * w,
        "Right places, but each has 4 numbers, one for each latent channel.": lambda h, w: (h // 8) * (w // 8),
        "Both sides shrink by 8, so the number of places shrinks by 64.": lambda h, w: 4 * h * w // 8,
        "Latents have 4 channels, not 3.": lambda h, w: 3 * (h // 8) * (w // 8),
    }),
    "0.2": Exercise(lambda seed, k: seed + k, lambda: [(0, 0), (10, 3), (77, 5)], {
        "Nearly: k counts from 0, so the first picture comes from the seed itself.": lambda seed, k: seed + k + 1,
        "All pictures would be the same then; each has a seed of its own.": lambda seed, k: seed,
        "Seeds are not multiplied; the next picture just takes the next number.": lambda seed, k: seed * (k + 1),
    }),
    "0.3": Exercise(lambda steps, scale: steps * (1 if scale == 1 else 2), lambda: [(20, 7.5), (20, 1), (50, 3.0)], {
        "With guidance every step asks twice: once with the prompt, once without.": lambda steps, scale: steps,
        "At a scale of 1 there is nothing to compare with, and the second question is left out.":
            lambda steps, scale: 2 * steps,
        "The scale says how *strongly* to follow the prompt, not how often to ask.": lambda steps, scale: steps * scale,
    }),
    "0.4": Exercise(lambda count, bits: count * bits / 8 / 1e9, lambda: [(859_520_964, 32), (859_520_964, 16)], {
        "A byte has 8 bits: divide by 8.": lambda count, bits: count * bits / 1e9,
        "You took 32 bits for every number, but half precision has 16.": lambda count, bits: count * 4 / 1e9,
        "That is in megabytes; a gigabyte is 10⁹ bytes.": lambda count, bits: count * bits / 8 / 1e6,
        "That is in GiB (2³⁰ bytes); here a gigabyte is 10⁹ bytes.": lambda count, bits: count * bits / 8 / 2**30,
    }, tolerance=1e-3),
}
