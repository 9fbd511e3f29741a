// One function's page: follows the autoscaler and Prometheus, and asks the simulator.

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
    say(cell, row.shown[cell.dataset.cell]);
    cell.classList.toggle("over", row.breaches.includes(cell.dataset.cell));
  }
  const badge = document.getElementById("badge");
  say(badge, row.shown.state);
  badge.className = `badge ${row.state}`;
  say(document.getElementById("why"), `Why ${row.shown.replicas.split(" ")[0]} replica${row.ready === 1 ? "" : "s"}`);
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
    const inputs = Object.entries(decision.inputs).map(([name, value]) => {
      const pair = document.createElement("div");
      pair.append(text("dt", name), text("dd", value === null ? "–" : String(Number(value.toPrecision(6)))));
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
      if (!charts.has(chart.key)) charts.set(chart.key, new Chart(into, { sync: "function" }));
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

// What if.

const SECONDS = (value) => (value === null || value === undefined ? "–" : value >= 1 ? `${Number(value.toPrecision(3))} s` : `${Number((value * 1000).toPrecision(3))} ms`);
const WHOLE = (value) => (value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en"));

function share(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(2)} %`;
}

function showAnswer(answer) {
  const [before, after] = answer.runs;
  // A function that is new has less than an hour.
  const replayed = answer.seconds < 120 ? `${WHOLE(answer.seconds)} s` : `${WHOLE(answer.seconds / 60)} min`;
  say(document.getElementById("verdict"), `${answer.verdict} Replayed: ${replayed}, ${WHOLE(answer.requests)} requests.`);
  const names = ["measured", "simulated as it is", "simulated as asked"];
  const lines = [answer.measured, before, after].map((run, index) => {
    const line = document.createElement("tr");
    const name = text("th", names[index]);
    name.scope = "row";
    const attained = text("td", share(run.attainment), "number");
    attained.classList.toggle("over", run.attainment !== null && run.attainment < answer.slo_objective);
    line.append(
      name,
      attained,
      // A simulated latency that is none is that of requests which were given up.
      ...[run.p50, run.p95, run.p99].map((value) => text("td", value === null && index ? "given up" : SECONDS(value), "number")),
      ...[run.replica_seconds, run.most, run.changes].map((value) => text("td", WHOLE(value), "number")),
    );
    return line;
  });
  document.querySelector("#compared tbody").replaceChildren(...lines);
  document.getElementById("answer").hidden = false;
  const into = document.getElementById("answered");
  const lined = (key) => [
    { key: "before", label: "as it is", role: "area", values: before[key] },
    { key: "after", label: "as asked", role: "main", values: after[key] },
  ];
  const target = { key: "target", label: "target", role: "limit", values: answer.times.map(() => after.slo_latency) };
  const behind = (lines) => lines.map((line) => (line.key === "before" ? { ...line, role: "second" } : line));
  const objective = { key: "objective", label: "objective", role: "limit", values: answer.times.map(() => answer.slo_objective) };
  const drawn = [
    { key: "replicas", title: "Replicas wanted", unit: "count", stepped: true, lines: lined("desired") },
    // Logarithmic: what is given up after half a minute would make all else a flat line.
    { key: "latency", title: "p99 of answers", unit: "seconds", log: true, lines: [...behind(lined("p99_seen")), target] },
    { key: "attained", title: "Within the SLO", unit: "share", lines: [...behind(lined("attained")), objective] },
  ];
  for (const chart of drawn) {
    const key = `what-if ${chart.key}`;
    if (!charts.has(key)) charts.set(key, new Chart(into, { sync: "what-if", relative: true }));
    charts.get(key).update(chart, answer.times);
  }
}

const form = document.getElementById("ask");
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  const told = document.getElementById("asked");
  button.disabled = true;
  told.className = "";
  say(told, "Simulating the last hour twice…");
  try {
    const question = {
      max_replicas: Number(form.max_replicas.value),
      slo_latency: Number(form.slo_latency.value) / 1000,
      policy: form.policy.value,
    };
    showAnswer(
      await fetchJson(form.dataset.api, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(question),
      }),
    );
    say(told, "");
  } catch (error) {
    told.className = "failed";
    say(told, error instanceof TypeError ? "The autoscaler does not answer." : error.message);
  } finally {
    button.disabled = false;
  }
});

follow(() => place.dataset.api, Number(place.dataset.interval), showNow);
