// An endpoint in the model's place: it is asked for each answer, and for the explanation with it.

"use strict";

const PAUSE = 400; // ms without a change, after which the endpoint is asked about other values
const GRID = 41; // values of a number that are tried
const MOST_TRIED = 60; // levels that are tried
const BATCH = 100; // explained rows in one request
const PLAIN_BATCH = 500; // rows without an explanation
const REMEMBERED = 5000; // answers

// What model.json says of the features, with what form and curves need of a model.
function readDescribed({ features, terms, link }) {
  const complete = (term) => {
    if (term.kind !== "smooth") return { ...term, at: () => 0 };
    const [center, scale] = term.warp || [];
    return {
      ...term,
      atoms: [],
      at: () => 0,
      onScale: term.warp ? (x) => Math.asinh((x - center) / scale) : (x) => x,
      offScale: term.warp ? (t) => center + scale * Math.sinh(t) : (t) => t,
    };
  };
  return { features, terms: terms.map(complete), link: readLink(link), intercept: 0 };
}

// The scale that explanations add up on; of one that is unknown, no mean can be shown.
function readLink({ name, probability }) {
  const known = Object.hasOwn(LINKS, name) ? LINKS[name] : { name, inverse: null };
  return { ...known, probability: Boolean(known.probability || probability) };
}

// A row as the endpoint reads it.
function writeInstance(page, row) {
  const write = ({ kind, unit, levels, feature }) => {
    const x = row[feature];
    if (Number.isNaN(x)) return null;
    if (kind === "levels") return x >= 0 ? levels[x] : say("otherLevel");
    if (unit === "date") return writeDate(x);
    if (unit === "duration") return `${x < 0 ? "-" : ""}PT${Math.abs(Math.round(x * 86400))}S`;
    return x;
  };
  const unused = page.endpoint.unused.map((name) => [name, null]); // it wants the column all the same
  return Object.fromEntries([...page.model.terms.map((term) => [term.name, write(term)]), ...unused]);
}

// Ask for the answers to rows; a Problem if there are none.
async function post(page, rows, explained) {
  const asked = explained && page.endpoint.explains;
  const more = page.endpoint.texts ? "; top_k=5" : "";
  let response = null;
  try {
    response = await fetch(page.endpoint.url, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: `application/json; explain=${asked}${more}` },
      body: JSON.stringify({ instances: rows.map((row) => writeInstance(page, row)) }),
    });
  } catch {
    throw new Problem("notReached", { name: page.endpoint.name });
  }
  if (response.status === 406 && asked) {
    page.endpoint.explains = false; // this model explains nothing
    return post(page, rows, false);
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Problem("refused", { message: content.error?.message ?? String(response.status) });
  }
  const values = content[page.endpoint.column];
  if (!Array.isArray(values) || values.length !== rows.length) {
    throw new Problem("refused", { message: say("notAnswer", { name: page.endpoint.column }) });
  }
  if (content.scale) page.model.link = findLink(page, content.scale);
  return rows.map((_, i) => readResult(page, content, i));
}

// A scale of the answer's own is not one of the model's.
function findLink(page, scale) {
  const { link } = page.endpoint;
  if (scale === "response") return readLink({ ...link, name: "identity" });
  if (scale === "link") return readLink(link.name === "identity" ? { ...link, name: "unknown" } : link);
  return readLink({ name: "score", probability: link.probability });
}

function readResult(page, content, i) {
  const label = content.prediction?.[i];
  const result = {
    mean: Number(content[page.endpoint.column][i]),
    label: typeof label === "string" ? label : null,
    contributions: new Array(page.model.features.length).fill(0),
    cautions: content.warnings || [],
    others: content.top_k?.[i].slice(1) || [],
  };
  const values = content.shap_values;
  if (Array.isArray(values)) {
    result.base = content.shap_base[i];
    result.parts = Object.entries(values[i])
      .map(([word, contribution]) => ({ label: word, value: "", contribution }))
      .sort((a, b) => Math.abs(b.contribution) - Math.abs(a.contribution));
    result.eta = result.parts.reduce((sum, { contribution }) => sum + contribution, result.base);
  } else if (values) {
    result.base = content.shap_base;
    for (const { name, feature } of page.model.terms) result.contributions[feature] = values[name][i];
    result.eta = result.contributions.reduce((sum, contribution) => sum + contribution, result.base);
  } else if (content.anchor) {
    const [conditions, precision, coverage, found] = ["anchor", "precision", "coverage", "found"].map((key) => content[key][i]);
    result.rule = { conditions, precision, coverage, found };
  } else result.unexplained = true;
  return result;
}

// Ask for many rows in batches; in the place of an answer that there is not, why.
async function askMany(page, rows, explained) {
  const size = explained ? BATCH : PLAIN_BATCH;
  if (rows.length > size) {
    const first = await askMany(page, rows.slice(0, size), explained);
    return [...first, ...(await askMany(page, rows.slice(size), explained))];
  }
  try {
    return await post(page, rows, explained);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (rows.length === 1 || problem.key === "notReached") return rows.map(() => problem);
    const half = rows.length >> 1; // one row may spoil the others' answers
    const first = await askMany(page, rows.slice(0, half), explained);
    return [...first, ...(await askMany(page, rows.slice(half), explained))];
  }
}

// The endpoint as the page's source of answers; redraw() is called when it has answered more.
function askEndpoint(page, redraw) {
  const known = new Map();
  let wanted = null;
  let running = false;
  let timer = null;
  let tried = null; // of one row, the answers with another value of one feature
  const keyOf = (row) => JSON.stringify(row);

  async function run() {
    running = true;
    clearTimeout(timer);
    find("answer").setAttribute("aria-busy", "true");
    while (wanted) {
      const { rows, draw } = wanted;
      wanted = null;
      if (known.size > REMEMBERED) known.clear();
      const unknown = rows.filter((row) => !known.has(keyOf(row)) || known.get(keyOf(row)) instanceof Problem);
      for (const row of new Set(unknown)) known.set(keyOf(row), (await askMany(page, [row], true))[0]);
      draw();
    }
    find("answer").setAttribute("aria-busy", "false");
    running = false;
    timer = setTimeout(() => tryOthers(page.row), PAUSE);
  }

  async function tryOthers(row) {
    const now = known.get(keyOf(row));
    if (tried?.row === row || page.endpoint.texts || !now || now instanceof Problem) return;
    const probes = page.fields.flatMap((field) =>
      listProbes(field).map((x) => ({ field, x, row: replace(row, field.term.feature, x) }))
    );
    const results = await askMany(page, probes.map((probe) => probe.row), false);
    if (page.row !== row) return;
    const answers = new Map(page.fields.map((field) => [field, []]));
    probes.forEach(({ field, x }, i) => {
      if (Number.isFinite(results[i].mean)) answers.get(field).push({ x, mean: results[i].mean });
    });
    tried = { row, answers };
    drawDependence(page, answers, now.mean);
    redraw();
  }

  return {
    prepare(rows, draw) {
      wanted = { rows, draw };
      if (!running) run();
    },
    answer(row) {
      const result = known.get(keyOf(row));
      if (result === undefined) throw new Problem("asking", {});
      if (result instanceof Problem) throw result;
      return result;
    },
    answerAll: (rows) => askMany(page, rows, true),
    moveMarks() {},
    // Of the values that were tried, the nearest that cross; none where they are not tried yet.
    findChanges(row, crosses) {
      if (tried?.row !== row) return null;
      const alone = [];
      for (const field of page.fields.filter(({ term, change }) => isFree(term, row[term.feature], { change }))) {
        const { term, change } = field;
        const from = row[term.feature];
        const distance = ({ x, mean }) =>
          term.kind === "levels" ? Math.abs(mean - known.get(keyOf(row)).mean) : Math.abs(term.onScale(x) - term.onScale(from));
        const [best] = tried.answers
          .get(field)
          .filter(({ x, mean }) => isAllowed(x, from, change) && crosses(mean))
          .sort((a, b) => distance(a) - distance(b));
        if (best) alone.push({ term, from, to: best.x, mean: best.mean });
      }
      return { alone, together: [] };
    },
  };
}

// Values of a feature to ask about: its levels, or an even grid on its scale.
function listProbes(field) {
  const { term } = field;
  if (term.kind === "levels") return term.levels.slice(0, MOST_TRIED).map((_, code) => code);
  const [low, high] = term.range.map(term.onScale);
  const values = Array.from({ length: GRID }, (_, i) => term.offScale(low + ((high - low) * i) / (GRID - 1)));
  return [...new Set(values.map((x) => roundValue(field, x)))];
}

// How the answer would change with each feature alone, drawn as the effects of a model are.
function drawDependence(page, answers, now) {
  const size = page.model.link.probability ? 100 : 1;
  const fields = page.fields.map((field) => ({ ...field, term: interpolate(field.term, answers.get(field), page.row, now, size) }));
  const words = page.model.link.probability ? { ...page.words, outcome: say("pointsName") } : page.words;
  const terms = fields.map(({ term }) => term);
  const view = { ...page, fields, words, errors: null, model: { ...page.model, terms, link: LINKS.identity } };
  find("curves").replaceChildren();
  buildCurves(view)(page.row, page.row);
}

function interpolate(term, answers, row, now, size) {
  const change = new Map(answers.map(({ x, mean }) => [x, size * (mean - now)]));
  change.set(row[term.feature], 0);
  if (term.kind === "levels") {
    const effects = term.levels.map((_, code) => change.get(code) ?? 0);
    return { ...term, effects, missing: null, at: (code) => effects[code] ?? 0 };
  }
  const inside = (x) => x >= term.range[0] && x <= term.range[1];
  const points = [...change].filter(([x]) => inside(x)).map(([x, y]) => [term.onScale(x), y]);
  points.sort((a, b) => a[0] - b[0]);
  const turns = points.map(([t]) => t);
  const value = (t) => {
    const i = Math.min(Math.max(upperBound(turns, t), 1), turns.length - 1);
    if (i < 1) return points[0]?.[1] ?? 0;
    const [[a, from], [b, to]] = [points[i - 1], points[i]];
    return from + ((to - from) * (t - a)) / (b - a || 1);
  };
  return { ...term, missing: null, turns, value, at: (x) => (Number.isNaN(x) ? 0 : value(term.onScale(x))) };
}

// ---------------------------------------------------------------- explanations of other kinds

function drawRule(page, { rule, label }) {
  const percent = (x) => formatNumber(x, { style: "percent", maximumSignificantDigits: 3 });
  const values = { label, precision: percent(rule.precision), coverage: percent(rule.coverage) };
  if (!rule.conditions.length) return [el("p", {}, say("ruleEmpty", values))];
  return [
    el("p", {}, say("ruleIntro", values)),
    el("ul", { class: "rule" }, rule.conditions.map((condition) => el("li", {}, condition))),
    el("p", {}, say(rule.found ? "ruleHolds" : "ruleFails", values)),
  ];
}

function drawOthers({ others }) {
  if (!others.length) return [];
  const percent = (x) => formatNumber(x, { style: "percent", maximumSignificantDigits: 2 });
  return [
    el("h3", {}, say("otherAnswers")),
    el("ul", {}, others.map(({ label, probability }) => el("li", {}, `${label}: ${percent(probability)}`))),
  ];
}
