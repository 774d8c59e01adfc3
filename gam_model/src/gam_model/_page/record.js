// A case as a file that can be opened again, and as a record of one page to print.

"use strict";

const CASE = "gam_model.case";

function saveFile(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// A value as text or number, as it would stand in a request to the model.
function writeInput({ term }, x) {
  if (Number.isNaN(x)) return null;
  if (term.kind === "levels") return x >= 0 ? term.levels[x] : { unseen: true };
  return x;
}

function writeCase(page, row) {
  const inputs = Object.fromEntries(
    page.fields.map((field) => [field.term.name, writeInput(field, row[field.term.feature])])
  );
  return {
    format: CASE,
    version: 1,
    model: page.sha256,
    title: page.words.title,
    date: new Date().toISOString(),
    threshold: Number.isFinite(page.threshold) ? page.threshold : null,
    inputs,
    answer: answerOrNone(page, row).mean,
  };
}

// The row of a case; a Problem if it is none of this model's.
function readCase(page, text) {
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Problem("notCase", {});
  }
  if (!content || content.format !== CASE || !content.inputs) throw new Problem("notCase", {});
  const row = new Array(page.model.features.length).fill(0);
  for (const field of page.fields) {
    const { term } = field;
    if (!Object.hasOwn(content.inputs, term.name)) throw new Problem("caseWithout", { name: term.name });
    row[term.feature] = readInput(field, content.inputs[term.name]);
  }
  return { row, sameModel: content.model === page.sha256 };
}

function readInput({ term }, input) {
  if (input === null) return NaN;
  if (term.kind === "levels") return term.levels.indexOf(input);
  if (term.kind === "text") return String(input);
  if (typeof input !== "number") throw new Problem("notNumber", { name: term.name, cell: String(input) });
  return input;
}

// Fill the record that is printed instead of the page.
function drawRecord(page, row) {
  const result = answerOrNone(page, row);
  const list = (pairs) => el("dl", {}, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  const facts = [
    [say("date"), new Intl.DateTimeFormat(language, { dateStyle: "long", timeStyle: "short" }).format(new Date())],
    [page.words.outcome, showAnswer(page, result)],
  ];
  if (page.errors && Number.isFinite(result.mean)) {
    facts.push([say("interval"), say("fromTo", findInterval(page, row, result))]);
  }
  if (Number.isFinite(page.threshold) && Number.isFinite(result.mean)) {
    facts.push([say("threshold"), showMean(page, page.threshold)]);
    facts.push([say("decision"), nameSide(page, result.mean >= page.threshold)]);
  }
  const inputs = page.fields.map((field) => {
    const x = row[field.term.feature];
    const mark = isOutside(field.term, x) ? ` (${field.term.kind === "levels" ? say("unseen") : say("outside")})` : "";
    return [field.label, showValue(field, x) + mark];
  });
  const effects = listParts(page, row, result)
    .slice(0, LISTED)
    .map(({ label, contribution }) => [label, showEffect(page, contribution)]);
  const base = showLevelOf(page, result.base ?? page.model.intercept);
  const reasons = result.rule
    ? drawRule(page, result)
    : [el("p", {}, say("effectsOn", { scale: nameScale(page), base })), list(effects)];
  find("record").replaceChildren(
    el("h1", {}, page.words.title),
    list(facts),
    el("h2", {}, say("inputs")),
    list(inputs),
    el("h2", {}, say("reasons")),
    ...reasons,
    ...(result.rule || result.parts ? [] : drawReasons(page, row, result)),
    el("p", { class: "hint" }, `${say("model")}: SHA-256 ${page.sha256}, ${page.library}`)
  );
}
