"""Writing: links, pipes and devices, modes, full and read-only file systems, the cache folder."""

import errno
import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prorank.adapt.weight_averaging import interpolate_weights
from prorank.checkpoints.resolve import resolve
from prorank.errors import ConfigError
from prorank.export import export
from prorank.train.run import train
from prorank.train.settings.stage_settings import make_settings
from prorank.utils.files import atomic_file, atomic_folder, cache_dir, check_file, check_folder, copy_folder


def put(path, text: str = "new\n") -> None:
    with atomic_file(path) as handle:
        handle.write(text)


def test_links_are_followed(tmp_path):
    """A link to a file, a chain of them, one that leads to nothing yet, one to a folder."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("old\n")
    (tmp_path / "link").symlink_to("there/file")
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    (tmp_path / "dangling").symlink_to("there/later")
    for name, target in (("link", "file"), ("chain", "file"), ("dangling", "later")):
        put(tmp_path / name, name)
        assert (tmp_path / name).is_symlink() and (tmp_path / "there" / target).read_text() == name
    (tmp_path / "folder").symlink_to("there")
    with atomic_folder(tmp_path / "folder") as beside:
        (beside / "only").touch()
    assert (tmp_path / "folder").is_symlink() and [p.name for p in (tmp_path / "there").iterdir()] == ["only"]
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_an_existing_mode_stays(mode, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        (tmp_path / name).chmod(mode | 0o100 * (name == "folder"))
    put(tmp_path / "file")
    with atomic_folder(tmp_path / "folder"):
        pass
    assert modes_of(tmp_path) == {"file": mode, "folder": mode | 0o100}


@pytest.mark.parametrize("name, content", [("fifo", b"new\n"), ("fifo.gz", b"new\n")])
def test_a_named_pipe_is_written_through(name, content, tmp_path):
    """Its reader gets all, and it stays a pipe; a failure sends nothing."""
    fifo, got = tmp_path / name, []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    with pytest.raises(RuntimeError), atomic_file(fifo) as handle:
        handle.write("half")
        raise RuntimeError
    check_file(fifo)
    put(fifo)
    reader.join()
    assert (gzip.decompress(got[0]) if name.endswith(".gz") else got[0]) == content and fifo.is_fifo()


WRITE = "from prorank.utils.files import *; check_file(p); print('before'); h = atomic_file(p); h.__enter__().write('new\\n')\n"
WRITE += "h.__exit__(None, None, None); print('after')"


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("to", ["file", "pipe"])
def test_stdout_by_name_is_written_in_its_place(name, to, tmp_path):
    """Also where the shell sends it to a file, whose beginning must not be written over."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    path = tmp_path / name  # an absolute name stays as it is
    with open(tmp_path / "out", "wb") as out:
        command = [sys.executable, "-c", f"p = {str(path)!r}; {WRITE}"]
        done = subprocess.run(command, stdout=out if to == "file" else subprocess.PIPE, check=True)
    assert (done.stdout or (tmp_path / "out").read_bytes()) == b"before\nnew\nafter\n"


def test_devices_stay():
    put("/dev/null")
    check_file("/dev/null")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        put("/dev/full")
    assert Path("/dev/full").is_char_device()


def modes_of(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mode & 0o777 for p in sorted(folder.rglob("*"))}


@pytest.fixture(params=[0o022, 0o027, 0o002, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_modes_are_those_of_the_umask(umask, tmp_path):
    """Whatever the writers set (safetensors 0600) and what is copied had."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").touch()
    (tmp_path / "source" / "a").chmod(0o400)
    (tmp_path / "source").chmod(0o500)
    with atomic_folder(tmp_path / "out") as beside:
        copy_folder(tmp_path / "source", beside)
        save_file({"w": torch.zeros(2)}, beside / "model.safetensors")
        (beside / "sub").mkdir(mode=0o700)
        (beside / "sub" / "x").touch(0o755)
    put(tmp_path / "out.run")
    file, folder = 0o666 & ~umask, 0o777 & ~umask
    wanted = {"out": folder, "out/a": file, "out/model.safetensors": file, "out/sub": folder, "out/sub/x": file, "out.run": file}
    assert {k: oct(v) for k, v in modes_of(tmp_path).items() if "source" not in k} == {k: oct(v) for k, v in wanted.items()}


def test_all_that_commands_write_has_the_mode_of_the_umask(tmp_path, tiny_llama_dir, toy_file):
    """Training with its checkpoints, merging, the classifier, a blend."""
    common = {"base": str(tiny_llama_dir), "data": str(toy_file), "steps": 1, "dtype": "fp32", "dev_queries": 0, "max_length": 96}
    train(make_settings({"stage": "score", "out": str(tmp_path / "full"), "save_every": 1, **common}))
    export(tmp_path / "full", tmp_path / "merged", "merged")
    export(tmp_path / "full", tmp_path / "classifier")
    interpolate_weights(resolve(tiny_llama_dir), [tmp_path / "full" / "model"] * 2, tmp_path / "blend", 0.5)
    assert list((tmp_path / "full").glob("checkpoint-*"))
    wanted = {"file": 0o666 & ~UMASK, "folder": 0o777 & ~UMASK}
    wrong = {p: oct(m) for p, m in modes_of(tmp_path).items() if m != wanted["folder" if (tmp_path / p).is_dir() else "file"]}
    assert not wrong


UMASK = os.umask(0)
os.umask(UMASK)


class Failure(Exception):
    pass


def test_a_failure_leaves_what_was_there(tmp_path):
    """Nothing new, nothing half-written, nothing lost."""
    for name in ("new", "old", "old.gz"):
        if name != "new":
            (tmp_path / name).write_text("old")
        with pytest.raises(Failure), atomic_file(tmp_path / name) as handle:
            handle.write("half" * 99999)
            raise Failure
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    for name in ("folder", "other"):
        with pytest.raises(Failure), atomic_folder(tmp_path / name) as beside:
            (beside / "half").touch()
            raise Failure
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {"old", "old.gz", "folder", "folder/old"}
    assert (tmp_path / "old").read_text() == (tmp_path / "old.gz").read_text() == "old"


def test_a_folder_comes_back_if_it_cannot_be_replaced(tmp_path, monkeypatch):
    """The second of the two renames fails."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    rename, calls = os.replace, []

    def failing(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error: '.*folder'"), atomic_folder(tmp_path / "folder") as beside:
        (beside / "new").touch()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["folder", "folder/old"]


LIMITED = """
import resource, torch
from pathlib import Path
from safetensors.torch import save_file
from prorank.utils.files import *
big = {"w": torch.zeros(99999)}
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
def file(path):
    with atomic_file(path) as handle:
        handle.writelines("line\\n" for _ in range(99999))
def zipped(path):
    with atomic_file(path) as handle:
        handle.writelines(f"{n * n}\\n" for n in range(99999))
def weights(path):
    with atomic_folder(path) as beside:
        save_file(big, beside / "model.safetensors")
def state(path):
    with atomic_folder(path) as beside:
        torch.save(big, beside / "model.pt")
def text(path):
    with atomic_folder(path) as beside:
        (beside / "a").write_text("line" * 99999)
def append(path):
    append_text(path, "line\\n" * 3)
    append_text(path, "line\\n" * 99999)
for write in (file, zipped, weights, state, text, append):
    path = Path(write.__name__ + ".gz" * (write is zipped))
    try:
        write(path)
    except OSError as error:
        print(path, error.filename)
"""


def test_a_disk_that_is_full_is_an_oserror_that_names_the_place(tmp_path):
    """In the midst of writing, also where safetensors and torch raise classes of their own; nothing half-written is left.
    A limit on the size of files stands for the disk."""
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"{name} {name}" for name in ("file", "zipped.gz", "weights", "state", "text", "append")]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"append": "line\n" * 3}


def test_checks_find_what_writing_would(tmp_path):
    """Before the work; and leave nothing."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    cases = [
        (check_file, ".", IsADirectoryError), (check_file, "file/x", NotADirectoryError), (check_file, "/proc/none/x", OSError),
        (check_folder, "file", NotADirectoryError), (check_folder, "file/x", NotADirectoryError),
        (check_folder, "/proc/x", OSError), (check_file, "/dev/fd/99", OSError), (check_file, "loop", OSError),
    ]  # fmt: skip
    for check, name, error in cases:
        with pytest.raises(error) as caught:
            check(tmp_path / name)
        assert caught.value.filename in (str(tmp_path / name), None)
    for check, name in ((check_file, "file"), (check_file, "new/deep/file"), (check_folder, "new/deep"), (check_folder, ".")):
        check(tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {"file", "loop"}


@pytest.fixture
def read_only(tmp_path):
    """A folder that takes no files, for root, too."""
    place = tmp_path / "ro"
    place.mkdir()
    (place / "file").write_text("old")
    place.chmod(0o555)
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", place]
    mounted = os.access(place, os.W_OK) and not subprocess.run(mount, capture_output=True).returncode
    if os.access(place, os.W_OK):
        pytest.skip("this user can write everywhere")
    yield place
    if mounted:
        subprocess.run(["umount", place], check=True)
    place.chmod(0o755)


def test_a_read_only_place_is_named(read_only):
    for check, write in ((check_file, put), (check_folder, lambda path: atomic_folder(path).__enter__())):
        for call in (check, write):
            with pytest.raises(OSError) as caught:
                call(read_only / "new")
            assert caught.value.filename == str(read_only / "new") and caught.value.errno in (errno.EROFS, errno.EACCES)


def test_a_folder_that_cannot_be_moved_is_filled(tmp_path, monkeypatch):
    """A mounted folder, as containers have it, gets the new content."""
    target = tmp_path / "out"
    (target / "sub").mkdir(parents=True)
    (target / "old").touch()
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(target))
    with atomic_folder(target) as beside:
        (beside / "new").touch()
    assert [p.name for p in target.iterdir()] == ["new"]


CACHES = [
    ({"PRORANK_CACHE": "/a/b"}, "/a/b"), ({"PRORANK_CACHE": "~/b"}, "/users/me/b"), ({"PRORANK_CACHE": "b"}, "b"),
    ({"PRORANK_CACHE": ""}, "/users/me/.cache/prorank"), ({}, "/users/me/.cache/prorank"),
    ({"XDG_CACHE_HOME": "/x"}, "/x/prorank"), ({"XDG_CACHE_HOME": "~/x"}, "/users/me/x/prorank"),
    ({"XDG_CACHE_HOME": "", "PRORANK_CACHE": ""}, "/users/me/.cache/prorank"), ({"HOME": "", "PRORANK_CACHE": "/a"}, "/a"),
]  # fmt: skip


@pytest.mark.parametrize("variables, wanted", CACHES)
def test_the_cache_folder(variables, wanted, monkeypatch):
    for name in ("PRORANK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/users/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(wanted)


def test_no_home_folder_is_an_error_that_says_what_to_set(monkeypatch):
    """No HOME, in the environment or for the user, and an empty one."""
    monkeypatch.delenv("PRORANK_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ConfigError, match="no home folder is known .*; set PRORANK_CACHE"):
        cache_dir()
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 987654321)
    for value in ("", "~/x"):
        monkeypatch.setenv("PRORANK_CACHE", value)
        with pytest.raises(ConfigError, match="no home folder is known .*; set PRORANK_CACHE"):
            cache_dir()
