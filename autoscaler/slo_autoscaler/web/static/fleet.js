// The fleet table: follows the autoscaler, sorts and filters here. Without it the server does so on request.

import { follow, say } from "./live.js";

const table = document.getElementById("fleet");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const form = document.getElementById("view");
const most = Number(table.dataset.most);

let rows = [];
let summary = null;
let sort = table.dataset.sort;
const shown = new Map();

// As the server sorts: against the target, what is not known last, names where all else is equal.
const RANKS = [...form.state.options].map((option) => option.value).filter(Boolean);
const VALUES = {
  function: (row) => row.function_name,
  state: (row) => RANKS.indexOf(row.state) * 1e6 + (row.budget ?? 1),
  target: (row) => row.slo_latency,
  attainment: (row) => row.attainment,
  budget: (row) => row.budget,
  burn: (row) => row.burn,
  p95: (row) => ofTarget(row.p95, row),
  p99: (row) => ofTarget(row.p99, row),
  replicas: (row) => row.ready,
  mode: (row) => row.mode,
  last: (row) => row.decided_at,
};

function ofTarget(seconds, row) {
  return seconds === null || !row.slo_latency ? null : seconds / row.slo_latency;
}

function ordered(chosen) {
  const key = sort.replace(/^-/, "");
  const way = sort.startsWith("-") ? -1 : 1;
  const value = VALUES[key];
  return chosen
    .map((row) => [value(row), row])
    .sort(([a, first], [b, second]) => {
      if ((a === null) !== (b === null)) return a === null ? 1 : -1;
      if (a !== null && a !== b) return (a < b ? -1 : 1) * way;
      return first.function_name < second.function_name ? -1 : 1;
    })
    .map(([, row]) => row);
}

function matching() {
  const words = form.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = form.state.value;
  return rows.filter((row) => {
    if (state && row.state !== state) return false;
    if (!words.length) return true;
    const text = `${row.function_name} ${row.shown.mode} ${row.reason} ${row.shown.state} ${row.last}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

function made(row) {
  const line = document.createElement("tr");
  const cells = heads.map((head) => {
    const key = head.dataset.key;
    if (key === "function") {
      const name = document.createElement("th");
      name.scope = "row";
      const link = document.createElement("a");
      link.href = `/functions/${encodeURIComponent(row.function_name)}`;
      const space = document.createElement("span");
      space.className = "space";
      space.textContent = `.${row.namespace}`;
      link.append(row.name, space);
      name.append(link);
      return name;
    }
    const cell = document.createElement("td");
    cell.className = `${key} ${head.className}`.trim();
    return cell;
  });
  line.append(...cells);
  return { line, cells };
}

function fill({ line, cells }, row) {
  if (line.className !== row.state) line.className = row.state;
  heads.forEach((head, index) => {
    const key = head.dataset.key;
    if (key === "function") return;
    const cell = cells[index];
    say(cell, row.shown[key]);
    cell.classList.toggle("over", row.breaches.includes(key));
    if (key === "last" && cell.title !== row.sentence) cell.title = row.sentence;
  });
}

function draw() {
  const found = ordered(matching());
  const lines = found.slice(0, most).map((row) => {
    let kept = shown.get(row.function_name);
    if (!kept) shown.set(row.function_name, (kept = made(row)));
    fill(kept, row);
    return kept.line;
  });
  const same = lines.length === body.rows.length && lines.every((line, index) => line === body.rows[index]);
  if (!same) put(lines);
  const number = (value) => value.toLocaleString("en");
  let text = found.length === rows.length ? "" : `${number(found.length)} of ${number(rows.length)}`;
  if (found.length > most) text += `, the first ${number(most)} shown`;
  say(document.getElementById("found"), text.replace(/^, /, ""));
  document.getElementById("no-match").hidden = found.length > 0 || rows.length === 0;
  document.getElementById("no-function").hidden = rows.length > 0;
  document.getElementById("there").hidden = rows.length === 0;
  for (const head of heads) {
    const key = head.dataset.key;
    if (sort === key) head.setAttribute("aria-sort", "ascending");
    else if (sort === `-${key}`) head.setAttribute("aria-sort", "descending");
    else head.removeAttribute("aria-sort");
    head.querySelector("button").value = sort === key ? `-${key}` : key;
  }
}

function put(lines) {
  // Moving a row takes the focus away from what is in it.
  const held = document.activeElement;
  body.replaceChildren(...lines);
  if (held && held !== document.activeElement && body.contains(held)) held.focus({ preventScroll: true });
}

function total() {
  const values = { functions: summary.functions, ...summary.states, ready: summary.ready, wanted: summary.wanted };
  for (const place of document.querySelectorAll("[data-sum]")) {
    say(place, values[place.dataset.sum].toLocaleString("en"));
    if (place.dataset.sum === "missed") place.classList.toggle("over", summary.states.missed > 0);
  }
}

function remember() {
  const asked = new URLSearchParams();
  if (form.q.value) asked.set("q", form.q.value);
  if (form.state.value) asked.set("state", form.state.value);
  if (sort !== "state") asked.set("sort", sort);
  history.replaceState(null, "", asked.size ? `?${asked}` : location.pathname);
}

const ask = follow(() => "/api/functions", Number(table.dataset.interval), (answer) => {
  rows = answer.functions;
  summary = answer.summary;
  const there = new Set(rows.map((row) => row.function_name));
  for (const name of shown.keys()) if (!there.has(name)) shown.delete(name);
  total();
  draw();
});

function chosen() {
  remember();
  if (summary) draw();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = event.submitter?.name === "sort" ? event.submitter.value : null;
  if (key) sort = form.querySelector("input[name=sort]").value = key;
  if (!summary) ask();
  chosen();
});
form.q.addEventListener("input", chosen);
form.state.addEventListener("change", chosen);
