// Each feature's curve with its band, the histogram under it, and a mark where the case is.
//
// Drawn by hand: a library would be larger than model and page together, and would want inline
// styles, which the page's security policy refuses.

"use strict";

const WIDTH = 320;
const HEIGHT = 190;
const PLOT = { left: 44, right: 312, top: 8, bottom: 142, floor: 166 };
const POINTS = 121;
const MOST_LEVELS = 20;
const MOST_BARS = 40; // atoms whose intervals are drawn; of more, only the points
const MUCH = 4; // times the median spread of the curves
const Z = 1.959963984540054; // of a 95 % interval

// Draw all curves; returns a function that moves the marks to a row and to the pinned one.
function buildCurves(page) {
  const wide = findWide(page);
  const common = findScale(page.model.terms.filter((term) => !wide.has(term)));
  const moves = page.fields.map((field) => {
    const own = wide.has(field.term);
    const scale = own ? findScale([field.term]) : common;
    const caption = el("figcaption", {}, field.label, own ? el("span", { class: "hint" }, ` (${say("ownScale")})`) : null);
    const here = el("p", { class: "hint" });
    const { picture, move } = (field.term.kind === "levels" ? drawLevels : drawCurve)(page, field, scale);
    const atoms = field.term.atoms?.length ? el("p", { class: "hint" }, say("atoms")) : null;
    find("curves").append(el("figure", {}, caption, picture, here, atoms));
    return (row, pinned) => {
      const x = row[field.term.feature];
      const effect = field.term.at(x);
      here.textContent = say(chooseText(page, "here"), { value: showValue(field, x), effect: showSigned(effect) });
      move(x, pinned[field.term.feature]);
    };
  });
  return (row, pinned) => moves.forEach((move) => move(row, pinned));
}

// What a term reaches inside its range, and the base.
function findEnds(term) {
  const values =
    term.kind === "levels" ? [...term.effects] : [...term.turns.map(term.value), ...term.atoms.map(term.at)];
  if (term.missing !== null) values.push(term.missing);
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [0, 0]);
}

// The terms that would flatten all others on a common scale.
function findWide({ model }) {
  const spread = (term) => findEnds(term)[1] - findEnds(term)[0];
  const sorted = model.terms.map(spread).sort((a, b) => a - b);
  return new Set(model.terms.filter((term) => spread(term) > MUCH * sorted[sorted.length >> 1]));
}

// The vertical scale of some terms.
function findScale(terms) {
  const ends = terms.map(findEnds);
  const [low, high] = [Math.min(0, ...ends.map((end) => end[0])), Math.max(0, ...ends.map((end) => end[1]))];
  const margin = 0.08 * (high - low) || 1;
  const y = (value) => PLOT.bottom - ((value - low + margin) / (high - low + 2 * margin)) * (PLOT.bottom - PLOT.top);
  return { y, low, high };
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function makePicture(name, ...children) {
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name }, children);
}

function drawCurve(page, field, { y, low, high }) {
  const { term } = field;
  const k = page.model.terms.indexOf(term);
  const [start, end] = term.range.map(term.onScale);
  const place = (t) => PLOT.left + ((t - start) / (end - start)) * (PLOT.right - PLOT.left);
  const ts = Array.from({ length: POINTS }, (_, i) => start + ((end - start) * i) / (POINTS - 1));
  const parts = [drawAxis(y, low, high)];
  if (page.errors) {
    const widths = ts.map((t) => Z * page.errors.ofCurve(k, term.offScale(t)));
    const upper = ts.map((t, i) => [place(t), y(term.value(t) + widths[i])]);
    const lower = ts.map((t, i) => [place(t), y(term.value(t) - widths[i])]);
    parts.push(svg("path", { class: "band", d: `${path([...upper, ...lower.reverse()])}Z` }));
  }
  if (field.data.histogram) {
    const most = Math.max(...field.data.histogram);
    const width = (PLOT.right - PLOT.left) / field.data.histogram.length;
    const height = PLOT.floor - PLOT.bottom - 4;
    field.data.histogram.forEach((share, i) => {
      const size = (height * share) / most;
      parts.push(svg("rect", { class: "data", x: PLOT.left + i * width, y: PLOT.floor - size, width: 0.9 * width, height: size }));
    });
  }
  for (const [t, anchor] of [[start, "start"], [(start + end) / 2, "middle"], [end, "end"]]) {
    parts.push(svg("text", { x: place(t), y: HEIGHT - 8, "text-anchor": anchor }, showTick(field, term.offScale(t))));
  }
  const mark = svg("g", { class: "mark" }, svg("line", { y1: PLOT.top, y2: PLOT.floor }), svg("circle", { r: 5 }));
  const pin = svg("path", { class: "pin", d: "M-5 -5L5 5M-5 5L5 -5" });
  const line = svg("path", { class: "curve", d: path(ts.map((t) => [place(t), y(term.value(t))])) });
  const points = term.atoms.map((atom) => {
    const [x, effect] = [place(term.onScale(atom)), term.at(atom)];
    const half = page.errors && term.atoms.length <= MOST_BARS ? Z * page.errors.ofTerm(k, atom) : 0;
    return svg(
      "g",
      { class: "atom" },
      half ? svg("line", { x1: x, x2: x, y1: y(effect - half), y2: y(effect + half) }) : null,
      svg("circle", { cx: x, cy: y(effect), r: 3 })
    );
  });
  const band = parts.splice(1, page.errors ? 1 : 0);
  const clip = svg("svg", { x: 0, y: 0, width: WIDTH, height: PLOT.bottom + 2 }, band, line, points);
  const put = (x) => {
    const t = Math.min(Math.max(term.onScale(x), start), end);
    return [place(t), Math.min(Math.max(y(term.at(x)), PLOT.top), PLOT.bottom)];
  };
  return {
    picture: makePicture(say("curveOf", { name: field.label }), ...parts, clip, pin, mark),
    move(x, pinned) {
      mark.classList.toggle("hidden", Number.isNaN(x));
      pin.classList.toggle("hidden", Number.isNaN(pinned) || Object.is(x, pinned));
      if (!Number.isNaN(x)) mark.setAttribute("transform", `translate(${put(x)[0]} 0)`);
      if (!Number.isNaN(x)) mark.lastChild.setAttribute("cy", put(x)[1]);
      if (!Number.isNaN(pinned)) pin.setAttribute("transform", `translate(${put(pinned).join(" ")})`);
    },
  };
}

const showTick = (field, x) => (field.term.unit === "date" ? writeDate(Math.round(x)) : showNumber(tidy(field, x)));

function drawAxis(y, low, high) {
  const label = (value) =>
    svg("text", { x: PLOT.left - 6, y: y(value) + 4, "text-anchor": "end" }, showNumber(Number(value.toPrecision(2))));
  const ends = [low, high].filter((value) => Math.abs(y(value) - y(0)) > 14);
  return svg(
    "g",
    { class: "axis" },
    svg("line", { x1: PLOT.left, x2: PLOT.right, y1: y(0), y2: y(0) }),
    [0, ...ends].map(label)
  );
}

// The effects of levels, as bars; of many, the highest and the lowest.
function drawLevels(page, field, { low, high }) {
  const { term } = field;
  const k = page.model.terms.indexOf(term);
  const codes = term.levels.map((_, code) => code).sort((a, b) => term.at(b) - term.at(a));
  const shown = codes.length > MOST_LEVELS ? [...codes.slice(0, MOST_LEVELS / 2), ...codes.slice(-MOST_LEVELS / 2)] : codes;
  if (term.missing !== null) shown.push(NaN);
  const place = (value) => 100 * ((value - low) / (high - low || 1));
  const rows = shown.map((code) => {
    const effect = term.at(code);
    const half = page.errors ? Z * page.errors.ofTerm(k, code) : 0;
    const [a, b] = [place(Math.min(0, effect)), place(Math.max(0, effect))];
    const bar = svg(
      "svg",
      { viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true", class: effect < 0 ? "down" : "up" },
      svg("rect", { x: a, y: 1, width: Math.max(b - a, 0.4), height: 10 }),
      half ? svg("rect", { class: "whisker", x: place(effect - half), y: 5, width: place(effect + half) - place(effect - half), height: 2 }) : null
    );
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, showValue(field, code)),
      el("td", { class: "bar" }, bar),
      el("td", { class: "number" }, showSigned(effect))
    );
  });
  return {
    picture: el(
      "table",
      { class: "levels" },
      makeHead([say("level"), say("effect"), nameScale(page)], [2]),
      el("tbody", {}, rows)
    ),
    move(x, pinned) {
      rows.forEach((row, i) => {
        const same = Object.is(shown[i], x);
        row.classList.toggle("here", same);
        row.classList.toggle("pinned", !same && Object.is(shown[i], pinned));
        if (same) row.setAttribute("aria-current", "true");
        else row.removeAttribute("aria-current");
      });
    },
  };
}
