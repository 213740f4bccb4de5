"""Wrong answers to the exercises of notebook 00, first picture."""

WRONG = {
    "exercise_0_1": [
        ("def exercise_0_1(height, width):\n    return height * width * 3", "counts the pixels' numbers"),
        ("def exercise_0_1(height, width):\n    return height // 8 * (width // 8)", "each has 4 numbers"),
        ("def exercise_0_1(height, width):\n    return height * width * 4 // 8", "shrinks by 64"),
    ],
    "exercise_0_2": [
        ("def exercise_0_2(seed, k):\n    return seed", "All pictures would be the same"),
        ("def exercise_0_2(seed, k):\n    return seed + k + 1", "counts from 0"),
    ],
    "exercise_0_3": [
        ("def exercise_0_3(steps, guidance_scale):\n    return steps", "asks twice"),
        ("def exercise_0_3(steps, guidance_scale):\n    return steps * 2", "left out"),
        ("def exercise_0_3(steps, guidance_scale):\n    return 7", "Called with the first of the cases that fail"),
    ],
    "exercise_0_4": [
        ("def exercise_0_4(parameters, bits):\n    return parameters * bits / 1e9", "divide by 8"),
        ("def exercise_0_4(parameters, bits):\n    return parameters * 4 / 1e9", "half precision has 16"),
        ("def exercise_0_4(parameters, bits):\n    return parameters * bits / 8 / 1024**3", "GiB"),
    ],
}
