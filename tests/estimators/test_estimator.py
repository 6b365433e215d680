"""The estimators: learnt attributes, predictions, label sets, weights, saving, pickling."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.errors import HeadError
from pipeline.estimators import InputError, SalientClassifier, SalientRegressor
from pipeline.scoring import Scorer
from store import SalientError, text_hash
from tests.builders.moods import Moods, make_moods

NEW = make_moods(40, seed=1)


def test_a_fit_learns_classes_depth_neurons_and_a_report(fitted: SalientClassifier) -> None:
    assert fitted.classes_.tolist() == ["glad", "sad"]
    card = fitted.head_.card
    assert fitted.depth_ == card.depth and fitted.loss_ == card.metrics["loss"]
    assert card.task == "label" and card.metrics["judged_on"] == "cross_validation"
    assert card.metrics["num_judged"] == 120  # every row is learnt from, and judged out of fold
    table = fitted.salient_neurons_
    assert [*table.columns] == ["site", "layer", "pooling", "neuron", "importance"]
    assert len(table) == card.num_features and table["importance"].is_monotonic_decreasing
    report = fitted.report_
    assert report.compared["head"].iloc[0] == "chosen"
    assert {"final", "final_unit", "lexical", "constant"} <= set(report.compared["head"])
    assert report.compared["loss"].iloc[0] == fitted.loss_
    assert report.candidates["loss"].is_monotonic_increasing


def test_predictions_go_together(fitted: SalientClassifier) -> None:
    probability, decision = fitted.predict_proba(NEW.texts), fitted.decision_function(NEW.texts)
    assert probability.shape == (40, 2) and decision.shape == (40,)
    assert np.allclose(probability.sum(axis=1), 1)
    predicted = fitted.predict(NEW.texts)
    assert (predicted == fitted.classes_[(decision > 0).astype(int)]).all()
    assert (np.argsort(decision) == np.argsort(probability[:, 1])).all()
    assert fitted.score(NEW.texts, NEW.mood) == (predicted == NEW.mood).mean() > 0.8


def test_numbers(fitted_numbers: SalientRegressor) -> None:
    predicted = fitted_numbers.predict(NEW.texts)
    assert predicted.shape == (40,) and predicted.dtype == np.float64
    assert fitted_numbers.score(NEW.texts, NEW.level) > 0.7
    assert fitted_numbers.head_.card.metric == "pearson"
    assert fitted_numbers.head_.card.task == "value"


def test_shares_of_texts(fitted: SalientClassifier, fitted_numbers: SalientRegressor) -> None:
    texts = ["so happy today", "", "a sad dog", "happy cat"]
    found = fitted.prevalence(texts)
    assert {*found["method"]} == {"counted", "mean", "adjusted", "em"}
    assert (found["num_texts"] == 3).all() and (found["num_empty"] == 1).all()
    assert ((found["low"] <= found["high"]) & (found["share"] <= 1)).all()
    values = fitted_numbers.prevalence(texts).set_index("method")["share"]
    assert np.isclose(values["mean"], fitted_numbers.predict([t for t in texts if t]).mean())


def test_texts_may_come_as_any_column(fitted: SalientClassifier) -> None:
    expected = fitted.predict_proba(NEW.texts)
    frame = pd.DataFrame({"text": NEW.texts}, index=range(100, 140))
    for X in (np.array(NEW.texts), frame["text"], frame, pa.array(NEW.texts), iter(NEW.texts)):
        assert (fitted.predict_proba(X) == expected).all()


def test_what_is_predicted_of_a_text_does_not_depend_on_its_neighbours(
    fitted: SalientClassifier,
) -> None:
    together = fitted.predict_proba([*NEW.texts, *NEW.texts[:5]])
    assert (together[-5:] == together[:5]).all()
    alone = np.concatenate([fitted.predict_proba([text]) for text in NEW.texts[:5]])
    assert np.allclose(alone, together[:5], atol=1e-3)


def test_a_saved_head_is_the_command_lines(fitted: SalientClassifier, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "heads/mood")
    assert fitted.save(folder) == folder  # replaces it
    scorer = Scorer.load([folder])
    table = pa.table(
        {
            "id": [str(i) for i in range(40)],
            "text": NEW.texts,
            "text_hash": [text_hash(text) for text in NEW.texts],
            "created_at": pa.array([None] * 40, pa.int64()),
            "source_file": ["memory"] * 40,
        }
    )
    scored = scorer.score_table(table).table
    assert scored["label"].to_pylist() == fitted.predict(NEW.texts).tolist()
    own = fitted.predict_proba(NEW.texts).astype(np.float32)
    assert (scored["label_p_glad"].to_numpy() == own[:, 0]).all()
    assert [path.name for path in folder.parent.iterdir()] == ["mood"]
    (folder / "note.txt").write_text("mine")
    with pytest.raises(HeadError, match=r"something else than a head, such as note\.txt"):
        fitted.save(folder)


def test_a_save_that_is_cut_off_takes_nothing_away(
    fitted: SalientClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    folder = fitted.save(tmp_path / "head")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            fitted.save(folder)
    assert Scorer.load([folder]).tasks == ("label",) and [*tmp_path.iterdir()] == [folder]
    (folder / "head.json").unlink()  # as an older version left it
    assert Scorer.load([fitted.save(folder)]).tasks == ("label",)


def test_a_pickle_goes_by_its_fit_and_can_be_told_where_the_model_is(
    quick: dict[str, Any], moods: Moods, tmp_path: Path
) -> None:
    shutil.copytree(quick["model"], tmp_path / "here/bert")
    own = quick | {"model": tmp_path / "here/bert", "cache": False}  # a Path
    clf = SalientClassifier(**own).fit(moods.texts, moods.mood)
    expected, sheet = clf.predict_proba(NEW.texts), repr(clf)
    clf.set_params(config="other", max_depth=0.3)
    assert repr(clf) == sheet and "max_depth" not in sheet  # those of the fit
    again = pickle.loads(pickle.dumps(clf))  # noqa: S301
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(SalientError, match="no such model"):
        again.predict(NEW.texts)
    again.set_params(model=str(tmp_path / "there/bert"))
    assert (again.predict_proba(NEW.texts) == expected).all()


def test_scores_take_what_the_fit_took(quick: dict[str, Any], moods: Moods) -> None:
    sets = [["a"] if own == "sad" else ["a", "b"] for own in moods.mood]
    flags = np.array([["a" in own, "b" in own] for own in sets]).astype(int)
    frame = pd.DataFrame(flags, columns=["a", "b"])
    lists = SalientClassifier(**quick).fit(moods.texts, sets)
    indicator = SalientClassifier(**quick).fit(moods.texts, frame)
    expected = lists.score(moods.texts, sets)
    assert expected > 0.8
    for y in (frame, flags, frame[["b", "a"]], flags.astype(float)):
        assert indicator.score(moods.texts, y) == expected
    for clf, y in ((lists, flags), (indicator, sets), (lists, moods.mood)):
        with pytest.raises(InputError, match="fit was given"):
            clf.score(moods.texts, y)
    for y in (frame.rename(columns={"b": "c"}), flags[:, [0, 1, 1]], frame * 2 - 1):
        with pytest.raises(InputError):
            indicator.score(moods.texts, y)
    numbers = np.array([10 if own == "sad" else 9 for own in moods.mood], object)
    clf = SalientClassifier(**quick).fit(moods.texts, numbers)
    assert clf.score(moods.texts, numbers) == clf.score(moods.texts, numbers.astype(int)) > 0.8
    weight = np.where(clf.predict(moods.texts) == numbers, 1, 0)
    assert clf.score(moods.texts, numbers, weight) == 1


def test_it_is_pickled_without_its_model(fitted: SalientClassifier) -> None:
    expected = fitted.predict_proba(NEW.texts)
    data = pickle.dumps(fitted)
    again = pickle.loads(data)  # noqa: S301
    assert len(data) < 500_000
    assert (again.predict_proba(NEW.texts) == expected).all()
    assert repr(again) == repr(fitted)


def test_transform_gives_what_the_head_reads(fitted: SalientClassifier) -> None:
    rows = fitted.transform(NEW.texts)
    names = fitted.get_feature_names_out()
    assert rows.shape == (40, len(names)) and rows.dtype == np.float32
    table = fitted.salient_neurons_
    stems = {"ffn": "layer", "hidden": "hidden"}
    own = {
        f"{stems[row.site]}_{row.layer:03d}_{row.pooling}_{row.neuron}"
        for row in table.itertuples()
    }
    assert own == {*names}
    frame = copy.copy(fitted).set_output(transform="pandas")
    assert [*frame.transform(NEW.texts).columns] == [*names]


def test_label_sets_as_lists_and_as_an_indicator(quick: dict[str, Any], moods: Moods) -> None:
    some = make_moods(100, seed=3)
    names = sorted({one for own in some.topics for one in own})
    frame = pd.DataFrame({name: [int(name in own) for own in some.topics] for name in names})
    lists = SalientClassifier(**quick).fit(some.texts, some.topics)
    flags = SalientClassifier(**quick).fit(some.texts, frame)
    assert lists.classes_.tolist() == flags.classes_.tolist() == names
    assert lists.head_.fingerprint == flags.head_.fingerprint
    predicted = flags.predict(NEW.texts)
    assert predicted.shape == (40, len(names)) and {*np.unique(predicted)} <= {0, 1}
    expected = [[names[i] for i in np.flatnonzero(row)] for row in predicted]
    assert lists.predict(NEW.texts) == expected
    truth = np.array([[int(name in own) for name in names] for own in NEW.topics])
    right = (truth == predicted).all(axis=1).mean()
    assert flags.score(NEW.texts, truth) == lists.score(NEW.texts, NEW.topics) == right
    assert flags.predict_proba(NEW.texts).shape == predicted.shape
    assert ((flags.decision_function(NEW.texts) > 0) == (predicted == 1)).all()


def test_classes_keep_their_type(quick: dict[str, Any], moods: Moods) -> None:
    third = np.digitize(moods.level, [0.3, 0.7])
    for y, names in ((third * 10, ("0", "10", "20")), (moods.mood == "sad", ("false", "true"))):
        clf = SalientClassifier(**quick).fit(moods.texts, y)
        assert clf.classes_.dtype == y.dtype and clf.head_.card.classes == names
        assert (clf.predict(moods.texts) == y).mean() > 0.8
    y = pd.Series(third, name="thirds").astype(str)
    y[y == "2"] = "none"  # an absent label in a file, a class here
    clf = SalientClassifier(**quick).fit(moods.texts, y)
    assert clf.classes_.tolist() == ["0", "1", "none"] and clf.head_.card.task == "thirds"


def test_rows_in_another_order_and_repeated_texts(
    quick: dict[str, Any], moods: Moods, fitted: SalientClassifier
) -> None:
    order = np.random.default_rng(0).permutation(120)
    again = SalientClassifier(**quick).fit(np.array(moods.texts)[order], moods.mood[order])
    assert again.head_.fingerprint == fitted.head_.fingerprint
    texts = [*moods.texts, moods.texts[0]]
    both = SalientClassifier(**quick).fit(texts, [*moods.mood, "sad"])  # whatever the first is
    assert both.head_.card.metrics["num_judged"] == 121


def test_weights(quick: dict[str, Any], moods: Moods, fitted: SalientClassifier) -> None:
    weight = np.linspace(0.5, 2, 120)
    fits = [
        SalientClassifier(**quick).fit(moods.texts, moods.mood, sample_weight=own)
        for own in (weight, np.where(weight < 1.5, 10 * weight, 0), np.full(120, 3.0))
    ]
    fits.append(SalientClassifier(**quick).fit(moods.texts[:80], moods.mood[:80], weight[:80]))
    found = [one.predict_proba(NEW.texts) for one in (fitted, *fits)]
    assert np.allclose(found[0], found[3], atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-3)
    assert (weight < 1.5).sum() == 80
    assert np.allclose(found[2], found[4], atol=1e-5)
    reg = SalientRegressor(**quick).fit(moods.texts, moods.level, weight)
    assert reg.score(NEW.texts, NEW.level) > 0.7
    assert np.allclose(reg.predict([" "]), np.average(moods.level, weights=weight))


def test_blank_texts(quick: dict[str, Any], moods: Moods, fitted: SalientClassifier) -> None:
    with pytest.warns(UserWarning, match=r"2 texts of X blank \(row 120, 121\)"):
        clf = SalientClassifier(**quick).fit([*moods.texts, " ", ""], [*moods.mood, "glad", "sad"])
    assert clf.head_.fingerprint == fitted.head_.fingerprint
    share = (moods.mood == "glad").mean()
    assert np.allclose(clf.predict_proba([" "]), [[share, 1 - share]], atol=1e-5)


def test_in_scikit_learns_tools(quick: dict[str, Any], moods: Moods) -> None:
    few = quick | {"kinds": ["dense"]}
    scores = cross_val_score(SalientClassifier(**few), moods.texts, moods.mood, cv=2)
    assert scores.shape == (2,) and scores.min() > 0.7
    grid = GridSearchCV(SalientClassifier(**few), {"max_depth": [0.34, np.float64(1.0)]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid.fit(moods.texts, moods.mood)
    assert grid.best_score_ > 0.7
    assert grid.best_estimator_.depth_ < 3
    steps = make_pipeline(SalientClassifier(**few), StandardScaler(), LogisticRegression())
    assert steps.fit(moods.texts, moods.mood).score(NEW.texts, NEW.mood) > 0.7
    last = make_pipeline(_Same(), SalientClassifier(**few)).fit(moods.texts, moods.mood)
    assert last.predict_proba(NEW.texts).shape == (40, 2)


class _Same:
    """A step that changes nothing."""

    def fit(self, X: Any, y: Any = None) -> _Same:
        return self

    def transform(self, X: Any) -> Any:
        return X

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False))


@pytest.mark.slow
def test_two_processes_share_the_cache(quick: dict[str, Any], moods: Moods) -> None:
    grid = GridSearchCV(
        SalientClassifier(**quick), {"max_depth": [0.34, 0.67, 1.0]}, cv=2, n_jobs=2
    )
    grid.fit(moods.texts, moods.mood)
    one = GridSearchCV(SalientClassifier(**quick), {"max_depth": [0.34, 0.67, 1.0]}, cv=2)
    one.fit(moods.texts, moods.mood)
    for name in ("split0_test_score", "split1_test_score"):
        assert np.allclose(grid.cv_results_[name], one.cv_results_[name], atol=0.03)


def test_reprs(fitted: SalientClassifier, quick: dict[str, Any]) -> None:
    line = repr(fitted)
    for part in ("backbone bert", "of 3 blocks", "features", "macro_f1", "out of fold"):
        assert part in line, part
    page = fitted._repr_mimebundle_()["text/html"]
    assert page == fitted._repr_html_() and "<table" in page and "of 3 blocks" in page
    assert "<table" in page and page.count("out of fold") == 1  # the report is shown by itself
    assert "out of fold" in repr(fitted.report_) and "<table" in fitted.report_._repr_html_()
    new = SalientClassifier(model="a<b")
    assert repr(new) == "SalientClassifier(model='a<b')"
    assert "a<b" not in new._repr_html_()


def test_nothing_without_a_fit() -> None:
    clf = SalientClassifier()
    for call in (clf.predict, clf.predict_proba, clf.transform, clf.save):
        with pytest.raises(NotFittedError):
            call(["text"])
    with pytest.raises(NotFittedError):
        clf.get_feature_names_out()


def test_mistakes_are_value_errors_that_name_them(quick: dict[str, Any], moods: Moods) -> None:
    def refused(match: str, X: Any = moods.texts, y: Any = moods.mood, **changes: Any) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            SalientClassifier(**quick | changes).fit(X, y)
        assert isinstance(caught.value, SalientError)

    refused("X has 120, y has 119", y=moods.mood[:119])
    refused("row 1 has no text", X=["a", None], y=["a", "b"])
    refused("row 0 is 1.5", X=[1.5, "b"], y=["a", "b"])
    refused("give a list", X="a text", y=["a"])
    refused("only one class is present", y=["a"] * 120)
    refused("row 3 has no label", y=[*moods.mood[:3], None, *moods.mood[4:]])
    refused("too few", X=["a"] * 4, y=["a", "b"] * 2)
    refused(r"metric 'r2' does not fit", metric="r2")
    refused("max_depth: 2 is no share of the model's blocks; give .* up to 1", max_depth=2)
    refused(r'different training texts.*\(config\["head"\]\["folds"\]\)',
            X=moods.texts[:4], y=[*"abab"])  # fmt: skip
    refused("y: 120 different classes .* is it free text", y=[f"id{i}" for i in range(120)])
    refused("y: 120 different classes .* take SalientRegressor", y=[*range(120)])
    refused(r"did you mean 'lexical'", config={"head": {"lexcal": True}})
    refused(r"valid sections", config={"heads": {}})
    refused(r"head.max_depth is the parameter max_depth", config={"head": {"max_depth": 0.5}})
    refused(r"store.path is decided by fit", config={"store": {"path": "x"}})
    refused(r"'often' is no seed", random_state="often")
    refused(r"cache_bytes: '20GB' is no number", cache_bytes="20GB")
    refused(r"cache_bytes: None is no number", cache_bytes=None)
    refused(r"cache: 3 is no folder", cache=3)
    refused("is a list", y=["['a']", "['b']"] * 60)
    with pytest.raises(ValueError, match="continuous"):
        SalientClassifier(**quick).fit(moods.texts, moods.level + 0.05)
    with pytest.raises(ValueError, match="holds something else than numbers"):
        SalientRegressor(**quick).fit(moods.texts, moods.mood)
    with pytest.raises(ValueError, match="nothing to learn"):
        SalientRegressor(**quick).fit(moods.texts, [1] * 120)
