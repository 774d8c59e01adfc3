// The form: one field for each feature, with its range and histogram.

"use strict";

const STEPS = 1000; // of a slider

// Build the form; change(feature, x) is called whenever somebody enters a value. Returns a function
// that shows a row in it.
function buildForm(page, change) {
  find("form").addEventListener("submit", (event) => event.preventDefault()); // on Enter
  const shows = page.fields.map((field, i) => {
    const id = `field-${i}`;
    const enter = (x) => change(field.term.feature, x);
    const { kind } = field.term;
    const input = { levels: makeSelect, text: makeText }[kind] || (field.term.unit === "date" ? makeDate : makeNumber);
    const { elements, show } = input(field, id, enter);
    const note = el("p", { class: "note", id: `${id}-note` });
    find("form").append(
      el(
        "div",
        { class: "field" },
        el("label", { for: id }, field.label),
        field.about ? el("p", { class: "hint", id: `${id}-about` }, field.about) : null,
        elements,
        kind !== "smooth" ? null : el("p", { class: "hint", id: `${id}-range` }, showRange(field)),
        note
      )
    );
    const described = [field.about ? `${id}-about` : "", kind !== "smooth" ? "" : `${id}-range`, note.id];
    find(id).setAttribute("aria-describedby", described.filter(Boolean).join(" "));
    return (row) => {
      const x = row[field.term.feature];
      show(x);
      const outside = isOutside(field.term, x);
      note.textContent = !outside ? "" : field.term.kind === "levels" ? say("unseen") : say("outside");
      find(id).classList.toggle("outside", outside);
    };
  });
  return (row) => shows.forEach((show) => show(row));
}

function makeSelect(field, id, enter) {
  const option = (x, text) => el("option", { value: x }, text);
  const select = el(
    "select",
    { id, onchange: () => enter(Number(select.value)) },
    field.term.levels.map((_, code) => option(code, showLevel(field, code))),
    option(-1, say("otherLevel")),
    field.term.missing === null ? null : option(NaN, say("missing"))
  );
  return { elements: [select], show: (x) => (select.value = String(x)) };
}

function makeText(field, id, enter) {
  const area = el("textarea", { id, rows: 12, oninput: () => enter(area.value) });
  const show = (x) => {
    if (area.value !== x) area.value = x;
  };
  return { elements: [area], show };
}

function makeNumber(field, id, enter) {
  const input = el("input", {
    id,
    type: "number",
    step: "any",
    oninput: () => input.value !== "" && enter(Number(input.value)),
    onblur: () => show(shown), // an empty field is no case
  });
  let shown = NaN;
  const show = (x) => {
    shown = x;
    if (document.activeElement !== input || Number(input.value) !== x) input.value = Number.isNaN(x) ? "" : trim(x);
  };
  return withSlider(field, id, enter, input, show);
}

function makeDate(field, id, enter) {
  const whole = field.whole;
  const input = el("input", {
    id,
    type: whole ? "date" : "datetime-local",
    step: whole ? null : 1,
    oninput: () => input.value && enter(readIso(whole ? input.value : input.value.padEnd(19, ":00"), "date")),
    onblur: () => show(shown),
  });
  let shown = NaN;
  const show = (x) => {
    shown = x;
    const text = Number.isNaN(x) ? "" : writeDate(x);
    input.value = whole ? text.slice(0, 10) : text.replace("Z", "").padEnd(11, "T").padEnd(19, "00:00:00");
  };
  return withSlider(field, id, enter, input, show);
}

// Put a slider with the histogram, and a box for missing cells where there were some, to an input.
function withSlider(field, id, enter, input, showInput) {
  const { term } = field;
  const [low, high] = term.range.map(term.onScale);
  const slider = el("input", {
    type: "range",
    min: 0,
    max: STEPS,
    "aria-label": say("slider", { name: field.label }),
    oninput: () => enter(roundValue(field, term.offScale(low + ((high - low) * slider.value) / STEPS))),
  });
  const box = el("input", {
    type: "checkbox",
    id: `${id}-missing`,
    onchange: () => enter(box.checked ? NaN : field.data.typical),
  });
  const elements = [
    el("div", { class: "inputs" }, input, field.said.unit ? el("span", { class: "unit" }, field.said.unit) : null),
    el("div", { class: "slider" }, drawHistogram(field.data.histogram), slider),
  ];
  if (term.missing !== null) {
    elements.push(el("label", { class: "box", for: box.id }, box, say("missing")));
  }
  const show = (x) => {
    const missing = Number.isNaN(x);
    showInput(x);
    box.checked = missing;
    input.disabled = missing;
    slider.disabled = missing;
    if (!missing) slider.value = (STEPS * (term.onScale(x) - low)) / (high - low || 1);
    slider.setAttribute("aria-valuetext", showValue(field, x));
  };
  return { elements, show };
}

// A value of the slider, as round as its steps allow, and never outside the range.
function roundValue(field, x) {
  const { term, step, whole } = field;
  const size = whole ? 1 : term.warp ? Math.max(step, 10 ** Math.floor(Math.log10(Math.abs(x) || 1) - 2)) : step;
  const rounded = trim(Math.round(x / size) * size);
  return tidy(field, Math.min(Math.max(rounded, term.range[0]), term.range[1]));
}

function drawHistogram(shares) {
  if (!shares) return null;
  const most = Math.max(...shares);
  const width = 100 / shares.length;
  return svg(
    "svg",
    { class: "histogram", viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" },
    shares.map((share, i) => {
      const height = (20 * share) / most;
      return svg("rect", { x: i * width, y: 20 - height, width: 0.9 * width, height });
    })
  );
}
