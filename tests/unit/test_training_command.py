"""`minisd train`: options to settings, and errors to exit codes."""

import argparse
import dataclasses
import os
import sys
import typing

import pytest
import torch

from minisd.training import command, loop
from minisd.training.command import MODELS
from tests.toy import Toy, log, state

FIELDS = [(name, cls, field.name) for name, model in MODELS.items() for cls in (loop.Settings, model.options)
          for field in dataclasses.fields(cls)]


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(("model", "cls", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_option_is_read_as_its_type(model, cls, name):
    kind = typing.get_type_hints(cls)[name]
    kinds = [one for one in typing.get_args(kind) or (kind,) if one is not type(None)]
    option, default = "--" + name.replace("_", "-"), getattr(parse(model), name)
    assert len(kinds) == 1
    if kinds == [bool]:
        assert [getattr(parse(model, word), name) for word in (option, "--no-" + option[2:])] == [True, False]
        assert default is None
        return
    word, value = {int: ("7", 7), float: ("0.25", 0.25), str: ("some/folder", "some/folder")}[kinds[0]]
    assert getattr(parse(model, option, word), name) == value
    assert type(getattr(parse(model, option, word), name)) is kinds[0]
    assert default is None if type(None) in typing.get_args(kind) and default is None else isinstance(default, kinds[0])
    if kinds != [str]:
        assert (type(None) in typing.get_args(kind)) == understood(model, option, "none")


def understood(*words: str) -> bool:
    try:
        parse(*words)
    except SystemExit:
        return False
    return True


def test_none_turns_an_option_off(capsys):
    assert parse("unet", "--min-snr", "none").min_snr is None
    assert not understood("unet", "--min-snr", "nothing")
    assert "invalid float value: 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_defaults_are_the_dataclasses_or_the_models(name):
    model = MODELS[name]
    parsed = vars(parse(name, "--steps", "1"))
    assert model.defaults.keys() <= {field.name for field in dataclasses.fields(loop.Settings)}
    expected = {field.name: field.default for cls in (loop.Settings, model.options)
                for field in dataclasses.fields(cls)} | model.defaults | {"steps": 1}
    assert {key: parsed[key] for key in expected} == expected
    loop.Settings(**{field.name: parsed[field.name] for field in dataclasses.fields(loop.Settings)})  # are possible
    model.options(**{field.name: parsed[field.name] for field in dataclasses.fields(model.options)})
    assert (parsed["out"], parsed["resume"]) == (f"runs/{name}", False)


@dataclasses.dataclass(frozen=True)
class ToyOptions:
    width: int = 4


class ToyTask(Toy):
    def __init__(self, options: ToyOptions, data: str, seed: int):
        super().__init__(options.width, seed=seed)
        assert data == "data"


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(MODELS, "toy", command.Model(ToyTask, ToyOptions, lambda: "data", {"batch_size": 2}))


def main(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["minisd.training", *words])
    command.main()


def test_trains_what_the_words_say(toy, tmp_path, monkeypatch):
    words = ["toy", "--out", str(tmp_path), "--no-bf16", "--width", "3", "--seed", "5", "--save-every", "0"]
    main(monkeypatch, *words, "--steps", "4")
    saved = state(tmp_path)
    assert saved["config"] == {"width": 3}
    assert (saved["settings"]["batch_size"], saved["settings"]["seed"]) == (2, 5)
    main(monkeypatch, *words, "--steps", "6", "--resume", "--picture-every", "0")
    assert len(log(tmp_path)) == 6
    assert {path.name for path in tmp_path.glob("picture*")} == {f"picture-000000{step}.png" for step in (4, 5, 6)}


def test_the_seed_of_the_run_is_that_of_the_first_weights(toy, tmp_path, monkeypatch):
    for seed in ("1", "2"):
        main(monkeypatch, "toy", "--out", str(tmp_path / seed), "--steps", "1", "--seed", seed, "--learning-rate",
             "1e-9", "--muon-rate", "1e-9", "--no-bf16")
        torch.testing.assert_close(state(tmp_path / seed)["task"]["linear.weight"], Toy(seed=int(seed)).linear.weight)
    assert not torch.allclose(Toy(seed=1).linear.weight, Toy(seed=2).linear.weight)


def test_the_batches_follow_from_the_seed(toy, tmp_path, monkeypatch):
    for seed in ("1", "2"):
        monkeypatch.setattr(ToyTask, "__init__", lambda self, options, data, seed: Toy.__init__(self))
        main(monkeypatch, "toy", "--out", str(tmp_path / seed), "--steps", "2", "--seed", seed, "--no-bf16")
    assert log(tmp_path / "1") != log(tmp_path / "2")


def test_errors_are_one_line(toy, tmp_path, monkeypatch, capsys):
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(monkeypatch, "toy", "--out", str(tmp_path), "--no-bf16", *words)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "give either steps or minutes" in refused()
    assert "batch_size=0: it must be above 0" in refused("--steps", "1", "--batch-size", "0")
    assert refused("--steps", "1", "--resume") == (
        f"python -m minisd.training: {tmp_path / 'state.pt'} does not exist: there is nothing to resume\n")
    monkeypatch.setattr(ToyTask, "forward", lambda self, batch: self.linear.weight.sum() * float("nan"))
    assert "the loss is nan" in refused("--steps", "1")
    monkeypatch.setattr(ToyTask, "forward", lambda self, batch: self.interrupt())
    monkeypatch.setattr(ToyTask, "interrupt", interrupt, raising=False)
    with pytest.raises(SystemExit) as stopped:
        main(monkeypatch, "toy", "--out", str(tmp_path), "--no-bf16", "--steps", "1")
    assert stopped.value.code == 130
    assert "stopped without saving" in capsys.readouterr().err


def interrupt(self):
    raise KeyboardInterrupt


def test_a_model_must_be_named(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(monkeypatch, "abacus")
    assert "invalid choice: 'abacus'" in capsys.readouterr().err


def test_one_process_needs_no_others(toy, tmp_path, monkeypatch):
    monkeypatch.delitem(os.environ, "WORLD_SIZE", raising=False)
    monkeypatch.setattr(command.dist, "init_process_group", lambda *given, **more: pytest.fail("it is alone"))
    main(monkeypatch, "toy", "--out", str(tmp_path), "--no-bf16", "--steps", "1")
