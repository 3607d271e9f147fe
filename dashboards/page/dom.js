// Building elements. Text always goes in as text: what a phone says is never read as HTML.

/** h("a", {href: "#/", class: "x", onclick: f}, "text", child, …); null and false children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

/** Change an element's text only where it differs: layout is dear with a thousand tiles. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Change an attribute only where it differs. */
export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

/** Show or hide. */
export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/** A table with a caption for people who cannot see a plot, and for everybody who wants numbers. */
export function table(caption, columns, rows, { numeric = [], empty = "nothing yet" } = {}) {
  const right = (index) => (numeric.includes(index) ? "number" : null);
  return h("div", { class: "table-frame" },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map((name, i) => h("th", { scope: "col", class: right(i) }, name)))),
      h("tbody", {}, rows.length
        ? rows.map((row) => h("tr", {}, row.map((cell, i) => h("td", { class: right(i) }, cell ?? "–"))))
        : h("tr", {}, h("td", { colspan: columns.length, class: "faint" }, empty)))));
}
