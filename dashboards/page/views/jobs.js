// All jobs that go on, and those that ended last.
import { h, say, show } from "../dom.js";
import * as format from "../format.js";
import { jobWords, trialBar, updateTrialBar } from "./farm.js";

export function jobsView(context) {
  const lines = new Map();
  const list = h("ul", { class: "jobs", "aria-label": "Jobs, the newest first" });
  const more = h("p", { class: "faint" });
  const nothing = h("div", { class: "card empty" }, h("h2", {}, "No job yet"),
    h("p", {}, h("code", {}, "mobifarm run workloads/examples/personal-facts.yaml"), " submits one."));
  const root = h("div", {}, h("div", { class: "view-head" }, h("h1", {}, "Jobs")), nothing, list, more);

  function update() {
    const picture = context.store.picture;
    if (!picture) return;
    const jobs = [...picture.jobs.values()];
    show(nothing, jobs.length === 0);
    say(more, picture.jobs_total > jobs.length
      ? `${picture.jobs_total - jobs.length} older jobs: \`mobifarm jobs\` lists them all` : "");
    jobs.forEach((job, i) => {
      let line = lines.get(job.job_id);
      if (!line) {
        const href = `#/job/${encodeURIComponent(job.job_id)}`;
        line = { badge: h("span", { class: "badge" }), bar: trialBar(), words: h("span", { class: "job-words" }), when: h("span", { class: "faint" }) };
        line.element = h("li", { class: "card job-row" },
          h("div", {}, h("a", { href, class: "tile-name" }, job.name), h("span", { class: "faint" }, ` ${job.job_id} · ${job.user}`)),
          line.badge, line.bar, line.words, line.when, h("a", { href: `${href}/results` }, "Results"));
        lines.set(job.job_id, line);
      }
      if (list.children[i] !== line.element) list.insertBefore(line.element, list.children[i] ?? null);
      say(line.badge, format.stateWords(job.state));
      line.element.dataset.state = job.state;
      updateTrialBar(line.bar, job);
      say(line.words, jobWords(job));
      say(line.when, format.ago(job.submitted_at, context.store.now));
    });
    for (const [id, line] of lines) if (!picture.jobs.has(id)) { line.element.remove(); lines.delete(id); }
  }

  update();
  return { root, title: "Jobs", update };
}
