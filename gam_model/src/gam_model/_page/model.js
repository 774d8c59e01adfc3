// The frozen model: reads gam.json, as AdditiveModel.save writes it, and answers as _terms.py does.
//
// A row is an array of one number a feature: days for dates, the code of a level, -1 for a level
// that training has not seen, NaN for a missing cell.

"use strict";

const FORMAT = "gam_model.AdditiveModel";
const VERSION = 4;

function readModel(content) {
  if (content.format !== FORMAT || !(content.version <= VERSION)) {
    throw new Error(
      `this page reads ${FORMAT} up to version ${VERSION}, ` +
        `but the model is ${content.format}, version ${content.version}`
    );
  }
  const terms = content.terms.map((term) => {
    if (!Object.hasOwn(KINDS, term.kind)) {
      throw new Error(`this page cannot read a term of kind "${term.kind}", of ${term.name}`);
    }
    return KINDS[term.kind](term);
  });
  if (!Object.hasOwn(LINKS, content.link)) {
    throw new Error(`this page does not know the link "${content.link}"`);
  }
  return { intercept: content.intercept, features: content.features, terms, link: LINKS[content.link] };
}

// Answer one row: its eta, its mean, and each feature's contribution on the scale of the link.
function answer(model, row) {
  let eta = model.intercept;
  const contributions = new Array(model.features.length).fill(0);
  for (const term of model.terms) {
    const value = term.at(row[term.feature]);
    contributions[term.feature] = value;
    eta += value;
  }
  const [low, high] = model.link.domain;
  return { eta, contributions, mean: low < eta && eta < high ? model.link.inverse(eta) : NaN };
}

// ---------------------------------------------------------------- terms

const ROUNDING = 2 ** -24; // of 32-bit numbers: values that differ by less are the same

const KINDS = { smooth: readSmooth, levels: readLevels };

// One polynomial per interval between knots, in powers of the distance from the interval's start,
// and one more beyond either end. Atoms are values that deviate from this curve.
function readSmooth(term) {
  const { knots, coef, warp } = term;
  const degree = knots.length - coef.length - 1;
  const breaks = knots.slice(degree, knots.length - degree);
  const last = breaks.length - 1;
  const pieces = breaks.slice(0, last).map((x) => expand(knots, coef, degree, x));
  const [start, slope] = pieces[0].slice().reverse();
  const end = breaks[last];
  const tail = [slopeAt(pieces[last - 1], end - breaks[last - 1]), horner(pieces[last - 1], end - breaks[last - 1])];
  const head = [slope, start];
  const flat = term.extrapolate === "constant";
  pieces.unshift(flat ? [0, start] : head);
  pieces.push(flat ? [0, tail[1]] : tail);
  const origins = [breaks[0], ...breaks];
  const onScale = warp ? (x) => Math.asinh((x - warp[0]) / warp[1]) : (x) => x;
  const offScale = warp ? (t) => warp[0] + warp[1] * Math.sinh(t) : (t) => t;
  const range = [offScale(breaks[0]), offScale(end)];
  const rounding = 2 ** -23 * Math.max(Math.abs(range[0]), Math.abs(range[1]));
  const value = (t) => {
    const piece = upperBound(breaks, t);
    return horner(pieces[piece], t - origins[piece]);
  };
  // Values of a curve that goes round, in its period.
  const wrap = (t) => {
    if (term.extrapolate !== "cyclic" || (t >= breaks[0] && t < end)) return t;
    const step = (t - breaks[0]) % (end - breaks[0]);
    return breaks[0] + (step < 0 ? step + (end - breaks[0]) : step);
  };
  const [atoms, deviations] = term.atoms || [[], []];
  const lows = atoms.map((atom) => atom - ROUNDING * Math.abs(atom));
  const highs = atoms.map((atom) => atom + ROUNDING * Math.abs(atom));
  // The position of the atom that x is, or -1.
  const locate = (x) => {
    const at = upperBound(lows, x) - 1;
    return at >= 0 && x <= highs[at] ? at : -1;
  };
  return {
    ...term,
    degree,
    range,
    onScale,
    offScale,
    value, // of the curve alone, on its own scale
    atoms,
    lows,
    highs,
    locate,
    // Points between which the curve only rises or only falls, on its own scale.
    turns: findTurns(breaks, pieces.slice(1, -1)),
    at(x) {
      if (Number.isNaN(x)) return term.missing || 0;
      if (term.extrapolate === "error" && (x < range[0] - rounding || x > range[1] + rounding)) {
        throw new RangeError(term.name);
      }
      const atom = locate(x);
      return value(wrap(onScale(x))) + (atom < 0 ? 0 : deviations[atom]);
    },
    size: coef.length + atoms.length + (term.missing === null ? 0 : 1),
    // The weights of the coefficients in the value at x: pairs of position and weight.
    design(x) {
      if (Number.isNaN(x)) return term.missing === null ? [] : [[coef.length + atoms.length, 1]];
      const atom = locate(x);
      const weights = this.designCurve(x);
      return atom < 0 ? weights : [...weights, [coef.length + atom, 1]];
    },
    designCurve(x) {
      const t = wrap(onScale(x));
      const inside = Math.min(Math.max(t, breaks[0]), end);
      const weights = weigh(knots, degree, inside);
      if (t !== inside && !flat) {
        const slopes = weighSlope(knots, degree, inside);
        return weights.map(([k, weight], i) => [k, weight + (t - inside) * slopes[i][1]]);
      }
      return weights;
    },
  };
}

function readLevels(term) {
  const byCode = [...term.effects, term.missing || 0, 0];
  const n = term.levels.length;
  return {
    ...term,
    size: n + (term.missing === null ? 0 : 1),
    at: (x) => byCode[Number.isNaN(x) ? n : x >= 0 && x < n ? Math.trunc(x) : n + 1],
    design(x) {
      if (Number.isNaN(x)) return term.missing === null ? [] : [[n, 1]];
      return x >= 0 && x < n ? [[Math.trunc(x), 1]] : [];
    },
  };
}

// ---------------------------------------------------------------- splines

// Number of values up to x, in a sorted array.
function upperBound(values, x) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function horner(coefs, step) {
  let value = coefs[0];
  for (let k = 1; k < coefs.length; k++) value = value * step + coefs[k];
  return value;
}

const differentiate = (coefs) =>
  coefs.slice(0, -1).map((coef, k) => coef * (coefs.length - 1 - k));

const slopeAt = (coefs, step) => horner(differentiate(coefs), step);

// The B-splines that are not zero at x, by the recursion of de Boor and Cox.
function weigh(knots, degree, x) {
  const highest = knots.length - degree - 2;
  const interval = Math.min(upperBound(knots, x) - 1, highest);
  let values = [1];
  for (let p = 1; p <= degree; p++) {
    const next = new Array(p + 1).fill(0);
    for (let r = 0; r < p; r++) {
      const right = knots[interval + r + 1];
      const left = knots[interval + r + 1 - p];
      const share = values[r] / (right - left);
      next[r] += (right - x) * share;
      next[r + 1] = (x - left) * share;
    }
    values = next;
  }
  return values.map((value, r) => [interval - degree + r, value]);
}

// The slopes of the same B-splines.
function weighSlope(knots, degree, x) {
  const lower = new Map(weigh(knots.slice(1, -1), degree - 1, x));
  const part = (k) => (lower.get(k - 1) || 0) * (degree / (knots[k + degree] - knots[k]) || 0);
  return weigh(knots, degree, x).map(([k]) => [
    k,
    (lower.has(k - 1) ? part(k) : 0) - (lower.has(k) ? part(k + 1) : 0),
  ]);
}

// The polynomial of a B-spline from the knot x on, in powers of the distance, highest first.
function expand(knots, coef, degree, x) {
  const coefs = [];
  let factorial = 1;
  for (let m = 0; m <= degree; m++) {
    factorial *= m || 1;
    const value = weigh(knots, degree - m, x).reduce((sum, [k, w]) => sum + w * coef[k], 0);
    coefs.unshift(value / factorial);
    const rest = degree - m;
    const slopes = coef.slice(1).map((next, k) => {
      const width = knots[k + rest + 1] - knots[k + 1];
      return (rest * (next - coef[k])) / width;
    });
    coef = slopes;
    knots = knots.slice(1, -1);
  }
  return coefs;
}

function findTurns(breaks, pieces) {
  const turns = [breaks[0]];
  pieces.forEach((coefs, i) => {
    const width = breaks[i + 1] - breaks[i];
    const inside = findRoots(differentiate(coefs), width).filter((step) => step > 0 && step < width);
    turns.push(...inside.map((step) => breaks[i] + step), breaks[i + 1]);
  });
  return turns;
}

// Roots of a polynomial from 0 to width: between two turning points there is one at most.
function findRoots(coefs, width) {
  if (coefs.length < 2) return [];
  const points = [0, ...findRoots(differentiate(coefs), width), width];
  const roots = [];
  for (let i = 0; i + 1 < points.length; i++) {
    const signs = [points[i], points[i + 1]].map((step) => Math.sign(horner(coefs, step)));
    if (signs[0] * signs[1] < 0) {
      roots.push(bisect((step) => horner(coefs, step) * signs[0] > 0, points[i], points[i + 1]));
    } else if (signs[1] === 0) roots.push(points[i + 1]);
  }
  return roots;
}

// The end of what holds at a, on the way to b: the last point, to the last digit, at which it holds.
function bisect(holds, a, b) {
  for (;;) {
    const middle = a + (b - a) / 2;
    if (middle === a || middle === b) return a;
    if (holds(middle)) a = middle;
    else b = middle;
  }
}

// ---------------------------------------------------------------- links

const TINY = 1e-200;
const HUGE = Number.MAX_VALUE;

// `inverse` turns eta into the mean, `forward` the mean into eta; `domain` is where eta has a mean.
const LINKS = {
  identity: { inverse: (eta) => eta, forward: (mean) => mean },
  log: {
    inverse: (eta) => Math.exp(Math.max(eta, Math.log(TINY))),
    forward: Math.log,
    domain: [-Infinity, Math.log(HUGE)],
  },
  inverse: {
    inverse: (eta) => 1 / Math.max(eta, 0),
    forward: (mean) => 1 / mean,
    domain: [1 / HUGE, Infinity],
    falls: true,
  },
  sqrt: {
    inverse: (eta) => Math.max(eta * eta, TINY),
    forward: Math.sqrt,
    domain: [-Math.sqrt(HUGE), Math.sqrt(HUGE)],
    turns: true,
  },
  logit: {
    inverse: (eta) => (eta < 0 ? Math.exp(eta) / (1 + Math.exp(eta)) : 1 / (1 + Math.exp(-eta))),
    forward: (mean) => Math.log(mean / (1 - mean)),
    probability: true,
  },
  probit: { inverse: normal, forward: invertBy(normal, -40, 9), probability: true },
  cloglog: {
    inverse: (eta) => -Math.expm1(-Math.exp(Math.min(eta, 100))),
    forward: (mean) => Math.log(-Math.log1p(-mean)),
    probability: true,
  },
};
for (const [name, link] of Object.entries(LINKS)) {
  link.name = name;
  link.domain = link.domain || [-Infinity, Infinity];
}

function invertBy(rising, low, high) {
  return (value) => bisect((x) => rising(x) <= value, low, high);
}

// The normal distribution function: a series about 0, and in the tails a continued fraction.
function normal(z) {
  const density = Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);
  if (Math.abs(z) > 3) {
    let fraction = 0;
    for (let k = 200; k > 0; k--) fraction = k / (Math.abs(z) + fraction);
    const tail = density / (Math.abs(z) + fraction);
    return z > 0 ? 1 - tail : tail;
  }
  let sum = 0;
  let part = z;
  for (let k = 1; sum + part !== sum; k += 2) {
    sum += part;
    part *= (z * z) / (k + 2);
  }
  return 0.5 + density * sum;
}

// ---------------------------------------------------------------- intervals

// Standard errors of eta and of the terms, from the covariance of the intercept and of all
// coefficients: its standard deviations, and the correlations below the diagonal, as 16-bit
// integers in base64.
function readErrors(model, { deviations, correlations }) {
  const bytes = Uint8Array.from(atob(correlations), (letter) => letter.charCodeAt(0));
  const packed = new DataView(bytes.buffer);
  const correlate = (a, b) => {
    if (a === b) return 1;
    const [high, low] = a > b ? [a, b] : [b, a];
    return packed.getInt16((high * (high - 1)) / 2 * 2 + 2 * low, true) / 32767;
  };
  let next = 1;
  const starts = model.terms.map((term) => {
    const start = next;
    next += term.size;
    return start;
  });
  const spread = (weights) => {
    let variance = 0;
    weights.forEach(([a, u], i) => {
      for (let j = 0; j < i; j++) {
        const [b, v] = weights[j];
        variance += 2 * u * v * deviations[a] * deviations[b] * correlate(a, b);
      }
      variance += (u * deviations[a]) ** 2;
    });
    return Math.sqrt(Math.max(variance, 0));
  };
  const place = (k, weights) => weights.map(([i, weight]) => [starts[k] + i, weight]);
  return {
    ofTerm: (k, x) => spread(place(k, model.terms[k].design(x))),
    ofCurve: (k, x) => spread(place(k, model.terms[k].designCurve(x))), // without its atoms
    ofRow: (row) =>
      spread([[0, 1], ...model.terms.flatMap((term, k) => place(k, term.design(row[term.feature])))]),
  };
}

// An interval of the mean, from one of eta.
function bracket(link, low, high) {
  const ends = [link.inverse(low), link.inverse(high)].sort((a, b) => a - b);
  if (link.turns && low < 0 && high > 0) ends[0] = link.inverse(0);
  return ends;
}
