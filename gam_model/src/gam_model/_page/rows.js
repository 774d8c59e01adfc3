// Rows of a CSV file as the model reads them, cell by cell as the server does it.

"use strict";

const MISSING = new Set(["", "na", "n/a", "#n/a", "nan", "null", "none"]);
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

// Split a CSV file into rows of cells; the delimiter is what the first line has most of.
function parseCsv(text) {
  text = text.replace(/^\uFEFF/, "");
  const line = text.split(/\r?\n|\r/, 1)[0];
  const counts = [",", ";", "\t", "|"].map((letter) => [letter, line.split(letter).length]);
  const delimiter = counts.sort((a, b) => b[1] - a[1])[0][0];
  const rows = [];
  let row = [];
  let at = 0;
  while (at < text.length) {
    let cell = "";
    if (text[at] === '"') {
      for (;;) {
        const close = text.indexOf('"', at + 1);
        if (close < 0) throw new Problem("quoteOpen", { row: rows.length });
        cell += text.slice(at + 1, close);
        at = close + 1;
        if (text[at] !== '"') break;
        cell += '"';
      }
    }
    let end = at;
    while (end < text.length && text[end] !== delimiter && text[end] !== "\n" && text[end] !== "\r") end++;
    row.push(cell + text.slice(at, end));
    at = end;
    if (text[at] === delimiter) {
      at++;
      if (at < text.length) continue;
      row.push("");
    }
    if (text[at] === "\r" && text[at + 1] === "\n") at++;
    at++;
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
  }
  if (row.length) rows.push(row);
  return { rows, delimiter };
}

function writeCsv(rows, delimiter) {
  const quote = (cell) => {
    const text = String(cell);
    const special = text.includes(delimiter) || /["\r\n]/.test(text);
    return special ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(quote).join(delimiter) + "\r\n").join("");
}

// A problem that the user can do something about: a key of the texts, and what to put into it.
class Problem extends Error {
  constructor(key, values) {
    super(key);
    this.key = key;
    this.values = values;
  }
}

// Return a function from the cells of a row to the model's row; it throws a Problem.
function makeReader(model, names) {
  const header = names.map((name) => name.trim());
  const absent = model.terms.filter((term) => !header.includes(term.name)).map((term) => term.name);
  if (absent.length) throw new Problem("columnsMissing", { names: absent.join(", ") });
  const twice = model.terms.find((term) => header.indexOf(term.name) !== header.lastIndexOf(term.name));
  if (twice) throw new Problem("columnTwice", { name: twice.name });
  const readers = model.terms.map((term) => [term, header.indexOf(term.name), makeCellReader(term)]);
  return (cells) => {
    if (cells.length !== names.length) {
      throw new Problem("cellsWrong", { count: cells.length, expected: names.length });
    }
    const row = new Array(model.features.length).fill(0);
    for (const [term, at, read] of readers) {
      const x = read(cells[at]);
      if (Number.isNaN(x) && term.missing === null) throw new Problem("cellMissing", { name: term.name });
      row[term.feature] = x;
    }
    return row;
  };
}

function makeCellReader(term) {
  if (term.kind === "text") return (cell) => cell;
  if (term.kind === "levels") return makeLevelReader(term.levels);
  return (cell) => {
    const text = cell.trim();
    if (MISSING.has(text.toLowerCase())) return NaN;
    const number = term.unit ? readIso(text, term.unit) : readNumber(text);
    if (number === null) throw new Problem(term.unit ? "notIso" : "notNumber", { name: term.name, cell });
    return number;
  };
}

// A level is found by its text, or else by the number that it spells.
function makeLevelReader(levels) {
  const texts = new Map();
  const numbers = new Map();
  const put = (map, key, code) => map.has(key) || map.set(key, code);
  const spelt = [];
  levels.forEach((level, code) => {
    if (typeof level !== "string") return put(numbers, Number(level), code);
    put(texts, level, code);
    return spelt.push([level, code]);
  });
  for (const [level, code] of spelt.sort((a, b) => a[0].length - b[0].length)) {
    const number = readNumber(level);
    if (number !== null) put(numbers, number, code);
  }
  return (cell) => {
    const code = texts.get(cell) ?? texts.get(cell.trim());
    if (code !== undefined) return code;
    if (MISSING.has(cell.trim().toLowerCase())) return NaN;
    return numbers.get(readNumber(cell)) ?? -1;
  };
}

function readNumber(cell) {
  const text = cell.trim();
  const truth = { true: 1, false: 0 }[text.toLowerCase()];
  if (truth !== undefined) return truth;
  const number = NUMBER.test(text) ? Number(text) : NaN;
  return Number.isFinite(number) ? number : null;
}
