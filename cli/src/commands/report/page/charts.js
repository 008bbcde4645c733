// Time, memory and the search, as pictures.
"use strict";

const measuredOf = (at) => page.measured?.programs.find((p) => p.program === at);
const targetOf = (name) => page.targets.find((t) => t.name === name);

/** Seconds of a step at the least by the rates of the device: its bytes, its arithmetic, whichever takes longer. */
function bound(step, rates) {
  const { bytes: moved, flops } = cost(step);
  return { memory: moved / rates.bandwidth, arithmetic: flops / rates.flops };
}
const atLeast = ({ memory, arithmetic }) => Math.max(memory, arithmetic);
const predictedOf = (step) => callOf(step)?.seconds ?? 0;

/** Kernels at their places in layers, each with all its steps, in the order in which they first run. */
function groups() {
  const found = new Map();
  program().steps.forEach(([, at], step) => {
    const { kernel, call } = cost(step), layered = page.regions[at][1] !== null;
    const key = `${layered ? "layer" : at} ${kernel} ${call}`;
    if (!found.has(key)) found.set(key, { steps: [] });
    found.get(key).steps.push(step);
  });
  return [...found.values()];
}

/** All steps one after the other, as wide as they take long. */
function strip(label, times) {
  const total = times.reduce((a, b) => a + b, 0), W = 1000, H = 46;
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H + 16}`, preserveAspectRatio: "none", class: "strip", role: "group", "aria-label": `${label} time of each step` });
  let x = 0, layer = null, started = 0;
  const layers = [];
  times.forEach((time, step) => {
    const at = region(step), width = total > 0 ? (time / total) * W : W / times.length;
    const now = page.regions[at][1];
    if (now !== layer) {
      if (layer !== null) layers.push([layer, started, x]);
      [layer, started] = [now, x];
    }
    const kernel = page.kernels[cost(step).kernel];
    const box = svg("rect", { x, y: 0, width: Math.max(width, 0.3), height: H, "data-steps": step, class: "slice", "--h": hue(at, cost(step).call), "--n": step });
    hint(box, [kernel.name, `${seconds(time)}, ${percent(time / total)} of all`, placeName(at)]);
    box.addEventListener("click", () => choose(step));
    follow(box, step);
    picture.append(box);
    x += width;
  });
  if (layer !== null) layers.push([layer, started, x]);
  for (const [n, from, to] of layers) picture.append(svg("rect", { class: n % 2 ? "band odd" : "band", x: from, y: H + 4, width: to - from, height: 4 }));
  const names = el("div", { class: "band-names", "aria-hidden": "true" });
  for (const [n, from, to] of layers) {
    if ((to - from) / W < 0.025) continue;
    names.append(el("span", { "--x": `${((from + to) / 20).toFixed(2)}%` }, String(n)));
  }
  return el("div", { class: "strip-row" }, el("div", { class: "strip-label" }, el("b", {}, seconds(total)), ` ${label}`), picture, names);
}

function drawTime() {
  const shown = program(), measured = measuredOf(state.program), target = targetOf(shown.target);
  const { tokens, context, sequences } = shown.sizes;
  $("time-lead").textContent = `${plural(shown.steps.length, "dispatch", "dispatches")} for ${plural(tokens, "row", "rows")}`
    + (sequences > 1 ? ` in ${count(sequences)} sequences of ${count(context)}` : "") + `: each slice is a step, each color a kernel's place in its layer.`;
  const strips = [strip("predicted", shown.steps.map((_, step) => predictedOf(step)))];
  if (measured) strips.push(strip(`measured on ${page.measured.adapter}`, measured.steps));
  $("timeline").replaceChildren(...strips);
  // Without a rate of arithmetic nothing can be said of most kernels.
  const known = measured ? page.measured.rates : target?.rates, rates = known?.flops ? known : undefined;
  drawShares(measured, rates);
  drawRoofline(measured, rates);
}

function drawShares(measured, rates) {
  const all = groups().map(({ steps }) => {
    const sum = (list) => steps.reduce((total, step) => total + list(step), 0);
    const least = rates ? sum((step) => atLeast(bound(step, rates))) : undefined;
    const predicted = sum(predictedOf), clocked = measured && sum((step) => measured.steps[step]);
    const limits = rates && bound(steps[0], rates);
    return { steps, predicted, clocked, least, limits };
  });
  const most = (key) => Math.max(...all.map((g) => g[key] ?? 0), 1e-30);
  const tops = { predicted: most("predicted"), clocked: most("clocked") };
  const bar = (value, top, class_) => el("td", { class: "bar-cell" }, el("span", { class: `bar ${class_}`, "--part": value / top }), el("span", { class: "bar-text" }, seconds(value)));
  const rows = all.sort((a, b) => (b.clocked ?? b.predicted) - (a.clocked ?? a.predicted)).map((group) => {
    const [first] = group.steps, { kernel, call } = cost(first);
    const time = group.clocked ?? group.predicted, share = group.least === undefined ? undefined : Math.min(group.least / time, 1);
    const why = group.limits && (atLeast(group.limits) < (targetOf(program().target)?.rates?.dispatch ?? 0) && !measured ? "the dispatch itself" : group.limits.memory > group.limits.arithmetic ? "memory" : "arithmetic");
    const nearest = group.steps.includes(state.step) ? state.step : group.steps.find((step) => region(step) === region()) ?? first;
    const name = el("button", { type: "button", class: "link mono", onclick: () => choose(nearest) }, page.kernels[kernel].name);
    return el("tr", { "data-steps": group.steps.join(" "), "--h": hue(region(first), call) },
      el("td", {}, el("span", { class: "dot" }), name), el("td", { class: "number" }, `${group.steps.length}×`),
      bar(group.predicted, tops.predicted, "predicted"), measured && bar(group.clocked, tops.clocked, "measured"),
      share !== undefined && el("td", { class: "bar-cell" }, el("span", { class: "bar roof", "--part": share }), el("span", { class: "bar-text" }, percent(share))),
      why && el("td", { class: "quiet" }, why));
  });
  const titles = ["kernel", "steps", "predicted", measured && "measured", rates && "of the roofline", rates && "bound by"].filter(Boolean);
  $("shares").replaceChildren(el("table", { class: "shares" }, el("thead", {}, el("tr", {}, ...titles.map((t) => el("th", {}, t)))), el("tbody", {}, ...rows)));
}

/** Ticks at powers of ten within a range. */
function powers(low, high) {
  const ticks = [];
  for (let e = Math.ceil(Math.log10(low)); e <= Math.floor(Math.log10(high)); e++) ticks.push(10 ** e);
  return ticks;
}

function drawRoofline(measured, rates) {
  if (!rates) return $("roofline").replaceChildren();
  const points = groups().map(({ steps }) => {
    const [first] = steps, { bytes: moved, flops, kernel, call } = cost(first);
    const time = (measured ? steps.reduce((t, s) => t + measured.steps[s], 0) / steps.length : predictedOf(first));
    return { first, steps, kernel, call, intensity: flops / moved, speed: flops / time, time: time * steps.length };
  }).filter((p) => p.intensity > 0 && p.speed > 0 && Number.isFinite(p.intensity + p.speed));
  if (points.length === 0) return $("roofline").replaceChildren();
  const W = 820, H = 290, left = 92, right = 16, top = 14, bottom = 40;
  const ridge = rates.flops / rates.bandwidth;
  const spread = (values, by) => [Math.min(...values) / by, Math.max(...values) * by];
  const [x0, x1] = spread([...points.map((p) => p.intensity), ridge], 2.2), [y0, y1] = spread([...points.map((p) => p.speed), rates.flops], 1.8);
  const X = (v) => left + (Math.log(v / x0) / Math.log(x1 / x0)) * (W - left - right), Y = (v) => H - bottom - (Math.log(v / y0) / Math.log(y1 / y0)) * (H - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "group", "aria-label": "Roofline" });
  for (const tick of powers(x0, x1)) picture.append(svg("line", { class: "grid", x1: X(tick), x2: X(tick), y1: top, y2: H - bottom }), svg("text", { class: "tick", x: X(tick), y: H - bottom + 15, "text-anchor": "middle" }, String(+tick.toPrecision(3))));
  for (const tick of powers(y0, y1)) picture.append(svg("line", { class: "grid", x1: left, x2: W - right, y1: Y(tick), y2: Y(tick) }), svg("text", { class: "tick", x: left - 8, y: Y(tick) + 3.5, "text-anchor": "end" }, rate(tick, "FLOP/s").replace(/\.0+ /, " ")));
  const from = Math.max(x0, y0 / rates.bandwidth);
  picture.append(svg("path", { class: "roof-line", d: `M${X(from)},${Y(from * rates.bandwidth)}L${X(ridge)},${Y(rates.flops)}L${X(x1)},${Y(rates.flops)}` }),
    svg("text", { class: "tick", x: W - right, y: Y(rates.flops) - 6, "text-anchor": "end" }, rate(rates.flops, "FLOP/s")),
    svg("text", { class: "tick", x: X(Math.sqrt(from * ridge)) - 8, y: Y(Math.sqrt(from * ridge) * rates.bandwidth) - 8, "text-anchor": "end" }, rate(rates.bandwidth, "B/s")),
    svg("text", { class: "axis", x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, "operations for each byte moved"));
  const longest = Math.max(...points.map((p) => p.time));
  for (const p of points.sort((a, b) => b.time - a.time)) {
    const dot = svg("circle", { cx: X(p.intensity), cy: Y(p.speed), r: 4 + 13 * Math.sqrt(p.time / longest), class: "point", "data-steps": p.steps.join(" "), "--h": hue(region(p.first), p.call) });
    const name = page.kernels[p.kernel].name;
    hint(dot, [name, `${rate(p.speed, "FLOP/s")}, ${digits(p.intensity)} operations a byte`, `${seconds(p.time)} ${measured ? "measured" : "predicted"} in all`]);
    pressable(dot, `${name}: ${rate(p.speed, "FLOP/s")}`, () => choose(p.first));
    follow(dot, p.first);
    picture.append(dot);
  }
  const whose = measured ? `the rates of ${page.measured.adapter}` : `what the cost model takes for ${program().target}`;
  $("roofline").replaceChildren(picture, el("figcaption", {}, `Roofline: ${whose}. A dot is a kernel's place in its layer, as large as the time it takes in all; a dot on the line is as fast as the device allows.`));
}

function drawMemory() {
  const { steps, arena } = program(), least = Math.max(...steps.map(([, , live]) => live), 0);
  const W = 820, H = 200, left = 92, right = 16, top = 14, bottom = 26, high = Math.max(arena, least, 1) * 1.12;
  const X = (i) => left + (i / steps.length) * (W - left - right), Y = (v) => H - bottom - (v / high) * (H - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "group", "aria-label": "Bytes alive at each step" });
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const v = Math.max(arena, least) * part;
    picture.append(svg("line", { class: "grid", x1: left, x2: W - right, y1: Y(v), y2: Y(v) }), svg("text", { class: "tick", x: left - 8, y: Y(v) + 3.5, "text-anchor": "end" }, bytes(Math.round(v))));
  }
  steps.forEach(([, at, live], step) => {
    const bar = svg("rect", { class: "alive", x: X(step) + 0.2, y: Y(live), width: Math.max(X(step + 1) - X(step) - 0.4, 0.4), height: H - bottom - Y(live), "data-steps": step, "--h": hue(at, cost(step).call) });
    hint(bar, [`${bytes(live)} alive`, page.kernels[cost(step).kernel].name, `step ${step + 1}, ${placeName(at)}`]);
    bar.addEventListener("click", () => choose(step));
    follow(bar, step);
    picture.append(bar);
  });
  // Two lines so near to each other would write over each other.
  const near = Math.abs(Y(arena) - Y(least)) < 14;
  const line = (v, name, class_, below) => picture.append(svg("line", { class: class_, x1: left, x2: W - right, y1: Y(v), y2: Y(v) }), svg("text", { class: "tick strong", x: W - right, y: Y(v) + (below ? 13 : -5), "text-anchor": "end" }, `${name} ${bytes(v)}`));
  line(least, "the most alive at once", "least", near);
  line(arena, "arena", "arena-line", false);
  picture.append(svg("text", { class: "axis", x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, "steps"));
  $("memory-lead").textContent = least > 0
    ? `The scratch buffers take ${bytes(arena)}, ${digits(arena / least)} × the most that is alive at once. Weights take ${bytes(page.model.weight_bytes)} beside that.`
    : `This program needs no scratch buffers. Weights take ${bytes(page.model.weight_bytes)}.`;
  $("arena").replaceChildren(picture);
}

function drawSearch() {
  const at = page.regions[region()][0], { stages } = page.bodies[at];
  const rounds = stages.flatMap((stage) => stage.rounds.map(([nodes, classes, applied], i) => ({ stage: stage.name, n: i + 1, nodes, classes, applied: new Map(applied) })));
  const rules = new Map();
  for (const round of rounds) for (const [rule, n] of round.applied) rules.set(rule, (rules.get(rule) ?? 0) + n);
  const limits = stages.filter((stage) => stage.limit).map((stage) => `${stage.name} stopped at its limit of ${stage.limit}`);
  const [first, last] = [stages[0]?.nodes ?? 0, rounds.at(-1)?.nodes ?? stages[0]?.nodes ?? 0];
  const classes = rounds.at(-1)?.classes ?? stages[0]?.classes ?? 0;
  $("search-lead").textContent = `${placesName(at).replace(/^./, (c) => c.toUpperCase())}: from ${plural(first, "e-node", "e-nodes")} to ${count(last)} in ${plural(classes, "class", "classes")}, `
    + `${plural(rounds.length, "round", "rounds")} of ${plural(rules.size, "rule", "rules")} that found something`
    + (limits.length ? `; ${limits.join(", ")}.` : "; every stage ended because nothing was left to find.");
  const order = [...rules].sort((a, b) => b[1] - a[1]);
  const cell = 40, left = 230, chart = 96, row = 19, top = 8, right = 120, under = 34;
  const W = Math.max(left + rounds.length * cell + right, 420), H = top + chart + under + order.length * row + 10;
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, class: "chart fixed", role: "img", "aria-label": "E-nodes after each round, and how often each rule applied in it" });
  const high = Math.max(...rounds.map((r) => r.nodes), 1), y = (v) => top + chart - (v / high) * (chart - 14);
  rounds.forEach((round, i) => {
    const x = left + i * cell;
    const bars = svg("g", {}, svg("rect", { class: "e-nodes", x: x + 6, y: y(round.nodes), width: cell - 12, height: top + chart - y(round.nodes), rx: 2 }),
      svg("rect", { class: "e-classes", x: x + 6, y: y(round.classes), width: cell - 12, height: top + chart - y(round.classes), rx: 2 }),
      svg("text", { class: "tick", x: x + cell / 2, y: y(round.nodes) - 4, "text-anchor": "middle" }, count(round.nodes)),
      svg("text", { class: "tick", x: x + cell / 2, y: top + chart + 14, "text-anchor": "middle" }, String(round.n)));
    hint(bars, [`${round.stage}, round ${round.n}`, `${plural(round.nodes, "e-node", "e-nodes")} in ${plural(round.classes, "class", "classes")}`]);
    picture.append(bars);
    if (round.n === 1) picture.append(svg("text", { class: "tick strong", x: x + 6, y: top + chart + 28 }, round.stage));
  });
  picture.append(svg("text", { class: "tick", x: left - 10, y: top + chart - 4, "text-anchor": "end" }, "e-nodes"), svg("text", { class: "tick", x: left - 10, y: top + chart + 14, "text-anchor": "end" }, "round"));
  const most = Math.max(...rounds.flatMap((r) => [...r.applied.values()]), 1);
  order.forEach(([rule, total], i) => {
    const [name, kind] = page.rules[rule], yy = top + chart + under + i * row + row / 2;
    picture.append(svg("line", { class: "grid", x1: left, x2: W - right + 10, y1: yy, y2: yy }), svg("text", { class: `rule-name ${kind}`, x: left - 10, y: yy + 4, "text-anchor": "end" }, fit(name, `11px ${MONO}`, left - 20)),
      svg("text", { class: "tick", x: W - right + 18, y: yy + 4 }, `${count(total)} ${kind === "exact" ? "" : kind}`));
    rounds.forEach((round, j) => {
      const n = round.applied.get(rule);
      if (n) picture.append(hint(svg("circle", { class: `applied ${kind}`, cx: left + j * cell + cell / 2, cy: yy, r: 2.5 + 5.5 * Math.sqrt(n / most) }), [name, `${n} × in ${round.stage}, round ${round.n}`]));
    });
  });
  $("growth").replaceChildren(picture, el("figcaption", {}, "Above, e-nodes (and, darker, classes) after each round; below, how often each rule found something new in it."));
}
