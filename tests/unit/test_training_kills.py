"""A run that is killed (SIGKILL) at any moment resumes from its last save as if nothing had happened."""

import random
import time

import pytest
import torch

from minisd.training.loop import train
from tests.toy import Toy, log, settings, start, state, train_toy, train_toy_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("module", "name", "before"), [
    ("tests.toy", "Toy", True),                         # nothing was done yet
    ("minisd.training.loop", "load_state", False),
    ("minisd.training.loop", "Log", True),
    ("minisd.training.loop", "Log", False),             # the log was written anew; no step taken yet
    ("minisd.training.loop", "schedule", True),         # in the first step
    ("os", "replace", True),                            # a new log, then not a new state, is in its place
    ("os", "replace", False),
    ("torch", "save", True),
    ("torch", "save", False)])
def test_no_moment_is_a_bad_one(tmp_path, module, name, before):
    train(Toy(), settings(), tmp_path / "whole", quiet=True)
    train(Toy(signal_at=12), settings(), tmp_path / "killed", quiet=True)
    steps = log(tmp_path / "killed", "step")
    for _ in range(2):  # killed, and killed again
        process = start(train_toy_until, tmp_path / "killed", module, name, before)
        process.join(60)
        assert process.exitcode == -9
        assert log(tmp_path / "killed", "step")[:13] == steps == list(range(1, 14))
        assert state(tmp_path / "killed")["step"] == 13
    train(Toy(), settings(), tmp_path / "killed", resume=True, quiet=True)
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    torch.testing.assert_close(state(tmp_path / "killed")["average"], state(tmp_path / "whole")["average"],
                               rtol=0, atol=0)
    assert not list((tmp_path / "killed").glob("*.tmp"))


def test_fifty_kills_cost_a_step_each_at_most(tmp_path):
    folder, saved, dice = tmp_path / "killed", 0, random.Random(0)
    for _ in range(50):
        process = start(train_toy, folder, resume=saved > 0, steps=10**6, cooldown=0.0)
        time.sleep(dice.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9
        if saved == 0 and not (folder / "state.pt").exists():
            continue
        before, saved = saved, state(folder)["step"]  # it is whole
        assert saved >= before
        logged = log(folder, "step")
        assert logged == list(range(1, len(logged) + 1))
        assert saved <= len(logged) <= saved + 1  # of all steps that were taken, at most the last one is lost
    assert saved > 0
    rest = settings(steps=saved + 10, cooldown=0.0)
    train(Toy(), rest, folder, resume=True, quiet=True)
    train(Toy(), rest, tmp_path / "whole", quiet=True)
    assert log(folder) == log(tmp_path / "whole")
    for part in ("task", "average", "optimizers"):
        torch.testing.assert_close(state(folder)[part], state(tmp_path / "whole")[part], rtol=0, atol=0)
