// A browser that the farm does not know yet: its address was used, or the farm has been started again.
import { h } from "../dom.js";
import { post } from "../api.js";

export function signInView(context, words) {
  const field = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false",
    onkeydown: (event) => { if (event.key === "Enter") go(); } });
  const problem = h("p", { class: "problem", role: "alert" });
  const go = async () => {
    if (!field.value.trim()) return;
    try {
      context.signedIn(await post("/api/v1/page/session", { token: field.value.trim() }));
    } catch (error) {
      problem.textContent = error.message;
    }
  };
  const root = h("div", { class: "card sign-in" },
    h("h1", {}, "Sign in"),
    h("p", {}, words),
    h("p", {}, "On the farm's machine, ", h("code", {}, "mobifarm page"), " prints an address that opens this page. Elsewhere, sign in with a token that the farm's operator made with ",
      h("code", {}, "mobifarm tokens create"), "."),
    h("label", { for: "token" }, "Token"), field,
    h("button", { type: "button", onclick: go }, "Sign in"), problem);
  return { root, title: "Sign in", update() {} };
}
