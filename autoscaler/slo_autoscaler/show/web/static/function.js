// One function's page: follows the autoscaler and Prometheus.

import { Chart } from "./charts.js";
import { fetchJson, follow, say } from "./live.js";

const place = document.getElementById("function");
const charts = new Map();
const SLOWEST = 10_000;

let span = place.dataset.span;
// Default span: the shortest that holds all data. An hour of a new function would be two points.
let automatic = !new URLSearchParams(location.search).has("span");
let shortest = 0;
let asked = 0;

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
    const together = answer.charts.filter((chart) => !chart.times);
    for (const chart of answer.charts) {
      if (!charts.has(chart.key)) charts.set(chart.key, new Chart(into));
      const times = chart.times ?? answer.times;
      const first = begins(times, chart.times ? [chart] : together);
      const lines = chart.lines.map((line) => ({ ...line, values: line.values.slice(first) }));
      charts.get(chart.key).update({ ...chart, lines }, times.slice(first));
    }
  } catch (error) {
    say(problem, `No charts: ${error.message}`);
    problem.hidden = false;
  }
  into.setAttribute("aria-busy", "false");
}

// Charts of one span begin together, at the first value: a new function or a new Prometheus has none before.
function begins(times, together) {
  return Math.max(0, Math.min(firstValue(times, together) - 1, times.length - 12));
}

function firstValue(times, together) {
  const lines = together.flatMap((chart) => chart.lines);
  return times.findIndex((_, index) => lines.some((line) => line.values[index] !== null));
}

// The shortest span that holds all data, at most the default one; once found it only grows.
function fits(answer) {
  const first = firstValue(answer.times, answer.charts.filter((chart) => !chart.times));
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

follow(showSeries);
