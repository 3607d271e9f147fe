// What the page knows of the farm: the newest picture, and a short past of each phone for its sparkline.

const KEPT = 120;

function rows(columns, key) {
  const names = Object.keys(columns);
  const ids = columns[key] ?? [];
  return new Map(ids.map((id, i) => [id, Object.fromEntries(names.map((name) => [name, columns[name][i]]))]));
}

export class Store {
  constructor() {
    this.picture = null;
    this.past = new Map();
  }

  get now() {
    return this.picture?.at ?? Date.now() / 1000;
  }

  /** Take a snapshot or a tick; returns the phones whose state has changed, with the state before. */
  take(news) {
    const before = this.picture?.phones;
    const phones = rows(news.devices, "device_id");
    this.picture = { ...news, phones, jobs: rows(news.jobs, "job_id") };
    if (news.past) this.past = new Map(Object.entries(news.past));
    const changed = [];
    for (const [id, phone] of phones) {
      this.#remember(id, phone);
      const old = before?.get(id);
      if (before && old?.state !== phone.state) changed.push({ phone, before: old?.state });
    }
    for (const id of this.past.keys()) if (!phones.has(id)) this.past.delete(id);
    return changed;
  }

  #remember(id, phone) {
    if (phone.heard_at === null) {
      this.past.delete(id); // nothing is heard of it: an old curve would look like news
      return;
    }
    let past = this.past.get(id);
    if (!past) this.past.set(id, (past = { at: [], power_watts: [], temperature_celsius: [] }));
    if (past.at.at(-1) >= phone.heard_at) return;
    past.at.push(phone.heard_at);
    past.power_watts.push(phone.power_watts);
    past.temperature_celsius.push(phone.temperature_celsius);
    if (past.at.length > KEPT) for (const column of Object.values(past)) column.shift();
  }
}
