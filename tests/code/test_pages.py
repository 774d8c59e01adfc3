"""The page that each program's server shows at /, in real Chromium."""

import csv
import io
import json
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))
import credit_data  # noqa: E402

EXPLAIN = "application/json; explain=true"
TOPICS = {"hockey": "puck goalie ice skate season", "space": "orbit shuttle moon launch rocket"}


@pytest.fixture(scope="module", autouse=True)
def _field_size_limit():
    limit = csv.field_size_limit()
    yield
    csv.field_size_limit(limit)


@pytest.fixture(scope="module")
def start(training_job, serve):
    """Train a program and serve its page; the server and the page's address."""

    @contextmanager
    def start(program, files, hyperparameters=None):
        job = training_job(files, hyperparameters, program).run_program()
        assert job.exit_code == 0, job.log
        with serve(job.base, SAGEMAKER_PROGRAM=program, MODEL_SERVER_PAGE="true") as endpoint:
            yield endpoint, f"http://{endpoint.host}:{endpoint.port}/"

    return start


@pytest.fixture(scope="module")
def forest(start):
    rows = credit_data.generate(2000, seed=0)
    with start("credit_logic.py", {"train_data/train.csv": rows.to_csv(index=False)}) as running:
        yield running


@pytest.fixture(scope="module")
def boosted(start):
    rows = credit_data.generate(2000, seed=0)
    files = {"train_data/train.csv": rows.to_csv(index=False)}
    with start("credit_logic.py", files, {"model": "boosted", "max_iter": 20}) as running:
        yield running


@pytest.fixture(scope="module")
def income(start):
    rng = np.random.default_rng(0)
    n = 1500
    table = pd.DataFrame({"age": rng.integers(18, 80, n)})
    levels = {
        "workclass": ["Private", "State-gov"],
        "education": ["HS-grad", "Masters"],
        "marital-status": ["Married-civ-spouse", "Divorced"],
        "occupation": ["Sales", "Exec-managerial"],
        "relationship": ["Husband", "Wife"],
        "race": ["White", "Black"],
        "sex": ["Male", "Female"],
        "native-country": ["United-States", "Canada"],
    }
    for name, values in levels.items():
        table[name] = rng.choice(values, n)
    table["capital-gain"], table["capital-loss"] = 0, 0
    table.loc[:50, ["capital-gain", "capital-loss"]] = [5000, 100]
    table["hours-per-week"] = rng.integers(20, 60, n)
    rich = (table["education"] == "Masters") & (table["age"] > 40)
    table["income"] = np.where(rich, ">50K", "<=50K")
    files = {"train/adult.csv": table.to_csv(index=False)}
    with start("income_logic.py", files, {"n-estimators": 20}) as running:
        yield running


@pytest.fixture(scope="module")
def news(start):
    rng = random.Random(0)
    rows = [
        {"text": " ".join(rng.choices(words.split(), k=6)), "label": label}
        for _ in range(40)
        for label, words in TOPICS.items()
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {"train/posts.jsonl": lines}
    with start("newsgroups_logic.py", files, {"min-df": 1}) as running:
        yield running


def ask(endpoint, row):
    answer = endpoint.invoke(json.dumps({"instances": [row]}), "application/json", EXPLAIN)
    assert answer.status == 200, answer.body
    return answer.json


def read_row(page):
    return json.loads(page.evaluate("() => JSON.stringify(writeInstance(app, app.row))"))


def wait_for_answer(page):
    page.wait_for_function("() => !answerOrNone(app, app.row).problem")


def settle(page):
    """Wait until the endpoint has answered, for other values too."""
    page.wait_for_function("() => document.querySelectorAll('#curves figure').length > 0")
    page.wait_for_function("() => app.source.findChanges(app.row, () => true) !== null")


def show_percent(page, x):
    return page.evaluate(
        "(x) => formatNumber(x, { style: 'percent', maximumSignificantDigits: 3 })", x
    )


@pytest.mark.parametrize("kind", ["forest", "boosted"])
def test_trees_answer_with_shap_values_that_add_up(kind, request, visit):
    endpoint, url = request.getfixturevalue(kind)
    page = visit(url)
    page.fill("#field-2", "4")
    settle(page)
    answer = ask(endpoint, read_row(page))
    assert page.inner_text("#mean") == show_percent(page, answer["prediction"][0])
    result = page.evaluate("() => app.source.answer(app.row)")
    expected = [values[0] for values in answer["shap_values"].values()]
    np.testing.assert_allclose(result["contributions"], expected, rtol=1e-12)
    assert result["base"] == answer["shap_base"]
    lines = page.locator("#waterfall tbody tr")
    assert lines.count() == len(expected) + 2
    assert lines.last.locator("td").last.inner_text() == page.inner_text("#mean")
    assert page.inner_text("#comparison dd >> nth=1") == page.inner_text("#mean")


def test_the_nearest_values_that_cross_are_answers_of_the_endpoint(forest, visit):
    endpoint, url = forest
    page = visit(url)
    settle(page)
    row, now = read_row(page), page.evaluate("() => app.source.answer(app.row).mean")
    page.fill("#threshold", str(round(100 * (now + 0.01), 3)))
    page.wait_for_selector("#changes button")
    threshold = page.evaluate("() => app.threshold")
    found = page.evaluate(
        """() => app.source.findChanges(app.row, (mean) => mean >= app.threshold).alone
        .map(({ term, to, mean }) => [term.name, to, mean])"""
    )
    assert found
    for name, to, mean in found:
        answer = ask(endpoint, row | {name: to})["prediction"][0]
        assert answer == pytest.approx(mean, rel=1e-12)
        assert answer >= threshold
    page.locator("#changes button").first.click()
    page.wait_for_function("() => answerOrNone(app, app.row).mean >= app.threshold")
    assert page.inner_text("#decision").endswith("or more")


def test_an_income_has_its_anchor(income, visit):
    endpoint, url = income
    page = visit(url)
    page.fill("#field-0", "60")
    page.select_option("#field-2", label="Masters")
    settle(page)
    answer = ask(endpoint, read_row(page))
    assert page.inner_text("#decision") == answer["prediction"][0] == ">50K"
    assert page.locator(".rule li").all_inner_texts() == answer["anchor"][0]
    assert show_percent(page, answer["precision"][0]) in page.inner_text("#waterfall")
    assert not page.is_visible("#codes")
    page.locator("#changes button").first.click()
    page.wait_for_function("() => document.getElementById('decision').textContent === '<=50K'")
    # Nobody is advised to change sex or race.
    assert not {"Race", "Sex"} & set(page.locator("#changes th[scope=row]").all_inner_texts())


def test_a_text_has_its_words(news, visit):
    endpoint, url = news
    page = visit(url)
    page.fill("#field-0", "The rocket and its orbit <b>moon</b>")
    page.wait_for_function("() => document.getElementById('mean').textContent.includes('space')")
    answer = ask(endpoint, {"text": "The rocket and its orbit <b>moon</b>"})
    shown = page.locator("#waterfall tbody th").all_inner_texts()[1:-1]
    assert shown[:3] == list(answer["shap_values"][0])[:3]
    assert "hockey" in page.inner_text("#waterfall ul")
    for section in ("#changes", "#curves", "#codes"):
        assert not page.is_visible(section)
    page.click("#pin")
    page.fill("#field-0", "puck and goalie")
    page.wait_for_function("() => document.getElementById('mean').textContent.includes('hockey')")
    assert page.locator("#comparison dd").count() == 2  # of two labels there is no difference


@pytest.mark.parametrize("kind", ["forest", "news"])
def test_rows_of_a_file_are_answered_by_the_endpoint(kind, request, visit, tmp_path):
    endpoint, url = request.getfixturevalue(kind)
    if kind == "forest":
        rows = credit_data.generate(230, seed=5).drop(columns=credit_data.TARGET)
        rows.loc[7, "age"] = np.nan  # the forest fills it in, but the page knows no such cell
    else:
        rows = pd.DataFrame({"text": ["a rocket, a moon", "puck", "goalie\nice"]})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    page = visit(url)
    wait_for_answer(page)
    page.set_input_files("#file", tmp_path / "rows.csv")
    page.wait_for_selector("#scores table")
    with page.expect_download() as download:
        page.click("text=Save all rows with answers")
    saved = pd.read_csv(download.value.path())
    content = rows.astype(object).where(rows.notna(), None).to_dict("records")
    expected = ask(endpoint, content[0])["prediction"]
    if kind == "forest":
        assert saved["Problem"].notna().sum() == 1
        body = json.dumps({"instances": content})
        answer = endpoint.invoke(body, "application/json", EXPLAIN).json["prediction"]
        expected = np.delete(answer, 7)
        np.testing.assert_allclose(np.delete(saved["Answer"], 7), expected, rtol=1e-12)
    else:
        assert list(saved["Answer"]) == ["space", "hockey", "hockey"]


def test_what_the_endpoint_refuses_is_said(income, visit):
    _, url = income
    page = visit(url)
    wait_for_answer(page)
    page.problems.clear()
    page.select_option("#field-1", value="-1")
    page.wait_for_function(
        "() => document.getElementById('notes').textContent.includes('refuses')"
    )
    assert "Workclass" in page.inner_text("#notes")
    assert page.inner_text("#mean") == "no answer"
    page.select_option("#field-1", label="Private")
    page.wait_for_function("() => document.getElementById('mean').textContent.includes('%')")
    page.problems.clear()  # Chromium reports the status 400


def test_an_endpoint_that_is_gone_is_said(forest, visit):
    _, url = forest
    page = visit(url)
    wait_for_answer(page)
    page.route("**/invocations", lambda route: route.abort())
    page.fill("#field-1", "77")
    page.wait_for_function(
        "() => document.getElementById('notes').textContent.includes('reached')"
    )
    page.problems.clear()


def test_a_case_is_saved_and_printed(forest, visit, tmp_path):
    _, url = forest
    page = visit(url)
    page.fill("#field-1", "33")
    settle(page)
    with page.expect_download() as download:
        page.click("#save")
    case = json.loads(Path(download.value.path()).read_text())
    assert case["inputs"]["age"] == 33
    assert case["answer"] == page.evaluate("() => app.source.answer(app.row).mean")
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.inner_text("#mean") in page.locator("#record").text_content()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["forest", "income", "news"])
def test_everybody_can_use_it_at_any_width(kind, width, request, visit, find_violations):
    _, url = request.getfixturevalue(kind)
    page = visit(url, width=width)
    if kind == "news":
        page.fill("#field-0", "a rocket")
        page.wait_for_selector("#waterfall table")
    else:
        settle(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert find_violations(page) == []


def test_the_page_asks_its_own_origin_alone(forest, visit):
    _, url = forest
    page = visit(url)
    wait_for_answer(page)
    refused = page.evaluate(
        """async () => {
          const found = [];
          document.addEventListener("securitypolicyviolation", (event) =>
            found.push(event.effectiveDirective)
          );
          await fetch("http://127.0.0.1:9/").catch(() => null);
          await new Promise((resolve) => setTimeout(resolve, 100));
          return found;
        }"""
    )
    assert refused == ["connect-src"]
    page.problems.clear()


def test_in_german(forest, visit):
    _, url = forest
    page = visit(f"{url}#de")
    settle(page)
    assert "Endpunkt" in page.inner_text(".case .hint >> nth=0")


def test_a_model_that_does_not_say_enough_is_refused():
    from gam_model.endpoint_page import render_endpoint_page

    with pytest.raises(ValueError, match="neither the levels nor min and max of feature 'a'"):
        render_endpoint_page({"features": [{"name": "a"}]}, "old")
    with pytest.raises(ValueError, match="the page's words have the key 'titel'"):
        render_endpoint_page({"features": [{"name": "a", "min": 0, "max": 1}]}, "x", titel="t")
    feature = {"name": "a", "min": "soon", "max": "late", "unit": "date"}
    with pytest.raises(ValueError, match="not a date"):
        render_endpoint_page({"features": [feature]}, "x")


def test_dates_and_unused_columns_are_sent_as_the_gam_reads_them(start, visit):
    rng = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + rng.integers(0, 300, 400).astype("timedelta64[D]")
    table = pd.DataFrame({"day": days.astype(str), "kind": rng.choice(["a", "b"], 400)})
    table["id"] = [f"c{i}" for i in range(400)]
    table["y"] = np.arange(400) % 7 + (table["kind"] == "a") * 3.0
    buffer = io.StringIO()
    table.to_csv(buffer, index=False)
    with start("model_logic.py", {"train/t.csv": buffer.getvalue()}) as (endpoint, url):
        page = visit(url)
        settle(page)
        row = read_row(page)
        assert set(row) == {"day", "kind", "id"}
        answer = ask(endpoint, row)
        assert page.evaluate("() => app.source.answer(app.row).mean") == answer["prediction"][0]
