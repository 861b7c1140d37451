import math
from itertools import groupby

import numpy as np
import pytest

from envs.screens import KINDS, Observe, make_observer, parse_screen

RNG = np.random.default_rng(0)


def frames(n: int) -> np.ndarray:
    """[n, 8, 8], all different, none black anywhere."""
    return np.stack([np.full((8, 8), 10 + i % 240, np.uint8) for i in range(n)])


def watch(
    how: Observe, shown: np.ndarray, firsts: set[int] = frozenset({0}), seed: int = 5
) -> np.ndarray:  # type: ignore[assignment]
    observer = make_observer(how, seed)
    return np.stack([observer(frame, t in firsts).copy() for t, frame in enumerate(shown)])


def hidden(seen: np.ndarray) -> np.ndarray:
    """bool [n]: wholly black. Asserts that a frame is black wholly or not at all."""
    dark = (seen == 0).all(axis=(1, 2))
    assert ((seen == 0).any(axis=(1, 2)) == dark).all()
    return dark


def test_flicker_hides_each_frame_with_its_probability_and_leaves_the_others_alone():
    shown = frames(2000)
    dark = hidden(seen := watch(Observe("flicker", 0.25), shown))
    assert (seen[~dark] == shown[~dark]).all()
    assert dark.mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))
    # independent: after a hidden frame the next is hidden as often as any
    assert dark[1:][dark[:-1]].mean() == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("n", [1, 6])
def test_blackout_hides_stretches_of_n_frames_and_a_third_of_all(n: int):
    shown = frames(6000)
    dark = hidden(seen := watch(Observe("blackout", n), shown))
    assert (seen[~dark] == shown[~dark]).all()
    # The first and the last may be cut.
    runs = [len([*run]) for is_dark, run in groupby(dark) if is_dark][1:-1]
    assert min(runs) == n
    assert all(run % n == 0 for run in runs)  # two stretches may touch
    assert dark.mean() == pytest.approx(1 / 3, abs=0.05)


def test_a_blackout_ends_with_its_episode():
    how = Observe("blackout", 1000)
    first = int(np.argmax(hidden(watch(how, frames(20_000), seed=1))))
    dark = hidden(watch(how, frames(first + 3), {0, first + 2}, seed=1))
    assert dark[first:].tolist() == [True, True, False]


def test_delay_shows_the_screen_of_n_steps_ago_and_never_one_of_another_episode():
    shown = frames(7)
    seen = watch(Observe("delay", 2), shown, {0, 4})
    black = np.zeros((8, 8), np.uint8)
    expected = [black, black, shown[0], shown[1], black, black, shown[4]]
    assert (seen == np.stack(expected)).all()


def test_delay_keeps_its_own_copy():
    observer = make_observer(Observe("delay", 1), 0)
    buffer = np.full((8, 8), 7, np.uint8)
    observer(buffer, True)
    buffer[:] = 99  # the caller uses its buffer again
    assert (observer(buffer, False) == 7).all()


def test_blinkered_shows_a_band_in_the_middle():
    shown = frames(1)
    seen = watch(Observe("blinkered", 0.5), shown)[0]
    assert seen[:, 0].tolist() == [0, 0, 10, 10, 10, 10, 0, 0]
    # At least one row.
    assert (watch(Observe("blinkered", 0), shown)[0] != 0).any(axis=1).sum() == 1


def test_noise_has_its_standard_deviation_and_is_cut_off():
    grey = np.full((40, 84, 84), 128, np.uint8)
    seen = watch(Observe("noise", 10), grey).astype(float)
    assert seen.mean() == pytest.approx(128, abs=0.2)
    assert seen.std() == pytest.approx(math.sqrt(10**2 + 1 / 12), rel=0.02)  # rounding adds 1/12
    white = watch(Observe("noise", 50), np.full((4, 84, 84), 255, np.uint8))
    assert white.max() == 255
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.05)  # no wrapping round to black


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_repeats_itself_from_its_seed_and_leaves_the_given_frame_alone(kind: str):
    shown = RNG.integers(1, 256, (60, 8, 8)).astype(np.uint8)
    before = shown.copy()
    how = parse_screen(kind)
    one = watch(how, shown, {0, 30}, seed=3)
    assert (one == watch(how, shown, {0, 30}, seed=3)).all()
    assert (shown == before).all()
    assert one.dtype == np.uint8
    assert one.shape == shown.shape
    if kind in ("flicker", "blackout", "noise"):
        assert (one != watch(how, shown, {0, 30}, seed=4)).any()
    clear = KINDS[kind].clear
    assert clear is None or (watch(Observe(kind, clear), shown) == shown).all()  # hides nothing


def test_a_screen_is_read_as_it_is_printed():
    assert parse_screen("flicker:0.25") == Observe("flicker", 0.25)
    for kind, made in KINDS.items():
        assert parse_screen(kind) == Observe(kind, made.default)
        for value in (
            made.lowest,
            made.default,
            made.highest,
            made.lowest + (made.highest - made.lowest) * 0.1,
        ):
            how = Observe(kind, int(value) if made.whole else value)
            assert parse_screen(str(how)) == how
    assert str(Observe("flicker", 0.5)) == "flicker:0.5"
    assert str(Observe("blackout", 8)) == "blackout:8"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flickr:0.5", "did you mean 'flicker'"),
        ("full:1", "full takes no parameter but 0, not 1"),
        ("flicker:-0.1", "flicker takes a number from 0 to 1, not -0.1"),
        ("blackout:0", "blackout takes a whole number from 1 to 1000, not 0"),
        ("delay:inf", "not inf"),
        ("flicker:", "flicker takes a number from 0 to 1, not ''"),
        ("delay:2.5", "delay takes a whole number from 0 to 1000, not 2.5"),
        ("noise:nan", "not nan"),
        ("", "no screen named ''"),
    ],
)
def test_a_screen_that_cannot_be_read_is_refused_in_one_line(text: str, says: str):
    with pytest.raises(ValueError, match=says) as error:
        parse_screen(text)
    assert "\n" not in str(error.value)
