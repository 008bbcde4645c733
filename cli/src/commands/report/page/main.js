// What is shown: the head, the choice of a program, and everything drawn anew when the choice changes.
"use strict";

function drawHead() {
  const { model } = page, sum = (list) => [...new Set(list)].sort((a, b) => a - b);
  const spread = (list) => (list.length > 1 ? `${list[0]}–${list.at(-1)}` : `${list[0] ?? 0}`);
  const facts = [
    [`${bytes(model.weight_bytes)}`, `weights in ${model.weight_types.join(", ")}`],
    [spread(sum(page.programs.map((p) => p.per_layer))), "dispatches a layer"],
    [count(page.programs.length), `programs for ${plural(page.targets.length, "tier", "tiers")}`],
    [count(page.kernels.length), "kernels"],
    [spread(sum(page.programs.map((p) => p.reassociates))), "reassociating steps a program"],
    [spread(sum(page.programs.map((p) => p.lossy))), "lossy steps"],
  ];
  $("head").replaceChildren(
    el("div", { class: "title" }, el("h1", {}, model.name),
      el("p", {}, `${model.family} · ${plural(model.layers, "layer", "layers")} · vocabulary ${count(model.vocabulary)} · up to ${plural(model.positions, "row", "rows")} · ${bytes(model.file_bytes)} in a file`),
      ...(model.rounded ? [el("p", {}, model.rounded)] : [])),
    el("dl", { class: "figures" }, ...facts.map(([value, name]) => el("div", {}, el("dd", {}, value), el("dt", {}, name)))));
  $("foot").textContent = `Made by compile-model report, ${page.version}. Everything on this page was in the plan${page.measured ? ", or measured on " + page.measured.adapter : ""}; it asks the network for nothing.`;
}

/** Radio buttons in a row. */
function radios(name, title, options, chosen, pick) {
  return el("fieldset", {}, el("legend", {}, title), ...options.map(([value, label, note]) => el("label", { title: note },
    el("input", { type: "radio", name, value, checked: value === chosen, onchange: () => pick(value) }), el("span", {}, label))));
}

function drawChoice() {
  const now = program();
  const distinct = (list) => [...new Set(list)];
  const outputs = distinct(page.programs.map((p) => p.output)), targets = page.targets.map((t) => t.name);
  const ranges = distinct(page.programs.map((p) => JSON.stringify(p.rows))).map((r) => JSON.parse(r)).sort((a, b) => a[0] - b[0]);
  const find = (want) => {
    const wanted = { target: now.target, output: now.output, rows: range(now.rows), ...want };
    const fits = (p, keys) => keys.every((key) => (key === "rows" ? range(p.rows) : p[key]) === wanted[key]);
    const [changed] = Object.keys(want), rest = ["rows", "target", "output"].filter((key) => key !== changed);
    const found = [[changed, ...rest], [changed, rest[0]], [changed]].map((keys) => page.programs.findIndex((p) => fits(p, keys))).find((at) => at >= 0);
    show(found ?? state.program);
  };
  const mark = page.measured ? new Set(page.measured.programs.map((p) => page.programs[p.program].target)) : new Set();
  $("choice").replaceChildren(
    radios("rows", "rows", ranges.map((r) => [range(r), range(r), "rows in a step for which the program is made"]), range(now.rows), (rows) => find({ rows })),
    radios("target", "tier", targets.map((t) => [t, t + (mark.has(t) ? " ●" : ""), mark.has(t) ? "measured" : "what an adapter must have"]), now.target, (target) => find({ target })),
    radios("output", "output", outputs.map((o) => [o, o, "what the program computes"]), now.output, (output) => find({ output })),
    el("button", { type: "button", class: "theme", title: "Light or dark", "aria-label": "Light or dark", onclick: turnTheme }, "◐"));
}

// Light or dark is the reader's wish until they press the button.
const wishes = matchMedia("(prefers-color-scheme: dark)");
const setTheme = (dark) => { document.documentElement.dataset.theme = dark ? "dark" : "light"; };
setTheme(wishes.matches);
wishes.addEventListener("change", () => setTheme(wishes.matches));
function turnTheme() {
  setTheme(document.documentElement.dataset.theme !== "dark");
}

function drawPlaces() {
  const bodies = [...new Set(program().steps.map(([, at]) => page.regions[at][0]))], now = page.regions[region()][0];
  const buttons = radios("place", "", bodies.map((body) => [String(body), placesName(body)]), String(now), (body) => {
    choose(program().steps.findIndex(([, at]) => page.regions[at][0] === Number(body)));
  });
  $("places").replaceChildren(buttons);
  const { per_layer: perLayer } = program();
  const layered = page.regions[region()][1] !== null;
  $("layer-title").textContent = layered ? "The layer" : placeName(region()).replace(/^./, (c) => c.toUpperCase());
  const ops = bodyOf(region()).formula.filter((node) => node.kind === "op").length, steps = stepsOf(region()).length;
  $("layer-lead").textContent = `${plural(ops, "operation", "operations")} of the model's own formula become ${plural(steps, "dispatch", "dispatches")}`
    + (layered && perLayer !== steps ? ` here, and at most ${perLayer} in any layer` : "") + ". What one kernel computes has one color on both sides; press it to see its proof and its shader.";
}

let drawn = {};
/** Draws what changed, the rest when it comes into view. */
function draw() {
  const now = { program: state.program, region: region(), body: page.regions[region()][0], step: state.step };
  const changed = (...keys) => keys.some((key) => now[key] !== drawn[key]);
  if (changed("program")) drawChoice();
  if (changed("program", "region")) {
    drawPlaces();
    drawFormula(now.region);
    drawProgram(now.region);
  }
  if (changed("program")) { later("time", drawTime); later("memory", drawMemory); }
  if (changed("body")) later("search", drawSearch);
  if (changed("program", "step")) drawKernel();
  drawn = now;
  mark();
  const { target, output, rows } = program();
  const hash = new URLSearchParams({ rows: range(rows), target, output, step: state.step });
  history.replaceState(null, "", `#${hash}`);
}

// Sections far below are drawn when they come near.
const waiting = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) drawNow(target.id);
}, { rootMargin: "600px" });
function later(id, drawing) {
  waiting.set(id, drawing);
  watcher.unobserve($(id));
  watcher.observe($(id));
}
function drawNow(id) {
  const drawing = waiting.get(id);
  waiting.delete(id);
  watcher.unobserve($(id));
  if (drawing) { drawing(); mark(); }
}
addEventListener("beforeprint", () => [...waiting.keys()].forEach(drawNow));

/** Shows another program, at the same call if it has one. */
function show(at) {
  const before = { region: region(), call: cost(state.step).call };
  state.program = at;
  const { steps } = program();
  const same = (step) => steps[step][1] === before.region && cost(step).call === before.call;
  const near = (step) => steps[step][1] === before.region;
  const indices = steps.map((_, step) => step);
  state.step = indices.find(same) ?? indices.find(near) ?? 0;
  draw();
}
/** Chooses a step of the program that is shown. */
function choose(step) {
  if (step < 0 || step >= program().steps.length) return;
  state.step = step;
  $("tip").hidden = true;
  draw();
}

addEventListener("keydown", (event) => {
  if (event.target.closest?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { j: 1, k: -1 }[event.key];
  if (by) choose(state.step + by);
});

/** The program that the address names, or one row on the best tier that was measured, else on the first. */
function start() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const named = page.programs.findIndex((p) => range(p.rows) === wanted.get("rows") && p.target === wanted.get("target") && p.output === wanted.get("output"));
  const rank = ["candidates", "embedding", "logits", "hidden", "next"];
  const best = [...page.programs.keys()].sort((a, b) => {
    const key = (at) => { const p = page.programs[at]; return [measuredOf(at) ? 0 : 1, rank.indexOf(p.output), p.rows[0] === 1 ? 0 : 1, p.target === "subgroup32" ? 0 : 1]; };
    const [x, y] = [key(a), key(b)];
    const differs = x.findIndex((v, i) => v !== y[i]);
    return differs < 0 ? 0 : x[differs] - y[differs];
  })[0];
  state.program = named >= 0 ? named : best;
  const { steps } = program(), step = Number(wanted.get("step"));
  const inLayer = steps.findIndex(([, at]) => page.regions[at][1] !== null);
  state.step = named >= 0 && Number.isInteger(step) && step >= 0 && step < steps.length ? step : Math.max(inLayer, 0);
  drawHead();
  draw();
  document.documentElement.dataset.ready = "true";
}
start();
