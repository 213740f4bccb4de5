"""Folders and files that are saved completely or not at all, and folders that stay what they were."""

import errno
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import pytest
import torch

from minisd import DDIMScheduler, StableDiffusion, Tokenizer, UNet, saving
from minisd.files import read_json
from minisd.saving import JOURNAL, atomic_file, atomic_folder, check_whole, finish_saving
from tests.tiny import UNETS

needs_unix = pytest.mark.skipif(os.name == "nt", reason="permissions of Unix")


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones, too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, text: str, *names: str) -> None:
    """Save these files, each with this text, as a model is saved."""
    with atomic_folder(folder) as new:
        for name in names:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_text(text)


def refuse(*_, **__):
    raise OSError(errno.EPERM, "Operation not permitted")


FILES = ("model_index.json", "unet/config.json", "unet/model.safetensors", "vae/config.json")
# Imports `atomic_folder` without PyTorch and all that, to begin at once.
ALONE = """
import os, sys, types
sys.modules["minisd"] = package = types.ModuleType("minisd")
package.__path__ = [os.environ["PACKAGE"]]
from minisd.saving import atomic_folder
"""
PACKAGE = {"PACKAGE": str(Path(saving.__file__).parent)}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "model", "old", *FILES)
    return tmp_path / "model"


# --- a folder stays the same folder ---------------------------------------------------------------------------


def test_other_files_and_empty_folders_are_kept(folder):
    (folder / "mine.txt").write_text("mine")
    (folder / "unet/empty").mkdir()
    with atomic_folder(folder) as new:
        (new / "a").mkdir()
        (new / "a/b.txt").write_text("new")
        assert not (folder / "a").exists()
    assert content(folder) == {**dict.fromkeys(FILES, b"old"), "mine.txt": b"mine", "a/b.txt": b"new"}
    assert (folder / "unet/empty").is_dir()


@needs_unix
@pytest.mark.parametrize("mode", [0o2775, 0o750])
def test_identity_permissions_and_group_are_kept(folder, mode):
    group = 50 if os.getuid() == 0 else os.getgid()
    for place in (folder, folder / "unet"):
        os.chown(place, -1, group)
        place.chmod(mode)
    os.chown(folder / FILES[2], -1, group)
    (folder / FILES[2]).chmod(0o640)
    before = {place: place.stat() for place in (folder, folder / "unet")}
    write(folder, "new", *FILES, "unet/more.txt")
    for place, old in before.items():
        now = place.stat()
        assert (now.st_ino, now.st_mode, now.st_gid) == (old.st_ino, old.st_mode, group)
    new = (folder / FILES[2]).stat()
    assert (stat.S_IMODE(new.st_mode), new.st_gid) == (0o640, group)
    assert content(folder) == dict.fromkeys([*FILES, "unet/more.txt"], b"new")


@needs_unix
def test_new_folders_and_weights_have_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        UNet(**UNETS["sd1"]).save_pretrained(tmp_path / "unet")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "unet").stat().st_mode) == 0o750
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "unet").iterdir()} == {0o640}


@pytest.mark.parametrize("name", [".", "../model", "../model/unet/.."])
def test_a_process_may_stand_in_the_folder(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    tokenizer, scheduler, unet = Tokenizer.train(["a cat"], 520), DDIMScheduler(), UNet(**UNETS["sd1"])
    for part in (tokenizer, scheduler, unet):
        part.save_pretrained(name)
        assert Path.cwd() == folder  # and has not been deleted
    assert Tokenizer.from_pretrained(".").merges == tokenizer.merges
    assert {"vocab.json", "scheduler_config.json", "config.json"} <= set(os.listdir())


def test_a_process_may_stand_in_a_part_of_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder / "unet")
    write(Path(".."), "new", *FILES)
    assert Path("config.json").read_text() == "new"


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Tokenizer.train(["a cat"], 520).save_pretrained("~/tokenizer")
    DDIMScheduler().save_pretrained("~/new/scheduler")
    assert sorted(os.listdir()) == ["new", "tokenizer"]


def test_links_are_replaced_not_written_through(folder, tmp_path):
    """As in the Hub's cache, where files are links to others that several folders share."""
    (tmp_path / "shared").write_text("shared")
    (folder / FILES[2]).unlink()
    (folder / FILES[2]).symlink_to(tmp_path / "shared")
    (folder / "dangling").symlink_to("nowhere")
    write(folder, "new", *FILES)
    assert (tmp_path / "shared").read_text() == "shared"
    assert content(folder) == dict.fromkeys(FILES, b"new")
    assert (folder / "dangling").is_symlink()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system")
def test_a_part_of_the_folder_may_be_on_another_disk(folder, tmp_path):
    other = Path("/dev/shm") / f"minisd-{os.getpid()}"
    shutil.move(folder / "unet", other)
    try:
        assert other.stat().st_dev != folder.stat().st_dev
        (folder / "unet").symlink_to(other, target_is_directory=True)
        write(folder, "new", *FILES)
        assert (folder / "unet").is_symlink()
        assert content(other) == {"config.json": b"new", "model.safetensors": b"new"}
        assert (folder / "vae/config.json").read_text() == "new"
    finally:
        shutil.rmtree(other)


def test_file_systems_without_hard_links(folder, monkeypatch):
    monkeypatch.setattr(os, "link", refuse)
    write(folder, "new", *FILES)
    assert content(folder) == dict.fromkeys(FILES, b"new")


@needs_unix
def test_a_parent_in_which_one_may_not_write():
    code = (f"{ALONE}\n"
            "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"  # root may write anywhere
            "def save(place):\n"
            "    with atomic_folder(place) as new: (new / 'new.txt').write_text('new')\n"
            "save('model')\n"
            "for place in ('other', 'closed/other'):\n"
            "    try: save(place)\n"
            "    except PermissionError as error: print(error)\n")
    with tempfile.TemporaryDirectory() as where:  # pytest's are closed to others
        parent = Path(where).resolve()
        for name in ("model", "closed"):
            (parent / name).mkdir()
        if os.getuid() == 0:
            os.chown(parent / "model", 65534, 65534)
        (parent / "model/old.txt").write_text("old")
        (parent / "closed").chmod(0)
        parent.chmod(0o555)
        try:
            done = subprocess.run([sys.executable, "-c", code], cwd=parent, env=os.environ | PACKAGE,
                                  capture_output=True, text=True)
        finally:
            parent.chmod(0o755)
            (parent / "closed").chmod(0o755)
        assert done.stdout == "".join(
            f"nothing can be saved in {parent / place}: no permission to write in {nearest}; name another folder\n"
            for place, nearest in (("other", parent), ("closed/other", parent / "closed"))), done.stderr
        assert content(parent) == {"model/old.txt": b"old", "model/new.txt": b"new"}


# --- what new files supersede ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "new", "goes"), [
    ("m-00001-of-00002.safetensors", "m.safetensors", True), ("m.safetensors.index.json", "m.safetensors", True),
    ("m-00001-of-00002.safetensors", "m.fp16.safetensors", False),
    ("m.safetensors.index.json", "m.fp16.safetensors", False),
    ("m.fp16-00001-of-00002.safetensors", "m.fp16.safetensors", True),
    ("m-00001-of-00002.fp16.safetensors", "m.fp16.safetensors", True),
    ("m.safetensors.index.fp16.json", "m.fp16.safetensors", True),
    ("m.fp16.safetensors.index.json", "m.fp16.safetensors", True),
    ("m.fp16.safetensors", "m.safetensors", False), ("m.safetensors.index.json", "config.json", False),
    ("tokenizer.json", "vocab.json", True), ("added_tokens.json", "vocab.json", True),
    ("tokenizer.json", "config.json", False)])
def test_what_contradicts_the_new_files_goes(tmp_path, name, new, goes):
    write(tmp_path / "f", "old", f"unet/{name}", name)
    write(tmp_path / "f", "new", f"unet/{new}")
    assert (tmp_path / "f/unet" / name).exists() is not goes
    assert (tmp_path / "f" / name).exists()  # nothing was written beside this one


# --- saves that fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("error", [PermissionError(errno.EPERM, "Operation not permitted"), KeyboardInterrupt()])
@pytest.mark.parametrize("fail_at", [1, 2, 5, 9])
def test_a_failure_while_files_are_replaced_is_undone(folder, monkeypatch, error, fail_at, links):
    (folder / "unet/model-00001-of-00001.safetensors").write_text("old")
    before, seen = content(folder), folder.stat().st_ino
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    made, real = count(1), os.replace

    def replace(*given):
        if next(made) == fail_at:
            raise error
        return real(*given)

    monkeypatch.setattr(os, "replace", replace)
    names = [*FILES, "new/file.txt", "new/and/another.txt", "more.txt", "and.txt"]
    with pytest.raises(type(error)) as raised:
        write(folder, "new", *names)
    assert content(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == ["model_index.json", "unet", "vae"]
    assert folder.stat().st_ino == seen
    if isinstance(error, OSError):
        assert str(raised.value).startswith(f"{folder} could not be saved: Operation not permitted; ")
    monkeypatch.undo()
    write(folder, "new", *names)
    assert content(folder) == dict.fromkeys(names, b"new")


def test_nothing_is_left_of_a_new_folder(tmp_path):
    def half(error):
        with atomic_folder(tmp_path / "some/new/folder") as new:
            (new / "a.txt").write_text("a")
            raise error

    with pytest.raises(OSError, match=r"new/folder could not be saved: No space left on device; make room"):
        half(OSError(errno.ENOSPC, "No space left on device"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        half(KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("blocked", "message"), [
    ("unet", "unet could not be saved: File exists; name another folder"),
    ("unet/config.json", r"unet/config\.json could not be saved: there is a folder of that name; name another folder")])
def test_something_of_another_kind_in_the_way(folder, blocked, message):
    shutil.rmtree(folder / "unet")
    if "/" in blocked:
        (folder / blocked).mkdir(parents=True)
    else:
        (folder / blocked).write_text("mine")
    before = content(folder)
    with pytest.raises(OSError, match=message):
        write(folder, "new", *FILES)
    assert content(folder) == before


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_are_saved_as_floating_point_numbers_only(tiny, tmp_path, dtype):
    sd = StableDiffusion.from_pretrained(tiny["sd1"], device="cpu")
    for part in (sd, sd.vae):
        with pytest.raises(ValueError, match=rf"dtype={dtype}; weights are floating point numbers: it must be torch\."):
            part.save_pretrained(tmp_path / "new", dtype=dtype)
    with pytest.raises(ValueError, match=r"variant='\.\./x'; it must be a word"):
        sd.save_pretrained(tmp_path / "new", variant="../x")
    with torch.no_grad():
        sd.unet.conv_out.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"conv_out\.bias has values up to 1e\+06, which are infinite in it"):
        sd.save_pretrained(tmp_path / "new", dtype=torch.float16)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_while_a_file_is_written(tmp_path):
    path = tmp_path / "picture.png"

    def half():
        with atomic_file(path) as new:
            assert new.suffix == ".png"
            new.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    for before in ({}, {"picture.png": b"old"}):
        with pytest.raises(OSError, match=r"picture\.png could not be saved: No space left on device; make room"):
            half()
        assert content(tmp_path) == before
        with atomic_file(path) as new:
            new.write_bytes(b"old")
        assert content(tmp_path) == {"picture.png": b"old"}


# --- saves that are killed ------------------------------------------------------------------------------------


# Saves into a folder: once, and the process dies at its n-th rename; or, where n is 0, again and again.
VICTIM = ALONE + """
from pathlib import Path

def refuse(*_, **__):
    raise PermissionError(1, "no hard links here")

def counted(*given):
    global renames
    renames += 1
    return os._exit(9) if renames == fatal else replace(*given)

folder, fatal, links, names = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
os.link = os.link if links == "True" else refuse
renames, replace, os.replace = 0, os.replace, counted
number = 0
while fatal == 0 or number == 0:
    number += 1
    with atomic_folder(folder) as new:
        for name in names:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(str(number))
"""


def victim(folder: Path, fatal: int, links: bool = True) -> subprocess.Popen:
    """A process that saves and imports no more than `saving`."""
    return subprocess.Popen([sys.executable, "-c", VICTIM, folder, str(fatal), str(links), *FILES],
                            env=os.environ | PACKAGE)


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_between_two_renames_is_noticed_and_can_be_finished(folder, links):
    (folder / "unet/model-00001-of-00001.safetensors").write_text("old")
    before, half = content(folder), 0
    shutil.copytree(folder, kept := folder.parent / "kept")
    for number in count(1):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        if victim(folder, number, links).wait() == 0:  # all renames were made
            break
        if not (folder / JOURNAL).exists():
            assert {name: text for name, text in content(folder).items() if "/." not in f"/{name}"} == before
            continue
        half += 1
        for place in (folder / "model_index.json", folder / "unet/config.json"):
            with pytest.raises(ValueError, match=r"a save was cut off: .*Save again, or call minisd\.saving\.finish"):
                read_json(place)
        if number % 2:
            finish_saving(folder)
        else:
            write(folder, "1", "model_index.json")
        check_whole(folder)
        check_whole(folder / "unet")
        left = content(folder)
        assert {name: left.pop(name) for name in FILES} == dict.fromkeys(FILES, b"1")
        assert all(name.startswith(".saving-") for name in left)
    assert content(folder) == dict.fromkeys(FILES, b"1")
    assert half == (len(FILES) + 1 if links else 2 * len(FILES) + 1)


@pytest.mark.slow
def test_thirty_kills_leave_whole_folders(tmp_path):
    dice, longest, whole = random.Random(0), 0.3, 0
    while whole < 30:
        folder = tmp_path / str(whole % 3)
        process = victim(folder, 0)
        time.sleep(dice.uniform(0, longest))
        process.kill()
        process.wait()
        if folder.exists():
            finish_saving(folder)
            assert len({(folder / name).read_text() for name in FILES}) == 1
            whole += 1
        else:
            longest *= 1.2  # this machine needs more time for the first save


@pytest.mark.parametrize("journal", [
    "", "[]", '{"token": "ab"}', {"write": ["../other.txt"]}, {"remove": ["link/other.txt"]}, {"write": [1]},
    {"token": "../x"}])
def test_a_journal_that_somebody_else_wrote_does_no_harm(folder, journal):
    (folder.parent / "other.txt").write_text("mine")
    (folder.parent / ".other.txt-ab.new").write_text("bad")
    (folder / "link").symlink_to(folder.parent, target_is_directory=True)
    if isinstance(journal, dict):
        journal["remove"] = [*journal.get("remove", []), str(folder.parent / "other.txt")][:1]
        journal = json.dumps({"token": "ab", "write": [], "remove": []} | journal)
    (folder / JOURNAL).write_text(journal)
    with pytest.raises(ValueError, match=r"\.json is not what minisd writes; delete it"):
        write(folder, "new", *FILES)
    assert (folder.parent / "other.txt").read_text() == "mine"
    assert (folder / FILES[0]).read_text() == "old"
