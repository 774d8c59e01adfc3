// What would have to change, as a table with a button that tries each change.

"use strict";

function drawRecourse(page, row, result, tryChanges) {
  if (!Number.isFinite(page.threshold) || !Number.isFinite(result.mean)) return [el("p", {}, say("noThreshold"))];
  const isAbove = result.mean >= page.threshold;
  const crosses = (mean) => Number.isFinite(mean) && mean >= page.threshold !== isAbove;
  const found = page.source.findChanges(row, crosses, isAbove);
  if (!found) return [el("p", {}, say("asking"))];
  const { alone, together } = found;
  const side = nameSide(page, !isAbove);
  const intro = el("p", {}, say("decidedNow", { side: nameSide(page, isAbove) }));
  if (!alone.length && !together.length) return [intro, el("p", { class: "verdict" }, say(chooseText(page, "nothingEnough"), { side }))];
  const changes = alone.length ? alone : together;
  const lines = changes.map((change) => drawChange(page, row, change, alone.length ? tryChanges : null));
  const table = el(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": say("recourse") },
    el(
      "table",
      {},
      makeHead([say("feature"), say("now"), say("wouldBe"), ...(alone.length ? [say("answerThen"), ""] : [])]),
      el("tbody", {}, lines)
    )
  );
  if (alone.length) return [intro, el("p", { class: "verdict" }, say("alone", { side })), table];
  const button = el("button", { type: "button", onclick: () => tryChanges(together) }, say("tryAll"));
  return [intro, el("p", { class: "verdict" }, say("together", { side, n: together.length })), table, button];
}

// The smallest changes of the model in the page, by the inverse of its curves.
function findExactChanges(page, row, crosses, isAbove) {
  const rules = [];
  for (const { term, change, step, whole } of page.fields) rules[term.feature] = { change, step, whole };
  const goals = findGoals(page.model.link, page.threshold, !isAbove);
  return findRecourse(page.model, row, (changed) => crosses(answer(page.model, changed).mean), goals, rules);
}

function drawChange(page, row, change, tryChanges) {
  const field = page.fields.find(({ term }) => term === change.term);
  const label = say("tryOne", { name: field.label });
  const then = change.mean ?? answer(page.model, replace(row, change.term.feature, change.to)).mean;
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, field.label),
    el("td", {}, showValue(field, change.from)),
    el("td", {}, showExact(field, change.to)),
    ...(tryChanges
      ? [
          el("td", {}, showMean(page, then)),
          el("td", {}, el("button", { type: "button", "aria-label": label, onclick: () => tryChanges([change]) }, say("try"))),
        ]
      : [])
  );
}
