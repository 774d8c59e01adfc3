// The reasons of an answer: the waterfall, what moved it, and the reasons to give to a customer.

"use strict";

const LISTED = 15; // rows of a waterfall; more are summed
const CODES = 4; // reasons in a letter

// 1 if a contribution above zero raises the mean, else -1.
const meanDirection = (page) => (page.model.link.falls ? -1 : 1);

// Fields and contributions, the largest first.
const rankFields = (page, contributions) =>
  page.fields
    .map((field) => ({ field, contribution: contributions[field.term.feature] }))
    .sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));

// What an answer is the sum of, the largest first: features, or the words of a text.
function listParts(page, row, result) {
  if (result.parts) return result.parts;
  return rankFields(page, result.contributions).map(({ field, contribution }) => ({
    label: field.label,
    value: showValue(field, row[field.term.feature]),
    contribution,
  }));
}

// The explanation that there is: a sum, the rule that an answer follows, or none.
function drawWhy(page, row, result) {
  if (!Number.isFinite(result.mean)) return [];
  if (result.rule) return drawRule(page, result);
  if (result.unexplained) return [el("p", {}, say("unexplained"))];
  return [drawWaterfall(page, row, result), ...(result.others ? drawOthers(result) : [])];
}

function drawWaterfall(page, row, result) {
  const ranked = listParts(page, row, result);
  const steps = ranked.slice(0, LISTED).map((part) => ({ ...part }));
  const rest = ranked.slice(LISTED);
  if (rest.length) {
    const contribution = rest.reduce((sum, other) => sum + other.contribution, 0);
    steps.push({ label: say("others", { n: rest.length }), value: "", contribution });
  }
  const base = result.base ?? page.model.intercept;
  let eta = base;
  for (const step of steps) {
    step.from = eta;
    eta = step.to = eta + step.contribution;
  }
  const ends = [base, result.eta, ...steps.map((step) => step.to)];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const { inverse } = page.model.link; // of a score there is no mean
  const mean = (x) => (inverse ? [el("td", { class: "number" }, showMean(page, inverse(x)))] : []);
  const lines = steps.map(({ label, value, contribution, from, to }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, label, value ? el("span", { class: "value" }, value) : null),
      el("td", { class: "bar" }, drawBar(from, to, low, high)),
      el("td", { class: "number" }, showEffect(page, contribution)),
      mean(to)
    )
  );
  const end = (name, x) =>
    el(
      "tr",
      { class: "end" },
      el("th", { scope: "row" }, name),
      el("td", { class: "bar" }, drawBar(x, x, low, high)),
      el("td", { class: "number" }, showLevelOf(page, x)),
      mean(x)
    );
  return el(
    "table",
    { class: "waterfall" },
    makeHead([say("reason"), say("effect"), nameScale(page), ...(inverse ? [say("soFar")] : [])], [2, 3]),
    el("tbody", {}, end(say(chooseText(page, "base")), base), lines, end(say("answer"), result.eta))
  );
}

function drawBar(from, to, low, high) {
  const width = high - low || 1;
  const place = (x) => 1 + (98 * (x - low)) / width;
  const [a, b] = [place(Math.min(from, to)), place(Math.max(from, to))];
  const kind = to > from ? "up" : to < from ? "down" : "still";
  return svg(
    "svg",
    { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true", class: kind },
    svg("rect", { x: b - a < 0.8 ? (a + b) / 2 - 0.4 : a, y: 1, width: Math.max(b - a, 0.8), height: 10 })
  );
}

function makeHead(names, numbers = []) {
  const cell = (name, i) =>
    name ? el("th", { scope: "col", class: numbers.includes(i) ? "number" : null }, name) : el("td");
  return el("thead", {}, el("tr", {}, names.map(cell)));
}

// ---------------------------------------------------------------- what if

function drawPair(page, before, after) {
  const cell = (name, text) => el("div", {}, el("dt", {}, say(name)), el("dd", {}, text));
  const other = namesAnswers(page) && before.label !== after.label; // of another answer
  return el(
    "dl",
    { class: "pair" },
    cell("pinned", showAnswer(page, before)),
    cell("now", showAnswer(page, after)),
    other ? null : cell("difference", showDifference(page, after.mean - before.mean))
  );
}

function drawComparison(page, pinned, row) {
  const before = answerOrNone(page, pinned);
  const after = answerOrNone(page, row);
  const moved = page.fields.filter(({ term }) => !Object.is(pinned[term.feature], row[term.feature]));
  if (!moved.length) return [el("p", {}, say("nothingMoved"))];
  const effect = ({ term }) => after.contributions[term.feature] - before.contributions[term.feature];
  moved.sort((a, b) => Math.abs(effect(b)) - Math.abs(effect(a)));
  const pair = drawPair(page, before, after);
  if (namesAnswers(page)) return [pair]; // the one thing that moved is the text
  return [
    pair,
    el(
      "div",
      { class: "scroll", tabindex: 0, role: "group", "aria-label": say("whatMoved") },
      el(
        "table",
        {},
        makeHead([say("whatMoved"), say("pinned"), say("now"), ...(after.rule ? [] : [nameScale(page)])], [3]),
        el(
          "tbody",
          {},
          moved.map((field) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, field.label),
              el("td", {}, showValue(field, pinned[field.term.feature])),
              el("td", {}, showValue(field, row[field.term.feature])),
              after.rule ? null : el("td", { class: "number" }, showEffect(page, effect(field)))
            )
          )
        )
      )
    ),
  ];
}

// ---------------------------------------------------------------- reasons to give

// The largest contributions in one direction of the mean, as sentences.
function listReasons(page, row, contributions, direction, most = CODES) {
  return rankFields(page, contributions)
    .filter(({ contribution }) => contribution * direction * meanDirection(page) > 0)
    .slice(0, most)
    .map(({ field }) => wordReason(field, row[field.term.feature]));
}

function wordReason(field, x) {
  const value = showValue(field, x);
  if (!field.said.reason) return `${field.label}: ${value}`;
  return field.said.reason.replaceAll("{value}", value);
}

// Reasons against the person, where the words say which direction is good; else all by their size.
function listTop(page, row, { contributions, parts, rule }, most) {
  if (rule) return rule.conditions.slice(0, most);
  if (parts) return parts.slice(0, most).map(({ label }) => label);
  if (page.words.good) return listReasons(page, row, contributions, page.words.good === "high" ? -1 : 1, most);
  return rankFields(page, contributions)
    .filter(({ contribution }) => contribution !== 0)
    .slice(0, most)
    .map(({ field }) => wordReason(field, row[field.term.feature]));
}

function drawReasons(page, row, result) {
  const { contributions } = result;
  const list = (title, items) => [
    el("h3", {}, title),
    items.length ? el("ol", {}, items.map((item) => el("li", {}, item))) : el("p", {}, say("noReasons")),
  ];
  if (page.words.good) return list(say("against"), listTop(page, row, result, CODES));
  return [
    ...list(say("raises"), listReasons(page, row, contributions, 1)),
    ...list(say("lowers"), listReasons(page, row, contributions, -1)),
  ];
}
