// A CSV file, scored on this machine: row by row, with reasons.

"use strict";

const PREVIEW = 50; // rows shown; the file that is saved has all
const REASONS = 3; // of each row

// Score all rows of a CSV text: {names, delimiter, rows: [{cells, row, result, reasons, problem}]}.
async function scoreCsv(page, text) {
  const { rows, delimiter } = parseCsv(text);
  if (rows.length < 2) throw new Problem("noRows", {});
  const [names, ...lines] = rows;
  const read = makeReader(page.model, names);
  const given = lines.map((cells) => attempt(() => read(cells)));
  const results = await page.source.answerAll(given.filter((row) => !(row instanceof Problem)));
  let next = 0;
  const scored = lines.map((cells, i) => {
    const row = given[i];
    const result = row instanceof Problem ? row : results[next++];
    if (!(result instanceof Problem)) {
      return { cells, row, result, reasons: listTop(page, row, result, REASONS), problem: "" };
    }
    return { cells, row: null, result: null, reasons: [], problem: say(result.key, result.values) };
  });
  return { names, delimiter, rows: scored };
}

// What a function returns, or the Problem that it throws.
function attempt(make) {
  try {
    return make();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    return problem;
  }
}

// The answer of a row; a Problem where the model has none.
function answerOrRefuse(page, row) {
  try {
    const result = answer(page.model, row);
    if (Number.isFinite(result.mean)) return result;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new Problem("refusedOutside", { name: error.message });
  }
  throw new Problem("noMean", {});
}

// The scored rows as a CSV text: the cells as they came, then what the page says of each row.
function saveScores(page, { names, delimiter, rows }) {
  const sides = Number.isFinite(page.threshold);
  const more = [say("answer"), ...(sides ? [say("decision")] : [])];
  for (let i = 1; i <= REASONS; i++) more.push(`${say("reason")} ${i}`);
  const lines = rows.map(({ cells, result, reasons, problem }) => [
    ...cells,
    result ? (namesAnswers(page) ? result.label : result.mean) : "",
    ...(sides ? [result ? nameSide(page, result.mean >= page.threshold) : ""] : []),
    ...Array.from({ length: REASONS }, (_, i) => reasons[i] || ""),
    problem,
  ].map((cell, i) => (i < cells.length ? cell : inert(cell))));
  return writeCsv([[...names, ...more, say("problem")], ...lines], delimiter);
}

// Spreadsheets take a cell that begins so for a formula.
const inert = (cell) => (typeof cell === "string" && /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : cell);

function countRows({ rows }) {
  const bad = rows.filter(({ result }) => !result).length;
  return say("rowsScored", { n: formatNumber(rows.length, {}), bad: formatNumber(bad, {}) });
}

function drawScores(page, scored, open) {
  const { rows } = scored;
  const good = rows.filter(({ result }) => result);
  const mean = good.reduce((sum, { result }) => sum + result.mean, 0) / good.length;
  const facts = [countRows(scored)];
  if (good.length && !namesAnswers(page)) facts.push(say("meanAnswer", { x: showMean(page, mean) }));
  if (good.length && Number.isFinite(page.threshold)) {
    const above = good.filter(({ result }) => result.mean >= page.threshold).length;
    const share = formatNumber(above / good.length, { style: "percent", maximumSignificantDigits: 3 });
    facts.push(say("shareAbove", { share, side: nameSide(page, true) }));
  }
  const lines = rows.slice(0, PREVIEW).map(({ row, result, reasons, problem }, i) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, formatNumber(i + 1, {})),
      el("td", {}, result ? showAnswer(page, result) : "–"),
      el("td", {}, problem || reasons.join("; ")),
      el(
        "td",
        {},
        result
          ? el("button", { type: "button", "aria-label": say("openRow", { n: i + 1 }), onclick: () => open(row) }, say("open"))
          : ""
      )
    )
  );
  const save = () => saveFile("scores.csv", "text/csv", `\uFEFF${saveScores(page, scored)}`);
  return [
    el("p", {}, facts.join(" ")),
    el("button", { type: "button", onclick: save }, say("saveScores")),
    el(
      "div",
      { class: "scroll", tabindex: 0, role: "group", "aria-label": say("scores") },
      el("table", {}, makeHead([say("row"), say("answer"), say("reasons"), ""]), el("tbody", {}, lines))
    ),
    rows.length > PREVIEW ? el("p", { class: "hint" }, say("preview", { n: PREVIEW })) : "",
  ];
}
