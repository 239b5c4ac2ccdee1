"""Bundles on disk: all or nothing, no surprise overwrite, executable bits; registry and options."""

from __future__ import annotations

import stat
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import meshwright.planner.emitters as emitters
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.emitters import LaunchBundle, LaunchOptions, available, get, write_bundle

BUNDLE = LaunchBundle(
    files={"launch.sh": "#!/bin/bash\n", "sub/config.json": "{}\n"}, executable=frozenset({"launch.sh"})
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_into_a_new_directory(tmp_path: Path) -> None:
    paths = write_bundle(BUNDLE, tmp_path / "a" / "out")
    assert [p.relative_to(tmp_path / "a" / "out").as_posix() for p in paths] == ["launch.sh", "sub/config.json"]
    assert paths[1].read_text() == "{}\n"
    assert paths[0].stat().st_mode & stat.S_IXUSR
    assert not paths[1].stat().st_mode & stat.S_IXUSR
    assert names(tmp_path / "a") == ["out"]  # no temporary directory is left


def test_never_overwrites_without_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub").mkdir()
    (out / "sub" / "config.json").write_text("mine")
    with pytest.raises(InvalidProblemError, match=r"config\.json exists.*--force"):
        write_bundle(BUNDLE, out)
    assert not (out / "launch.sh").exists()
    assert (out / "sub" / "config.json").read_text() == "mine"
    write_bundle(BUNDLE, out, force=True)
    assert (out / "sub" / "config.json").read_text() == "{}\n"


def test_other_files_of_the_directory_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    write_bundle(BUNDLE, out)
    assert names(out) == ["launch.sh", "notes.txt", "sub"]


def test_failure_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_bundle(BUNDLE, out)
    (out / "launch.sh").write_text("old")
    real, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 4:  # both old files were set aside, the first new one is in place
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InvalidProblemError, match="No space left"):
        write_bundle(BUNDLE, out, force=True)
    monkeypatch.undo()
    assert (out / "launch.sh").read_text() == "old"
    assert (out / "sub" / "config.json").read_text() == "{}\n"
    assert names(tmp_path) == ["out"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(InvalidProblemError, match="is a file"):
        write_bundle(BUNDLE, tmp_path / "out", force=True)
    (tmp_path / "dir" / "launch.sh").mkdir(parents=True)
    with pytest.raises(InvalidProblemError, match="directory where a file must go"):
        write_bundle(BUNDLE, tmp_path / "dir", force=True)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../x", "", "a\\b", "./a"])
def test_paths_stay_inside(name: str) -> None:
    with pytest.raises(ValueError, match="clean relative path"):
        LaunchBundle(files={name: ""})


def test_registry() -> None:
    assert available() == ("accelerate", "deepspeed", "megatron-lm", "pytorch", "torchtitan")
    for name in available():
        assert get(name).name == name
        assert get(name).framework == {"accelerate": "pytorch"}.get(name, name)
    with pytest.raises(InvalidProblemError, match="Did you mean megatron-lm"):
        get("megatron")


def test_entry_points_add_emitters(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(
        name="mine", group="meshwright.emitters", value="meshwright.planner.emitters.megatron_lm:MegatronLm"
    )
    monkeypatch.setattr(emitters, "entry_points", lambda group: [point] if group == "meshwright.emitters" else [])
    assert "mine" in available()
    assert get("mine").name == "megatron-lm"


def test_options_are_checked() -> None:
    with pytest.raises(InvalidProblemError, match="--wrap"):
        LaunchOptions(wrap="ssh")
    with pytest.raises(InvalidProblemError, match="--train-iters"):
        LaunchOptions(train_iters=0)
    with pytest.raises(InvalidProblemError, match="environment variable"):
        LaunchOptions(env={"A B": "1"})
