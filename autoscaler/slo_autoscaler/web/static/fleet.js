// The fleet table: shows what /api/functions answers to the form's filter and order, again and again.

import { follow, say } from "./live.js";

const table = document.getElementById("fleet");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const form = document.getElementById("view");
// The headers' buttons are named sort as well.
const fields = { q: form.elements.q, state: form.elements.state, sort: form.querySelector("input[name=sort]") };
const usual = { q: "", state: "", sort: "state" };
const max = Number(table.dataset.max);
const lines = new Map();

function asked() {
  const query = new URLSearchParams();
  for (const [name, field] of Object.entries(fields)) if (field.value !== usual[name]) query.set(name, field.value);
  return query.size ? `?${query}` : "";
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
    say(cell, row.display[key]);
    cell.classList.toggle("over", row.breaches.includes(key));
    if (key === "last" && cell.title !== row.sentence) cell.title = row.sentence;
  });
}

function draw({ functions, summary }) {
  const drawn = functions.slice(0, max).map((row) => {
    if (!lines.has(row.function_name)) lines.set(row.function_name, made(row));
    const kept = lines.get(row.function_name);
    fill(kept, row);
    return kept.line;
  });
  const there = new Set(functions.map((row) => row.function_name));
  for (const name of lines.keys()) if (!there.has(name)) lines.delete(name);
  const same = drawn.length === body.rows.length && drawn.every((line, index) => line === body.rows[index]);
  if (!same) put(drawn);
  const number = (value) => value.toLocaleString("en");
  let text = functions.length === summary.functions ? "" : `${number(functions.length)} of ${number(summary.functions)}`;
  if (functions.length > max) text += `, the first ${number(max)} shown`;
  say(document.getElementById("found"), text.replace(/^, /, ""));
  document.getElementById("no-match").hidden = functions.length > 0 || summary.functions === 0;
  document.getElementById("no-function").hidden = summary.functions > 0;
  document.getElementById("there").hidden = summary.functions === 0;
  const totals = { ...summary, ...summary.states };
  for (const place of document.querySelectorAll("[data-sum]")) {
    say(place, number(totals[place.dataset.sum]));
    if (place.dataset.sum === "missed") place.classList.toggle("over", totals.missed > 0);
  }
}

function put(drawn) {
  // Moving a row takes the focus away from what is in it.
  const held = document.activeElement;
  body.replaceChildren(...drawn);
  if (held && held !== document.activeElement && body.contains(held)) held.focus({ preventScroll: true });
}

const ask = follow(() => `/api/functions${asked()}`, Number(table.dataset.interval), draw);

function choose() {
  const sort = fields.sort.value;
  for (const head of heads) {
    const key = head.dataset.key;
    if (sort === key) head.setAttribute("aria-sort", "ascending");
    else if (sort === `-${key}`) head.setAttribute("aria-sort", "descending");
    else head.removeAttribute("aria-sort");
    head.querySelector("button").value = sort === key ? `-${key}` : key;
  }
  history.replaceState(null, "", asked() || location.pathname);
  ask();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (event.submitter?.name === "sort") fields.sort.value = event.submitter.value;
  choose();
});
fields.q.addEventListener("input", choose);
fields.state.addEventListener("change", choose);
