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

function drawWaterfall(page, row, result) {
  const ranked = rankFields(page, result.contributions);
  const steps = ranked.slice(0, LISTED).map(({ field, contribution }) => ({
    label: field.label,
    value: showValue(field, row[field.term.feature]),
    contribution,
  }));
  const rest = ranked.slice(LISTED);
  if (rest.length) {
    const contribution = rest.reduce((sum, other) => sum + other.contribution, 0);
    steps.push({ label: say("others", { n: rest.length }), value: "", contribution });
  }
  let eta = page.model.intercept;
  for (const step of steps) {
    step.from = eta;
    eta = step.to = eta + step.contribution;
  }
  const ends = [page.model.intercept, result.eta, ...steps.map((step) => step.to)];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const mean = (x) => showMean(page, page.model.link.inverse(x));
  const lines = steps.map(({ label, value, contribution, from, to }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, label, value ? el("span", { class: "value" }, value) : null),
      el("td", { class: "bar" }, drawBar(from, to, low, high)),
      el("td", { class: "number" }, showSigned(contribution)),
      el("td", { class: "number" }, mean(to))
    )
  );
  const end = (name, x) =>
    el(
      "tr",
      { class: "end" },
      el("th", { scope: "row" }, name),
      el("td", { class: "bar" }, drawBar(x, x, low, high)),
      el("td", { class: "number" }, showNumber(x)),
      el("td", { class: "number" }, mean(x))
    );
  return el(
    "table",
    { class: "waterfall" },
    makeHead([say("reason"), say("effect"), nameScale(page), say("soFar")], [2, 3]),
    el("tbody", {}, end(say("base"), page.model.intercept), lines, end(say("answer"), result.eta))
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

function drawComparison(page, pinned, row) {
  const before = answer(page.model, pinned);
  const after = answer(page.model, row);
  const moved = page.fields.filter(({ term }) => !Object.is(pinned[term.feature], row[term.feature]));
  if (!moved.length) return [el("p", {}, say("nothingMoved"))];
  const effect = ({ term }) => after.contributions[term.feature] - before.contributions[term.feature];
  moved.sort((a, b) => Math.abs(effect(b)) - Math.abs(effect(a)));
  return [
    el(
      "dl",
      { class: "pair" },
      el("div", {}, el("dt", {}, say("pinned")), el("dd", {}, showMean(page, before.mean))),
      el("div", {}, el("dt", {}, say("now")), el("dd", {}, showMean(page, after.mean))),
      el("div", {}, el("dt", {}, say("difference")), el("dd", {}, showDifference(page, after.mean - before.mean)))
    ),
    el(
      "div",
      { class: "scroll", tabindex: 0, role: "group", "aria-label": say("whatMoved") },
      el(
        "table",
        {},
        makeHead([say("whatMoved"), say("pinned"), say("now"), nameScale(page)], [3]),
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
              el("td", { class: "number" }, showSigned(effect(field)))
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
function listTop(page, row, contributions, most) {
  if (page.words.good) return listReasons(page, row, contributions, page.words.good === "high" ? -1 : 1, most);
  return rankFields(page, contributions)
    .filter(({ contribution }) => contribution !== 0)
    .slice(0, most)
    .map(({ field }) => wordReason(field, row[field.term.feature]));
}

function drawReasons(page, row, { contributions }) {
  const list = (title, items) => [
    el("h3", {}, title),
    items.length ? el("ol", {}, items.map((item) => el("li", {}, item))) : el("p", {}, say("noReasons")),
  ];
  if (page.words.good) return list(say("against"), listTop(page, row, contributions, CODES));
  return [
    ...list(say("raises"), listReasons(page, row, contributions, 1)),
    ...list(say("lowers"), listReasons(page, row, contributions, -1)),
  ];
}
