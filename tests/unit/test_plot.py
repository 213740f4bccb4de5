"""The course's figures: what can be drawn, what is refused, and that pictures of noise do not make large files."""

import base64
import io

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output
from PIL import Image

from minisd import plot


@pytest.fixture(autouse=True)
def whatever_environment_is_active(monkeypatch):
    """IPython warns if the active virtual environment is not that of the tests."""
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)


def shown(figure, alt: str = "what it shows") -> RichOutput:
    """The output that `show` puts below a cell."""
    InteractiveShell.instance()
    with capture_output() as captured:
        plot.show(figure, alt)
    output, = captured.outputs
    return output


@pytest.mark.parametrize(("picture", "expected"), [
    (torch.full((3, 2, 4), -1.0), np.zeros((2, 4, 3))), (torch.full((3, 2, 4), 5.0), np.ones((2, 4, 3))),
    (torch.zeros(1, 2, 4), np.full((2, 4), 0.5)), (Image.new("L", (4, 2), 255), np.ones((2, 4, 3))),
    (np.full((2, 4, 3), 0.25), np.full((2, 4, 3), 0.25))])
def test_pictures_of_all_kinds_are_drawn_alike(picture, expected):
    np.testing.assert_array_equal(plot.to_array(picture), expected)


def test_a_grid_has_titles_captions_and_labels():
    made = plot.pictures({"first": [torch.zeros(3, 8, 8)] * 2, "second": [torch.ones(3, 8, 8)] * 2}, ["left", "right"],
                         captions=[["a", "b"], ["c", "d"]])
    axes = np.array(made.axes).reshape(2, 2)
    assert [axis.get_title() for axis in axes[0]] == ["left", "right"]
    assert [axis.get_xlabel() for axis in axes.flat] == ["a", "b", "c", "d"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["first", "second"]
    assert axes[1, 1].images[0].get_array().min() == 1


def test_a_signed_heatmap_is_white_at_zero():
    _, axes = plot.figure()
    plot.heatmap(axes[0, 0], torch.tensor([[-1.0, 0.0], [2.0, 3.0]]), signed=True)
    assert axes[0, 0].images[0].get_clim() == (-3, 3)
    assert min(axes[0, 0].images[0].to_rgba(np.array([[0.0]]))[0, 0]) > 0.95


def test_a_figure_is_shown_with_its_alternative_text():
    output = shown(plot.figure(width=2, height=1)[0], "an empty axis")
    assert output.metadata["image/png"]["alt"] == "an empty axis"
    assert output.data["image/png"]


def test_noise_is_shown_in_256_colours():
    noise = torch.randn(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    data = base64.b64decode(shown(plot.pictures([list(noise[:4]), list(noise[4:])])).data["image/png"])
    assert Image.open(io.BytesIO(data)).mode == "P"


def test_the_map_shows_where_a_lesson_is():
    made = plot.system_map("VAE decoder")
    highlighted = [patch for patch in made.axes[0].patches if patch.get_linewidth() == 2]
    assert len(highlighted) == 1
    with pytest.raises(ValueError, match="the map has no oven; it has prompt, tokenizer"):
        plot.system_map("oven")
