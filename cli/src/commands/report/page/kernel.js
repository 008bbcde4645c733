// The chosen step: its kernel's place, bindings, proof and shader.
"use strict";

const WGSL = new RegExp([
  /(?<comment>\/\/[^\n]*|\/\*[\s\S]*?\*\/)/,
  /(?<attribute>@[a-z_]+)/,
  /(?<keyword>\b(?:fn|let|var|const|override|struct|alias|if|else|for|while|loop|return|break|continue|continuing|switch|case|default|discard|enable|diagnostic|requires)\b)/,
  /(?<type>\b(?:f32|f16|u32|i32|bool|vec[234](?:[fuih])?|mat[234]x[234](?:[fh])?|array|atomic|ptr|storage|uniform|workgroup|private|function|read|read_write)\b)/,
  /(?<number>\b(?:0x[0-9a-fA-F]+[uif]?|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?[uifh]?)\b|\.\d+(?:[eE][+-]?\d+)?[fh]?)/,
  /(?<call>\b[A-Za-z_]\w*(?=\())/,
  /(?<other>[A-Za-z_]\w*|\s+|.)/,
].map((part) => part.source).join("|"), "gsu");

/** WGSL in colors: neighbours of the same kind share a span. */
function colored(source) {
  const code = el("code", {});
  let plain = "";
  const flush = () => { if (plain) code.append(plain); plain = ""; };
  for (const { 0: text, groups } of source.matchAll(WGSL)) {
    const [kind] = Object.entries(groups).find(([, found]) => found !== undefined);
    if (kind === "other") { plain += text; continue; }
    flush();
    code.append(el("span", { class: kind }, text));
  }
  flush();
  return code;
}

/** The lines of a term in which something is marked; what is far from the marks is left out. */
function marked(text, tag) {
  const KEEP = 60;
  return text.split("\n").filter((line) => line.includes("«")).map((line) => {
    const parts = line.split(/([«»])/), shown = [];
    let depth = 0;
    parts.forEach((part, i) => {
      if (part === "«") depth++;
      else if (part === "»") depth--;
      else if (depth > 0) shown.push(el(tag, {}, part));
      else if (i === 0) shown.push(part.length > KEEP ? "…" + part.slice(-KEEP) : part);
      else if (i === parts.length - 1) shown.push(part.length > KEEP ? part.slice(0, KEEP) + "…" : part);
      else shown.push(part.length > 2 * KEEP ? `${part.slice(0, KEEP)} … ${part.slice(-KEEP)}` : part);
    });
    return el("div", { class: "term" }, ...shown);
  });
}

const badge = (name) => el("span", { class: `badge ${name}` }, name);

function proofOf(step) {
  const call = callOf(step), body = bodyOf(region(step));
  if (!call) return el("p", { class: "note" }, "The plan does not say where this kernel comes from.");
  if (call.proof === undefined) {
    if ((call.within ?? []).length === 0) {
      return el("p", { class: "note" }, "The plan holds no proof of this kernel.");
    }
    const calls = variantOf(body, program()).calls;
    const names = call.within.map((at) => page.kernels[calls[at]?.kernel]?.name ?? "another kernel").join(", ");
    return el("p", { class: "note" }, `It computes a value that the formula does not have. The proof of ${names} contains it.`);
  }
  const proof = body.proofs[call.proof];
  const counts = new Map();
  proof.steps.forEach(([rule]) => counts.set(page.rules[rule][1], (counts.get(page.rules[rule][1]) ?? 0) + 1));
  const inputs = proof.inputs.map((values, i) => el("div", {}, el("span", { class: "mono" }, `x${i}`), ` holds ${values}`));
  const list = el("ol", { class: "proof" });
  list.append(el("li", { class: "start" }, el("div", { class: "rule" }, `The formula of ${proof.results}`), el("div", { class: "term whole" }, page.texts[proof.start])));
  const rounded = proof.lossy ?? [];
  if (rounded.length) counts.set("lossy", rounded.length);
  for (const [what, after] of rounded) {
    list.append(el("li", { class: "lossy" }, el("div", { class: "rule" }, what, badge("lossy")), ...marked(page.texts[after], "ins")));
  }
  let last = rounded.at(-1)?.[1] ?? proof.start;
  for (const [rule, backward, before, after] of proof.steps) {
    const [name, kind, means] = page.rules[rule];
    list.append(el("li", { class: kind }, el("div", { class: "rule" }, name, backward && el("span", { class: "way" }, " right to left"), badge(kind)),
      means && el("div", { class: "quiet" }, means), ...marked(page.texts[before], "del"), ...marked(page.texts[after], "ins")));
    last = after;
  }
  const steps = rounded.length + proof.steps.length;
  if (steps) {
    list.append(el("li", { class: "end" }, el("div", { class: "rule" }, "What the kernel computes"), el("div", { class: "term whole" }, page.texts[last].replace(/[«»]/g, ""))));
  }
  const sums = [...counts].map(([name, n]) => `${n} ${name}`).join(", ");
  const lead = steps
    ? `${plural(steps, "step", "steps")} from the model's formula to this kernel: ${sums}.`
    : "The kernel computes the formula's own term.";
  return el("div", {}, el("p", { class: "note" }, lead), el("div", { class: "note" }, ...inputs), list);
}

function bindingsOf(step) {
  const kernel = page.kernels[cost(step).kernel], buffers = program().steps[step][3];
  const rows = kernel.bindings.map(([name, access], i) => {
    const buffer = page.buffers[buffers[i]];
    return el("tr", {}, el("td", { class: "number" }, String(i)), el("td", { class: "mono" }, name), el("td", {}, access.replace("_", " and ").replace("read and write", "read, write")),
      el("td", { class: "mono wrap" }, buffer?.name ?? ""), el("td", { class: "number" }, buffer ? bytes(sizeOf(buffer)) : ""));
  });
  return el("table", {}, el("thead", {}, el("tr", {}, ...["", "binding", "access", "bound here", "bytes"].map((t) => el("th", {}, t)))), el("tbody", {}, ...rows));
}
/** The size of a buffer in the step for which the program is judged. */
function sizeOf(buffer) {
  const [constant, tokens, context, sequences] = buffer.bytes, sizes = program().sizes;
  const padded = Math.ceil(sizes.tokens / 64) * 64;
  return constant + tokens * padded + context * sizes.context + sequences * sizes.sequences;
}

function factsOf(step) {
  const { kernel, groups, bytes: moved, flops } = cost(step), { workgroup } = page.kernels[kernel];
  const call = callOf(step), measured = measuredOf(state.program)?.steps[step];
  const uses = program().steps.filter(([at]) => at === program().steps[step][0]).length;
  const rows = [
    ["runs", `${plural(uses, "time", "times")} in this program`],
    ["workgroups", `${groups.map(count).join(" × ")} of ${workgroup.join(" × ")}`],
    ["moves", bytes(moved)],
    ["computes", rate(flops, "FLOP")],
    ["predicted", call ? seconds(call.seconds) : "–"],
    measured !== undefined && ["measured", seconds(measured)],
  ].filter(Boolean);
  return el("dl", { class: "facts" }, ...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

let tab = "proof";
function drawKernel() {
  const step = state.step, kernel = page.kernels[cost(step).kernel], place = placeName(region());
  const tabs = {
    proof: ["Proof", () => proofOf(step)],
    wgsl: ["WGSL", () => el("pre", { class: "wgsl", tabindex: 0 }, colored(kernel.wgsl))],
    bindings: ["Bindings", () => bindingsOf(step)],
    meaning: ["Meaning", () => [el("p", { class: "note" }, "What it computes, as a graph over its bindings; the doctor evaluates it."),
      el("pre", { class: "meaning", tabindex: 0 }, kernel.meaning || "This kernel does a part of an operator's work, which no graph can say.")]],
  };
  const panel = el("div", { id: "panel", role: "tabpanel", "aria-labelledby": `tab-${tab}` }, tabs[tab][1]());
  const pick = (name, focus) => {
    tab = name;
    drawKernel();
    if (focus) $(`tab-${name}`).focus();
  };
  const names = Object.keys(tabs);
  const move = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) pick(names[(names.indexOf(tab) + by + names.length) % names.length], true);
  };
  const bar = el("div", { role: "tablist", class: "tabs", onkeydown: move }, ...names.map((name) => el("button", {
    id: `tab-${name}`, role: "tab", type: "button", "aria-selected": String(name === tab), "aria-controls": "panel",
    tabindex: name === tab ? 0 : -1, onclick: () => pick(name),
  }, tabs[name][0])));
  const steps = program().steps.length;
  const turn = (by, label, sign) => el("button", { type: "button", class: "turn", "aria-label": label, title: label,
    onclick: () => choose((step + by + steps) % steps) }, sign);
  $("kernel").replaceChildren(
    el("div", { class: "kernel-head", "--h": hue(region(), cost(step).call) },
      el("div", { class: "where" }, el("span", { class: "dot" }), `step ${step + 1} of ${steps}, ${place}`,
        el("span", { class: "turns" }, turn(-1, "The step before (k)", "‹"), turn(1, "The next step (j)", "›"))),
      el("h2", { class: "kernel-name" }, kernel.name), factsOf(step), bar),
    panel);
}
