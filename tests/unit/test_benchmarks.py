"""The benchmarks themselves: what they count, in what order they run things, and what they write."""

import sys
from functools import partial

import pytest
import torch

from minisd.files import assets_folder
from tests.benchmarks import __main__ as command
from tests.benchmarks import measure, rows
from tests.benchmarks.measure import Row, as_table, fresh, peak, seconds
from tests.clock import second_by_second

CPU = torch.device("cpu")


def test_a_row_says_when_its_goal_is_missed():
    reached, missed, free = Row("a", 1.0, 2.0, "s", 0.5), Row("b", 4108, 4070, "MB", 1.0), Row("c", 2.0, 1.0, "s")
    assert [row.missed for row in (reached, missed, free)] == [False, True, False]
    assert str(missed) == "| b | 4,110 MB | 4,070 MB | 1.01 | 1.00, **missed** |"
    assert as_table([reached, free]).endswith("\n| a | 1 s | 2 s | 0.50 | 0.50 |\n| c | 2 s | 1 s | 2.00 |  |")


def test_the_two_run_in_turn_after_one_run_each():
    runs = []
    seconds(lambda: runs.append("a"), lambda: runs.append("b"), CPU, turns=2, at_least=0)
    assert runs == ["a", "b"] * 3


def test_short_jobs_are_run_more_often(monkeypatch):
    monkeypatch.setattr(measure.time, "perf_counter", second_by_second())
    runs = []
    seconds(lambda: runs.append("a"), lambda: runs.append("b"), CPU, turns=2, at_least=100)
    assert runs == ["a", "b"] * 22  # the first to warm up; then each turn takes four looks at the clock, or five


def test_peak_counts_what_is_held_at_once():
    def in_turn():
        for _ in range(3):
            torch.zeros(2**18)  # 1 MB, freed at once

    def together():
        return [torch.zeros(2**18) for _ in range(3)]

    assert peak(in_turn, CPU) == pytest.approx(1, abs=0.1)
    assert peak(together, CPU) == pytest.approx(3, abs=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the process's size")
def test_fresh_processes_count_only_what_is_to_be_measured():
    fill = "x = bytearray(2**25); x[::4096] = x[1::4096]"
    (_, small), (_, large) = fresh((fill, "pass"), ("", fill), turns=1)
    assert small < 8
    assert large == pytest.approx(32, abs=8)


def test_rows_of_the_mini_model_are_measured_after_the_outputs_agreed(monkeypatch):
    monkeypatch.setattr(rows, "seconds", partial(seconds, at_least=0))
    found = list(rows.vae_rows("mini", CPU, assets_folder() / "mini"))
    assert len(found) == 4
    assert all(row.ours > 0 and row.theirs > 0 for row in found)


def test_outputs_that_differ_are_noticed():
    with pytest.raises(AssertionError):
        rows.assert_close(torch.zeros(3), torch.full((3,), 1e-3))


def test_the_readme_has_a_place_for_each_table(tmp_path, monkeypatch):
    text = (command.ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    for place in ("sd15", "sd21", "mini"):
        command.write(f"new {place}\n", place)
    again = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "<!-- benchmarks mini -->\nnew mini\n<!-- /benchmarks mini -->" in again
    assert again.startswith(text[:2000])
    assert again.endswith(text[-500:])
