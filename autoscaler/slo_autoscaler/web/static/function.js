// One function's page: follows the autoscaler and Prometheus.

import { Chart } from "./charts.js";
import { fetchJson, follow, say } from "./live.js";

const place = document.getElementById("function");
const charts = new Map();
const SLOWEST = 10_000;

let span = place.dataset.span;
// Until somebody chooses: the shortest that holds all there is. An hour of a new function would be two points.
let automatic = !new URLSearchParams(location.search).has("span");
let shortest = 0;
let asked = 0;

function text(tag, content, name = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  if (name) element.className = name;
  return element;
}

// What it does now, and why.

function showNow(answer) {
  const { row, decisions } = answer;
  for (const cell of document.querySelectorAll("[data-cell]")) {
    say(cell, row.display[cell.dataset.cell]);
    cell.classList.toggle("over", row.breaches.includes(cell.dataset.cell));
  }
  const badge = document.getElementById("badge");
  say(badge, row.display.state);
  badge.className = `badge ${row.state}`;
  say(document.getElementById("why"), `Why ${row.display.replicas.split(" ")[0]} replica${row.ready === 1 ? "" : "s"}`);
  say(document.getElementById("now"), `${row.sentence}.`);
  const change = document.getElementById("change");
  const other = answer.last_change && answer.last_change.sentence !== decisions[0]?.sentence;
  change.parentElement.hidden = !other;
  if (other) say(change, `${answer.last_change.sentence}.`);
  if (answer.score) say(document.getElementById("score"), `${answer.score.sentence}.`);
  showLog(decisions);
  showSeries();
}

const entries = new Map();

function showLog(decisions) {
  const log = document.getElementById("log");
  const keys = new Set();
  const lines = decisions.map((decision) => {
    const key = `${decision.time} ${decision.reason}`;
    keys.add(key);
    let entry = entries.get(key);
    if (!entry) {
      entry = document.createElement("li");
      const details = document.createElement("details");
      details.append(text("summary", ""), text("dl", "", "inputs"));
      entry.append(details);
      entries.set(key, entry);
    }
    entry.className = decision.action;
    say(entry.querySelector("summary"), `${decision.sentence}.`);
    const inputs = Object.entries(decision.display).map(([name, value]) => {
      const pair = document.createElement("div");
      pair.append(text("dt", name), text("dd", value));
      return pair;
    });
    entry.querySelector("dl").replaceChildren(...inputs);
    return entry;
  });
  for (const key of entries.keys()) if (!keys.has(key)) entries.delete(key);
  const same = lines.length === log.children.length && lines.every((line, index) => line === log.children[index]);
  if (!same) log.replaceChildren(...lines);
}

// Its charts.

async function showSeries(at_once = false) {
  const now = Date.now();
  if (!at_once && now - asked < SLOWEST) return;
  asked = now;
  const wanted = span;
  const problem = document.getElementById("series-problem");
  const into = document.getElementById("charts");
  try {
    const answer = await fetchJson(`${place.dataset.series}?span=${wanted}`);
    if (wanted !== span) return;
    problem.hidden = true;
    const fitting = automatic ? fits(answer) : span;
    if (fitting !== span) {
      choose(fitting);
      await showSeries(true);
      return;
    }
    const first = begins(answer);
    for (const chart of answer.charts) {
      if (!charts.has(chart.key)) charts.set(chart.key, new Chart(into));
      const lines = chart.lines.map((line) => ({ ...line, values: line.values.slice(first) }));
      charts.get(chart.key).update({ ...chart, lines }, answer.times.slice(first));
    }
  } catch (error) {
    say(problem, `No charts: ${error.message}`);
    problem.hidden = false;
  }
  into.setAttribute("aria-busy", "false");
}

// What lies before the first value of all would be empty paper: a new function, or a new Prometheus.
function begins(answer) {
  return Math.max(0, Math.min(firstValue(answer) - 1, answer.times.length - 12));
}

function firstValue(answer) {
  const lines = answer.charts.flatMap((chart) => chart.lines);
  return answer.times.findIndex((_, index) => lines.some((line) => line.values[index] !== null));
}

// The shortest span that holds all there is, at most the usual one; once found it only grows.
function fits(answer) {
  const first = firstValue(answer);
  if (first < 0) return span;
  const age = answer.times.at(-1) - answer.times[first];
  const links = [...document.querySelectorAll(".spans a")];
  const usual = links.findIndex((link) => link.dataset.span === place.dataset.span);
  while (shortest < usual && age > 0.95 * Number(links[shortest].dataset.seconds)) shortest++;
  return links[shortest].dataset.span;
}

function choose(wanted) {
  span = wanted;
  for (const link of document.querySelectorAll(".spans a")) {
    if (link.dataset.span === wanted) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

for (const link of document.querySelectorAll(".spans a")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    automatic = false;
    choose(link.dataset.span);
    history.replaceState(null, "", link.href);
    showSeries(true);
  });
}

follow(() => place.dataset.api, Number(place.dataset.interval), showNow);
