"""Bad input gets one clear line, status 2, no traceback, and nothing is lost or overwritten."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import train
from experiment import build
from experiment.settings import config
from experiment.store import checkpoint

ROOT = Path(__file__).parents[3]
TINY = (
    "--num-envs 2 --hidden 16 --core-size 8 --replay-rows 400 --start-rows 64 --batch-size 2 --unroll 4 --burn-in 2 "
    "--sequence-stride 2 --threads 1 --track none --eval-frames 0 --log-frames 200"
).split()


def refused(main, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail; its one line."""
    assert main(argv) == 2
    out = capsys.readouterr()
    lines = out.err.strip().splitlines()
    assert len(lines) == 1, out.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in out.out + out.err
    return lines[0]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny real run with two checkpoints."""
    runs = tmp_path_factory.mktemp("runs")
    argv = ["drqn", "--frames", "1600", "--checkpoint-frames", "800", "--runs-dir", str(runs), "--name", "tiny", *TINY]
    assert train.main(argv) == 0
    return runs / "tiny"


BAD_TRAIN = [
    # flag, value, words the line must hold
    ("--gamee pong", "--gamee", "--game"),
    ("--frame 100", "--frame", "--frames"),
    ("--samples-per-steps 2", "--samples-per-steps", "--samples-per-step"),
    ("--core", "--core", "needs a value"),
    ("--game brekout", "--game", "breakout"),
    ("--game SpaceInvaders", "--game", "space_invaders"),
    ("--game ALE/Pong-v5", "--game", "pong"),
    ("--protocol v6", "--protocol", "v5"),
    ("--protocol dqn-2013", "--protocol", "dqn-2015"),
    ("--observe flikker", "--observe", "flicker"),
    ("--observe flicker --hide-probability 1.5", "--hide-probability 1.5", "between 0 and 1"),
    ("--observe flicker --hide-probability -0.1", "--hide-probability -0.1", "between 0 and 1"),
    ("--observe flicker --hide-probability nan", "--hide-probability nan", "between 0 and 1"),
    ("--hide-probability 0.5", "--hide-probability 0.5", "--observe flicker"),
    ("--observe flicker --hide-probability 0.5 --observe-parameter 0.5", "--hide-probability", "--observe-parameter"),
    ("--observe blackout --observe-parameter 0", "--observe", "blackout"),
    ("--observe delay --observe-parameter 1.5", "--observe", "whole number"),
    ("--frames 0", "--frames 0", "at least 1"),
    ("--frames -5", "--frames -5", "at least 1"),
    ("--frames abc", "--frames abc", "whole number"),
    ("--frames 1e6", "--frames 1e6", "whole number"),
    ("--seed -1", "--seed -1", "0 or more"),
    ("--seed 2147483648", "--seed 2147483648", "below"),
    ("--core lstmm", "--core lstmm", "lstm?"),
    ("--torso natur", "--torso natur", "nature?"),
    ("--core-size 0", "--core-size 0", "at least 1"),
    ("--hidden -1", "--hidden -1", "0 or more"),
    ("--frame-stack 0", "--frame-stack 0", "at least 1"),
    ("--frame-stack 33", "--frame-stack 33", "at most 32"),
    ("--num-envs 0", "--num-envs 0", "at least 1"),
    ("--num-envs 5000", "--num-envs 5000", "at most 1024"),
    ("--samples-per-step 0", "--samples-per-step 0.0", "above 0"),
    ("--samples-per-step inf", "--samples-per-step inf", "above 0"),
    ("--start-rows 50 --replay-rows 100", "--replay-rows 100", "at least"),
    ("--replay-rows 900000000000", "--replay-rows 900000000000", "GB"),
    ("--start-rows 2000000", "--start-rows 2000000", "--replay-rows"),
    ("--checkpoint-frames 0", "--checkpoint-frames 0", "at least 1"),
    ("--eval-frames -1", "--eval-frames -1", "0 or more"),
    ("--eval-episodes 0", "--eval-episodes 0", "at least 1"),
    ("--eval-epsilon 2", "--eval-epsilon 2.0", "between 0 and 1"),
    ("--threads 4096", "--threads 4096", "cores"),
    ("--precision fp16", "--precision fp16", "bf16"),
    ("--device tpu", "--device tpu", "cpu"),
    ("--device cuda", "--device cuda", "CUDA"),
    ("--track wandbb", "--track wandbb", "wandb?"),
    ("--discount 1.0", "--discount 1.0", "below 1"),
    ("--learning-rate 0", "--learning-rate 0.0", "above 0"),
    ("--trace-lambda 1.1", "--trace-lambda 1.1", "between 0 and 1"),
    ("--burn-in 3000", "burn-in", "at most 2000"),
    ("--optimizer sgd", "--optimizer sgd", "adam"),
    ("--norm maybe", "--norm maybe", "True or False"),
    ("--name a/b", "--name", "plain folder name"),
    ("--name ..", "--name", "plain folder name"),
    ("stray", "cannot understand 'stray'", "--help"),
    ("--seed 5 drqn", "cannot understand 'drqn'", "preset comes first"),
    ("--device cpu:foo", "--device cpu:foo", "cuda:N"),
    ("--core lstm --core-size 1000000", "--core-size 1000000", "GB"),
    ("--hidden 99999999999", "--hidden 99999999999", "GB"),
    ("--sequence-stride 999999999999999999999", "--sequence-stride", "at most"),
    ("--samples-per-step 1e308", "--samples-per-step", "at most 1000"),
    ("--frames 999999999999999999999999999999", "--frames", "at most"),
    ("--eval-episodes 999999999999", "--eval-episodes", "at most"),
    ("--seed 1 --seed 2", "--seed", "given twice"),
    ("--core LSTM", "--core LSTM", "lstm?"),
    ("--value-rescaling True", "--value-rescaling", "--reward-clip None"),
    ("--game joust", "--game", "joust"),
    ("--resume --frames 5", "--resume", "needs the folder"),
    ("--resume= --frames 5", "--resume", "needs the folder"),
    (f"--name {'x' * 300}", "--name", "at most 200"),
]


@pytest.mark.parametrize(("words", "says", "also"), BAD_TRAIN, ids=[case[0] for case in BAD_TRAIN])
def test_bad_flag_is_refused_and_nothing_is_written(
    words: str, says: str, also: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if words == "--device cuda" and __import__("torch").cuda.is_available():
        words, says, also = "--device cuda:99999999999", "--device", "cuda"
    line = refused(train.main, ["dqn", *words.split(), "--runs-dir", str(tmp_path / "runs")], capsys)
    assert says in line
    assert also in line
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_bf16_is_refused_where_the_hardware_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiment.build.has_bf16", lambda device: False)
    words = ["drqn", "--precision", "bf16", "--runs-dir", str(tmp_path / "runs")]
    assert "--precision bf16: " in refused(train.main, words, capsys)
    assert not (tmp_path / "runs").exists()


def test_unknown_preset_suggests_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "drqn?" in refused(train.main, ["drqnn"], capsys)


def test_existing_name_without_resume_is_refused_and_kept(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    argv = ["drqn", "--runs-dir", str(trained.parent), "--name", "tiny", *TINY]
    assert "--resume" in refused(train.main, argv, capsys)
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_runs_dir_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert "--runs-dir" in refused(train.main, ["dqn", "--runs-dir", str(tmp_path / "file"), *TINY], capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_runs_dir_without_permission_or_space_is_refused(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(Path, "mkdir", forbidden)
    assert "not here" in refused(train.main, ["dqn", "--runs-dir", str(tmp_path / "runs"), *TINY], capsys)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("no folder", "no such run folder"),
        ("no checkpoint", "no checkpoint"),
        ("empty weights", "network.safetensors"),
        ("cut weights", "bytes"),
        ("flipped weights", "checksum"),
        ("no manifest", "manifest.json"),
        ("foreign manifest", "not a checkpoint"),
        ("newer version", "version"),
        ("weights of another net", "fit"),
    ],
)
def test_a_bad_checkpoint_is_refused(
    damage: str, says: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    if damage != "no folder":
        shutil.copytree(trained, run)
    for path in sorted((run / "checkpoint").glob("*")):
        weights, manifest = path / checkpoint.NETWORK, path / "manifest.json"
        if damage == "no checkpoint":
            shutil.rmtree(path)
        elif damage == "empty weights":
            weights.write_bytes(b"")
        elif damage == "cut weights":
            weights.write_bytes(weights.read_bytes()[:-100])
        elif damage == "flipped weights":
            data = bytearray(weights.read_bytes())
            data[-50] ^= 1
            weights.write_bytes(data)
        elif damage == "no manifest":
            manifest.unlink()
        elif damage == "foreign manifest":
            manifest.write_text('{"format": "something else"}')
        else:
            saved = checkpoint.load(path, training=True)
            if damage == "newer version":
                content = json.loads(manifest.read_text())
                manifest.write_text(json.dumps(content | {"version": 99}))
            else:
                saved.weights = {k: v[..., :1].contiguous() for k, v in saved.weights.items()}
                checkpoint.save(path.parent, saved)
    for main, argv in ((evaluate.main, [str(run), "--threads", "1"]), (train.main, ["--resume", str(run)])):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert says in err.splitlines()[-1]
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--game pong", "was trained on breakout"),
        ("--protocol machado18", "18 actions"),
        ("--protocol v7", "v5"),
        ("--observe flikker", "flicker"),
        ("--episodes 0", "--episodes 0: must be from 1"),
        ("--epsilon -1", "--epsilon -1.0: must be from 0 to 1"),
        ("--video bests", "best?"),
        ("--episode 3", "--episodes"),
        ("--seed x", "whole number"),
    ],
)
def test_bad_flag_of_evaluate_is_refused(
    words: str, says: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(evaluate.main, [str(trained), *words.split()], capsys)


def test_evaluate_without_a_folder_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "folder of a run" in refused(evaluate.main, [], capsys)


def test_resume_refuses_what_changes_the_run_and_shows_it(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(train.main, ["--resume", str(trained), "--discount", "0.5"], capsys)
    assert "--discount 0.99 -> 0.5" in line


@pytest.mark.parametrize("words", ["--name other", "--runs-dir elsewhere", "--resume again"])
def test_resume_takes_name_and_place_from_the_folder(
    words: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words.split()[0] in refused(train.main, ["--resume", str(trained), *words.split()], capsys)


def test_evaluate_finds_out_before_it_plays_that_it_cannot_write(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    (tmp_path / "run" / "eval").write_text("a file")
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: pytest.fail("it played"))
    assert "cannot be made" in refused(evaluate.main, [str(tmp_path / "run")], capsys)


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "parse_train", interrupt)
    assert train.main([]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_checkpoint_moved_to_a_run_of_another_game_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    settings = tmp_path / "run" / "config.yaml"
    settings.write_text(settings.read_text().replace("game: breakout", "game: pong"))
    assert "--game breakout -> pong" in refused(train.main, ["--resume", str(tmp_path / "run")], capsys)


def test_the_process_itself_leaves_with_status_2_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "--game", "pongg"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --game no game named 'pongg': did you mean 'pong'?"


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        train.main(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    for field in config.Config.__dataclass_fields__:
        assert config.flag(field) in shown
    assert "--resume FOLDER" in shown
    text = " ".join(shown.split())
    assert f"[PRESET] Where the settings start from: {', '.join(config.PRESETS)}." in text


def test_help_into_a_pipe_that_nobody_reads_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "train.py", "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        reading.stdout.close()
        assert reading.stderr.read() == ""
    assert reading.returncode == 0


def test_settings_survive_yaml_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    wanted = config.preset("dqn")
    config.save(wanted, "dqn", tmp_path / "config.yaml")
    assert config.load(tmp_path / "config.yaml") == (wanted, "dqn")
    older = {k: v for k, v in config.to_dict(wanted).items() if k != "center"}
    assert not config.from_dict(older, "a run from before --center")[0].center
    with pytest.raises(config.UsageError, match="Did you mean game"):
        config.from_dict({"gam": "pong"}, "here")
    with pytest.raises(config.UsageError, match="frames is 'many'"):
        config.from_dict({"frames": "many"}, "here")


def test_a_preset_is_a_difference_and_every_preset_is_valid() -> None:
    for name in config.PRESETS:
        made = config.preset(name)
        config.check(made)
        for field, value in config.PRESETS[name].items():
            assert getattr(made, field) == value


def test_the_estimate_of_memory_counts_frames_columns_and_states() -> None:
    base = config.Config(core="identity", replay_rows=1000, num_envs=1, sequence_stride=1)
    rows = 1000 * (build.FRAME_BYTES + 47)
    assert build.replay_gigabytes(base) == pytest.approx((rows + 8 * 7056) / 1e9)
