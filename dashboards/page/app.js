// The page: signs in, follows the farm, shows the view that the address names.
import { get, post, remove, Refusal } from "./api.js";
import { h, mark, say, show } from "./dom.js";
import { phoneName, stateWords } from "./format.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";
import { farmView } from "./views/farm.js";
import { jobsView } from "./views/jobs.js";
import { jobView } from "./views/job.js";
import { phoneView } from "./views/phone.js";
import { resultsView } from "./views/results.js";
import { signInView } from "./views/signin.js";

const ANNOUNCED = 3;
const main = document.getElementById("main");
const byId = (id) => document.getElementById(id);

const context = { store: new Store(), caller: null, tell, signedIn };
let view = null;
let drawing = false;

const stream = new Stream({
  news(picture) {
    const changed = context.store.take(picture);
    announce(changed);
    if (picture.number) document.documentElement.dataset.tick = picture.number;
    draw();
  },
  status(words, healthy) {
    const place = byId("connection");
    say(place, words);
    mark(place, "data-healthy", healthy ? "yes" : "no");
  },
  refused() {
    signedOut("This page's session has ended: the farm was started again, or its token was revoked.");
  },
});

/** Bring the view up to date with the next frame, once however much has come in until then. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    view?.update();
    document.documentElement.dataset.drawn = document.documentElement.dataset.tick ?? "0";
  });
}

/** Tell people who do not see the page which phones have changed their state. */
function announce(changed) {
  if (!changed.length) return;
  const words = changed.slice(0, ANNOUNCED).map(({ phone, before }) =>
    `${phoneName(phone)} ${before ? "is now" : "has appeared:"} ${stateWords(phone.state)}${phone.reason ? `, ${phone.reason}` : ""}`);
  if (changed.length > ANNOUNCED) words.push(`and ${changed.length - ANNOUNCED} more`);
  say(byId("announcer"), words.join(". "));
}

/** A sentence that stays for a while. */
function tell(words, wrong = false) {
  const note = h("div", { class: wrong ? "note wrong" : "note", role: wrong ? "alert" : "status" }, words);
  document.body.append(note);
  setTimeout(() => note.remove(), 6000);
}

function route() {
  if (location.hash.startsWith("#key=")) { begin(); return; }
  const [place = "", id = "", more = ""] = location.hash.replace(/^#\/?/, "").split("/").map(decode);
  switch (place) {
    case "jobs": open(jobsView(context), "jobs"); break;
    case "job": open(more === "results" ? resultsView(context, id) : jobView(context, id), "jobs"); break;
    case "phone": open(phoneView(context, id), "farm"); break;
    default: open(farmView(context), "farm");
  }
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function open(next, name) {
  view?.end?.();
  const first = view === null;
  view = next;
  main.replaceChildren(next.root);
  document.title = `${next.title} · MobiFarm`;
  for (const link of document.querySelectorAll("nav a")) mark(link, "aria-current", link.dataset.view === name ? "page" : null);
  if (!first) main.focus({ preventScroll: true });
  scrollTo(0, 0);
  next.update();
}

function signedIn(caller) {
  context.caller = caller;
  say(byId("who"), `${caller.name}${caller.name === caller.role ? "" : ` · ${caller.role}`}`);
  show(byId("sign-out"), true);
  route();
  stream.start();
}

function signedOut(words) {
  context.caller = null;
  context.store = new Store();
  stream.stop();
  say(byId("who"), "");
  say(byId("connection"), "not signed in");
  mark(byId("connection"), "data-healthy", null);
  show(byId("sign-out"), false);
  open(signInView(context, words), "");
}

async function begin(key = location.hash.match(/^#key=([\w-]+)/)?.[1]) {
  if (location.hash.startsWith("#key=")) history.replaceState(null, "", "#/"); // out of the address, before anything else can fail
  try {
    signedIn(key ? await post("/api/v1/page/session", { key }) : await get("/api/v1/whoami"));
  } catch (error) {
    if (key) {
      // Perhaps this browser is signed in already, and somebody opened the same address again.
      try { signedIn(await get("/api/v1/whoami")); return; } catch { /* no */ }
    }
    if (error instanceof Refusal && error.status < 500) {
      signedOut(key ? `${error.message[0].toUpperCase()}${error.message.slice(1)}.` : "The farm shows its phones to those who may look.");
    } else {
      say(byId("connection"), "the farm does not answer");
      setTimeout(() => begin(key), 2000);
    }
  }
}

byId("sign-out").addEventListener("click", async () => {
  await remove("/api/v1/page/session").catch(() => {});
  signedOut("You have signed out.");
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
byId("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("mobifarm-theme", document.documentElement.dataset.theme); } catch { /* not kept */ }
  view?.theme?.();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.theme?.());
addEventListener("hashchange", () => { if (context.caller) route(); else if (location.hash.startsWith("#key=")) begin(); });
begin();
