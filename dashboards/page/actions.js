// What an operator may do from here. Each ends in a sentence: what happened, or what the farm says against it.
import { h } from "./dom.js";
import { jobPath, phonePath, post } from "./api.js";

const ORDER = ["viewer", "submitter", "operator"];

export const may = (context, role) => ORDER.indexOf(context.caller?.role) >= ORDER.indexOf(role);

/** A button that does something once at a time and tells how it went. */
export function action(context, label, role, what, { danger = false, sure = null } = {}) {
  const allowed = may(context, role);
  const button = h("button", {
    type: "button",
    class: danger ? "danger" : null,
    disabled: !allowed,
    title: allowed ? null : `needs the role ${role}; you look on as ${context.caller?.role}`,
    onclick: async () => {
      if (sure && !(await ask(sure, label))) return;
      button.disabled = true;
      try {
        context.tell(await what());
      } catch (error) {
        context.tell(error.message, true);
      }
      button.disabled = false;
    },
  }, label);
  return button;
}

/** A question in the page's own dialog; true where the answer is yes. */
function ask(question, label) {
  return new Promise((answer) => {
    const dialog = h("dialog", { class: "dialog" },
      h("p", {}, question),
      h("div", { class: "row" },
        h("button", { type: "button", class: "danger", onclick: () => dialog.close("yes") }, label),
        h("button", { type: "button", onclick: () => dialog.close("") }, "Back")));
    dialog.addEventListener("close", () => {
      answer(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export const drain = (id) => post(`${phonePath(id)}/drain`, { reason: "drained on the live page" })
  .then(() => "Drained: it finishes its edit and gets nothing new.");
export const resume = (id) => post(`${phonePath(id)}/undrain`).then(() => "It gets work again.");
export const identify = (id) => post(`${phonePath(id)}/identify`).then(() => "It blinked with its screen three times.");
export const release = (id) => post(`${phonePath(id)}/release`).then(() => "Released from quarantine.");
export const cancelJob = (id) => post(`${jobPath(id)}/cancel`).then(() => "Cancelled; results that are in are kept.");
