// Dates and durations in ISO 8601 as days, to the last digit as gam_model.dates reads them.

"use strict";

const DATE = new RegExp(
  "^(\\d{4})-(\\d\\d)-(\\d\\d)" +
    "(?:[T ](\\d\\d):(\\d\\d)(?::(\\d\\d)(?:[.,](\\d{1,9}))?)?(?:Z|([+-])(\\d\\d)(?::?(\\d\\d))?)?)?$",
  "i"
);
const DURATION = new RegExp(
  "^([+-])?P(?=[\\dT+-])(?:(\\d{1,9})W)?(?:([+-]?\\d{1,9})D)?" +
    "(?:T(?=\\d)(?:(\\d{1,9})H)?(?:(\\d{1,9})M)?(?:(\\d{1,12})(?:[.,](\\d{1,9}))?S)?)?$",
  "i"
);
const DAY = 86400n * 10n ** 9n; // in nanoseconds

// Returns the days since 1970-01-01 UTC, or the days of a duration; null where the text is neither.
function readIso(text, unit) {
  const found = (unit === "date" ? DATE : DURATION).exec(text.trim());
  if (!found) return null;
  return unit === "date" ? readDate(found) : readDuration(found);
}

function readDate([, year, month, day, hour, minute, second, fraction, sign, zoneHour, zoneMinute]) {
  const [h, m, s, zh, zm] = [hour, minute, second, zoneHour, zoneMinute].map((part) => +(part || 0));
  const midnight = new Date(0);
  midnight.setUTCFullYear(+year, +month - 1, +day);
  const exists = midnight.getUTCMonth() === month - 1 && midnight.getUTCDate() === +day && +year > 0;
  if (!exists || Math.max(h, zh) > 23 || Math.max(m, s, zm) > 59) return null;
  const ahead = (zh * 60 + zm) * (sign === "-" ? -1 : 1);
  return countDays(midnight.getTime() / 1000 + h * 3600 + (m - ahead) * 60 + s, fraction);
}

function readDuration([, sign, ...parts]) {
  const [weeks, days, hours, minutes, seconds] = parts.slice(0, 5).map((part) => +(part || 0));
  const total = seconds + (weeks * 7 + days) * 86400 + hours * 3600 + minutes * 60;
  const count = countDays(total, parts[5]);
  return sign === "-" ? -count : count;
}

function countDays(seconds, fraction) {
  const count = BigInt(seconds) * 10n ** 9n + BigInt((fraction || "").padEnd(9, "0"));
  const size = count < 0n ? -count : count;
  const days = Number(size / DAY) + Number(size % DAY) / Number(DAY);
  return count < 0n ? -days : days;
}

// Writes a date as text, without a time at midnight; for input fields and for files.
function writeDate(days) {
  const moment = new Date(Math.round(days * 86400) * 1000);
  if (Number.isNaN(moment.getTime())) return "";
  const text = moment.toISOString();
  return text.slice(11, 19) === "00:00:00" ? text.slice(0, 10) : text.slice(0, 19) + "Z";
}
