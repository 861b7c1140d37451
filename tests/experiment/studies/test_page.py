"""The report as Markdown and as one HTML file: text is shown as it is, figures and films too."""

from html import escape as in_html

import pytest
from markdown_it import MarkdownIt

from experiment.studies import page
from experiment.studies.findings import make_findings
from experiment.studies.page import escape, html, render
from tests.experiment.studies.test_findings import result

NAMES = ["$^$", "cost $5 and $6", "_hidden_", "a | b", "<b>&amp;</b>", "[x](y)", "1 < 2", "# head"]


@pytest.mark.parametrize("name", [*NAMES, "*a* `b` ~c~"])
def test_markdown_shows_text_as_it_is(name) -> None:
    assert MarkdownIt().render(f"x {escape(name)}") == f"<p>x {in_html(name, quote=False)}</p>\n"


def test_the_page_is_the_markdown_with_figures_and_films_in_it(tmp_path) -> None:
    (tmp_path / "f.png").write_bytes(b"png")
    (tmp_path / "f.mp4").write_bytes(b"mp4")
    rows = [["agent", "score"], ["a | b", "<b>"]]
    task = dict(title="Pong, full", figures=[("Scores", "f.png")], films=[("_best_", "f.mp4")])
    across = dict(screen="full", note="", figures=[], rows=[["measure", "value"]])
    view = dict(question="Is $5 < $6?", warnings=["*unfair*"], table=rows, budgets=rows, seconds=30)
    view |= dict(tasks=[task | {"missing": []}], across=[across], settings=[["setting"]])
    view |= {name: [] for name in ("findings", "runs", "machines", "metrics")}
    text = render(view | dict(command="python compare.py --agents '<b>'\n# not a heading"))
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


def test_a_film_whose_record_is_missing_is_named(tmp_path) -> None:
    made = page._films(make_findings([result(mean=3.0)]), tmp_path)
    assert made["films"] == []
    films = [line.partition(": ")[0] for line in made["missing"]]
    assert films == ["dqn, best episode", "dqn, median episode"]


def test_every_score_is_in_the_csv() -> None:
    evaluation = (100, 1.0, None, None)
    scores = dict(interval_95=(2.0, 4.0), scores=[2.0, 4.0], curve=[evaluation], frames=200)
    assert page.scores_csv([result(mean=3.0, **scores)]).splitlines() == [
        "agent,game,screen,seed,frames,kind,episode,score,low_95,high_95",
        "dqn,pong,full,1,100,evaluation,,1.0,,",
        "dqn,pong,full,1,200,final mean,,3.0,2.0,4.0",
        "dqn,pong,full,1,200,final,0,2.0,,",
        "dqn,pong,full,1,200,final,1,4.0,,",
    ]
