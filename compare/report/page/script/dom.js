"use strict";
// What all of the page's scripts share: its data, elements, numbers, colours. Text is only ever set as text.

const report = JSON.parse(document.getElementById("data").textContent);

/** An element, as `p.quiet`; of what follows, plain objects are attributes, nodes and text its children, null is nothing. */
function make(tag, ...parts) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const part of parts.flat()) {
    if (part instanceof Node || typeof part === "string") element.append(part);
    else if (part !== null) describe(element, part);
  }
  return element;
}

function describe(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value);
  }
}

function button(text, click, label = text) {
  return make("button.plain", { type: "button", "aria-label": label, title: label, click }, text);
}

/** Three significant digits, as the page's own tables have them; NaN and Inf come as text. */
function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return { inf: "∞", "-inf": "-∞" }[value] ?? "NaN";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5))
    return Number(value.toPrecision(3)).toExponential().replace("e+", "e");
  return size >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

/** `10⁻⁷`. */
function powerOfTen(power) {
  return "10" + String(power).replace(/./g, (one) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(one)]);
}

/** A colour of the style sheet, by day or by night. */
function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

const redraws = new Set(); // what is drawn on canvases, to be drawn anew in the other theme
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((draw) => draw()));

/** Draw now, and again whenever the theme changes, until the returned function is called. */
function drawn(draw) {
  redraws.add(draw);
  draw();
  return () => redraws.delete(draw);
}

function tokenAt(position) {
  const token = report.tokens[position];
  return token === undefined ? `position ${position}` : `position ${position}, token ${token}`;
}
