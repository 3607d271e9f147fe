// One job: how far it is, when it may be done, why it waits, what each attempt became.
import { h, say, show, table } from "../dom.js";
import { get, jobPath } from "../api.js";
import { action, cancelJob } from "../actions.js";
import * as format from "../format.js";
import { trialBar, updateTrialBar } from "./farm.js";

const ROWS = 200;
const COUNTS = [["done", "done"], ["failed", "failed: a result, the edit did not work"], ["abandoned", "given up: the farm's fault"],
  ["cancelled", "cancelled"], ["leased", "running"], ["pending", "waiting"]];

export function jobView(context, id) {
  let job = null, reading = false, readAt = 0, readFor = "", ended = false;
  const badge = h("span", { class: "badge" });
  const title = h("h1", {}, id);
  const facts = h("p", { class: "faint" });
  const bar = trialBar();
  const counts = h("ul", { class: "legend" });
  const left = h("p", { class: "big" });
  const leftWords = h("p", { class: "faint" });
  const whyCard = h("section", { class: "card", hidden: true, "aria-label": "Why it waits" });
  const running = h("div", {});
  const attempts = h("section", {});
  const trials = h("section", {});
  const cancel = action(context, "Cancel the job", "submitter", () => cancelJob(id), { danger: true,
    sure: "Cancel this job? Edits that have a result keep it." });
  const root = h("div", { class: "job" },
    h("div", { class: "view-head" }, title, badge, h("span", { class: "grow" }),
      h("a", { class: "button", href: `#/job/${encodeURIComponent(id)}/results` }, "Results"),
      h("a", { class: "button", href: `${jobPath(id)}/report`, target: "_blank", rel: "noopener" }, "Report"),
      h("a", { class: "button", href: `${jobPath(id)}/results.csv`, download: `${id}.csv` }, "CSV"),
      h("a", { class: "button", href: `${jobPath(id)}/results`, download: `${id}.json` }, "JSON"), cancel),
    facts,
    h("section", { class: "card", "aria-label": "Progress" }, bar, counts, h("div", { class: "left" }, left, leftWords)),
    whyCard, running, attempts, trials);

  function update() {
    const fresh = context.store.picture?.jobs.get(id);
    if (fresh) job = fresh;
    if (job) showJob();
    showRunning();
    const wanted = job ? COUNTS.map(([state]) => job[state]).join(" ") : "?";
    const due = performance.now() - readAt > (job?.pending ? 3000 : 15000) || wanted !== readFor;
    if (!reading && due && performance.now() - readAt > 1000) read(wanted);
  }

  function showJob() {
    say(title, job.name);
    say(badge, format.stateWords(job.state));
    root.dataset.state = job.state;
    say(facts, `${id} · ${job.user} · submitted ${format.dateTime(job.submitted_at)}${job.finished_at ? ` · took ${format.took(job.finished_at - job.submitted_at)}` : ""}`);
    updateTrialBar(bar, job);
    const key = COUNTS.map(([state]) => job[state]).join(" ");
    if (counts.dataset.key !== key) {
      counts.dataset.key = key;
      counts.replaceChildren(...COUNTS.filter(([state]) => job[state] > 0).map(([state, words]) =>
        h("li", { class: `trial-${state}` }, h("b", {}, String(job[state])), ` ${words}`)));
    }
    show(cancel, job.finished_at === null);
    if (job.finished_at !== null && job.remaining_s === undefined) return;
    say(left, job.finished_at !== null ? `${job.trials - job.pending - job.leased} of ${job.trials} edits`
      : job.remaining_s === null ? "Time left: unknown" : `About ${format.duration(job.remaining_s)} left`);
    say(leftWords, job.remaining_words ?? "");
  }

  function showRunning() {
    const phones = [...(context.store.picture?.phones.values() ?? [])].filter((phone) => phone.job_id === id);
    const key = JSON.stringify(phones.map((phone) => [phone.device_id, phone.label, phone.phase, phone.step]));
    if (running.dataset.key === key) return;
    running.dataset.key = key;
    running.replaceChildren(...(phones.length ? [table("Running now", ["edit", "phone", "phase", "step", "p(target)"],
      phones.map((phone) => [phone.label, h("a", { href: `#/phone/${encodeURIComponent(phone.device_id)}` }, format.phoneName(phone)),
        phone.phase ? format.phaseWords(phone.phase) : "starting", phone.step === null ? "–" : String(phone.step),
        format.probability(phone.target_probability)]), { numeric: [3, 4] })] : []));
  }

  async function read(wanted) {
    reading = true;
    try {
      if (!job) job = { ...(await get(jobPath(id))), remaining_s: null, remaining_words: "" };
      const [tries, plan] = await Promise.all([get(`${jobPath(id)}/attempts`), get(`${jobPath(id)}/trials`)]);
      const why = job.finished_at === null && job.pending > 0 ? await get(`${jobPath(id)}/why`) : null;
      if (ended) return;
      showWhy(why);
      showAttempts(tries);
      showTrials(plan, tries);
      readFor = wanted;
      showJob();
    } catch (error) {
      if (!job) root.replaceChildren(h("div", { class: "card empty" }, h("h2", {}, "No such job"), h("p", {}, error.message)));
    } finally {
      reading = false;
      readAt = performance.now();
    }
  }

  function showWhy(why) {
    show(whyCard, Boolean(why));
    if (!why) return;
    const key = JSON.stringify([why.summary, why.causes, why.phones.map((phone) => phone.words), why.nearest]);
    if (whyCard.dataset.key === key) return;
    whyCard.dataset.key = key;
    const name = (device) => { const phone = context.store.picture?.phones.get(device); return phone ? format.phoneName(phone) : device; };
    whyCard.replaceChildren(h("h2", {}, `Why ${why.waiting} ${why.waiting === 1 ? "edit waits" : "edits wait"}`),
      h("p", {}, why.summary),
      h("ul", {}, why.causes.map((cause) => h("li", {}, `${cause.trials} of them: ${cause.words}`))),
      h("ul", { class: "plain" }, why.phones.slice(0, 6).map((phone) => h("li", {}, h("strong", {}, name(phone.device_id)), `: ${phone.words}`,
        phone.at && phone.at > why.at + 1 ? ` — in about ${format.duration(phone.at - why.at)}${phone.estimate ? ", an estimate" : ""}` : ""))),
      h("ul", { class: "plain" }, why.nearest.slice(0, 4).map((miss) => h("li", {}, h("strong", {}, name(miss.device_id)), ` would not do: ${miss.unmet.join("; ")}`))));
  }

  function showAttempts(tries) {
    const odd = tries.filter((attempt) => !["done", "leased", "running"].includes(attempt.state));
    attempts.replaceChildren(...(odd.length ? [table(`Attempts that were not to be (${odd.length}), the newest first`, ["edit", "phone", "became", "after", "why"],
      odd.slice(-ROWS).reverse().map((attempt) => [attempt.label, attempt.serial || attempt.device_id, format.stateWords(attempt.state),
        attempt.ended_at ? format.took(attempt.ended_at - attempt.granted_at) : "–", attempt.reason ? h("span", { class: "words" }, attempt.reason) : "–"]), { numeric: [3] })] : []));
  }

  function showTrials(plan, tries) {
    const last = new Map(tries.map((attempt) => [attempt.trial_id, attempt]));
    const order = { leased: 0, failed: 1, abandoned: 2, pending: 3, done: 4, cancelled: 5 };
    const sorted = [...plan].sort((a, b) => order[a.state] - order[b.state] || a.position - b.position);
    trials.replaceChildren(table(
      plan.length > ROWS ? `Edits (the first ${ROWS} of ${plan.length})` : "Edits", ["edit", "state", "attempts", "last phone", "took"],
      sorted.slice(0, ROWS).map((trial) => {
        const attempt = last.get(trial.trial_id);
        return [trial.label, h("span", { class: `dot trial-${trial.state}` }, trial.state === "leased" ? "running" : trial.state), String(trial.attempts),
          attempt ? attempt.serial || attempt.device_id : "–",
          attempt?.ended_at ? format.took(attempt.ended_at - attempt.granted_at) : "–"];
      }), { numeric: [2, 4] }));
  }

  update();
  return { root, title: "Job", update, end: () => { ended = true; } };
}
