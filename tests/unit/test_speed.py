"""What makes the pipeline fast and small on a GPU, as far as this can be proven without one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minisd import StableDiffusion
from minisd.schedulers import SAMPLERS

SETTINGS = {"seed": 0, "num_inference_steps": 3, "output": "pt", "progress": False}


@pytest.fixture
def sd(tiny) -> StableDiffusion:
    return StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")


class Copies(TorchDispatchMode):
    """Collects the operations that copy a tensor from one device to another."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor)]
        if "copy" in str(function) and len({tensor.device for tensor in tensors}) > 1:
            self.found.append(str(function))
        return result


def elsewhere(sd: StableDiffusion, monkeypatch, scheduler: str) -> tuple[torch.Tensor, ...]:
    """The arguments of a loop on the meta device, whose tensors have no values: code that reads one gets an error
    there, where on a GPU it would wait. A formula takes the U-Net's place."""
    sd.set_scheduler(scheduler)
    sd.unet.to("meta")
    monkeypatch.setattr(sd.unet, "forward", lambda latents, t, context: latents + t + context.mean())
    timesteps = sd._timesteps(10)
    assert timesteps.is_meta
    return torch.empty(1, 4, 8, 8, device="meta"), timesteps, torch.empty(2, 77, 64, device="meta"), 7.5


def copies_between_devices(sd: StableDiffusion, *arguments) -> list[str]:
    with Copies() as copies, torch.no_grad():
        assert len(list(sd.denoise(*arguments))) == len(sd.scheduler.timesteps)
    return copies.found


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loop_never_waits_for_the_gpu(sd, monkeypatch, name):
    assert copies_between_devices(sd, *elsewhere(sd, monkeypatch, name)) == []


def test_nor_does_the_unet(sd, monkeypatch):
    arguments = elsewhere(sd, monkeypatch, "ddim")
    monkeypatch.undo()
    assert copies_between_devices(sd, *arguments) == []


def test_a_look_and_a_copy_would_be_noticed(sd, monkeypatch):
    arguments, step = elsewhere(sd, monkeypatch, "pndm"), sd.scheduler.step
    monkeypatch.setattr(sd.scheduler, "step", lambda output, t, x, generator: step(output, float(t), x))
    with pytest.raises(RuntimeError, match="meta"):
        copies_between_devices(sd, *arguments)
    monkeypatch.setattr(sd.scheduler, "step", lambda output, t, x, generator: step(output.to("meta"), t, x))
    monkeypatch.setattr(sd.scheduler, "scale_model_input", lambda x, t: torch.zeros(x.shape).to("meta"))
    assert copies_between_devices(sd, *arguments)


@pytest.mark.slow
def test_compiled_networks_are_one_graph_each_and_draw_the_same(sd):
    torch._dynamo.reset()  # what another test compiled of the same classes would be taken up again, and not counted
    before = sd.text_to_image("a cat", **SETTINGS)
    assert sd.compile(backend="aot_eager", mode=None) is sd  # fullgraph=True: a graph break would be an error
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(sd.text_to_image("a cat", **SETTINGS), before, rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    sd.text_to_image("a dog", **SETTINGS)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # another prompt recompiles nothing


def test_low_memory_draws_the_same(sd, tiny):
    usual = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    assert sd.low_memory() is sd
    expected = usual.text_to_image("a cat", **SETTINGS)
    torch.testing.assert_close(sd.text_to_image("a cat", **SETTINGS), expected, rtol=0, atol=1e-5)
    image = expected * 2 - 1
    torch.testing.assert_close(sd.image_to_image("a cat", image, **SETTINGS),
                               usual.image_to_image("a cat", image, **SETTINGS), rtol=0, atol=1e-5)


def test_in_low_memory_one_network_at_a_time_is_on_the_device(sd, monkeypatch):
    sd.low_memory()
    moves = []
    for name in ("text_encoder", "unet", "vae"):
        network = getattr(sd, name)
        monkeypatch.setattr(network, "to", lambda device, name=name: moves.append(f"{name} to {device.type}"
                            if isinstance(device, torch.device) else f"{name} away"))
    sd.text_to_image("a cat", guidance_scale=1, **SETTINGS)
    assert moves == ["text_encoder to cpu", "text_encoder away", "unet to cpu", "unet away", "vae to cpu", "vae away"]


@pytest.mark.parametrize("progress", [False, True])
def test_in_low_memory_nothing_stays_on_the_device_when_a_run_is_interrupted(sd, monkeypatch, progress):
    sd.low_memory()
    moves = []
    monkeypatch.setattr(sd.unet, "to", lambda device: moves.append(str(device)))

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as held:  # as a notebook holds the traceback, and all that it refers to
        sd.text_to_image("a", callback=interrupt, num_inference_steps=2, progress=progress)
    assert held.tb is not None
    assert len(moves) == 2
    assert moves[-1] == "cpu"


def test_in_low_memory_a_loop_holds_the_unet_until_it_is_broken_off(sd, monkeypatch):
    """It is fetched again if a loop that was left earlier, but not closed, sends it away in the midst."""
    sd.low_memory()
    sd.scheduler.set_timesteps(4)
    arguments = torch.zeros(1, 4, 8, 8), sd.scheduler.timesteps, sd.encode_prompt("a cat"), 1
    moves, home = [], torch.device("cpu")
    monkeypatch.setattr(sd.unet, "to", lambda device: moves.append("home" if isinstance(device, torch.device) else
                                                                   "away"))
    monkeypatch.setattr(type(sd.unet), "device", property(
        lambda unet: home if moves[-1] == "home" else torch.device("meta")))
    left = sd.denoise(*arguments)
    next(left)
    assert moves == ["home"]
    for i, *_ in sd.denoise(*arguments):
        if i == 1:
            assert moves == ["home", "home"]
            left.close()
            assert moves == ["home", "home", "away"]
        if i == 2:
            assert moves == ["home", "home", "away", "home"]
            break
    assert moves == ["home", "home", "away", "home", "away"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_after_a_loop_was_broken_off_the_next_does_not_count_on(sd, monkeypatch, name):
    """Where nobody looks at the timesteps, the first of the new loop must not be taken for the next of the old."""
    latents, timesteps, *rest = elsewhere(sd, monkeypatch, name)
    start = 2 * sd.scheduler.order
    for some, begin in ((timesteps, 0), (timesteps[start:], start)):
        for i, *_ in sd.denoise(latents, some, *rest):
            assert sd.scheduler.step_index == begin + i + 1
            if i == 2:
                break


def test_compile_and_low_memory_exclude_each_other(tiny):
    for first, second in (("compile", "low_memory"), ("low_memory", "compile")):
        sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
        getattr(sd, first)()
        with pytest.raises(ValueError, match="exclude each other"):
            getattr(sd, second)()
