"""Checks for notebook 11, published Stable Diffusion."""

from minisd.exercises import Exercise


def seconds(steps, guidance, unet_tflop, decode_tflop, tflop_per_second):
    return (steps * (2 if guidance else 1) * unet_tflop + decode_tflop) / tflop_per_second


EXERCISES = {
    "11.1": Exercise(lambda height, width: (4, height // 8, width // 8),
                     lambda: [(512, 512), (768, 512), (64, 1024)], {
        "Height comes before width.": lambda height, width: (4, width // 8, height // 8),
        "Latents have four channels; three are those of the picture.":
            lambda height, width: (3, height // 8, width // 8),
        "Channels come first.": lambda height, width: (height // 8, width // 8, 4),
        "Each side is eight times shorter, not sixty-four times.":
            lambda height, width: (4, height // 64, width // 64),
    }),
    "11.2": Exercise(lambda parameters, bits: parameters * bits / 8 / 1e9,
                     lambda: [(859_520_964, 32), (859_520_964, 16), (83_653_863, 16)], {
        "Those are gigabits; a byte has eight.": lambda parameters, bits: parameters * bits / 1e9,
        "A gigabyte is 10⁹ bytes here; you divided by 2³⁰.": lambda parameters, bits: parameters * bits / 8 / 2**30,
        "The bits count too: half precision takes half.": lambda parameters, bits: parameters * 4 / 1e9,
        "Those are bytes; a gigabyte is 10⁹ of them.": lambda parameters, bits: parameters * bits / 8,
    }),
    "11.3": Exercise(seconds, lambda: [(20, True, 0.8, 2.5, 20.0), (50, False, 0.8, 2.5, 300.0)], {
        "With guidance every step calls the U-Net for two: with the prompt and without.":
            lambda steps, guidance, unet, decode, speed: (steps * unet + decode) / speed,
        "The picture is decoded once, at the end.":
            lambda steps, guidance, unet, decode, speed: steps * ((2 if guidance else 1) * unet + decode) / speed,
        "Guidance concerns the U-Net only: the picture is decoded once, not for two.":
            lambda steps, guidance, unet, decode, speed: (2 if guidance else 1) * (steps * unet + decode) / speed,
        "The decoder takes time, too.":
            lambda steps, guidance, unet, decode, speed: steps * (2 if guidance else 1) * unet / speed,
    }),
    "11.4": Exercise(lambda level, i, layers=2: level * (layers + 1) + i + 1,
                     lambda: [(0, 0), (1, 1), (3, 0), (2, 1, 1)], {
        "Block 0 is the first convolution: count from one.": lambda level, i, layers=2: level * (layers + 1) + i,
        "Each level has one more number, for its down-sampling.": lambda level, i, layers=2: level * layers + i + 1,
        "That is right for two blocks a level; use `layers`.": lambda level, i, layers=2: 3 * level + i + 1,
    }),
}
