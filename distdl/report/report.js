"use strict";
// Draws the curves of a report, and lets one look closer: zoom, hover, smoothing, three x axes, runs on and off.
//
//   data (JSON in the page) -> panels -> lines of a panel -> SVG, drawn anew whenever `view` changes
//
// `view` is all that the reader can change. Text that comes from a run is only ever put in as textContent.

const data = JSON.parse(document.getElementById("data").textContent);
const view = { axis: "step", smoothing: 0, log: false, hidden: new Set(), zoom: null };

const HEIGHT = 232;
const MARGIN = { left: 68, right: 20, top: 12, bottom: 24 };
const N_COLOURS = 8;
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const MOST_DOTS = 60; // a line of so few points shows them

const groupNames = [...new Set(data.runs.flatMap((run) => Object.keys(run.groups)))].filter((name) => name !== "system");
const severalRuns = data.runs.length > 1;

// --- elements ---

function html(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// --- numbers as text ---

function duration(seconds) {
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (seconds < 10 && whole !== seconds) return `${+seconds.toFixed(2)}s`;
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor((whole % 86400) / 3600))}h`;
}

function plain(value, digits = 4) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(Math.min(2, digits - 1)).replace("e+", "e");
  return value.toLocaleString("en", { maximumSignificantDigits: Math.max(digits, Math.ceil(Math.log10(size + 1))) });
}

function powerOf1024(value) {
  return value < 1 ? 0 : Math.min(4, Math.floor(Math.log(value) / Math.log(1024)));
}

function bytes(value, digits) {
  const power = powerOf1024(value);
  return `${plain(value / 1024 ** power, digits)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

function seconds(value, digits) {
  if (value >= 1) return `${plain(value, digits)} s`;
  return value >= 1e-3 || value === 0 ? `${plain(value * 1e3, digits)} ms` : `${plain(value * 1e6, digits)} µs`;
}

function valueText(unit, value, digits = 4) {
  if (unit === "percent") return `${plain(100 * value, digits)} %`;
  return { bytes, seconds, "": plain }[unit](value, digits);
}

function placeText(x) {
  if (view.axis === "time") return duration(x);
  return `${view.axis} ${view.axis === "epoch" ? +x.toFixed(2) : Math.round(x).toLocaleString("en")}`;
}

// --- axes ---

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];

function ticks(low, high, count, steps = null) {
  const raw = (high - low) / count;
  const magnitude = 10 ** Math.floor(Math.log10(raw));
  const round = [1, 2, 5, 10].find((factor) => factor * magnitude >= raw * 0.99) * magnitude;
  const step = (steps && raw > 0.5 && steps.find((each) => each >= raw)) || round;
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

function logTicks(low, high) {
  const found = [];
  const decades = Math.log10(high / low);
  const every = Math.ceil(decades / 6);
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    if (power % every) continue;
    for (const factor of decades < 2 ? [1, 2, 5] : [1]) found.push(factor * 10 ** power);
  }
  const inside = found.filter((tick) => tick >= low && tick <= high);
  return inside.length >= 3 ? inside : ticks(low, high, 4).filter((tick) => tick > 0);
}

function scaleOf(low, high, from, to, isLog) {
  const into = isLog ? Math.log : (value) => value;
  const begin = into(low);
  const factor = (to - from) / (into(high) - begin || 1);
  const scale = (value) => from + (into(value) - begin) * factor;
  scale.invert = (at) => (isLog ? Math.exp : (value) => value)(begin + (at - from) / factor);
  return scale;
}

// --- lines ---

// A line is {label, colour, dash, x, y, shown}: y as logged, shown after smoothing. Gaps are null.
function linesOf(panel) {
  if (panel.stack !== undefined) return stackOf(panel);
  const lines = [];
  data.runs.forEach((run, number) => {
    if (view.hidden.has(`run ${number}`)) return;
    for (const [name, group] of Object.entries(run.groups)) {
      const y = group.values[panel.metric];
      if (!y || view.hidden.has(`group ${name}`)) continue;
      const place = Math.max(0, groupNames.indexOf(name));
      const label = [severalRuns && run.name, (panel.part !== "system" || !severalRuns) && name].filter(Boolean).join(" · ");
      const colour = `var(--series-${(severalRuns ? number : place) % N_COLOURS})`;
      const shown = panel.noisy && !name.startsWith("eval") ? smoothed(y) : y;
      lines.push({ label, colour, dash: severalRuns ? DASHES[place % DASHES.length] : "", x: group[view.axis], y, shown });
    }
  });
  return lines;
}

// Each part of a step on top of those before it.
function stackOf(panel) {
  const group = data.runs[panel.stack].time;
  let below = group.step.map(() => 0);
  return Object.entries(group.values).map(([part, y]) => {
    const base = below;
    below = y.map((value, i) => base[i] + value);
    return { label: part, colour: `var(--part-${data.parts.indexOf(part)})`, x: group[view.axis], y, shown: below, base };
  });
}

// An average that forgets, corrected for its start at 0 (Kingma & Ba 2014, section 3).
function smoothed(y) {
  if (view.smoothing === 0) return y;
  let average = 0;
  let weight = 0;
  return y.map((value) => {
    if (value === null) return null;
    average = view.smoothing * average + (1 - view.smoothing) * value;
    weight = view.smoothing * weight + (1 - view.smoothing);
    return average / weight;
  });
}

function domain(lists) {
  let low = Infinity;
  let high = -Infinity;
  for (const list of lists) {
    for (const value of list) {
      if (value === null) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}

// What the y axis has to hold; of a raw curve behind a smoothed one not the farthest of its spikes.
function visible(line, [low, high]) {
  const inside = (values) => values.filter((value, i) => line.x[i] >= low && line.x[i] <= high && drawable(value));
  if (line.shown === line.y || line.base) return inside(line.shown);
  const raw = inside(line.y).sort((a, b) => a - b);
  const spikes = Math.floor(raw.length / 50);
  return [...inside(line.shown), ...raw.slice(spikes, raw.length - spikes)];
}

// --- a panel ---

const panels = data.panels.map((spec) => ({ ...spec, part: spec.part ?? "time" }));

function addPanel(panel) {
  panel.figure = html("figure", { class: "panel" });
  panel.plot = html("div", { class: "plot" });
  panel.tip = html("div", { class: "tip", hidden: "" });
  panel.figure.append(html("figcaption", {}, panel.title), panel.plot, panel.tip);
  document.querySelector(`.panels[data-part="${panel.part}"]`).append(panel.figure);
  listen(panel);
}

function draw(panel) {
  const width = panel.plot.clientWidth;
  const lines = linesOf(panel).filter((line) => line.x.some((x) => x !== null));
  const isLog = view.log && panel.stack === undefined;
  const whole = wholeDomain();
  const xs = view.zoom ?? whole;
  let [low, high] = domain(lines.map((line) => visible(line, xs)));
  panel.lines = [];
  if (!width) return; // in a closed <details>
  if (low > high) {
    panel.plot.replaceChildren(html("p", { class: "empty" }, "nothing to show here"));
    return;
  }
  if (panel.stack !== undefined) low = 0;
  const isFlat = high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high)); // smoothing leaves rounding errors
  const pad = isLog ? 0 : (isFlat ? Math.abs(high) || 1 : high - low) * 0.06;
  if (isLog && isFlat) [low, high] = [low / 2, high * 2];
  const bottom = low >= 0 ? Math.max(0, low - pad) : low - pad;
  const x = scaleOf(xs[0], xs[1], MARGIN.left, width - MARGIN.right, false);
  const y = scaleOf(isLog ? low : bottom, high + pad, HEIGHT - MARGIN.bottom, MARGIN.top, isLog);
  Object.assign(panel, { lines, x, y, width });

  const clip = `clip-${panels.indexOf(panel)}`;
  // A little wider than the axes, so that a dot at the end is whole.
  const area = { x: MARGIN.left - 4, y: 0, width: width - MARGIN.left - MARGIN.right + 8, height: HEIGHT - MARGIN.bottom };
  const frame = svg("g", { class: "axes" }, ...yAxis(panel, y, isLog), ...xAxis(x, xs));
  const curves = svg("g", { "clip-path": `url(#${clip})` }, ...eventMarks(panel), ...lines.flatMap((line) => curve(line, x, y)));
  panel.cross = svg("g", { class: "cross" });
  panel.selection = svg("rect", { class: "selection", y: MARGIN.top, height: area.height - MARGIN.top, width: 0 });
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", tabindex: 0, "aria-label": summary(panel) },
    svg("clipPath", { id: clip }, svg("rect", area)),
    frame, curves, panel.selection, panel.cross,
  );
  panel.plot.replaceChildren(drawing);
}

function wholeDomain() {
  const groups = data.runs.flatMap((run, number) =>
    view.hidden.has(`run ${number}`) ? [] : [...Object.values(run.groups), ...(run.time ? [run.time] : [])]);
  const [low, high] = domain(groups.map((group) => group[view.axis]));
  if (low > high) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

function yAxis(panel, y, isLog) {
  const [low, high] = [y.invert(HEIGHT - MARGIN.bottom), y.invert(MARGIN.top)];
  const one = panel.unit === "bytes" ? 1024 ** powerOf1024(high) : 1; // round numbers of MiB, not of bytes
  const places = isLog ? logTicks(low, high) : ticks(low / one, high / one, 5).map((tick) => tick * one);
  const step = places.length > 1 ? Math.abs(places[1] - places[0]) : 1;
  const digits = Math.max(1, Math.ceil(Math.log10(Math.max(...places.map(Math.abs)) / step)) + 1); // that tell ticks apart
  const text = (tick) => valueText(panel.unit, Math.abs(tick) < step * 1e-9 ? 0 : +tick.toPrecision(10), digits);
  return places.flatMap((value) => [
    svg("line", { x1: MARGIN.left, x2: "100%", y1: y(value), y2: y(value) }),
    svg("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, text(value)),
  ]);
}

function xAxis(x, [low, high]) {
  const count = Math.max(2, Math.round((x(high) - x(low)) / 70));
  const places = ticks(low, high, count, view.axis === "time" ? TIME_STEPS : null);
  const short = (text) => text.replace(/([dhm])00[hms]$/, "$1"); // 20m00s
  const text = (value) => (view.axis === "time" ? short(duration(value)) : plain(+value.toPrecision(8), 6));
  return places.map((value) => svg("text", { x: x(value), y: HEIGHT - 6, "text-anchor": "middle" }, text(value)));
}

function curve(line, x, y) {
  if (line.base) return [svg("path", { class: "area", d: areaPath(line, x, y), style: `fill: ${line.colour}` })];
  const stroke = (values, kind) => svg("path", {
    class: kind, d: linePath(line.x, values, x, y), "stroke-dasharray": line.dash, style: `stroke: ${line.colour}`,
  });
  const drawn = line.shown === line.y ? [] : [stroke(line.y, "line raw")];
  drawn.push(stroke(line.shown, "line"));
  const dots = line.shown.map((value, i) => [line.x[i], value]).filter(([at, value]) => at !== null && drawable(value));
  if (dots.length <= MOST_DOTS) {
    drawn.push(...dots.map(([at, value]) => svg("circle", { cx: x(at), cy: y(value), r: 2.4, style: `fill: ${line.colour}` })));
  }
  return drawn;
}

function drawable(value) {
  return value !== null && (!view.log || value > 0);
}

function linePath(xs, values, x, y) {
  let path = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (xs[i] === null) return;
    if (!drawable(value)) {
      pen = "M";
      return;
    }
    path += `${pen}${x(xs[i]).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  return path;
}

function areaPath(line, x, y) {
  const edge = (values) => values.map((value, i) => `${x(line.x[i]).toFixed(1)} ${y(value).toFixed(1)}`);
  return `M${edge(line.shown).join("L")}L${edge(line.base).reverse().join("L")}Z`;
}

function eventsOf(panel) {
  const numbers = panel.stack !== undefined ? [panel.stack] : data.runs.keys();
  return [...numbers].filter((number) => !view.hidden.has(`run ${number}`)).flatMap((number) => data.runs[number].events);
}

function eventMarks(panel) {
  return eventsOf(panel).filter((event) => event[view.axis] !== null).map((event) => {
    const at = panel.x(event[view.axis]);
    const foot = HEIGHT - MARGIN.bottom;
    return svg("path", { class: "event", d: `M${at} ${MARGIN.top}V${foot}m-4 0h8l-4 -7z` });
  });
}

function summary(panel) {
  const ends = panel.lines.map((line) => {
    const value = line.y.findLast((each) => each !== null);
    return `${line.label || panel.title} ends at ${value === undefined ? "nothing" : valueText(panel.unit, value)}`;
  });
  return `${panel.title}: ${ends.join(", ")}`;
}

// --- looking closer ---

function nearest(xs, wanted) {
  let best = -1;
  xs.forEach((x, i) => {
    if (x !== null && (best < 0 || Math.abs(x - wanted) < Math.abs(xs[best] - wanted))) best = i;
  });
  return best;
}

function showCursor(at, hovered) {
  for (const panel of panels) {
    if (!panel.cross || !panel.lines.length) continue;
    const px = panel.x(at);
    const inside = px >= MARGIN.left && px <= panel.width - MARGIN.right;
    const line = svg("line", { x1: px, x2: px, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
    panel.cross.replaceChildren(...(inside ? [line] : []));
  }
  if (hovered.lines.length) showTip(hovered, at);
}

function hideCursor() {
  for (const panel of panels) {
    panel.cross?.replaceChildren();
    panel.tip.hidden = true;
  }
}

function showTip(panel, at) {
  const rows = [html("strong", {}, placeText(at))];
  for (const line of panel.lines) {
    const i = nearest(line.x, at);
    if (i < 0 || line.y[i] === null) continue;
    const raw = valueText(panel.unit, line.y[i]);
    const text = line.base || line.shown === line.y ? raw : `${valueText(panel.unit, line.shown[i])} (raw ${raw})`;
    const swatch = html("i", { style: `background: ${line.colour}` });
    rows.push(html("span", {}, swatch, line.label || panel.title), html("b", {}, text));
    if (drawable(line.shown[i])) {
      panel.cross.append(svg("circle", { cx: panel.x(line.x[i]), cy: panel.y(line.shown[i]), r: 4, style: `fill: ${line.colour}` }));
    }
  }
  for (const event of eventsOf(panel)) {
    if (event[view.axis] !== null && Math.abs(panel.x(event[view.axis]) - panel.x(at)) < 6) {
      rows.push(html("em", {}, [event.name, event.message].filter(Boolean).join(": ")));
    }
  }
  panel.tip.replaceChildren(...rows);
  panel.tip.hidden = false;
  const px = panel.x(at);
  const room = panel.width - panel.tip.offsetWidth;
  panel.tip.style.left = `${Math.max(0, Math.min(room, px < panel.width / 2 ? px + 16 : px - 16 - panel.tip.offsetWidth))}px`;
}

// Drag: zoom in all panels. Double click or Escape: the whole again. Arrow keys: move along the curves.
function listen(panel) {
  let from = null;
  let cursor = null;
  const position = (event) => {
    const left = panel.plot.getBoundingClientRect().left;
    return Math.max(MARGIN.left, Math.min(panel.width - MARGIN.right, event.clientX - left));
  };
  panel.plot.addEventListener("pointerdown", (event) => {
    if (!panel.lines.length || event.button !== 0) return;
    from = position(event);
    panel.plot.setPointerCapture(event.pointerId);
  });
  panel.plot.addEventListener("pointermove", (event) => {
    if (!panel.lines.length) return;
    const at = position(event);
    if (from !== null) {
      panel.selection.setAttribute("x", Math.min(from, at));
      panel.selection.setAttribute("width", Math.abs(at - from));
    }
    cursor = panel.x.invert(at);
    showCursor(cursor, panel);
  });
  panel.plot.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const ends = [from, position(event)].sort((a, b) => a - b);
    from = null;
    panel.selection.setAttribute("width", 0);
    if (ends[1] - ends[0] > 6) zoom(ends.map(panel.x.invert));
  });
  panel.plot.addEventListener("pointercancel", () => {
    from = null;
    panel.selection?.setAttribute("width", 0);
  });
  panel.plot.addEventListener("pointerleave", hideCursor);
  panel.plot.addEventListener("focusout", hideCursor);
  panel.plot.addEventListener("dblclick", () => zoom(null));
  panel.plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") zoom(null);
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || !panel.lines.length) return;
    const [low, high] = view.zoom ?? wholeDomain();
    cursor = Math.max(low, Math.min(high, (cursor ?? (low + high) / 2) + (way * (high - low)) / 100));
    showCursor(cursor, panel);
    event.preventDefault();
  });
}

function zoom(ends) {
  view.zoom = ends;
  document.getElementById("whole").disabled = ends === null;
  drawAll();
}

// --- controls ---

function addChips() {
  const chips = document.getElementById("chips");
  const dash = (number) => svg("svg", { width: 22, height: 8 }, svg("line", {
    x1: 0, x2: 22, y1: 4, y2: 4, class: "line", "stroke-dasharray": DASHES[number % DASHES.length], style: "stroke: currentColor",
  }));
  const dot = (number) => html("i", { style: `background: var(--series-${number % N_COLOURS})` });
  if (severalRuns) data.runs.forEach((run, number) => chips.append(chip(`run ${number}`, dot(number), run.name)));
  if (groupNames.length > 1) {
    groupNames.forEach((name, number) => chips.append(chip(`group ${name}`, (severalRuns ? dash : dot)(number), name)));
  }
}

function chip(key, sign, text) {
  const button = html("button", { type: "button", "aria-pressed": "true", class: "chip" }, sign, text);
  button.addEventListener("click", () => {
    const hide = !view.hidden.has(key);
    if (hide) view.hidden.add(key);
    else view.hidden.delete(key);
    button.setAttribute("aria-pressed", String(!hide));
    drawAll();
  });
  return button;
}

function addControls() {
  for (const radio of document.querySelectorAll("input[name=axis]")) {
    radio.addEventListener("change", () => {
      view.axis = radio.value;
      zoom(null);
    });
  }
  const smoothing = document.getElementById("smoothing");
  if (!smoothing) return; // no curves: a run that ended before its first number
  const showSmoothing = () => {
    view.smoothing = Number(smoothing.value);
    document.getElementById("smoothing-value").textContent = view.smoothing.toFixed(2);
    drawAll();
  };
  smoothing.addEventListener("input", showSmoothing);
  showSmoothing(); // draws for the first time
  document.getElementById("log").addEventListener("change", (event) => {
    view.log = event.target.checked;
    drawAll();
  });
  document.getElementById("whole").addEventListener("click", () => zoom(null));
}

function drawAll() {
  hideCursor();
  panels.forEach(draw);
}

panels.forEach(addPanel);
addChips();
addControls();
for (const each of document.querySelectorAll("details")) each.addEventListener("toggle", drawAll);
window.addEventListener("resize", drawAll);
