// One stream of news while the page is visible. A browser opens only six to an address, so that a hidden tab
// must not hold one.
import { get, Refusal } from "./api.js";

const RETRY_MS = 2000;
const SILENCE_MS = 4000;

export class Stream {
  /** on: {news(picture), status(text, healthy), refused()} */
  constructor(on) {
    this.on = on;
    this.source = null;
    this.wanted = false;
    this.timer = 0;
    document.addEventListener("visibilitychange", () => this.#follow());
    setInterval(() => this.#listen(), 1000);
  }

  start() {
    this.wanted = true;
    this.#follow();
  }

  stop() {
    this.wanted = false;
    this.#follow();
  }

  #follow() {
    const visible = this.wanted && document.visibilityState === "visible";
    if (visible && !this.source && !this.timer) this.#open();
    if (!visible) this.#close();
  }

  async #open() {
    this.timer = setTimeout(() => {}, 0); // says that an attempt is under way
    try {
      this.on.news(await get("/api/v1/live/snapshot"));
      this.timer = 0;
      if (!this.wanted || document.visibilityState !== "visible" || this.source) return;
      this.heard = performance.now();
      this.source = new EventSource("/api/v1/live/stream");
      this.source.addEventListener("tick", (event) => {
        this.heard = performance.now();
        this.on.status("live", true);
        this.on.news(JSON.parse(event.data));
      });
      this.source.addEventListener("error", () => {
        if (this.source?.readyState === EventSource.CLOSED) this.#again();
        else this.on.status("connecting again", false);
      });
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) {
        this.timer = 0;
        this.on.refused();
      } else {
        this.#again();
      }
    }
  }

  #again() {
    this.#close();
    this.on.status("the farm does not answer", false);
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.#follow();
    }, RETRY_MS);
  }

  #listen() {
    // A farm that was stopped closes its streams; one that hangs, or a lost network, does not.
    if (this.source && performance.now() - this.heard > SILENCE_MS) this.#again();
  }

  #close() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.source?.close();
    this.source = null;
  }
}
