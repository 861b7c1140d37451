"""The report's page in a real browser: plots are drawn, films play, nothing is fetched, nothing sticks out."""

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import compare
from experiment.scores.video import write_video
from experiment.studies import figures, page
from experiment.studies import findings as report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARMS, GAMES, SCREENS = (
    ("dqn", "dqn:frame_stack=1", "drqn"),
    ("pong", "breakout", "space_invaders"),
    ("full", "flicker:0.5"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def invented(arm: str, game: str, screen: str, seed: int) -> dict[str, Any]:
    """A run's result: the first arm learns less than the others in Pong, and all else is noise."""
    rng = np.random.default_rng([seed, len(arm), len(game), len(screen)])
    better = 20.0 if game == "pong" and arm != "dqn" else 0.0
    scores = [float(x) for x in np.round(better + rng.normal(0, 2, 30), 1)]
    curve = [[i * 1e6, better * i / 4 + float(rng.normal()), -1.0, 1.0] for i in range(1, 5)]
    mean = float(np.mean(scores))
    about = {"arm": arm, "game": game, "screen": screen, "seed": seed, "protocol": "v5", "observe": ["full", 0]}
    about |= {"parameters": 1_729_444, "frames": 4_000_000, "samples": 3_919_872, "samples_per_step": 4.0}
    about |= {"training_seconds": 1900.0 + seed, "epsilon": 0.001, "eval_seed": 1000}
    about |= {"curve_episodes": 10, "curve_epsilon": 0.01}
    about |= {"machine": {"cpu": "<b>&", "threads": 1}, "records": "nowhere", "video": None}
    return about | {"mean": mean, "interval_95": [mean - 1, mean + 1], "scores": scores, "curve": curve}


def study(seeds: int = 3, games: tuple[str, ...] = GAMES, screens: tuple[str, ...] = SCREENS) -> dict[str, Any]:
    wanted = compare.CompareConfig(agents=ARMS, games=games, observe=screens, seeds=seeds)
    cells = compare.make_cells(wanted, {})
    results = [invented(c.arm, c.config.game, c.screen, c.config.seed) for c in cells]
    described = report.describe(results, cells)
    return described | {"command": "python compare.py", "unfair": [], "missing": [], "clips_missing": []}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every part, and two films of four seconds."""
    folder = tmp_path_factory.mktemp("page")
    noise = np.random.default_rng(0).integers(0, 255, (240, 210, 160, 3), np.uint8)
    write_video(noise, folder / "film.mp4", scale=1, crf=40)
    film = page.base64.b64encode((folder / "film.mp4").read_bytes()).decode()
    clips = [
        {"arm": arm, "game": "pong", "screen": "full", "which": which, "score": 3.0, "seed": 1, "video": film}
        for arm in ARMS
        for which in ("best", "median")
    ]
    (folder / "report.html").write_text(page.render(study() | {"unfair": ["--frames is 1 for dqn"]}, clips, "a,b\n"))
    return folder / "report.html"


def opened(browser: Browser, path: Path, width: int) -> tuple[Page, list[str]]:
    shown, asked = browser.new_page(viewport={"width": width, "height": 900}), []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("pageerror", lambda error: asked.append(str(error)))
    shown.goto(path.as_uri())
    return shown, asked


@pytest.mark.parametrize("width", [1400, 400])
def test_plots_are_drawn_and_nothing_sticks_out(width: int, browser: Browser, made: Path) -> None:
    shown, asked = opened(browser, made, width)
    boxes = shown.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().toJSON())")
    assert len(boxes) == 6 * 2 + 2 * 3  # curves and final scores of each game and screen; three plots over games
    for box in boxes:
        assert box["width"] > 250
        assert box["height"] > 60
        assert 0 <= box["left"] < box["right"] <= width
    inked = shown.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.querySelectorAll('path').length)")
    assert min(inked) > 5
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [made.as_uri()]
    shown.close()


def test_a_film_plays_and_nothing_is_fetched(browser: Browser, made: Path) -> None:
    shown, asked = opened(browser, made, 1400)
    assert shown.locator("video").count() == 6
    played = shown.evaluate(
        """new Promise(done => {
            const video = document.querySelector("video");
            video.ontimeupdate = () => video.currentTime > 0.3 && done(video.currentTime);
            setTimeout(() => done(0), 60000);
            video.play();
        })"""
    )
    assert played > 0.3
    assert shown.evaluate("document.querySelector('video').videoWidth") == 160
    assert [url for url in asked if not url.startswith("data:")] == [made.as_uri()]
    assert shown.locator("b").count() == 0  # what a checkpoint says of its machine is text, not HTML
    shown.close()


def test_the_page_says_what_differs_and_what_is_unfair(made: Path) -> None:
    text = made.read_text()
    assert "Not a fair comparison" in text
    assert "frame_stack" in text
    assert "discount" not in text  # the same for all
    assert 'download="scores.csv"' in text


def test_every_number_of_the_plots_is_in_the_csv() -> None:
    described = study()
    rows = list(csv.DictReader(io.StringIO(report.scores_csv(described))))

    def score(**wanted: str) -> float:
        (row,) = (row for row in rows if wanted.items() <= row.items())
        return float(row["score"])

    pong = [r for r in described["runs"] if (r["arm"], r["game"], r["screen"]) == ("drqn", "pong", "full")]
    of = {"arm": "drqn", "game": "pong", "screen": "full", "seed": "all"}
    assert score(**of, what="final mean") == pytest.approx(np.mean([r["mean"] for r in pong]))
    assert score(**of, what="evaluation", frames="2000000") == pytest.approx(np.mean([r["curve"][1][1] for r in pong]))
    (full, _) = described["across"]
    of = {"arm": "drqn", "game": "all", "screen": "full"}
    assert score(**of, what="interquartile mean") == full["iqm"]["drqn"][0]
    (ends,) = (ends for x, y, *ends in full["improvement"] if (x, y) == ("drqn", "dqn"))
    assert score(**of, what="probability of improvement over dqn") == ends[0]
    profile = [float(row["score"]) for row in rows if of.items() <= row.items() and "share" in row["what"]]
    assert profile == full["profile"]["drqn"][0]


def test_arms_look_different() -> None:
    assert len(set(figures.styles([f"dqn:hidden={i}" for i in range(28)]).values())) == 28


def rows_of(game: str = "pong", **means: list[float]) -> list[dict[str, Any]]:
    """The report's table of arms with these mean scores, one for each seed, or the episodes of a single one."""
    return [
        {"arm": arm, "game": game, "screen": "full", "mean": float(np.mean(of)), "spread_of": of}
        | {"seeds": 1 if len(of) > 9 else len(of)}
        for arm, of in means.items()
    ]


def test_seeds_that_all_score_the_same_tell_nothing_of_the_spread() -> None:
    (few,) = report.conclusions(rows_of(dqn=[-21.0] * 3, drqn=[-20.9] * 3), [])
    assert few.endswith("no difference shown.")
    (many,) = report.conclusions(rows_of(dqn=[-21.0] * 5, drqn=[-20.9] * 5), [])
    assert "drqn scores higher than dqn (by 0.1 to 0.1)" in many
    (one,) = report.conclusions(rows_of(dqn=[-21.0] * 30, drqn=[-20.0] * 30), [])
    assert "drqn scores higher than dqn (by 1.0 to 1.0); one seed: nothing can be said of other seeds" in one


def test_of_many_agents_not_every_lower_one_is_named() -> None:
    means = {f"a{i}": [10.0 * i, 10.0 * i + 1, 10.0 * i + 2] for i in range(6)}
    (said,) = report.conclusions(rows_of("space_invaders", **means), [])
    assert said.startswith("Space Invaders (a5 51.0, a4 41.0, ")
    assert "a5 scores higher than all from a4 down; a4 scores higher than all from a3 down; " in said
    assert said.endswith("a2 scores higher than a1, a0; a1 scores higher than a0.")
    (said,) = report.conclusions(rows_of(**means, b=[-40.0, 15.0, 70.0]), [])  # of any score
    assert "a5 scores higher than a4, a3, a2, a1, a0; " in said
    assert said.endswith("no difference shown between the other pairs.")


def test_verdicts_on_single_runs_say_so_beside_agents_of_more_seeds() -> None:
    (said,) = report.conclusions(rows_of(dqn=[1.0, 2.0], one=[4.9, 5.1] * 15, drqn=[9.9, 10.1] * 15), [])
    assert "drqn scores higher than one (by 4.9 to 5.1)" in said
    assert "not compared with the others: drqn, one, of which one seed is finished" in said
    assert "one seed: nothing can be said of other seeds" in said


def test_what_single_seeds_were_not_given_alike_is_said() -> None:
    runs = [invented(arm, "pong", "full", seed) for seed in (1, 2) for arm in ("dqn", "drqn")]
    assert report.unequal(runs) == []
    runs[3] |= {"samples": 1, "machine": {"precision": "bf16"}}
    assert report.unequal(runs) == [
        "not equal: samples dqn 3919872, drqn 1 or 3919872",
        "not equal: precision dqn None, drqn None or bf16",
    ]


def test_conclusions_follow_from_the_intervals() -> None:
    said = study(screens=("full",))["conclusions"]
    (pong,) = [line for line in said if line.startswith("Pong")]
    assert "drqn scores higher than dqn" in pong
    assert "no difference shown between" in pong  # of the two that learn
    (breakout,) = [line for line in said if line.startswith("Breakout")]
    assert "higher" not in breakout
    assert "no difference shown" in breakout
    over = [line for line in said if line.startswith("Over 3 games")]
    assert len(over) == 3  # each pair


def test_a_grid_that_is_half_finished_is_described_and_drawn_without_false_verdicts() -> None:
    wanted = compare.CompareConfig(agents=ARMS, games=GAMES, observe=SCREENS, seeds=2)
    cells = compare.make_cells(wanted, {})
    there = [c for c in cells if c.config.seed == 1 or c.arm == "dqn" or (c.screen, c.arm) == ("full", "drqn")]
    there = [c for c in there if c.screen == "full" or c.arm == "dqn"]  # one arm alone on the flickering screen
    described = report.describe([invented(c.arm, c.config.game, c.screen, c.config.seed) for c in there], cells)
    assert [over["why_not"] for over in described["across"]] == 2 * [
        "Not all runs are finished: no measure over games is shown yet."
    ]
    (pong,) = [line for line in described["conclusions"] if line.startswith("Pong (")]
    assert "drqn scores higher than dqn (by " in pong
    assert "not compared with the others: dqn:frame_stack=1, of which one seed is finished" in pong
    assert "Pong with flicker 0.5" in " ".join(described["conclusions"])
    shown = described | {"command": "", "unfair": [], "missing": [], "clips_missing": []}
    assert "Not all runs are finished" in page.render(shown, [], "")


def test_in_print_nothing_is_cut_off(browser: Browser, made: Path) -> None:
    shown, _ = opened(browser, made, 718)  # A4 with margins of a centimetre
    shown.emulate_media(media="print")
    cut = "[...document.querySelectorAll('.scroll')].filter(s => s.scrollWidth > s.clientWidth + 1).length"
    assert shown.evaluate(cut) == 0
    assert shown.evaluate(
        "[...document.querySelectorAll('details table')].every(t => t.getBoundingClientRect().height > 0)"
    )
    shown.close()


def test_few_games_and_one_seed_are_said_to_be_too_few() -> None:
    (two,) = study(games=GAMES[:2], screens=("full",))["across"]
    assert "iqm" not in two
    assert "need 3" in two["why_not"]
    assert len(two["improvement"]) == 3
    one = study(seeds=1, screens=("full",))
    assert "improvement" not in one["across"][0]
    assert "One seed" in one["across"][0]["why_not"]
    assert all("one seed: nothing can be said of other seeds" in line for line in one["conclusions"])
