// The two graphs of a layer: the model's formula, and the kernels that compute it.
"use strict";

const NODE = { height: 26, op: `600 12px ${SANS}`, detail: `11px ${MONO}`, shape: `10.5px ${SANS}`, widest: 250 };
const CARD = { title: `600 12.5px ${SANS}`, line: `11px ${MONO}`, head: 27, row: 17, number: 31, widest: 400, least: 170 };

/** Lays a graph out from top to bottom; nodes have `width` and `height` and get `x` and `y`, edges get `points`. */
function layOut(nodes, edges, options) {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: "TB", marginx: 12, marginy: 8, ...options });
  graph.setDefaultEdgeLabel(() => ({}));
  nodes.forEach((node, i) => graph.setNode(String(i), { width: node.width, height: node.height }));
  edges.forEach(([from, to], i) => graph.setEdge(String(from), String(to), {}, String(i)));
  dagre.layout(graph);
  const placed = nodes.map((node, i) => ({ ...node, ...graph.node(String(i)) }));
  const drawn = edges.map(([from, to], i) => ({ from, to, points: graph.edge(String(from), String(to), String(i)).points }));
  // The library counts nodes alone; lines may run beside them.
  const { width, height } = graph.graph(), xs = drawn.flatMap((edge) => edge.points.map((point) => point.x));
  const left = Math.min(0, ...xs.map((x) => x - 10)), right = Math.max(width, ...xs.map((x) => x + 10));
  return { nodes: placed, edges: drawn, left, width: right - left, height };
}

/** A smooth line through points, straight down at both ends. */
function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first.x},${first.y}`, last = first;
  for (const point of rest) {
    const middle = (last.y + point.y) / 2;
    path += `C${last.x},${middle} ${point.x},${middle} ${point.x},${point.y}`;
    last = point;
  }
  return path;
}

function frame({ left, width, height }, label) {
  const w = Math.ceil(width), h = Math.ceil(height);
  return svg("svg", { viewBox: `${Math.floor(left)} 0 ${w} ${h}`, width: w, height: h, role: "group", "aria-label": label },
    svg("defs", {}, svg("marker", { id: "tip-of-edge", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 6, markerHeight: 6, orient: "auto" },
      svg("path", { d: "M0,0.8L7.5,4L0,7.2z", class: "arrow" }))));
}

const laidOut = new Map();
/** The formula of a body, laid out once. */
function formulaLayout(at) {
  if (laidOut.has(at)) return laidOut.get(at);
  const nodes = page.bodies[at].formula.map((node) => {
    const wide = textWidth(node.op, NODE.op);
    const detail = node.detail ? fit(node.detail, NODE.detail, NODE.widest - wide) : "";
    const width = 22 + wide + (detail ? textWidth(detail, NODE.detail) + 7 : 0);
    return { ...node, shown: detail, opWidth: wide, width: Math.max(width, 44), height: NODE.height };
  });
  const edges = nodes.flatMap((node, to) => (node.inputs ?? []).map((from) => [from, to]));
  const layout = layOut(nodes, edges, { nodesep: 14, ranksep: 15, edgesep: 10 });
  laidOut.set(at, layout);
  return layout;
}

/** The steps of a region in the program that is shown. */
function stepsOf(regionAt) {
  return program().steps.flatMap(([, at], step) => (at === regionAt ? [step] : []));
}

function drawFormula(regionAt) {
  const bodyAt = page.regions[regionAt][0];
  const layout = formulaLayout(bodyAt);
  const steps = stepsOf(regionAt);
  // The steps that cover a node; what several compute is the first one's.
  const covers = new Map();
  for (const step of steps) {
    for (const node of callOf(step)?.formula ?? []) covers.set(node, [...(covers.get(node) ?? []), step]);
  }
  const picture = frame(layout, "The layer as the model's formulas have it");
  const hulls = svg("g", { class: "hulls" }), wires = svg("g", { class: "wires" }), boxes = svg("g", {});
  for (const step of steps) {
    const mine = (at) => covers.get(at)?.[0] === step;
    const group = svg("g", { class: "hull", "data-step": step, "--h": hue(regionAt, cost(step).call) });
    layout.nodes.forEach((n, at) => {
      if (mine(at)) group.append(svg("rect", { x: n.x - n.width / 2 - 6, y: n.y - n.height / 2 - 5, width: n.width + 12, height: n.height + 10, rx: 10 }));
    });
    for (const edge of layout.edges) {
      if (mine(edge.from) && mine(edge.to)) group.append(svg("path", { d: curve(edge.points) }));
    }
    hulls.append(group);
  }
  for (const edge of layout.edges) wires.append(svg("path", { d: curve(edge.points), "marker-end": "url(#tip-of-edge)" }));
  layout.nodes.forEach((node, at) => {
    const owners = covers.get(at) ?? [];
    const group = svg("g", { class: `node ${node.kind}${owners.length ? " owned" : ""}`, transform: `translate(${node.x - node.width / 2},${node.y - node.height / 2})` },
      svg("rect", { width: node.width, height: node.height, rx: node.kind === "op" ? 6 : 13 }),
      svg("text", { x: 11, y: 17.5, class: "op" }, node.op),
      node.shown && svg("text", { x: 11 + node.opWidth + 7, y: 17.5, class: "detail" }, node.shown));
    const lines = [`${node.line === undefined ? "" : `%${node.line} = `}${node.op} ${node.detail ?? ""}`, node.shape ?? ""];
    hint(group, lines);
    if (owners.length) {
      const [first] = owners;
      group.style.setProperty("--h", hue(regionAt, cost(first).call));
      group.dataset.steps = owners.join(" ");
      pressable(group, `${lines.join(", ")}; computed by ${page.kernels[cost(first).kernel].name}`, () => choose(first));
      follow(group, first);
    }
    boxes.append(group);
  });
  picture.append(hulls, wires, boxes);
  $("formula").replaceChildren(picture);
  const ops = layout.nodes.filter((node) => node.kind === "op").length;
  $("formula-note").textContent = `${plural(ops, "operation", "operations")}, as the model is written`;
}

/** What a step reads from other steps of its region, and from elsewhere. */
function dataflow(steps) {
  const writer = new Map(), edges = [], outside = [];
  for (const step of steps) {
    const kernel = page.kernels[cost(step).kernel], buffers = program().steps[step][3];
    const from = new Set();
    let entering = false;
    buffers.forEach((buffer, i) => {
      const role = page.buffers[buffer].role;
      if (kernel.bindings[i]?.[1] !== "read" || (role !== "scratch" && role !== "cache" && role !== "output")) return;
      if (writer.has(buffer)) from.add(writer.get(buffer)); else if (role === "scratch") entering = true;
    });
    from.forEach((before) => edges.push([before, step]));
    if (entering) outside.push(step);
    buffers.forEach((buffer, i) => { if (kernel.bindings[i]?.[1] === "read_write") writer.set(buffer, step); });
  }
  return { edges, outside };
}

/** The lines of a card: what its kernel computes, in the program's own operators. */
function cardLines(call, variant) {
  if (!call || !variant) return [];
  return call.nodes.map((at) => variant.extracted[at]).filter((node) => node.kind === "op")
    .flatMap((node) => wrapped(`${node.op}${node.detail ? " " + node.detail : ""}`, CARD.widest - 30 - CARD.number, 3)
      .map((text, i) => ({ text, number: i === 0 && node.line !== undefined ? `%${node.line}` : "" })));
}

/** A text in lines of a width, the last one cut if there are too many. */
function wrapped(text, width, most) {
  const lines = [];
  let line = "", rest = text.split(" ");
  while (rest.length && lines.length < most - 1) {
    const longer = line ? `${line} ${rest[0]}` : rest[0];
    if (line && textWidth(longer, CARD.line) > width) { lines.push(line); line = ""; continue; }
    line = longer;
    rest = rest.slice(1);
  }
  const last = [line, ...rest].filter(Boolean).join(" ");
  return last ? [...lines, fit(last, CARD.line, width)] : lines;
}

function drawProgram(regionAt) {
  const steps = stepsOf(regionAt), variant = variantOf(bodyOf(regionAt), program());
  const { edges, outside } = dataflow(steps);
  const cards = steps.map((step) => {
    const call = callOf(step), title = kind(cost(step).kernel), price = call ? seconds(call.seconds) : "";
    const full = cardLines(call, variant);
    const lines = full.slice(0, 10);
    if (full.length > 10) lines.push({ text: `… ${full.length - 10} more`, number: "" });
    const shape = (call?.nodes ?? []).map((at) => variant.extracted[at].shape).filter(Boolean).at(-1) ?? "";
    const widths = [...lines.map((line) => textWidth(line.text, CARD.line) + CARD.number), textWidth(title, CARD.title) + textWidth(shape, NODE.shape) + 36];
    const width = Math.min(CARD.widest, Math.max(CARD.least, ...widths) + 26);
    return { step, title, price, lines, shape, width, height: CARD.head + lines.length * CARD.row + 8 };
  });
  const inputs = outside.length ? [{ input: "x", width: 44, height: NODE.height }] : [];
  const nodes = [...cards, ...inputs];
  const at = new Map(steps.map((step, i) => [step, i]));
  const wires = edges.map(([from, to]) => [at.get(from), at.get(to)]);
  outside.forEach((step) => wires.push([cards.length, at.get(step)]));
  const layout = layOut(nodes, wires, { nodesep: 18, ranksep: 24, edgesep: 12 });
  const picture = frame(layout, "The layer as the kernels that run");
  const lines = svg("g", { class: "wires" });
  for (const edge of layout.edges) lines.append(svg("path", { d: curve(edge.points), "marker-end": "url(#tip-of-edge)" }));
  picture.append(lines);
  for (const node of layout.nodes) {
    const corner = `translate(${node.x - node.width / 2},${node.y - node.height / 2})`;
    if (node.input) {
      picture.append(svg("g", { class: "node input", transform: corner },
        svg("rect", { width: node.width, height: node.height, rx: 13 }),
        svg("text", { x: node.width / 2, y: 17.5, class: "op", "text-anchor": "middle" }, node.input)));
      continue;
    }
    const kernel = page.kernels[cost(node.step).kernel];
    const group = svg("g", { class: "card", "data-steps": node.step, transform: corner, "--h": hue(regionAt, cost(node.step).call) },
      svg("rect", { width: node.width, height: node.height, rx: 9 }),
      svg("text", { x: 13, y: 18.5, class: "title" }, node.title),
      svg("text", { x: node.width - 12, y: 18, class: "shape", "text-anchor": "end" }, node.shape),
      ...node.lines.map((line, i) => [
        line.number && svg("text", { x: 13, y: CARD.head + 10 + i * CARD.row, class: "line number-of-line" }, line.number),
        svg("text", { x: 13 + CARD.number, y: CARD.head + 10 + i * CARD.row, class: "line" }, line.text)]));
    hint(group, [kernel.name, `${node.price} predicted`, ...(node.shape ? [`gives ${node.shape}`] : [])]);
    pressable(group, `${kernel.name}: ${node.lines.map((line) => line.text).join("; ")}`, () => choose(node.step));
    follow(group, node.step);
    picture.append(group);
  }
  $("program").replaceChildren(picture);
  const sum = variant ? `, ${seconds(variant.seconds)} predicted` : "";
  $("program-note").textContent = `${plural(steps.length, "dispatch", "dispatches")}${sum}`;
}

/** While the pointer or the focus is on something, everything of the same step is lit. */
function follow(element, step) {
  const on = () => light(step), off = () => light(undefined);
  element.addEventListener("pointerenter", on);
  element.addEventListener("pointerleave", off);
  element.addEventListener("focus", on);
  element.addEventListener("blur", off);
  return element;
}
function light(step) {
  document.body.classList.toggle("lit", step !== undefined);
  for (const element of document.querySelectorAll("[data-steps], [data-step]")) {
    const steps = (element.dataset.steps ?? element.dataset.step).split(" ");
    element.classList.toggle("on", step !== undefined && steps.includes(String(step)));
  }
}
/** Marks what belongs to the chosen step. */
function mark() {
  for (const element of document.querySelectorAll("[data-steps], [data-step]")) {
    const steps = (element.dataset.steps ?? element.dataset.step).split(" ");
    const chosen = steps.includes(String(state.step));
    element.classList.toggle("chosen", chosen);
    if (element.getAttribute("role") === "button") element.setAttribute("aria-pressed", chosen);
  }
}
