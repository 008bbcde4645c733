// Numbers for people, elements, and what is chosen. Everything that comes from the plan becomes text through `textContent`.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** Three digits that mean something. */
function digits(x) {
  const a = Math.abs(x);
  return a >= 100 || a === 0 ? x.toFixed(0) : a >= 10 ? x.toFixed(1) : x.toFixed(2);
}
const count = (n) => n.toLocaleString("en-US");
function scaled(x, step, units) {
  let at = 0;
  while (Math.abs(x) >= 1000 && at + 1 < units.length) { x /= step; at++; }
  return `${at === 0 && Number.isInteger(x) ? x : digits(x)} ${units[at]}`;
}
const bytes = (n) => scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
const rate = (n, unit) => scaled(n, 1000, [unit, "k" + unit, "M" + unit, "G" + unit, "T" + unit]);
function seconds(s) {
  if (s < 1e-3) return `${digits(s * 1e6)} µs`;
  return s < 1 ? `${digits(s * 1e3)} ms` : `${digits(s)} s`;
}
const percent = (x) => (x < 0.0005 ? "< 0.1 %" : `${(x * 100).toFixed(x < 0.1 ? 1 : 0)} %`);
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
/** `1`, `2–16`, `17–` */
const range = ([least, most]) => most === least ? `${least}` : most === null ? `${least}–` : `${least}–${most}`;

/** Sets attributes, listeners (`on…`) and custom properties (`--…`), and appends children: elements or texts. */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((c) => c !== undefined && c !== null && c !== false));
  return element;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Makes an SVG element a button that mouse and keyboard can press. */
function pressable(element, label, press) {
  fill(element, { tabindex: 0, role: "button", "aria-label": label }, []);
  element.addEventListener("click", press);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    press(event);
  });
  return element;
}

// A hint beside the pointer. Its text is also in the label of what it belongs to.
function hint(element, lines) {
  const tip = $("tip");
  const place = (event) => {
    tip.replaceChildren(...lines.map((line) => el("div", {}, line)));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - width - 8)}px`;
    tip.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18}px`;
  };
  element.addEventListener("pointermove", place);
  element.addEventListener("pointerleave", () => { tip.hidden = true; });
  return element;
}

const measures = document.createElement("canvas").getContext("2d");
const SANS = 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const MONO = 'ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
function textWidth(text, font) {
  measures.font = font;
  return measures.measureText(text).width;
}
/** As much of a text as fits. */
function fit(text, font, width) {
  if (textWidth(text, font) <= width) return text;
  let least = 0, most = text.length;
  while (least < most) {
    const middle = (least + most + 1) >> 1;
    if (textWidth(text.slice(0, middle) + "…", font) <= width) least = middle; else most = middle - 1;
  }
  return text.slice(0, least).trimEnd() + "…";
}

// What is chosen: a program, one of its steps, and with it a region (an instance of a body).
const state = { program: 0, step: 0 };
const program = () => page.programs[state.program];
const region = (step = state.step) => program().steps[step][1];
const bodyOf = (at) => page.bodies[page.regions[at][0]];
const cost = (step) => program().costs[program().steps[step][0]];
function variantOf(body, { target, rows }) {
  return body.variants.find((v) => v.target === target && v.rows[0] === rows[0] && v.rows[1] === rows[1]);
}
const callOf = (step) => variantOf(bodyOf(region(step)), program())?.calls[cost(step).call];

/** The name of a region's place: `layer 3`, `before the layers`. */
function placeName(at) {
  const layer = page.regions[at][1];
  if (layer !== null) return `layer ${layer}`;
  return page.regions.slice(0, at).some(([, l]) => l !== null) ? "after the layers" : "before the layers";
}
/** `layers 0–3, 5` of the regions of a body. */
function placesName(body) {
  const layers = page.regions.filter(([b, layer]) => b === body && layer !== null).map(([, layer]) => layer);
  if (layers.length === 0) return placeName(page.regions.findIndex(([b]) => b === body));
  const runs = [];
  for (const layer of layers) {
    const last = runs.at(-1);
    if (last && last[1] + 1 === layer) last[1] = layer; else runs.push([layer, layer]);
  }
  const shown = runs.slice(0, 4).map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`)).join(", ");
  return `${layers.length === 1 ? "layer" : "layers"} ${shown}${runs.length > 4 ? ", …" : ""}`;
}

/** The hue of a call: the same in every picture, and in bodies of the same kind. */
function hue(regionAt, call) {
  const [, layer] = page.regions[regionAt];
  const base = layer === null ? 160 + regionAt * 97 : 255;
  return (base + call * 137.508) % 360;
}
/** What a kernel does, from its name: `linear`, `cached attention`. */
const kind = (kernel) => page.kernels[kernel].name.split(/_(?=\d|f16|f32|bf16|paired|int|fp)/)[0].replaceAll("_", " ");
