import math
from itertools import groupby

import numpy as np
import pytest

from envs.screens import KINDS, Observe, make_observer, parse_screen
from tests.envs.walk import refused


def frames(n):
    """[n, 8, 8], all different, none black anywhere."""
    return np.stack([np.full((8, 8), 10 + i % 240, np.uint8) for i in range(n)])


def watch(how, shown, firsts=frozenset({0}), seed=5):
    observer, buffer, seen = make_observer(how, seed), np.empty_like(shown[0]), []
    for t, frame in enumerate(shown):
        buffer[:] = frame  # the caller uses its buffer again
        seen.append(observer(buffer, t in firsts).copy())
        assert (buffer == frame).all()
    return np.stack(seen)


def hidden(how, shown, **others):
    """bool [n]: wholly black. A frame is black wholly or not at all, and then as it was."""
    seen = watch(how, shown, **others)
    dark = (seen == 0).all(axis=(1, 2))
    assert (seen[~dark] == shown[~dark]).all()
    return dark


def test_flicker_hides_each_frame_with_its_probability_and_leaves_the_others_alone() -> None:
    dark = hidden(Observe("flicker", 0.25), frames(2000))
    assert dark.mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))
    # independent: after a hidden frame the next is hidden as often as any
    assert dark[1:][dark[:-1]].mean() == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("n", [1, 6])
def test_blackout_hides_stretches_of_n_frames_and_a_third_of_all(n) -> None:
    dark = hidden(Observe("blackout", n), frames(6000))
    runs = [len([*run]) for is_dark, run in groupby(dark) if is_dark][1:-1]  # whole ones
    assert min(runs) == n
    assert all(run % n == 0 for run in runs)  # two stretches may touch
    assert dark.mean() == pytest.approx(1 / 3, abs=0.05)


def test_a_blackout_ends_with_its_episode() -> None:
    how = Observe("blackout", 1000)
    first = int(np.argmax(hidden(how, frames(20_000), seed=1)))
    dark = hidden(how, frames(first + 3), firsts={0, first + 2}, seed=1)
    assert dark[first:].tolist() == [True, True, False]


def test_delay_shows_the_screen_of_n_steps_ago_and_never_one_of_another_episode() -> None:
    shown = frames(7)
    seen = watch(Observe("delay", 2), shown, {0, 4})
    black = np.zeros((8, 8), np.uint8)
    assert (seen == [black, black, shown[0], shown[1], black, black, shown[4]]).all()


def test_blinkered_shows_a_band_in_the_middle_of_at_least_one_row() -> None:
    (half,), (none,) = (watch(Observe("blinkered", share), frames(1)) for share in (0.5, 0))
    assert half[:, 0].tolist() == [0, 0, 10, 10, 10, 10, 0, 0]
    assert (none != 0).any(axis=1).sum() == 1


def test_noise_has_its_standard_deviation_and_is_cut_off() -> None:
    grey = watch(Observe("noise", 10), np.full((40, 84, 84), 128, np.uint8)).astype(float)
    assert grey.mean() == pytest.approx(128, abs=0.2)
    assert grey.std() == pytest.approx(math.sqrt(10**2 + 1 / 12), rel=0.02)  # rounding adds 1/12
    white = watch(Observe("noise", 50), np.full((4, 84, 84), 255, np.uint8))
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.05)  # no wrapping round to black


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_repeats_itself_from_its_seed_and_hides_nothing_where_it_says_so(kind) -> None:
    shown = np.random.default_rng(0).integers(1, 256, (60, 8, 8)).astype(np.uint8)
    how, clear = parse_screen(kind), KINDS[kind].clear
    one, again, other = (watch(how, shown, {0, 30}, seed) for seed in (3, 3, 4))
    assert (one.dtype, one.shape) == (np.uint8, shown.shape)
    assert (one == again).all()
    assert (one != other).any() == (kind in ("flicker", "blackout", "noise"))
    assert clear is None or (watch(Observe(kind, clear), shown) == shown).all()


def test_a_screen_is_read_as_it_is_printed() -> None:
    for text in ("flicker:0.25", "flicker:0.5", "blackout:8"):
        assert str(parse_screen(text)) == text
    assert parse_screen("flicker:0.25") == Observe("flicker", 0.25)
    for kind, made in KINDS.items():
        assert parse_screen(kind) == Observe(kind, made.default)
        tenth = made.lowest + (made.highest - made.lowest) * 0.1
        for value in (made.lowest, made.default, made.highest, tenth):
            how = Observe(kind, int(value) if made.whole else value)
            assert parse_screen(str(how)) == how


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
def test_a_screen_that_cannot_be_read_is_refused_in_one_line(text, says) -> None:
    with refused(says):
        parse_screen(text)
