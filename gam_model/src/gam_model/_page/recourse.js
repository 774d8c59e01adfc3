// What would have to change: the smallest changes that take an answer across a threshold.
//
// Contributions add up, so a change of one feature is enough exactly where its own curve reaches
// what the others leave to be done; where that is, is found by inverting the curve.

"use strict";

// Find them for one row.
//
// crosses(row) says whether a row is on the other side; goals are the intervals of eta that lie
// there (see findGoals); rules[feature] is {change: "any", "up", "down" or "never", step, whole},
// where step is the unit in which values are shown and whole says that no others exist.
// Returns {alone: [change, ...], together: [change, ...]}, each {term, from, to}; together is the
// smallest set where none alone is enough, and empty where all of them are not.
function findRecourse(model, row, crosses, goals, rules) {
  const now = answer(model, row);
  const free = model.terms.filter((term) => isFree(term, row[term.feature], rules[term.feature]));
  const alone = [];
  for (const term of free) {
    const rest = now.eta - now.contributions[term.feature];
    const spans = goals.map(([low, high]) => [low - rest, high - rest]);
    const accept = (to) => crosses(replace(row, term.feature, to));
    const to = findNearest(term, row[term.feature], spans, rules[term.feature], accept);
    if (to !== null) alone.push({ term, from: row[term.feature], to });
  }
  if (alone.length) return { alone, together: [] };
  const sets = goals.map((goal) => findSet(row, now, goal, free, rules, crosses));
  const [together] = sets.filter((set) => set.length).sort((a, b) => a.length - b.length);
  return { alone, together: together || [] };
}

// Intervals of eta in which the mean is at or above a threshold, or else below it; none where the
// link has no such mean.
function findGoals(link, threshold, above) {
  const edge = link.forward(threshold);
  if (!Number.isFinite(edge) || (link.name === "sqrt" && threshold < 0)) return [];
  const [low, high] = link.domain;
  if (link.turns) return above ? [[edge, high], [low, -edge]] : [[-edge, edge]];
  return above !== Boolean(link.falls) ? [[edge, high]] : [[low, edge]];
}

function isFree(term, x, rule) {
  if (rule.change === "never") return false;
  if (term.kind === "levels") return rule.change === "any" || x >= 0;
  return !Number.isNaN(x); // from a missing number no change is small or large
}

function replace(row, feature, x) {
  const changed = row.slice();
  changed[feature] = x;
  return changed;
}

// The level of least effect, or the value nearest to x, whose contribution is in one of the spans;
// an atom counts by its own contribution, and is tried as it is.
function findNearest(term, x, spans, rule, accept) {
  if (term.kind === "levels") {
    const now = term.at(x);
    const codes = listCodes(term, x, rule.change).filter((code) => accept(code));
    codes.sort((a, b) => Math.abs(term.at(a) - now) - Math.abs(term.at(b) - now));
    return codes.length ? codes[0] : null;
  }
  const found = term.atoms.filter((atom) => isAllowed(atom, x, rule.change) && accept(atom));
  for (const [low, high] of spans) {
    for (const [start, end] of listSpans(term, low, high)) {
      for (const [from, to] of cutSpan(start, end, x, rule.change)) {
        found.push(pickValue(term, from, to, x, rule, accept));
      }
    }
  }
  const values = found.filter((value) => value !== null);
  values.sort((a, b) => Math.abs(a - x) - Math.abs(b - x) || a - b);
  return values.length ? values[0] : null;
}

const isAllowed = (to, x, change) => (change === "any" ? to !== x : change === "up" ? to > x : to < x);

const listCodes = (term, x, change) =>
  term.levels.map((_, code) => code).filter((code) => isAllowed(code, x, change));

// Intervals of the feature, in its own units and its training range, where low <= f <= high; f is
// the curve, from which atoms deviate.
function listSpans(term, low, high) {
  const spans = [];
  for (let i = 0; i + 1 < term.turns.length; i++) {
    let [a, b] = [term.turns[i], term.turns[i + 1]];
    const rises = term.value(b) >= term.value(a);
    if (!rises) [a, b] = [b, a]; // so that f rises from a to b
    if (term.value(b) < low || term.value(a) > high) continue;
    const start = term.value(a) >= low ? a : bisect((t) => term.value(t) >= low, b, a);
    const end = term.value(b) <= high ? b : bisect((t) => term.value(t) <= high, a, b);
    const ends = [term.offScale(start), term.offScale(end)];
    spans.push(rises ? ends : ends.reverse());
  }
  return spans;
}

// The parts of an interval to which x may move: below it, and above it.
function cutSpan(start, end, x, change) {
  const parts = [];
  if (change !== "up" && start < x) parts.push([start, Math.min(end, x)]);
  if (change !== "down" && end > x) parts.push([Math.max(start, x), end]);
  return parts;
}

const FINEST = 9; // decimals more than a step has

// The value of an interval on one side of x that is nearest to x: in steps, where that is possible,
// else in tenths of a step, in hundredths, ..., so that the value that is shown is one that crosses.
function pickValue(term, from, to, x, rule, accept) {
  const up = from >= x;
  const near = up ? from : to;
  const step = up ? rule.step : -rule.step;
  const slack = 1e-9 * rule.step;
  const suits = (value) =>
    value !== x && from - slack <= value && value <= to + slack && accept(value);
  const stepAway = (size) => trim((up ? Math.ceil(near / size - 1e-9) : Math.floor(near / size + 1e-9)) * size);
  const stepped = stepAway(rule.step);
  const next = trim(stepped + step);
  const nudged = near + (near - x) * 1e-9;
  const values = [stepped, next];
  for (let k = 1; k <= FINEST && !rule.whole; k++) values.push(stepAway(rule.step / 10 ** k));
  if (!rule.whole) values.push(near, nudged);
  values.push(leaveAtoms(term, next, step)); // the curve is beyond its atoms
  if (!rule.whole) values.push(from + (to - from) / 2);
  return values.find(suits) ?? null;
}

// The first value from x on, in steps, that is not an atom.
function leaveAtoms(term, x, step) {
  let value = x;
  for (const _ of term.atoms) {
    const atom = term.locate(value);
    if (atom < 0) break;
    const end = (step > 0 ? term.highs : term.lows)[atom];
    value = trim(value + step * (Math.floor((end - value) / step) + 1));
  }
  return value;
}

// 0.30000000000000004 is 0.3.
const trim = (value) => Number(value.toPrecision(12));

// The fewest features that together cross: those of the greatest gains, each of which gives its
// share of what is needed, so that none has to go further than necessary.
function findSet(row, now, [low, high], free, rules, crosses) {
  const sign = now.eta < low ? 1 : -1;
  const need = sign > 0 ? low - now.eta : now.eta - high;
  const gains = free
    .map((term) => ({ term, gain: findGain(term, row[term.feature], sign, rules[term.feature]) }))
    .filter(({ gain }) => gain > 0)
    .sort((a, b) => b.gain - a.gain);
  let total = 0;
  for (let n = 1; n <= gains.length; n++) {
    total += gains[n - 1].gain;
    if (total < need) continue;
    let changed = row;
    const changes = [];
    for (const { term, gain } of gains.slice(0, n)) {
      const x = row[term.feature];
      const share = Math.min(gain, gain * (need / total) * (1 + 1e-12));
      const enough = now.contributions[term.feature] + sign * share;
      const span = sign > 0 ? [enough, Infinity] : [-Infinity, enough];
      const accept = (value) => sign * (term.at(value) - enough) >= -1e-12 * Math.abs(enough);
      const to = findNearest(term, x, [span], rules[term.feature], accept);
      if (to === null) break;
      changes.push({ term, from: x, to });
      changed = replace(changed, term.feature, to);
    }
    if (changes.length === n && crosses(changed)) return changes;
  }
  return [];
}

// The most that a feature may add, or take away where sign is -1.
function findGain(term, x, sign, rule) {
  const values = term.kind === "levels" ? listCodes(term, x, rule.change) : listExtremes(term, x, rule);
  return Math.max(0, ...values.map((value) => sign * (term.at(value) - term.at(x))));
}

// Values at which the curve or an atom is extreme, and where it is an atom, those beside it.
function listExtremes(term, x, { change, step, whole }) {
  const points = [...term.turns.map(term.offScale), ...term.atoms, x];
  const [low, high] = term.range;
  const slack = 1e-9 * step; // a feature's own scale rounds
  const values = whole
    ? points.flatMap((point) => [Math.floor(point / step) * step, Math.ceil(point / step) * step])
    : points;
  return values
    .flatMap((value) => [value, leaveAtoms(term, value, step), leaveAtoms(term, value, -step)])
    .filter((value) => value >= low - slack && value <= high + slack && isAllowed(value, x, change));
}
