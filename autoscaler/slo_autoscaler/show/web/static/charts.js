// Charts of time series, drawn with uPlot (uplot/): one accent, an area behind it, red only above a limit.

import { say } from "./live.js";

const HEIGHT = 170;

const SHOW = {
  seconds: (value) => (value >= 1 ? `${digits(value)} s` : `${digits(value * 1000)} ms`),
  per_second: (value) => `${digits(value)}/s`,
  share: (value) => `${digits(value * 100)}%`,
  count: (value) => digits(value),
};

function digits(value) {
  if (value === 0) return "0";
  const places = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return Number(value.toFixed(Math.min(places, 6))).toLocaleString("en", { maximumFractionDigits: 6 });
}

function colors() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { accent: of("accent"), ink: of("ink"), soft: of("soft"), line: of("line"), area: of("area"), over: of("over") };
}

const stepped = window.uPlot.paths.stepped({ align: 1 });

function clock(seconds, step) {
  const text = new Date(seconds * 1000).toISOString();
  return step < 86400 ? text.slice(11, step < 60 ? 19 : 16) : text.slice(5, 10);
}

// A line that is red where it is above the limit.
function warned(limit, plain, over) {
  return (plot) => {
    const { top, height } = plot.bbox;
    if (limit === null || !height) return plain;
    const at = (plot.valToPos(limit, "y", true) - top) / height;
    if (!(at > 0)) return plain;
    const gradient = plot.ctx.createLinearGradient(0, top, 0, top + height);
    const edge = Math.min(1, at);
    gradient.addColorStop(0, over);
    gradient.addColorStop(edge, over);
    if (edge < 1) {
      gradient.addColorStop(edge, plain);
      gradient.addColorStop(1, plain);
    }
    return gradient;
  };
}

function newest(values) {
  for (let index = values.length - 1; index >= 0; index--) if (values[index] !== null) return values[index];
  return null;
}

/** One chart in a figure of its own; `update(chart, times)` shows other numbers. */
export class Chart {
  #chart = null;
  #times = [];
  #plot = null;

  constructor(place) {
    this.figure = document.createElement("figure");
    this.figure.className = "chart";
    this.caption = document.createElement("figcaption");
    this.canvas = document.createElement("div");
    this.canvas.setAttribute("role", "img");
    this.figure.append(this.caption, this.canvas);
    place.append(this.figure);
    new ResizeObserver(() => this.#fit()).observe(this.figure);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#make());
  }

  update(chart, times) {
    const known = { ...chart, lines: chart.lines.filter((line) => newest(line.values) !== null) };
    const same =
      this.#chart !== null &&
      this.#plot !== null &&
      this.#chart.lines.map((line) => line.key).join() === known.lines.map((line) => line.key).join() &&
      this.#limit(this.#chart) === this.#limit(known);
    this.#chart = known;
    this.#times = times;
    if (same) this.#plot.setData(this.#data());
    else this.#make();
    this.#label();
  }

  #limit(chart) {
    const line = chart.unit === "seconds" ? chart.lines.find((each) => each.role === "limit") : null;
    return line ? newest(line.values) : null;
  }

  #data() {
    return [this.#times, ...this.#chart.lines.map((line) => line.values)];
  }

  #label() {
    const { title, unit, lines } = this.#chart;
    const told = lines.map((line) => {
      const values = line.values.filter((value) => value !== null);
      const [last, highest] = [newest(line.values), Math.max(...values)];
      return `${line.label}: ${SHOW[unit](last)} now, at most ${SHOW[unit](highest)}`;
    });
    this.canvas.setAttribute("aria-label", `${title}. ${told.join("; ") || "no data"}.`);
    this.#values(null);
  }

  // The values at the cursor, or the newest ones.
  #values(index) {
    if (!this.keys) return;
    this.#chart.lines.forEach((line, number) => {
      const value = index === null ? newest(line.values) : line.values[index];
      say(this.keys[number], value === null || value === undefined ? "–" : SHOW[this.#chart.unit](value));
    });
  }

  #caption() {
    const title = document.createElement("b");
    title.textContent = this.#chart.title;
    this.keys = [];
    const keys = this.#chart.lines.map((line) => {
      const key = document.createElement("span");
      key.className = `key ${line.role}`;
      const value = document.createElement("span");
      this.keys.push(value);
      key.append(document.createElement("i"), `${line.label} `, value);
      return key;
    });
    this.caption.replaceChildren(title, ...keys);
  }

  #make() {
    if (!this.#chart) return;
    this.#plot?.destroy();
    this.#plot = null;
    this.#caption();
    if (!this.#chart.lines.length) {
      const nothing = document.createElement("p");
      nothing.className = "nothing";
      nothing.textContent = "No data in this period.";
      this.canvas.replaceChildren(nothing);
      return;
    }
    this.canvas.replaceChildren();
    const color = colors();
    const limit = this.#limit(this.#chart);
    const unit = SHOW[this.#chart.unit];
    const strokes = {
      main: { stroke: warned(limit, color.accent, color.over), width: 2 },
      second: { stroke: warned(limit, color.ink, color.over), width: 1 },
      area: { stroke: color.soft, width: 1, fill: color.area },
      limit: { stroke: color.ink, width: 1, dash: [5, 4] },
    };
    const dot = (plot, index) => (this.#chart.lines[index - 1].role === "main" ? color.accent : color.ink);
    const axis = { stroke: color.soft, font: "11px system-ui, sans-serif", grid: { stroke: color.line, width: 1 }, ticks: { show: false } };
    this.#plot = new window.uPlot(
      {
        width: Math.max(200, this.figure.clientWidth),
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, points: { size: 6, stroke: dot, fill: dot }, drag: { x: false, y: false }, sync: { key: this.#chart.times ? null : "function" } },
        scales: { x: { time: false }, y: { range: (plot, low, high) => this.#range(low, high) } },
        axes: [
          {
            ...axis,
            size: 26,
            space: 70,
            incrs: [1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000],
            values: (plot, splits) => splits.map((at) => clock(at, splits[1] - splits[0])),
          },
          { ...axis, size: 62, space: 34, values: (plot, splits) => splits.map(unit) },
        ],
        series: [
          {},
          ...this.#chart.lines.map((line) => ({
            ...strokes[line.role],
            points: { show: false },
            spanGaps: false,
            ...(this.#chart.stepped && line.role !== "limit" ? { paths: stepped } : {}),
          })),
        ],
        hooks: { setCursor: [(plot) => this.#values(plot.cursor.idx ?? null)] },
      },
      this.#data(),
      this.canvas,
    );
    this.#values(null);
  }

  #range(low, high) {
    const least = this.#chart.unit === "share" ? 0.01 : 1;
    const top = high === null || high <= 0 ? least : high * 1.08;
    return [Math.min(0, low * 1.08), this.#chart.unit === "count" ? Math.max(1, top) : top];
  }

  #fit() {
    const width = this.figure.clientWidth;
    if (this.#plot && width > 0 && Math.abs(width - this.#plot.width) > 1) this.#plot.setSize({ width, height: HEIGHT });
  }
}
