"""The pool of encoded scenes: made once, kept in a file, and made again if the file is not its own."""

import pytest
import torch

from minisd.training import pool
from minisd.training.pool import Pool


class Encoder:
    """Rows that say which scene they are of; remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, indices: range) -> dict[str, torch.Tensor]:
        self.asked += [indices]
        numbers = torch.tensor(indices)
        return {"mean": numbers[:, None] / 8, "token_ids": numbers[:, None].expand(-1, 3)}


def test_pool_k_holds_the_scenes_k(tmp_path):
    encode = Encoder()
    found = Pool.open(tmp_path / "pool", 3, "key", 100, encode)
    assert (found.number, len(found)) == (3, 100)
    assert encode.asked == [range(300, 364), range(364, 400)]  # some at once, not all: memory
    assert found.tensors["token_ids"][:, 0].tolist() == list(range(300, 400))


def test_rows_come_out_in_full_precision(tmp_path):
    found = Pool.open(tmp_path / "pool", 0, "key", 20, Encoder())
    assert {name: tensor.dtype for name, tensor in found.tensors.items()} == {
        "mean": torch.float16, "token_ids": torch.int16}
    means, ids = (found.rows(name, torch.tensor([7, 2]), torch.device("cpu")) for name in ("mean", "token_ids"))
    assert (means.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert means.tolist() == [[7 / 8], [2 / 8]]
    assert ids.tolist() == [[7, 7, 7], [2, 2, 2]]


def test_pool_is_found_again_without_encoding(tmp_path):
    first, encode = Pool.open(tmp_path / "pool", 1, "key", 20, Encoder()), Encoder()
    again = Pool.open(tmp_path / "pool", 1, "key", 20, encode)
    assert encode.asked == []
    assert again.number == 1
    assert again.tensors.keys() == first.tensors.keys()
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in first.tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize(("number", "key", "size"), [(2, "key", 20), (1, "yek", 20), (1, "key", 10)])
def test_pool_of_another_key_is_encoded_again(tmp_path, number, key, size):
    Pool.open(tmp_path / "pool", 1, "key", 20, Encoder())
    for expected in ([range(number * size, (number + 1) * size)], []):  # the second time it is there
        encode = Encoder()
        found = Pool.open(tmp_path / "pool", number, key, size, encode)
        assert encode.asked == expected
        assert found.tensors["token_ids"][:, 0].tolist() == list(range(number * size, (number + 1) * size))


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b[:5], lambda b: b"",
                                    lambda b: b"junk" * 100, lambda b: b[:8] + b[9:]])
def test_damaged_pool_is_encoded_again(tmp_path, damage):
    Pool.open(tmp_path / "pool", 0, "key", 20, Encoder())
    (tmp_path / "pool").write_bytes(damage((tmp_path / "pool").read_bytes()))
    encode = Encoder()
    assert len(Pool.open(tmp_path / "pool", 0, "key", 20, encode)) == 20
    assert encode.asked == [range(20)]


@pytest.mark.parametrize(("error", "raised", "message"), [
    (KeyboardInterrupt(), KeyboardInterrupt, None),
    (pool.SafetensorError("No space left on device"), OSError, r"could not save .*pool \(No space left")])
def test_a_pool_that_is_not_written_whole_leaves_nothing(tmp_path, monkeypatch, error, raised, message):
    def fail(tensors, path, metadata):
        path.write_bytes(b"half a po")
        raise error

    Pool.open(tmp_path / "pool", 0, "key", 20, Encoder())
    before = (tmp_path / "pool").read_bytes()
    monkeypatch.setattr(pool, "save_file", fail)
    with pytest.raises(raised, match=message):
        Pool.open(tmp_path / "pool", 1, "key", 20, Encoder())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_processes_divide_the_scenes(monkeypatch):
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 4)):
        monkeypatch.setattr(pool.dist, name, lambda value=value: value)
    assert pool.own_share(range(40, 60)) == range(45, 50)
    with pytest.raises(ValueError, match="pool_size=22 cannot be divided among 4 processes"):
        pool.own_share(range(22))
