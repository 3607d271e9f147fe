// All phones, a tile each. Only tiles in sight have contents and are kept up to date.
import { h, mark, say, show } from "../dom.js";
import * as format from "../format.js";
import { drawSpark } from "../spark.js";

const ATTENTION_LIMIT = 4;

export function farmView(context) {
  const tiles = new Map();
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const tile = tiles.get(entry.target.dataset.device);
      if (!tile) continue;
      tile.visible = entry.isIntersecting;
      if (tile.visible) tile.fill();
      else tile.empty();
    }
  }, { rootMargin: "200px" });

  const counts = h("p", { class: "counts" });
  const filter = h("input", { type: "search", placeholder: "Filter by name, state, host …", "aria-label": "Filter phones",
    oninput: () => { wanted = filter.value.trim().toLowerCase(); update(); } });
  const attention = h("ul", { class: "attention" });
  const jobs = h("ul", { class: "job-strip", "aria-label": "Running jobs" });
  const grid = h("ul", { class: "tiles", "aria-label": "Phones" });
  const nothing = h("div", { class: "card empty" },
    h("h2", {}, "No phone yet"),
    h("p", {}, "Plug one in with USB debugging on, and it appears here by itself. Without a phone: ",
      h("code", {}, "mobifarm simulate run --count 3"), " starts virtual ones."));
  const unmatched = h("p", { class: "faint", hidden: true }, "No phone matches the filter.");
  const hosts = h("section", { class: "hosts", "aria-label": "Hosts" });
  const root = h("div", {},
    h("div", { class: "view-head" }, h("h1", {}, "Phones"), counts, filter),
    attention, jobs, nothing, unmatched, grid, hosts);
  let wanted = "";

  function update() {
    const picture = context.store.picture;
    if (!picture) return;
    const phones = [...picture.phones.values()];
    say(counts, countWords(phones));
    show(nothing, phones.length === 0);
    show(filter, phones.length > 6);
    let matched = 0;
    for (const phone of phones) {
      let tile = tiles.get(phone.device_id);
      if (!tile) {
        tile = makeTile(context, phone.device_id);
        tiles.set(phone.device_id, tile);
        grid.append(tile.element);
        seen.observe(tile.element);
      }
      const fits = !wanted || searchable(phone).includes(wanted);
      matched += fits;
      show(tile.element, fits);
      tile.phone = phone;
      tile.name();
      if (tile.visible) tile.fill();
    }
    show(unmatched, phones.length > 0 && matched === 0);
    for (const [id, tile] of tiles) {
      if (!picture.phones.has(id)) {
        seen.unobserve(tile.element);
        tile.element.remove();
        tiles.delete(id);
      }
    }
    updateAttention(attention, phones, picture.notices, picture.hosts.length > 1);
    updateJobs(jobs, [...picture.jobs.values()].filter((job) => job.finished_at === null));
    updateHosts(hosts, picture.hosts);
  }

  update();
  return { root, title: "Phones", update, end: () => seen.disconnect() };
}

const searchable = (phone) =>
  [phone.device_id, phone.model, phone.serial, phone.host, format.stateWords(phone.state), phone.state, phone.reason,
    phone.label].join(" ").toLowerCase();

function countWords(phones) {
  if (!phones.length) return "";
  const by = new Map();
  for (const phone of phones) {
    const words = format.stateWords(phone.state);
    by.set(words, (by.get(words) ?? 0) + 1);
  }
  return [...by].sort((a, b) => b[1] - a[1]).map(([words, count]) => `${count} ${words}`).join(" · ");
}

function makeTile(context, id) {
  const name = h("a", { class: "tile-name", href: `#/phone/${encodeURIComponent(id)}` });
  const badge = h("span", { class: "badge" });
  const body = h("div", { class: "tile-body" });
  const element = h("li", { class: "tile", dataset: { device: id } },
    h("div", { class: "tile-head" }, name, badge), body);
  let parts = null;

  const tile = {
    element,
    phone: null,
    visible: false,
    name() {
      const { phone } = tile;
      say(name, format.phoneName(phone));
      say(badge, format.stateWords(phone.state));
      if (element.dataset.state !== phone.state) {
        element.dataset.state = phone.state;
        element.dataset.shownAt = context.store.now; // the farm's time of the news that brought it here
      }
    },
    empty() {
      body.replaceChildren();
      parts = null;
    },
    fill() {
      const { phone } = tile;
      if (!parts) body.append(...(parts = tileParts()).all);
      say(parts.where, [phone.host, phone.device_id].filter(Boolean).join(" · "));
      const editing = phone.state === "leased";
      const words = phone.transfer
        ? `receiving ${phone.transfer}`
        : editing ? (phone.label ?? "")
          : [phone.reason, settling(phone, context.store.now), waitingEdit(phone)].filter(Boolean).join("; ");
      say(parts.what, words || (phone.state === "ready" ? "waiting for work" : ""));
      mark(parts.what, "title", words);
      say(parts.action, editing || phone.transfer ? "" : phone.action);
      mark(parts.action, "title", phone.action || null);
      say(parts.step, phone.transfer ? format.percent(phone.transfer_share) : stepWords(phone));
      updateBar(parts.bar, phone);
      say(parts.temperature, format.celsius(phone.temperature_celsius));
      say(parts.temperatureWords, phone.modelled && phone.temperature_celsius !== null ? "battery, modelled" : "battery heat");
      say(parts.power, format.watts(phone.power_watts));
      say(parts.powerWords, format.powerWords(phone, context.store.past.get(id)));
      say(parts.clock, format.hertz(phone.clock_hertz));
      say(parts.battery, format.percent(phone.battery));
      say(parts.batteryWords, phone.charging ? "charging" : "charge");
      const shown = drawSpark(parts.spark, context.store.past.get(id));
      const curve = shown === "power_watts" ? "power over the last minutes" : shown ? "temperature over the last minutes" : "no curve yet";
      mark(parts.spark, "aria-label", curve);
      say(parts.sparkWords, shown ? curve : "");
    },
  };
  return tile;
}

function tileParts() {
  const parts = {
    where: h("p", { class: "tile-where" }),
    what: h("p", { class: "tile-what" }),
    action: h("p", { class: "tile-action" }),
    step: h("p", { class: "tile-step" }),
    bar: phaseBar(),
    sparkWords: h("p", { class: "spark-words", "aria-hidden": true }),
    spark: h("canvas", { class: "spark", role: "img", "aria-label": "no curve yet" }),
  };
  const vital = (value, words) => {
    parts[value] = h("dd", {});
    const label = h("dt", {}, words);
    parts[`${value}Words`] = label;
    return h("div", {}, label, parts[value]);
  };
  const vitals = h("dl", { class: "vitals" }, vital("temperature", "battery heat"), vital("power", "power"),
    vital("clock", "fastest core"), vital("battery", "charge"));
  parts.all = [parts.where, parts.what, parts.action, parts.step, parts.bar, parts.sparkWords, parts.spark, vitals];
  return parts;
}

const settling = (phone, now) =>
  phone.settling_until && phone.settling_until > now ? `${Math.ceil(phone.settling_until - now)} s left` : "";

/** An edit of a phone that is away waits a while for it before another phone gets it. */
export const waitingEdit = (phone) => (phone.label && phone.state !== "leased" ? `its edit ${phone.label} waits for it` : "");

export function stepWords(phone) {
  if (!phone.phase) return "";
  const words = format.phaseWords(phone.phase);
  if (phone.phase !== "optimising") return words;
  const target = phone.target_probability === null ? "" : ` · p(target) ${format.probability(phone.target_probability)}`;
  return `${words}: step ${phone.step}${target}`;
}

/** Five stretches, one for each phase of an edit. */
export function phaseBar() {
  return h("div", { class: "phase-bar", role: "progressbar", "aria-label": "progress of the edit", "aria-valuemin": 0, "aria-valuemax": 100 },
    format.PHASES.map((_, i) => h("i", { class: `phase-${i + 1}` }, h("b", {}))));
}

export function updateBar(bar, phone) {
  const current = format.PHASES.indexOf(phone.phase);
  const transferring = phone.transfer_share !== null;
  bar.style.visibility = current >= 0 || transferring ? "visible" : "hidden";
  if (transferring) {
    mark(bar, "aria-valuenow", Math.round(100 * phone.transfer_share));
    mark(bar, "aria-valuetext", `receiving ${phone.transfer}`);
  } else if (current >= 0) {
    mark(bar, "aria-valuenow", Math.round((100 * (current + part(phone))) / format.PHASES.length));
    mark(bar, "aria-valuetext", stepWords(phone));
  }
  [...bar.children].forEach((stretch, i) => {
    const full = transferring ? Math.min(1, Math.max(0, phone.transfer_share * 5 - i)) : i < current ? 1 : i === current ? part(phone) : 0;
    const width = `${Math.round(100 * full)}%`;
    const fill = stretch.firstChild;
    if (fill.style.width !== width) fill.style.width = width;
    stretch.classList.toggle("now", !transferring && i === current);
  });
}

/** How far the current phase is; only the search tells, and it mostly stops before its limit. */
const part = (phone) =>
  phone.phase === "optimising" && phone.step_limit ? Math.max(0.06, Math.min(1, phone.step / phone.step_limit)) : 0.5;

function updateAttention(list, phones, notices, severalHosts) {
  const calls = [
    ...notices.map((notice) => ({ key: `notice ${notice.host} ${notice.source}`, name: severalHosts ? `${notice.host}: ${notice.source}` : notice.source,
      words: [notice.reason, notice.action].filter(Boolean).join("; ") })),
    ...phones.filter((phone) => phone.action && phone.state !== "drained").map((phone) => ({ key: phone.device_id,
      name: format.phoneName(phone), id: phone.device_id,
      words: `is ${format.stateWords(phone.state)}: ${[phone.reason, phone.action].filter(Boolean).join(". ")}` })),
  ];
  const shown = calls.slice(0, ATTENTION_LIMIT);
  const key = shown.map((call) => call.key + call.name + call.words).join("\n") + calls.length;
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...shown.map((call) => h("li", {},
    call.id ? h("a", { href: `#/phone/${encodeURIComponent(call.id)}` }, call.name) : h("strong", {}, call.name), " ", call.words)));
  if (calls.length > shown.length) {
    list.append(h("li", { class: "faint" }, `and ${calls.length - shown.length} more`));
  }
}

function updateJobs(list, jobs) {
  const shown = jobs.slice(0, 3);
  const key = shown.map((job) => job.job_id).join(" ");
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...shown.map((job) => h("li", { class: "card job-line" },
      h("a", { href: `#/job/${encodeURIComponent(job.job_id)}` }, job.name), trialBar(), h("span", { class: "job-words" }))));
  }
  shown.forEach((job, i) => {
    const line = list.children[i];
    updateTrialBar(line.children[1], job);
    say(line.children[2], jobWords(job));
  });
}

export function jobWords(job) {
  const ended = job.trials - job.pending - job.leased;
  const left = job.finished_at !== null ? "" : job.remaining_s === null ? ` · time left ${job.remaining_words}` : ` · about ${format.duration(job.remaining_s)} left`;
  return `${ended} of ${job.trials} edits${left}`;
}

const TRIALS = ["done", "failed", "abandoned", "cancelled", "leased", "pending"];

/** A job's trials by state as one bar. */
export function trialBar() {
  return h("div", { class: "trial-bar", role: "progressbar", "aria-label": "edits that have ended", "aria-valuemin": 0 },
    TRIALS.map((state) => h("i", { class: `trial-${state}` })));
}

export function updateTrialBar(bar, job) {
  mark(bar, "aria-valuemax", job.trials);
  mark(bar, "aria-valuenow", job.trials - job.pending - job.leased);
  TRIALS.forEach((state, i) => {
    const width = `${(100 * job[state]) / Math.max(1, job.trials)}%`;
    if (bar.children[i].style.width !== width) bar.children[i].style.width = width;
  });
}

function updateHosts(section, hosts) {
  const words = hosts.map((host) => [host.host, host.own ? "this farm's machine" : host.state, `${host.connected} of ${host.phones} phones connected`, host.reason]);
  const key = JSON.stringify(words);
  if (section.dataset.key === key) return;
  section.dataset.key = key;
  section.replaceChildren(h("h2", {}, hosts.length === 1 ? "Host" : "Hosts"),
    h("ul", {}, words.map(([name, state, phones, reason]) => h("li", { class: "card" },
      h("strong", {}, name), h("span", {}, state), h("span", { class: "faint" }, [phones, reason].filter(Boolean).join(" · "))))));
}
