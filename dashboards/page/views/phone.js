// One phone: what it does, its curves over the phases of its edits, its sensors, its passport.
import { h, mark, say, show, table } from "../dom.js";
import { get, phonePath } from "../api.js";
import { action, drain, identify, release, resume } from "../actions.js";
import { Chart, colour, phaseBands, phaseLegend } from "../charts.js";
import * as format from "../format.js";
import { phaseBar, stepWords, updateBar, waitingEdit } from "./farm.js";

const WINDOW_S = 300;
const TABLE_ROWS = 20;

export function phoneView(context, id) {
  let history = null, reading = false, lastHeard = -1, ended = false, rails = "", charts = [], passportFor;
  const title = h("h1", {}, id);
  const badge = h("span", { class: "badge" });
  const where = h("p", { class: "faint" });
  const reason = h("p", {});
  const what = h("p", { class: "tile-action" });
  const actions = h("span", { class: "row" },
    action(context, "Drain", "operator", () => drain(id)),
    action(context, "Give it work again", "operator", () => resume(id)),
    action(context, "Release", "operator", () => release(id)),
    action(context, "Identify", "operator", () => identify(id)));
  const label = h("p", { class: "big" });
  const job = h("p", { class: "faint" });
  const step = h("p", { class: "tile-step" });
  const bar = phaseBar();
  const edit = h("section", { class: "card", "aria-label": "Current edit" }, label, job, step, bar);
  const tiles = h("dl", { class: "vitals wide" });
  const charting = h("div", { class: "charts" });
  const numbers = h("div", {});
  const details = h("details", {}, h("summary", {}, "The newest readings as a table"), numbers);
  const sensors = h("section", {});
  const passport = h("section", {});
  const root = h("div", { class: "phone" },
    h("div", { class: "view-head" }, title, badge, h("span", { class: "grow" }), actions),
    where, reason, what, edit, tiles, phaseLegend(), charting, details, sensors, passport);
  details.addEventListener("toggle", () => showNumbers());

  function update() {
    const phone = context.store.picture?.phones.get(id);
    if (!phone) {
      say(reason, context.store.picture ? "This phone is not in the farm (any more)." : "");
      for (const each of [edit, tiles, actions]) show(each, false);
      return;
    }
    show(actions, true);
    say(title, format.phoneName(phone));
    say(badge, format.stateWords(phone.state));
    mark(root, "data-state", phone.state);
    say(where, [phone.device_id, phone.serial && `serial ${phone.serial}`, phone.host && `on ${phone.host}`,
      phone.execution && (phone.execution === "virtual" ? "a virtual phone: its sensors come from a model" : phone.execution),
      ["ready", "leased"].includes(phone.state) ? "" : `${format.stateWords(phone.state)} since ${format.clock(phone.changed_at)}`].filter(Boolean).join(" · "));
    say(reason, [phone.reason, waitingEdit(phone)].filter(Boolean).join("; "));
    say(what, phone.action);
    const [drainIt, resumeIt, releaseIt] = actions.children;
    show(drainIt, !phone.drained);
    show(resumeIt, phone.drained);
    show(releaseIt, phone.state === "quarantined");
    const working = phone.state === "leased";
    const busy = working || Boolean(phone.transfer);
    say(label, phone.transfer ? `Receiving ${phone.transfer}` : working && phone.label ? phone.label : "No edit runs");
    if (job.dataset.job !== String(phone.job_id)) {
      job.dataset.job = String(phone.job_id);
      job.replaceChildren(...(phone.job_id ? [h("a", { href: `#/job/${encodeURIComponent(phone.job_id)}` }, phone.job_id), ` · ${phone.attempt_id}`] : []));
    }
    say(step, phone.transfer ? format.percent(phone.transfer_share) : stepWords(phone) || (busy ? "starting" : phone.state === "ready" ? "waiting for work" : ""));
    show(bar, busy);
    updateBar(bar, phone);
    showVitals(phone);
    if (phone.heard_at !== null && phone.heard_at !== lastHeard && !reading) readHistory(phone);
    if (phone.heard_at === null && history) forget();
    if (passportFor !== phone.attempt_id) { passportFor = phone.attempt_id; readPassport(); }
  }

  function showVitals(phone) {
    const values = [[phone.modelled ? "battery heat, modelled" : "battery heat", format.celsius(phone.temperature_celsius)],
      [format.powerWords(phone, context.store.past.get(id)), format.watts(phone.power_watts)], ["fastest core", format.hertz(phone.clock_hertz)],
      [phone.charging ? "charging" : "charge", format.percent(phone.battery)],
      ["thermal status", phone.thermal_status === null ? "–" : ["none", "light", "moderate", "severe", "critical", "emergency", "shutdown"][phone.thermal_status] ?? String(phone.thermal_status)]];
    const key = JSON.stringify(values);
    if (tiles.dataset.key === key) return;
    tiles.dataset.key = key;
    tiles.replaceChildren(...values.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  function forget() {
    history = null;
    lastHeard = -1;
    clearCharts();
  }

  function clearCharts() {
    for (const chart of charts) chart.chart.destroy();
    charts = [];
    charting.replaceChildren();
    rails = "";
  }

  async function readHistory(phone) {
    reading = true;
    try {
      const after = history ? history.at.at(-1) ?? 0 : 0;
      const more = await get(`${phonePath(id)}/history?after=${after}`);
      if (ended) return;
      lastHeard = phone.heard_at;
      history = history ? join(history, more) : more;
      if (history.at.length) draw(phone);
    } catch { /* the stream says that the farm is away */ } finally {
      reading = false;
    }
  }

  function draw(phone) {
    const names = Object.keys(history.rail_watts);
    const key = JSON.stringify([names, phone.modelled]);
    if (rails !== key) {
      clearCharts();
      rails = key;
      build(names, phone.modelled ? ", modelled" : "");
    }
    const bands = phaseBands(history);
    for (const { chart, columns, empty, frame } of charts) {
      const values = columns(history);
      const there = values.some((column) => column.some((value) => value !== null));
      show(frame, there);
      show(empty, !there);
      if (there) chart.set(history.at, values, bands);
    }
    showNumbers();
  }

  function build(names, modelled) {
    const add = (heading, spec, columns, missing) => {
      const frame = h("div", { class: "plot" });
      const empty = h("p", { class: "faint", hidden: true }, missing);
      charting.append(h("figure", { class: "card" }, h("figcaption", {}, heading), frame, empty));
      charts.push({ chart: new Chart(frame, spec), columns, empty, frame });
    };
    if (names.length) {
      add(`Power by rail, stacked${modelled}`, { unit: "W", floor: 0, height: 210,
        series: names.map((label, i) => ({ label, colour: colour(i), stacked: true })) },
      (past) => names.map((name) => past.rail_watts[name]), "no rail was read");
    } else {
      add(`Power from the battery${modelled}`, { unit: "W", floor: 0, series: [{ label: "power", colour: colour(0) }] },
        (past) => [past.power_watts], "No power rail can be read, and the battery's current is not the phone's while it charges.");
    }
    add(`Temperature${modelled}`, { unit: "°C", room: 0.5, height: names.length ? 236 : 170, series: [{ label: "battery", colour: colour(3), digits: 1 }, { label: "hottest zone", colour: colour(5), digits: 1 }] },
      (past) => [past.temperature_celsius, past.hottest_celsius], "No temperature can be read.");
    add("Clock of the fastest core", { unit: "GHz", floor: 0, series: [{ label: "clock", colour: colour(4) }] },
      (past) => [past.clock_hertz.map((value) => (value === null ? null : value / 1e9))], "No clock can be read.");
    add("Probability of the new answer in the running edit", { unit: "", floor: 0, room: 0.02, series: [{ label: "p(target)", colour: colour(1), digits: 3 }] },
      (past) => [past.target_probability], "No edit has searched in these minutes.");
  }

  function showNumbers() {
    if (!details.open || !history) return;
    const rows = history.at.map((at, i) => [format.clock(at), history.phase[i] ? format.phaseWords(history.phase[i]) : "–",
      format.watts(history.power_watts[i]), format.celsius(history.temperature_celsius[i]), format.hertz(history.clock_hertz[i]),
      format.probability(history.target_probability[i])]).slice(-TABLE_ROWS).reverse();
    numbers.replaceChildren(table("The newest first", ["time", "phase", "power", "battery heat", "fastest core", "p(target)"], rows, { numeric: [2, 3, 4, 5] }));
  }

  async function readPassport() {
    try {
      const newest = await get(`${phonePath(id)}/passport`);
      if (ended) return;
      if (newest.passport) showPassport(newest.passport, newest);
      else sensors.replaceChildren(h("h2", {}, "Sensors and passport"), h("p", { class: "faint" }, "They come with its first result."));
    } catch (error) {
      if (!ended) sensors.replaceChildren(h("p", { class: "faint" }, error.message));
    }
  }

  function showPassport(found, newest) {
    sensors.replaceChildren(table("Sensors, as the agent found them", ["sensor", "readable", "unit", "sign", "source", "reason"],
      found.sensors.map((sensor) => [sensor.name, sensor.readable ? `yes, ${sensor.provenance}` : "no", sensor.unit, sensor.sign || "–", h("code", {}, sensor.source), sensor.reason ? h("span", { class: "words" }, sensor.reason) : "–"])));
    const phone = found.phone ?? {};
    const facts = [["of the result", `${newest.trial_id}, ${format.dateTime(newest.at)}`], ["phone", [phone.manufacturer, phone.model, phone.soc].filter(Boolean).join(" ")],
      ["build", phone.build_fingerprint], ["measurement epoch", String(found.measurement_epoch)], ["execution", found.execution],
      ["accelerator", [found.accelerator?.name, found.accelerator?.proof ?? found.accelerator?.reason].filter(Boolean).join(": ")],
      ["model returned to its base", found.returned_to_base === null ? "–" : found.returned_to_base ? "yes, proved by hash" : "no"],
      ["agent", found.agent_version], ["energy", format.energyWords(found.energy)]];
    passport.replaceChildren(h("h2", {}, "Passport of its newest result"),
      h("dl", { class: "facts card" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      h("details", {}, h("summary", {}, "The whole passport"), h("pre", {}, JSON.stringify(found, null, 2))));
  }

  update();
  return { root, title: "Phone", update, theme: () => { if (history) { clearCharts(); draw(context.store.picture.phones.get(id)); } },
    end: () => { ended = true; clearCharts(); } };
}

/** Put newer columns behind older ones, and let go of what is too old. */
function join(old, more) {
  if (!more.at.length) return old;
  const length = old.at.length;
  const joined = {};
  for (const name of Object.keys(old)) {
    if (name !== "rail_watts") joined[name] = [...old[name], ...more[name]];
  }
  const nothing = (count) => Array.from({ length: count }, () => null);
  joined.rail_watts = {};
  for (const rail of new Set([...Object.keys(old.rail_watts), ...Object.keys(more.rail_watts)])) {
    joined.rail_watts[rail] = [...(old.rail_watts[rail] ?? nothing(length)), ...(more.rail_watts[rail] ?? nothing(more.at.length))];
  }
  const first = joined.at.findIndex((at) => at >= joined.at.at(-1) - WINDOW_S);
  for (const name of Object.keys(joined)) if (name !== "rail_watts") joined[name] = joined[name].slice(first);
  for (const rail of Object.keys(joined.rail_watts)) joined.rail_watts[rail] = joined.rail_watts[rail].slice(first);
  return joined;
}
