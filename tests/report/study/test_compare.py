from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi05_train.errors import UserError
from pi05_train.evaluation.results import read_evaluation
from pi05_train.report.study.compare import SUCCESS, Difference, Row, compare, order_mismatches, shared_orders
from pi05_train.report.study.inputs import is_study, read_study
from tests.report.study.made_up_study import make_study, write_run


def rows_of(folder: Path, baseline: str | None = None) -> dict[tuple[str, str], Row]:
    return {(row.source, row.metric): row for row in compare(read_study(folder, baseline))}


def difference(row: Row, run: str) -> Difference:
    found = row.cells[run].difference
    assert found is not None
    return found


def test_numbers_are_those_of_the_evaluations_and_differences_theirs(tmp_path: Path) -> None:
    make_study(tmp_path)
    rows = rows_of(tmp_path)
    for run in ("none", "no_web", "alpha_2"):
        for found in read_evaluation(tmp_path / run).heldout:
            row = rows[found.source, found.metric]
            assert (row.cells[run].value, row.cells[run].n) == (found.value, found.n)
            if run != "none":
                value = difference(row, run).value
                assert value == pytest.approx(found.value - row.cells["none"].value)
    assert rows["web", "text_cross_entropy"].cells.keys() == {"none", "alpha_2"}


def test_what_is_worse_on_the_same_samples_is_found_worse_and_what_is_equal_is_not(tmp_path: Path) -> None:
    make_study(tmp_path)
    rows = rows_of(tmp_path)
    for metric in ("fast_cross_entropy", "flow_action_error"):
        worse = difference(rows["arm", metric], "no_web")
        assert worse.low is not None
        assert worse.high is not None
        assert 0.3 < worse.low < worse.value < worse.high < 0.5, "pairing takes out how hard samples are"
        assert worse.verdict("lower") == "worse"
        assert worse.verdict("higher") == "better"
        same = difference(rows["arm", metric], "alpha_2")
        assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
        assert same.verdict("lower") == ""
    assert difference(rows["arm", SUCCESS], "no_web").verdict("higher") == "worse"
    assert difference(rows["arm", SUCCESS], "alpha_2").verdict("higher") == ""


def test_another_baseline_turns_the_differences_round(tmp_path: Path) -> None:
    make_study(tmp_path)
    there, back = rows_of(tmp_path), rows_of(tmp_path, "no_web")
    for key in (("arm", "flow_action_error"), ("arm", SUCCESS)):
        first, second = difference(there[key], "no_web"), difference(back[key], "none")
        assert first.low is not None
        assert second.high is not None
        assert (first.value, first.low) == pytest.approx((-second.value, -second.high))


def test_samples_are_paired_by_key_whatever_their_order_and_number(tmp_path: Path) -> None:
    make_study(tmp_path)
    before = difference(rows_of(tmp_path)["arm", "flow_action_error"], "no_web")
    path = tmp_path / "none" / "evaluation" / "samples.json"
    table = json.loads(path.read_text())
    own = table["arm"]
    parts = [own["keys"], own["episodes"], *(t[part] for t in own["tallies"].values() for part in ("totals", "counts"))]
    for part in parts:
        part.reverse()
    path.write_text(json.dumps(table))
    assert difference(rows_of(tmp_path)["arm", "flow_action_error"], "no_web").value == pytest.approx(before.value)
    for part in parts:
        del part[10:]
    path.write_text(json.dumps(table))
    fewer = difference(rows_of(tmp_path)["arm", "flow_action_error"], "no_web")
    assert fewer.value == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize(
    ("key", "value", "lost"),
    [
        ("data.normalisation", "z_score", {"flow_action_error"}),
        ("tokenizer.text", "other", {"fast_cross_entropy", "text_cross_entropy"}),
    ],
)
def test_numbers_in_other_units_are_shown_but_not_compared(
    tmp_path: Path, key: str, value: str, lost: set[str]
) -> None:
    make_study(tmp_path, alpha_2={key: value})
    rows = rows_of(tmp_path)
    assert {row.metric for row in rows.values() if row.cells["alpha_2"].difference is None} == lost


def test_runs_that_share_seed_shards_and_rows_share_the_order(tmp_path: Path) -> None:
    make_study(tmp_path)
    study = read_study(tmp_path)
    assert order_mismatches(study) == []
    assert len(list(shared_orders(study))) == 3 + 2 + 2


@pytest.mark.parametrize(("key", "what"), [("run.seed", "seed"), ("data.read_group", "read_group")])
def test_another_order_is_named_with_its_reason(tmp_path: Path, key: str, what: str) -> None:
    make_study(tmp_path, alpha_2={key: 7})
    found = order_mismatches(read_study(tmp_path))
    assert {(frozenset((m.first, m.second)), m.source, m.what) for m in found} == {
        (frozenset((other, "alpha_2")), source, (what,))
        for other, sources in (("none", ("arm", "tasks <b>", "web")), ("no_web", ("arm", "tasks <b>")))
        for source in sources
    }


def test_changes_are_the_settings_that_differ(tmp_path: Path) -> None:
    make_study(tmp_path)
    study = read_study(tmp_path)
    assert [run.name for run in study.runs] == ["none", "alpha_2", "no_web"]
    assert study.changes == {
        "mixture.without": ["[]", "[]", '["WD"]'],
        "stage.objective.alpha": ["10.0", "2.0", "10.0"],
    }


def test_the_baseline_is_none_or_the_first_or_the_named_one(tmp_path: Path) -> None:
    for name in ("alpha_10", "alpha_2"):
        write_run(tmp_path / name)
    assert [run.name for run in read_study(tmp_path).runs] == ["alpha_2", "alpha_10"]
    assert [run.name for run in read_study(tmp_path, "alpha_10").runs] == ["alpha_10", "alpha_2"]
    with pytest.raises(UserError, match=r"--baseline: got 'none', expected one of \['alpha_2', 'alpha_10'\]"):
        read_study(tmp_path, "none")


def test_a_run_that_kept_no_order_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    make_study(tmp_path)
    path = tmp_path / "no_web" / "mixture.json"
    path.write_text(
        json.dumps([{k: v for k, v in row.items() if k != "order"} for row in json.loads(path.read_text())])
    )
    with pytest.raises(
        UserError, match=r"run .*no_web: got nothing said of 'order', .*start its training command again"
    ):
        read_study(tmp_path)


def test_one_run_is_no_study(tmp_path: Path) -> None:
    assert not is_study(tmp_path)
    write_run(tmp_path / "alone")
    assert is_study(tmp_path)
    with pytest.raises(UserError, match="got one run, alone"):
        read_study(tmp_path)
