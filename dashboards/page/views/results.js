// Methods against phones: quality and cost with 95 % intervals, as plots and as one table.
import { h, say, table } from "../dom.js";
import { get, jobPath } from "../api.js";
import { intervals } from "../charts.js";
import * as format from "../format.js";

export function resultsView(context, id) {
  let readFor = null, reading = false, readAt = 0, ended = false;
  const title = h("h1", {}, "Results");
  const facts = h("p", { class: "faint" });
  const plots = h("div", { class: "charts" });
  const numbers = h("section", {});
  const notes = h("ul", { class: "notes" });
  const root = h("div", { class: "results" },
    h("div", { class: "view-head" }, title, h("span", { class: "grow" }),
      h("a", { class: "button", href: `#/job/${encodeURIComponent(id)}` }, "Job"),
      h("a", { class: "button", href: `${jobPath(id)}/report`, target: "_blank", rel: "noopener" }, "Report"),
      h("a", { class: "button", href: `${jobPath(id)}/results.csv`, download: `${id}.csv` }, "CSV"),
      h("a", { class: "button", href: `${jobPath(id)}/results`, download: `${id}.json` }, "JSON")),
    facts, plots, numbers, notes);

  function update() {
    const job = context.store.picture?.jobs.get(id);
    const wanted = job ? job.done + job.failed : readFor ?? 0;
    if (!reading && wanted !== readFor && performance.now() - readAt > 2000) read(wanted);
  }

  async function read(wanted) {
    reading = true;
    try {
      const [job, cells] = await Promise.all([get(jobPath(id)), get(`${jobPath(id)}/cells`)]);
      if (ended) return;
      readFor = wanted;
      say(title, `Results of ${job.name}`);
      say(facts, `${id} · ${job.done + job.failed} of ${job.trials} edits have a result${job.finished_at === null ? "; the job goes on, and these numbers with it" : ""}`);
      draw(cells);
    } catch (error) {
      facts.textContent = error.message;
    } finally {
      reading = false;
      readAt = performance.now();
    }
  }

  function draw(cells) {
    if (!cells.length) {
      plots.replaceChildren(h("div", { class: "card empty" }, h("h2", {}, "No result yet"), h("p", {}, "They appear here as soon as the first edit ends.")));
      numbers.replaceChildren();
      notes.replaceChildren();
      return;
    }
    const methods = [...new Set(cells.map((cell) => cell.method))];
    const several = methods.length > 1;
    const name = (cell) => (cell.device_id === null ? (several ? `${cell.method} · all` : `all ${kind(cell)}`) : several
      ? `${cell.method} · ${cell.model || cell.serial}` : cell.model || cell.serial || cell.device_id);
    const line = (what, missing) => (cell) => ({ label: name(cell), found: cell[what], strong: cell.device_id === null,
      series: (methods.indexOf(cell.method) % 8) + 1, missing: missing?.(cell), whiskers: cell[what]?.edits > 1 });
    const modelled = cells.some((cell) => cell.joules_provenance === "modelled");
    plots.replaceChildren(
      intervals("Edits that succeed (the new answer is more probable)", cells.map(line("success")), (value) => format.percent(value), { share: true }),
      intervals("Loss evaluations per edit, mean", cells.map(line("loss_evaluations")), format.number),
      intervals(`Seconds per edit, mean${cells.some((cell) => cell.execution === "virtual") ? " (virtual phones: this computer's)" : ""}`, cells.map(line("seconds")), format.number),
      intervals(`Joules per successful edit, mean${modelled ? " (modelled)" : ""}`, cells.map(line("joules", (cell) => `not measured: ${cell.joules_reason}`)), format.number));
    numbers.replaceChildren(table("Means with 95 % intervals", ["method", "phones", "edits", "failed", "success", "loss evaluations", "seconds", "joules"],
      cells.map((cell) => [cell.method, cell.device_id === null ? `all ${kind(cell)}` : [cell.model, cell.serial].filter(Boolean).join(" ") || cell.device_id,
        String(cell.edits), String(cell.failed), format.estimate(cell.success, (value) => format.percent(value), (value) => Math.round(100 * value)), format.estimate(cell.loss_evaluations),
        format.estimate(cell.seconds), cell.joules ? `${format.estimate(cell.joules)} ${cell.joules_provenance}` : "not measured"]), { numeric: [2, 3, 4, 5, 6, 7] }));
    const reasons = [...new Set(cells.filter((cell) => !cell.joules).map((cell) => cell.joules_reason))];
    notes.replaceChildren(...reasons.map((reason) => h("li", {}, `Joules: not measured (${reason}).`)));
  }

  update();
  return { root, title: "Results", update, end: () => { ended = true; } };
}

const kind = (cell) => ({ virtual: "virtual phones", computer: "computers", qemu_arm64: "emulated phones" })[cell.execution] ?? "phones";
