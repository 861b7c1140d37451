"""The report as Markdown and as one HTML file: text is shown as it is, figures and films are
there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from experiment.studies import page
from experiment.studies.findings import make_findings
from experiment.studies.page import escape, html, render
from tests.experiment.studies.test_findings import result

NAMES = [
    "$^$",
    "cost $5 and $6",
    "_hidden_",
    "a | b",
    "<b>&amp;</b>",
    "[x](y)",
    "*a* `b` ~c~",
    "1 < 2",
    "# head",
]


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_text_as_it_is(name: str) -> None:
    shown = MarkdownIt().render(f"x {escape(name)}")
    assert (
        shown
        == f"<p>x {name.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}</p>\n"
    )


def view(**changes: object) -> dict:
    rows = [["agent", "score"], ["a | b", "<b>"]]
    task = {
        "title": "Pong, full",
        "figures": [("Scores", "f.png")],
        "films": [("_best_", "f.mp4")],
        "missing": [],
    }
    across = {"screen": "full", "note": "", "figures": [], "rows": [["measure", "value"]]}
    fields = {
        "question": "Is $5 < $6?",
        "warnings": ["*unfair*"],
        "table": rows,
        "findings": [],
        "tasks": [task],
    }
    fields |= {
        "across": [across],
        "budgets": rows,
        "settings": [["setting"]],
        "runs": [],
        "machines": [],
    }
    fields |= {"metrics": [], "seconds": 30}
    return fields | {"command": "python compare.py --agents '<b>'\n# not a heading"} | changes


def test_the_page_is_the_markdown_with_figures_and_films_in_it(tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(b"png")
    (tmp_path / "f.mp4").write_bytes(b"mp4")
    text = render(view())
    shown = html(text, tmp_path)
    assert "![Scores](f.png)" in text
    assert "[\\_best\\_](f.mp4)" in text
    assert 'src="data:image/png;base64,cG5n"' in shown
    assert '<video controls muted loop src="data:video/mp4;base64,bXA0"></video>_best_' in shown
    assert "<title>Is $5 &lt; $6?</title>" in shown
    assert "<td>a | b</td>" in shown
    assert "<td>&lt;b&gt;</td>" in shown
    assert shown.count("<h1>") == 1
    assert "<b>" not in shown


def test_a_film_whose_record_is_missing_is_named(tmp_path: Path) -> None:
    films, missing = page._films(make_findings([result(mean=3.0)]), tmp_path)
    assert films == []
    assert [line.partition(": ")[0] for line in missing] == [
        "dqn, best episode",
        "dqn, median episode",
    ]


def test_a_bar_tells_how_many_games_have_their_figures_and_films(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    @contextmanager
    def bar(title: str, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
        yield lambda done, note: told.append((done, total))

    monkeypatch.setattr(page, "progress", bar)
    monkeypatch.setattr(page, "_films", lambda *_: ([], []))
    monkeypatch.setattr(page, "_figures", lambda *_: [])
    page._tasks(make_findings([result(game="pong"), result(game="breakout")]), ["dqn"], tmp_path)
    assert told == [(1, 2), (2, 2)]


def test_every_score_is_in_the_csv() -> None:
    run = result(
        mean=3.0,
        interval_95=(2.0, 4.0),
        scores=[2.0, 4.0],
        curve=[(100, 1.0, None, None)],
        frames=200,
    )
    assert page.scores_csv([run]).splitlines() == [
        "agent,game,screen,seed,frames,kind,episode,score,low_95,high_95",
        "dqn,pong,full,1,100,evaluation,,1.0,,",
        "dqn,pong,full,1,200,final mean,,3.0,2.0,4.0",
        "dqn,pong,full,1,200,final,0,2.0,,",
        "dqn,pong,full,1,200,final,1,4.0,,",
    ]
