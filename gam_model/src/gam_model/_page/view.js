// What all parts of the page share: elements, texts, and how values are written.

"use strict";

// Make an element. Children are elements or text, and text is only ever text.
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

const find = (id) => document.getElementById(id);

// ---------------------------------------------------------------- texts

let language = "en";
let texts = {};

// The text of a key in the chosen language; {name} in it stands for a value.
function say(key, values = {}) {
  return texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const formats = new Map(); // making one takes longer than using it a hundred times

function findFormat(Format, options) {
  const key = language + JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Format(language, options));
  return formats.get(key);
}

const formatNumber = (value, options) => findFormat(Intl.NumberFormat, options).format(value);

const showNumber = (value) => formatNumber(value, { maximumSignificantDigits: 4 });
const showSigned = (value) =>
  formatNumber(value, { maximumSignificantDigits: 3, signDisplay: "exceptZero" });

function showMean(page, mean) {
  if (!Number.isFinite(mean)) return say("noAnswer");
  if (page.model.link.probability) {
    return formatNumber(mean, { style: "percent", maximumSignificantDigits: 3 });
  }
  return [showNumber(mean), page.words.unit].filter(Boolean).join(" ");
}

// Whether the answer is a name, and the mean how probable it is.
const namesAnswers = (page) => Boolean(page.endpoint?.texts);

const showAnswer = (page, { label, mean }) =>
  namesAnswers(page) && label ? `${label} (${showMean(page, mean)})` : showMean(page, mean);

// The key of a text, or of what it says instead in front of an endpoint, or of one that reads texts.
function chooseText(page, key) {
  const kinds = page.endpoint ? [page.endpoint.texts && "Texts", page.endpoint.rules && "Rules", "Endpoint"] : [];
  const own = kinds.filter(Boolean).map((kind) => key + kind).find((name) => Object.hasOwn(texts, name));
  return own || key;
}

// A difference of two means, in percentage points where they are probabilities.
function showDifference(page, difference) {
  if (page.model.link.probability) return say("points", { x: showSigned(100 * difference) });
  return [showSigned(difference), page.words.unit].filter(Boolean).join(" ");
}

// Effects on a probability itself are shown in percentage points.
const inPoints = ({ model }) => model.link.name === "identity" && Boolean(model.link.probability);

function nameScale(page) {
  if (inPoints(page)) return say("pointsName");
  return page.model.link.name === "identity" ? page.words.outcome : say(`scale_${page.model.link.name}`);
}

const showEffect = (page, effect) => showSigned(inPoints(page) ? 100 * effect : effect);
const showLevelOf = (page, eta) => showNumber(inPoints(page) ? 100 * eta : eta);

const nameSide = (page, above) => {
  const [below, atLeast] = page.words.labels || [];
  const x = showMean(page, page.threshold);
  return above ? atLeast || say("atLeast", { x }) : below || say("below", { x });
};

// ---------------------------------------------------------------- fields

// What the page needs to know of each feature that the model uses, in the order of the features.
function listFields(page) {
  const terms = page.model.terms.slice().sort((a, b) => a.feature - b.feature);
  return terms.map((term) => {
    const said = (page.words.features || {})[term.name] || {};
    const data = page.data[term.feature];
    const field = { term, data, label: said.label || term.name, about: said.description, said };
    field.change = said.change || "any";
    field.whole = Boolean(data.whole);
    field.step = field.whole ? 1 : findStep(term);
    return field;
  });
}

// The unit in which values are shown and changed: a thousandth of the range or so, a power of ten.
function findStep(term) {
  if (term.kind !== "smooth") return 1;
  const width = term.warp ? term.warp[1] : term.range[1] - term.range[0];
  return width > 0 ? 10 ** Math.floor(Math.log10(width / 200)) : 1;
}

const countDigits = (step) => Math.max(0, -Math.floor(Math.log10(step)));

// A value with all of its digits, where it is finer than the steps of its feature.
function showExact(field, x) {
  let digits = countDigits(field.step);
  while (digits < 15 && Number(x.toFixed(digits)) !== x) digits++;
  return showValue(field, x, digits);
}

function showValue(field, x, digits = countDigits(field.step)) {
  const { term, said } = field;
  if (Number.isNaN(x)) return say("missing");
  if (term.kind === "text") return x;
  if (term.kind === "levels") return x >= 0 ? showLevel(field, x) : say("otherLevel");
  if (term.unit === "date") return showDate(x);
  const text = formatNumber(x, { maximumFractionDigits: digits });
  return [text, term.unit === "duration" ? say("days") : said.unit].filter(Boolean).join(" ");
}

function showLevel({ term, said }, code) {
  const level = term.levels[code];
  return (said.levels || {})[level] || String(level);
}

function showDate(days) {
  const whole = Number.isInteger(days);
  const options = whole ? { dateStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" };
  const moment = new Date(Math.round(days * 86400) * 1000);
  if (Number.isNaN(moment.getTime())) return String(days);
  return findFormat(Intl.DateTimeFormat, { ...options, timeZone: "UTC" }).format(moment);
}

const showRange = (field) => {
  const [low, high] = field.term.range.map((x) => showValue(field, tidy(field, x)));
  return say("range", { low, high });
};

// A value without the rounding of the feature's own scale, which may make 1e-12 of 0.
function tidy({ term, whole }, x) {
  if (whole) return Math.round(x);
  return Math.abs(x) < 1e-9 * (term.range[1] - term.range[0]) ? 0 : trim(x);
}

// Whether a value is outside the training range, but for the rounding of 32-bit numbers.
function isOutside(term, x) {
  if (term.kind === "text") return false;
  if (term.kind === "levels") return x < 0;
  if (term.extrapolate === "cyclic") return false;
  const rounding = 2 ** -23 * Math.max(Math.abs(term.range[0]), Math.abs(term.range[1]));
  return x < term.range[0] - rounding || x > term.range[1] + rounding;
}
