// Curves over time with the phases of the edits behind them (uPlot), and intervals side by side (SVG).
import { h, s } from "./dom.js";
import { phaseWords, PHASES } from "./format.js";

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const colour = (index) => css(`--series-${(index % 8) + 1}`);
const phaseColour = (phase) => css(`--phase-${PHASES.indexOf(phase) + 1}`);

/** A chart in a figure. spec: {title, unit, series: [{label, colour, stacked, digits}], height, cursor}. */
export class Chart {
  constructor(frame, spec) {
    this.frame = frame;
    this.spec = spec;
    this.phases = [];
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(frame);
    this.#build();
  }

  #build() {
    const { series, unit, height = 170, floor } = this.spec;
    const axis = { stroke: css("--text-faint"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false },
      font: "12px system-ui, sans-serif" };
    const stacked = series.some((one) => one.stacked);
    const options = {
      width: Math.max(240, this.frame.clientWidth),
      height,
      padding: [8, 12, 0, 0],
      cursor: { sync: { key: this.spec.cursor ?? "phone" }, drag: { x: false, y: false }, points: { size: 6 } },
      legend: { live: true },
      scales: {
        x: { time: true },
        y: { range: (_, low, high) => {
          if (low === null || high === null) return [0, 1];
          const bottom = floor !== undefined ? floor : low - Math.max(0.5, (high - low) * 0.1);
          return [bottom, high + Math.max(this.spec.room ?? 0.1, (high - bottom) * 0.08)];
        } },
      },
      axes: [
        { ...axis, size: 32, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false })), space: 90 },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => `${Number(tick.toPrecision(4))}${unit === "" ? "" : ` ${unit}`}`) },
      ],
      series: [
        { label: "time", value: (_, at) => (at === null ? "–" : new Date(at * 1000).toLocaleTimeString([], { hour12: false })) },
        ...series.map((one) => ({
          label: one.label,
          stroke: one.colour,
          width: stacked ? 1 : 1.75,
          fill: stacked ? `color-mix(in srgb, ${one.colour} 55%, transparent)` : undefined,
          spanGaps: false,
          points: { show: false },
          value: (u, _, seriesIndex, i) => {
            const raw = i === null || i === undefined ? null : this.raw?.[seriesIndex]?.[i];
            return raw === null || raw === undefined ? "–" : `${raw.toFixed(one.digits ?? 2)}${unit === "" ? "" : ` ${unit}`}`;
          },
        })),
      ],
      bands: stacked ? series.slice(1).map((_, i) => ({ series: [i + 2, i + 1] })) : [],
      hooks: { drawClear: [(u) => this.#drawPhases(u)] },
    };
    this.plot = new uPlot(options, [[], ...series.map(() => [])], this.frame);
  }

  #drawPhases(u) {
    const { ctx, bbox } = u;
    ctx.save();
    for (const { from, to, phase } of this.phases) {
      const left = Math.max(bbox.left, u.valToPos(from, "x", true));
      const right = Math.min(bbox.left + bbox.width, u.valToPos(to, "x", true));
      if (right <= left) continue;
      ctx.fillStyle = phaseColour(phase);
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
    }
    ctx.restore();
  }

  /** times: unix seconds; columns: one list of numbers or nulls for each series; phases: [{from, to, phase}]. */
  set(times, columns, phases) {
    this.raw = [times, ...columns];
    this.phases = phases;
    let drawn = columns;
    if (this.spec.series.some((one) => one.stacked)) {
      const sums = times.map(() => 0);
      drawn = columns.map((column) => column.map((value, i) => (value === null ? null : (sums[i] += value))));
    }
    this.plot.setData([times, ...drawn]);
    // The legend tells the newest values while nobody points at others.
    queueMicrotask(() => { // after uPlot's own update, which is queued
      if (!(this.plot.cursor.left >= 0)) this.plot.setLegend({ idx: times.length - 1 }, false);
    });
  }

  #resize() {
    const width = this.frame.clientWidth;
    if (width && Math.abs(width - this.plot.width) > 1) this.plot.setSize({ width, height: this.plot.height });
  }

  destroy() {
    this.observer.disconnect();
    this.plot.destroy();
  }
}

/** Stretches of one phase each, from a history's columns. */
export function phaseBands(history) {
  const bands = [];
  history.at.forEach((at, i) => {
    const phase = history.phase[i];
    const last = bands.at(-1);
    if (last && last.open) last.to = at;
    if (last && last.open && (last.phase !== phase || last.attempt !== history.attempt_id[i])) last.open = false;
    if (phase && !(bands.at(-1)?.open)) {
      bands.push({ from: at, to: at, phase, attempt: history.attempt_id[i], open: true });
    }
  });
  return bands;
}

/** What the colours behind the curves mean. */
export function phaseLegend() {
  return h("ul", { class: "phase-legend", "aria-label": "Phases of an edit" },
    PHASES.map((phase, i) => h("li", { class: `phase-${i + 1}` }, phaseWords(phase))));
}

/**
 * Means with 95 % intervals, one line each, on one scale that holds zero.
 * lines: [{label, note, found: {mean, low, high} or null, missing, strong}]
 */
export function intervals(title, lines, show, { share = false } = {}) {
  const known = lines.filter((line) => line.found);
  const step = 30, top = 8, left = 196, width = 640, right = 24;
  const height = top + lines.length * step + 26;
  const ticks = share ? [0, 0.25, 0.5, 0.75, 1]
    : scale(Math.min(...known.map((line) => line.found.low), 0), Math.max(...known.map((line) => line.found.high), 0));
  const least = ticks[0], largest = ticks.at(-1);
  const x = (value) => left + ((width - left - right) * (value - least)) / (largest - least);
  const middle = (i) => top + i * step + step / 2;
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "intervals", role: "img",
    "aria-label": `${title}; the numbers are in the table below` },
  known.length > 0 && ticks.map((tick) => [
    s("line", { x1: x(tick), x2: x(tick), y1: top, y2: height - 24, class: "grid" }),
    s("text", { x: x(tick), y: height - 8, class: "tick", "text-anchor": "middle" }, show(tick)),
  ]),
  lines.map((line, i) => [
    s("text", { x: left - 12, y: middle(i) + 4, class: line.strong ? "label strong" : "label", "text-anchor": "end" },
      shorten(line.label, 24)),
    line.found
      ? [
        line.whiskers && s("line", { x1: x(line.found.low), x2: x(line.found.high), y1: middle(i), y2: middle(i),
          class: `whisker series-${line.series}` }),
        s("circle", { cx: x(line.found.mean), cy: middle(i), r: line.strong ? 6 : 4.5,
          class: `mean series-${line.series}` }),
      ]
      : s("text", { x: left, y: middle(i) + 4, class: "missing" }, shorten(line.missing ?? "not measured", 60)),
  ]));
  return h("figure", { class: "card" }, h("figcaption", {}, title), drawing);
}

/** Four or five round numbers from zero to just above the largest value. */
/** Some five round ticks from at most ``least`` (zero or less) to at least ``largest`` (zero or more). */
function scale(least, largest) {
  if (!(largest > least)) return [0, 1];
  const rough = (largest - least) / 4, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * size).find((each) => each >= rough * 0.9999);
  const first = Math.floor(least / step + 1e-4), last = Math.ceil(largest / step - 1e-4);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

const shorten = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
