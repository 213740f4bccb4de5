"""Wrong answers to the exercises of notebook 11, published Stable Diffusion."""

WRONG = {
    "exercise_11_1": [
        ("def exercise_11_1(height, width):\n    return 4, width // 8, height // 8", "Height comes before width"),
        ("def exercise_11_1(height, width):\n    return 3, height // 8, width // 8", "four channels"),
    ],
    "exercise_11_2": [
        ("def exercise_11_2(parameters, bits):\n    return parameters * bits / 1e9", "gigabits"),
        ("def exercise_11_2(parameters, bits):\n    return parameters * 4 / 1e9", "half precision takes half"),
        ("def exercise_11_2(parameters, bits):\n    return parameters * bits / 8", "Those are bytes"),
    ],
    "exercise_11_3": [
        ("def exercise_11_3(steps, guidance, unet_tflop, decode_tflop, tflop_per_second):\n"
         "    return (steps * unet_tflop + decode_tflop) / tflop_per_second", "calls the U-Net for two"),
        ("def exercise_11_3(steps, guidance, unet_tflop, decode_tflop, tflop_per_second):\n"
         "    calls = 2 if guidance else 1\n"
         "    return steps * (calls * unet_tflop + decode_tflop) / tflop_per_second", "decoded once"),
        ("def exercise_11_3(steps, guidance, unet_tflop, decode_tflop, tflop_per_second):\n"
         "    calls = 2 if guidance else 1\n"
         "    return calls * (steps * unet_tflop + decode_tflop) / tflop_per_second", "concerns the U-Net only"),
    ],
    "exercise_11_4": [
        ("def exercise_11_4(level, i, layers=2):\n    return level * (layers + 1) + i", "count from one"),
        ("def exercise_11_4(level, i, layers=2):\n    return level * layers + i + 1", "one more number"),
        ("def exercise_11_4(level, i, layers=2):\n    return level * 3 + i + 1", "use `layers`"),
    ],
}
