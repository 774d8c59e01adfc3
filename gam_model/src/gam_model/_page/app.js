// The page: one case, pinned and changed, and everything that follows from it.

"use strict";

function start() {
  const content = JSON.parse(find("content").textContent);
  const model = content.endpoint ? readDescribed(content.model) : readModel(content.model);
  const page = { ...content, model, pinned: null, row: null };
  const wished = [location.hash.slice(1), page.words.language];
  language = wished.find((name) => Object.hasOwn(page.texts, name));
  texts = page.texts[language];
  page.errors = content.errors ? readErrors(page.model, content.errors) : null;
  page.threshold = page.words.threshold ?? NaN;
  page.fields = listFields(page);
  page.row = new Array(page.model.features.length).fill(0);
  for (const field of page.fields) page.row[field.term.feature] = field.data.typical;
  page.pinned = page.row;
  translate(page);

  let scored = null;
  const form = buildForm(page, (feature, x) => show(replace(page.row, feature, x)));
  page.source = page.endpoint ? askEndpoint(page, draw) : answerHere(page);

  function show(row) {
    page.row = row;
    form(row);
    page.source.prepare([page.pinned, row], draw);
  }

  function draw() {
    const { row } = page;
    page.source.moveMarks(row, page.pinned);
    drawAnswer(page);
    const result = answerOrNone(page, row);
    find("waterfall").replaceChildren(...drawWhy(page, row, result));
    find("comparison").replaceChildren(...drawComparison(page, page.pinned, row));
    find("changes").replaceChildren(...drawRecourse(page, row, result, tryChanges));
    find("codes").replaceChildren(...drawReasons(page, row, result));
  }

  function tryChanges(changes) {
    show(changes.reduce((row, { term, to }) => replace(row, term.feature, to), page.row));
    tell(say("tried"));
  }

  function pin() {
    page.pinned = page.row;
    show(page.row);
    tell(say("pinnedNow"));
  }

  function open(row, message) {
    page.pinned = row;
    show(row);
    tell(message);
    find("answer").scrollIntoView();
  }

  // Files: a case, or rows to score.
  async function take(file) {
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      if (/\.json$/i.test(file.name)) {
        const { row, sameModel } = readCase(page, text);
        open(row, sameModel ? say("caseOpened") : say("otherModel"));
      } else {
        tell(say("scoring"));
        scored = await scoreCsv(page, text);
        showScores();
        tell(countRows(scored));
      }
    } catch (problem) {
      if (problem instanceof TypeError) tell(say("notUtf8"));
      else if (problem instanceof Problem) tell(say(problem.key, problem.values));
      else throw problem;
    }
  }

  function showScores() {
    find("scores").replaceChildren(...drawScores(page, scored, (row) => open(row, say("caseOpened"))));
  }

  find("pin").addEventListener("click", pin);
  find("back").addEventListener("click", () => show(page.pinned));
  find("interval").addEventListener("change", () => drawAnswer(page));
  find("interval").closest("label").hidden = !page.errors;
  find("limits").textContent = page.limits.map((key) => say(key)).join(" ");
  find("print").addEventListener("click", () => window.print());
  window.addEventListener("beforeprint", () => drawRecord(page, page.row));
  find("save").addEventListener("click", () =>
    saveFile("case.json", "application/json", `${JSON.stringify(writeCase(page, page.row), null, 2)}\n`)
  );
  for (const id of ["open", "file"]) {
    find(id).addEventListener("change", async ({ target }) => {
      const [file] = target.files;
      if (file) await take(file);
      target.value = "";
    });
  }
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (name === "drop" && file) take(file);
    });
  }
  find("threshold").addEventListener("input", ({ target }) => {
    page.threshold = target.value === "" ? NaN : Number(target.value) / (page.model.link.probability ? 100 : 1);
    show(page.row);
    if (scored) showScores();
  });
  find("threshold").closest("label").hidden = page.words.threshold !== undefined;
  find("language").addEventListener("change", ({ target }) => {
    location.hash = target.value;
    location.reload();
  });
  show(page.row);
  return page;
}

// The model in the page as its source of answers, all of which are there at once. Its interface is
// also that of askEndpoint: answer(row) gives what prepare(rows, then) has waited for.
function answerHere(page) {
  return {
    prepare: (rows, then) => then(),
    answer: (row) => answerOrRefuse(page, row),
    answerAll: (rows) => rows.map((row) => attempt(() => answerOrRefuse(page, row))),
    moveMarks: buildCurves(page),
    findChanges: (row, crosses, isAbove) => findExactChanges(page, row, crosses, isAbove),
  };
}

// The answer, or none where the model refuses a value, such as one outside the training range.
function answerOrNone(page, row) {
  try {
    return page.source.answer(row);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    const contributions = new Array(page.model.features.length).fill(0);
    return { mean: NaN, eta: NaN, contributions, problem: say(problem.key, problem.values) };
  }
}

function drawAnswer(page) {
  const result = answerOrNone(page, page.row);
  const there = Number.isFinite(result.mean);
  find("mean").textContent = showAnswer(page, result);
  find("decision").textContent =
    there && Number.isFinite(page.threshold) ? nameSide(page, result.mean >= page.threshold) : "";
  find("ends").textContent = there && page.errors && find("interval").checked ? say("ends", findInterval(page, page.row, result)) : "";
  const outside = page.fields.filter(({ term }) => isOutside(term, page.row[term.feature]));
  const notes = outside.length ? [say("careful", { names: outside.map(({ label }) => label).join(", ") })] : [];
  notes.unshift(...(result.cautions || []).map((caution) => `${caution}.`));
  if (result.problem) notes.unshift(result.problem);
  find("notes").textContent = notes.join(" ");
}

function findInterval(page, row, { eta, mean }) {
  const half = Z * page.errors.ofRow(row);
  const [low, high] = bracket(page.model.link, eta - half, eta + half);
  return { low: showMean(page, Math.min(low, mean)), high: showMean(page, Math.max(high, mean)) };
}

// Say what happened, to eyes and to screen readers.
function tell(message) {
  find("message").textContent = message;
}

// Put the words and the texts where the page has room for them.
function translate(page) {
  document.documentElement.lang = language;
  document.title = page.words.title;
  find("title").textContent = page.words.title;
  find("about").textContent = page.words.about || "";
  find("outcome").textContent = page.words.outcome;
  for (const place of document.querySelectorAll("[data-text]")) {
    place.textContent = say(chooseText(page, place.dataset.text), { name: page.endpoint?.name });
  }
  find("unit").textContent = page.model.link.probability ? "%" : page.words.unit || "";
  find("identity").textContent = `SHA-256 ${page.sha256}, ${page.library}`;
  const hasTexts = Boolean(page.endpoint?.texts);
  for (const id of ["changes", "curves"]) find(id).closest("section").hidden = hasTexts;
  find("codes").closest("section").hidden = hasTexts || Boolean(page.endpoint?.rules);
  const unused = page.model.features.filter((_, j) => !page.model.terms.some((term) => term.feature === j));
  find("unused").textContent = unused.length ? say("unused", { names: unused.join(", ") }) : "";
  for (const name of Object.keys(page.texts)) {
    find("language").append(el("option", { value: name, selected: name === language }, page.texts[name].language));
  }
}

let app = null;
try {
  app = start();
} catch (problem) {
  const told = `This page cannot show its model: ${problem.message}.`;
  document.body.replaceChildren(el("main", {}, el("h1", {}, told)));
  throw problem;
}
