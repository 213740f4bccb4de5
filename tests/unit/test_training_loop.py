"""The training loop on a toy task: batches, steps, learning rates, the average, stopping and failing."""

import math
import os
import signal
from itertools import pairwise

import pytest
import torch
from torch import nn

from minisd.training import loop
from minisd.training.loop import Batch, Run, Settings, make_batch, schedule, train
from minisd.training.muon import Muon
from minisd.training.task import grid
from tests.toy import Toy, log, settings, state


def test_learns_and_leaves_everything_behind(tmp_path, capsys):
    train(Toy(), settings(steps=300, learning_rate=0.05), tmp_path, quiet=True)
    curve = log(tmp_path)
    assert len(curve) == 300
    assert sum(curve[-10:]) < 0.05 * sum(curve[:10])
    assert log(tmp_path, "samples") == [8 * step for step in range(1, 301)]
    assert (tmp_path / "picture-0000300.png").exists()
    assert torch.load(tmp_path / "weight.pt", weights_only=True).diagonal().mean() == pytest.approx(0.5, abs=0.1)
    assert "toy: 4 wide" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "state.pt", "log.csv", "scores.csv", "picture-0000300.png", "weight.pt", "run.lock"}


# --- batches --------------------------------------------------------------------------------------------------


def test_batches_follow_from_seed_and_step():
    def numbers(seed: int, step: int) -> list[float]:
        return make_batch(settings(seed=seed), step).draw(torch.rand, 2).flatten().tolist()

    assert numbers(0, 3) == numbers(0, 3)
    assert len({tuple(numbers(seed, step)) for seed in (0, 1) for step in (2, 3)}) == 4
    assert make_batch(settings(batch_size=4), 3).indices == [12, 13, 14, 15]


def test_processes_divide_a_batch():
    whole = make_batch(settings(), 5)
    parts = [make_batch(settings(), 5, rank, 2) for rank in range(2)]
    assert parts[0].indices + parts[1].indices == whole.indices
    for draw in (lambda batch: batch.draw(torch.randn, 3), Batch.draw_stratified):
        assert torch.equal(torch.cat([draw(part) for part in parts]), draw(whole))


def test_stratified_numbers_are_one_from_each_part():
    drawn = torch.stack([make_batch(settings(batch_size=16), step).draw_stratified() for step in range(50)])
    assert (16 * drawn).long().tolist() == 50 * [list(range(16))]
    within = 16 * drawn - torch.arange(16)
    assert within.mean().item() == pytest.approx(0.5, abs=0.05)
    assert within.std().item() == pytest.approx(12**-0.5, abs=0.03)  # anywhere in the part


def test_each_process_has_as_many_samples(tmp_path, monkeypatch):
    for name, value in (("is_initialized", True), ("get_rank", 0), ("get_world_size", 3)):
        monkeypatch.setattr(loop.dist, name, lambda value=value: value)
    with pytest.raises(ValueError, match="batch_size=8 cannot be divided among 3 processes"):
        train(Toy(), settings(), tmp_path, quiet=True)


# --- steps ----------------------------------------------------------------------------------------------------


def test_rates_warm_up_stay_and_fall_to_zero():
    factors = [schedule(settings(steps=100), step, step / 100) for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:71] == [1.0] * 66
    assert factors[85] == pytest.approx(0.5)
    assert factors[-1] == 0
    falls = [before - after for before, after in pairwise(factors[70:])]
    assert falls == pytest.approx([1 / 30] * 30)
    assert schedule(settings(cooldown=0.0), 99, 0.99) == 1
    assert schedule(settings(cooldown=1.0), 99, 0.25) == 0.75


def test_both_optimisers_follow_the_schedule(tmp_path, monkeypatch):
    toy, used = Toy(), {Muon: [], torch.optim.AdamW: []}
    toy.rates = {"linear.bias": 10.0}
    for kind, steps in used.items():
        monkeypatch.setattr(kind, "step", lambda self, steps=steps: steps.append(self.param_groups[0]["lr"]))
    train(toy, settings(steps=10, learning_rate=0.004, muon_rate=0.3), tmp_path, quiet=True)
    factors = [schedule(settings(steps=10), step, step / 10) for step in range(10)]
    assert used[Muon] == pytest.approx([0.3 * factor for factor in factors])
    assert used[torch.optim.AdamW] == pytest.approx([0.04 * factor for factor in factors])


def test_muon_has_the_matrices_and_adamw_the_rest(tmp_path):
    toy = Toy()
    toy.kernel, toy.embedding = nn.Conv2d(2, 3, 3), nn.Embedding(5, 2)
    toy.frozen = nn.Linear(2, 2).requires_grad_(False)
    toy.adamw_names, toy.rates = ("embed",), {"linear.bias": 2.0, "kernel.bias": 3.0, "linear.weight": 9.0}
    muon, adamw = loop.make_optimizers(toy, settings(muon_rate=0.1, weight_decay=0.3), torch.bfloat16)
    (group,) = muon.param_groups
    assert [id(p) for p in group["params"]] == [id(toy.linear.weight), id(toy.kernel.weight)]
    assert (group["lr"], group["weight_decay"], group["momentum"], muon.dtype) == (0.1, 0.3, 0.95, torch.bfloat16)
    found = {group["lr"]: [id(p) for p in group["params"]] for group in adamw.param_groups}
    assert found == {1e-3: [id(toy.embedding.weight)], 2e-3: [id(toy.linear.bias)], 3e-3: [id(toy.kernel.bias)]}
    assert {(group["weight_decay"], group["betas"]) for group in adamw.param_groups} == {(0.3, (0.9, 0.99))}
    toy.adamw_names = ("",)  # is in every name
    assert [type(one) for one in loop.make_optimizers(toy, settings(), torch.float32)] == [torch.optim.AdamW]


def test_gradients_are_clipped_and_logged_as_they_were(tmp_path, monkeypatch):
    norms = []

    def step(self):
        norms.append(torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]).norm())

    monkeypatch.setattr(Muon, "step", step)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(Toy(), settings(steps=4, grad_clip=1e9), tmp_path / "free", quiet=True)
    free = torch.stack(norms).view(4, 2).norm(dim=1)  # of both optimisers' parameters together
    assert log(tmp_path / "free", "gradient_norm") == pytest.approx(free.tolist(), rel=1e-3)
    norms.clear()
    limit = free.median().item()
    train(Toy(), settings(steps=4, grad_clip=limit), tmp_path / "clipped", quiet=True)
    clipped = torch.stack(norms).view(4, 2).norm(dim=1)
    torch.testing.assert_close(clipped, free.clamp(max=limit), rtol=1e-5, atol=1e-6)
    assert clipped.min() < limit  # a small gradient stays as it is
    assert log(tmp_path / "clipped", "gradient_norm") == log(tmp_path / "free", "gradient_norm")


def test_average_is_that_of_the_weights(tmp_path):
    run, expected = Run(Toy(), settings(ema=0.3), tmp_path), Toy().linear.weight.detach()
    run.start(resume=False)
    for step in range(12):
        run.take_step(0.0)
        decay = min(0.3, (1 + step) / (10 + step))  # at first, the average must forget where it began
        expected = decay * expected + (1 - decay) * run.task.linear.weight.detach()
        torch.testing.assert_close(run.average.linear.weight, expected)
    assert not torch.equal(run.average.linear.weight, run.task.linear.weight)


def test_what_is_shown_and_written_is_the_average_at_rest(tmp_path):
    seen = {}

    class Watched(Toy):
        def look(self, what):
            seen[what] = (self.linear.weight.clone(), self.training, torch.is_grad_enabled())
            torch.rand(3)

        def picture(self):
            self.look("picture")
            return super().picture()

        def score(self):
            self.look("score")
            return super().score()

        def export(self, folder):
            self.look("export")
            return super().export(folder)

    toy = Watched()
    numbers = torch.get_rng_state()
    train(toy, settings(ema=0.9), tmp_path, quiet=True)
    average = state(tmp_path)["average"]["linear.weight"]
    assert seen.keys() == {"picture", "score", "export"}
    for weight, training, gradients in seen.values():
        assert torch.equal(weight, average)
        assert not training
        assert not gradients
    assert not torch.equal(toy.linear.weight, average)
    assert torch.equal(torch.get_rng_state(), numbers)


def test_pictures_and_scores_on_the_way(tmp_path):
    train(Toy(), settings(steps=3), tmp_path, picture_every=0, quiet=True)
    assert len(list(tmp_path.glob("picture-*.png"))) == 3
    steps = [line.split(",")[:2] for line in (tmp_path / "scores.csv").read_text().splitlines()]
    assert steps == [["step", "samples"], ["1", "8"], ["2", "16"], ["3", "24"], ["3", "24"]]


def test_a_task_may_have_no_score(tmp_path):
    class Plain(Toy):
        score = loop.Task.score

    train(Plain(), settings(steps=1), tmp_path, quiet=True)
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize(("bf16", "fast", "expected"), [
    (True, torch.float32, True), (False, torch.bfloat16, False),
    (None, torch.bfloat16, True), (None, torch.float32, False)])
def test_bfloat16_where_it_is_fast_or_wanted(tmp_path, monkeypatch, bf16, fast, expected):
    monkeypatch.setattr(loop, "fast_dtype", lambda device: fast)
    seen = []

    class Watched(Toy):
        def forward(self, batch):
            fused = torch.backends.cuda.flash_sdp_enabled()
            seen.append((torch.is_autocast_enabled("cpu"), not fused))
            return super().forward(batch)

    run = Run(Watched(), settings(bf16=bf16), tmp_path)
    run.start(resume=False)
    run.take_step(0.0)
    assert seen == [(expected, expected)]
    assert run.optimizers[0].dtype == (torch.bfloat16 if expected else torch.float32)


# --- stopping and failing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_says_how_to_go_on(tmp_path, capsys, number):
    before = signal.getsignal(number)
    train(Toy(signal_at=3, signal_number=number), settings(), tmp_path, quiet=True)
    said = capsys.readouterr().out
    assert f"stopped after step 4; saved in {tmp_path / 'state.pt'}: continue with --resume" in said
    assert state(tmp_path)["step"] == 4
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once(tmp_path):
    with loop.stop_signal() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_process_that_torchrun_has_left_stops(monkeypatch):
    with loop.stop_signal() as stopped:
        monkeypatch.setattr(loop, "PARENT", -1)  # another process is its parent now
        assert not stopped()  # as of any run in the background whose terminal was closed
        monkeypatch.setattr(loop.dist, "is_initialized", lambda: True)
        assert stopped()


def test_a_finished_run_does_not_say_that_it_was_stopped(tmp_path, capsys):
    train(Toy(), settings(steps=2), tmp_path, quiet=True)
    assert "stopped" not in capsys.readouterr().out


def test_infinite_loss_keeps_the_last_good_state(tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is inf .* step 10; the last saved state is .*state\.pt"):
        train(Toy(explode_at=10), settings(), tmp_path, save_every=0, quiet=True)
    saved = state(tmp_path)
    assert saved["step"] == 10
    assert all(torch.isfinite(tensor).all() for tensor in saved["task"].values())


def test_infinite_gradient_is_no_better_than_an_infinite_loss(tmp_path):
    class Edge(Toy):
        def forward(self, batch):
            return (0 * self.linear.weight).sum().sqrt()  # 0, with an infinite slope

    with pytest.raises(FloatingPointError, match="norm nan in step 0; nothing was saved yet"):
        train(Edge(), settings(), tmp_path, quiet=True)


def test_states_are_saved_as_often_as_asked_for(tmp_path, monkeypatch):
    saved, now = [], iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(now))  # each look at the clock takes a second
    monkeypatch.setattr(Run, "save", lambda self: saved.append(self.step))
    train(Toy(), settings(), tmp_path, save_every=10, picture_every=math.inf, quiet=True)
    assert saved[-1] == 20  # at the end in any case
    assert 4 < len(saved) < 11


def test_full_disk_at_the_end_loses_nothing(tmp_path, monkeypatch):
    def full(self, folder):
        raise loop.SafetensorError("Error while serializing: I/O error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "export", full)
        with pytest.raises(OSError, match=r"No space left.*--resume.*holds the finished run"):
            train(Toy(), settings(), tmp_path, quiet=True)
    train(Toy(), settings(), tmp_path, resume=True, quiet=True)
    assert (tmp_path / "weight.pt").exists()
    assert len(log(tmp_path)) == 20  # no step was taken again


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(FileExistsError, match=r"taken is a file; name another folder"):
        train(Toy(), settings(), tmp_path / "taken" / "run", quiet=True)


def test_minutes_end_a_run(tmp_path):
    train(Toy(), settings(steps=None, minutes=0.01), tmp_path, quiet=True)
    assert 0.5 < state(tmp_path)["seconds"] < 5
    assert log(tmp_path, "learning_rate")[-1] < 1e-4  # the rates fall with the clock


def test_progress_is_lines_where_there_is_no_terminal(tmp_path, capsys):
    train(Toy(), settings(steps=2 * loop.LINE_EVERY), tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 100", "step 200"]
    assert all("loss " in line and "images/s" in line for line in lines)


def test_pictures_in_a_grid():
    red, black = torch.tensor([1.0, -1, -1]), torch.full((3,), -1.0)
    rows = [torch.stack([black, red])[:, :, None, None].expand(2, 3, 2, 3),
            torch.stack([black, 7 * black])[:, :, None, None].expand(2, 3, 2, 3)]
    picture = grid(rows)
    assert picture.size == (6, 4)
    assert [picture.getpixel(xy) for xy in ((0, 0), (3, 1), (3, 2))] == [(0, 0, 0), (255, 0, 0), (0, 0, 0)]


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [
    ("seed", -1), ("seed", 2**32), ("batch_size", 0), ("learning_rate", -1.0), ("learning_rate", math.nan),
    ("muon_rate", 0.0), ("muon_rate", math.inf), ("warmup", 0), ("grad_clip", 0.0), ("cooldown", -0.1),
    ("cooldown", 1.1), ("steps", -5), ("ema", 1.0), ("ema", -0.1), ("weight_decay", -0.1), ("weight_decay", math.nan),
    ("device", "abacus")])
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        settings(**{name: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_said():
    with pytest.raises(ValueError, match="no GPU here"):
        settings(device="cuda")


@pytest.mark.parametrize("length", [{}, {"steps": 5, "minutes": 1.0}])
def test_length_must_be_one_of_two(length):
    with pytest.raises(ValueError, match="either steps or minutes"):
        Settings(**length)
