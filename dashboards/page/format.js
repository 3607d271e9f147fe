// Numbers and moments in words. What is not known is an en dash, never zero.

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

export const watts = (value) => (known(value) ? `${value.toFixed(value < 10 ? 2 : 1)} W` : "–");
export const celsius = (value) => (known(value) ? `${value.toFixed(1)} °C` : "–");
export const hertz = (value) => (known(value) ? `${(value / 1e9).toFixed(2)} GHz` : "–");
export const percent = (share, digits = 0) => (known(share) ? `${(100 * share).toFixed(digits)} %` : "–");
export const mebibytes = (bytes) => (known(bytes) ? `${Math.round(bytes / 2 ** 20)} MiB` : "–");
export const probability = (value) => (known(value) ? value.toFixed(2) : "–");

/** Three significant digits, thousands apart. */
export function number(value) {
  if (!known(value)) return "–";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en").replace("-", "−");
  return Number(value.toPrecision(3)).toString().replace("-", "−");
}

export function duration(seconds) {
  if (!known(seconds)) return "unknown";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60); // before hours are taken off, or there are 60 beside them
  if (seconds < 5400) return `${minutes} min`;
  if (seconds < 172800) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(seconds / 86400)} days`;
}

/** How long something took, to the second. */
export function took(seconds) {
  const whole = Math.round(seconds);
  return known(seconds) && whole >= 60 && whole < 3600 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : duration(seconds);
}

export const ago = (at, now) => `${duration(Math.max(0, now - at))} ago`;

export function clock(at) {
  return known(at) ? new Date(at * 1000).toLocaleTimeString([], { hour12: false }) : "–";
}

export function dateTime(at) {
  return known(at) ? new Date(at * 1000).toLocaleString([], { hour12: false }) : "–";
}

/** A mean with its 95 % interval. */
export function estimate(found, show = number, bound = show) {
  if (!found) return "–";
  return found.edits < 2 ? `${show(found.mean)} (1 edit)` : `${show(found.mean)} [${bound(found.low)}–${bound(found.high)}]`;
}

/** The joules of a passport, and whether they were measured or come from a model. */
export const energyWords = (energy) => (known(energy?.joules)
  ? `${number(energy.joules)} J, ${energy.provenance}` : `not measured: ${energy?.reason ?? ""}`);

const STATES = {
  leased: "working",
  awaiting_authorisation: "needs you",
  done: "done",
};

/** A state of a phone, job or trial as people say it. */
export const stateWords = (state) => STATES[state] ?? String(state).replaceAll("_", " ");

export const PHASES = ["loading", "evaluating_before", "caching", "optimising", "evaluating_after"];

const PHASE_WORDS = {
  loading: "loading the model",
  evaluating_before: "scoring before the edit",
  caching: "caching",
  optimising: "editing",
  evaluating_after: "scoring after the edit",
};

export const phaseWords = (phase) => PHASE_WORDS[phase] ?? String(phase).replaceAll("_", " ");

export const phoneName = (phone) => phone.model || phone.serial || phone.device_id;

/** Where the power of a phone comes from, or why there is none to show; past: its last minutes. */
export function powerWords(phone, past) {
  if (known(phone.power_watts)) {
    const source = phone.power_source === "battery" ? "power from the battery" : "power";
    return phone.modelled ? `${source}, modelled` : source;
  }
  if (past?.power_watts.some(known)) return "power: no reading just now";
  if (phone.charging) return "power: not visible, charging";
  return "power: not measured";
}
