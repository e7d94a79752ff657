// One chart: lines over positions, or over the taps of a graph. uPlot draws; what is read off stands in text below.

const STROKES = { solid: [], dashed: [6, 4], dotted: [2, 3] };
const N_COLOURS = 6;
const FONT = "12px system-ui, sans-serif";
const FEW_POINTS = 40; // so many are marked one by one

/** How the n-th line looks: six colours, then the same dashed, then dotted; a line may have a look or a colour of its own. */
function lookOf(line, n) {
  const m = line.look ?? n;
  const stroke = Object.keys(STROKES)[Math.floor(m / N_COLOURS) % 3];
  return { colour: line.colour ?? `s${(m % N_COLOURS) + 1}`, stroke };
}

function isNumber(value) {
  return typeof value === "number";
}

/** A logarithmic axis of whole powers of ten, with a place below them for 0. */
function logarithmic(values) {
  const positive = values.filter((value) => isNumber(value) && value > 0);
  const low = positive.length ? Math.floor(Math.log10(Math.min(...positive))) : -1;
  const high = positive.length ? Math.max(low + 1, Math.ceil(Math.log10(Math.max(...positive)))) : 0;
  const every = Math.ceil((high - low + 1) / 7);
  const tens = Array.from({ length: high - low + 1 }, (_, n) => low + n).filter((ten) => (high - ten) % every === 0);
  const bottom = values.includes(0) ? [10 ** (low - every)] : [];
  return {
    scale: { distr: 3, log: 10, range: [bottom[0] ?? 10 ** low, 10 ** high] },
    splits: [...bottom, ...tens.map((ten) => 10 ** ten)],
    label: (value) => (value === bottom[0] ? "0" : powerOfTen(Math.round(Math.log10(value)))),
    placed: (value) => (value === 0 ? bottom[0] : isNumber(value) ? value : null),
  };
}

/** An axis that begins at 0. */
function linear(values) {
  const largest = Math.max(0, ...values.filter(isNumber));
  return {
    scale: { range: [0, largest ? largest * 1.08 : 1] },
    label: number,
    placed: (value) => (isNumber(value) ? value : null),
  };
}

/**
 * A figure with a chart in it.
 *
 * plan: title and note; summary, what it shows, in words; xs, the horizontal places; lines, each { name, values, dots (no line
 *   is drawn), colour, look, more (beside its name) }; isLog; height; xAxis, of uPlot's settings; at, what to say of the n-th
 *   place; opens, called with n on a click.
 * keep: is given what to call when the chart goes.
 */
function chart(plan, keep) {
  const values = plan.lines.flatMap((line) => line.values);
  const vertical = plan.isLog ? logarithmic(values) : linear(values);
  const plot = make("div.plot", { role: "img", "aria-label": plan.summary });
  const { list, at, read } = readings(plan);
  keep(drawnIn(plot, plan, vertical, read));
  const note = plan.note ? make("span.quiet", plan.note) : null;
  return make("figure.chart", make("figcaption", plan.title, note), plot, list, at);
}

/** The names of the lines, and what each is under the pointer. */
function readings(plan) {
  const at = make("p.at", "\u00a0");
  const figures = plan.lines.map(() => make("span.value"));
  const items = plan.lines.map((line, n) => make("li", mark(line, n), line.name, " ", figures[n], line.more ?? null));
  const read = (n) => {
    at.textContent = n === null ? "\u00a0" : plan.at(n);
    plan.lines.forEach(({ values }, m) => (figures[m].textContent = n === null ? "" : number(values[n])));
  };
  return { list: make("ul.lines", items), at, read };
}

function mark(line, n) {
  const { colour, stroke } = lookOf(line, n);
  const drawn = make(line.dots ? "span.dot" : `span.stroke.${stroke}`, { "aria-hidden": "true" });
  drawn.style.borderColor = `var(--${colour})`;
  return drawn;
}

/** Draw as soon as there is room, and again when there is more or the theme is another; returns what ends that. */
function drawnIn(plot, plan, vertical, read) {
  let drawing = null;
  const data = [plan.xs, ...plan.lines.map((line) => plan.xs.map((_, n) => vertical.placed(line.values[n])))];
  const redraw = () => {
    drawing?.destroy();
    drawing = new uPlot(settings(plot, plan, vertical, read), data, plot);
    if (plan.opens) drawing.over.addEventListener("click", () => plan.opens(drawing.cursor.idx));
  };
  const observer = new ResizeObserver(() => {
    const width = plot.clientWidth;
    if (width && !drawing) redraw();
    else if (width && width !== drawing.width) drawing.setSize({ width, height: plan.height });
  });
  observer.observe(plot);
  const forget = drawn(() => drawing && redraw());
  return () => [observer.disconnect(), forget(), drawing?.destroy()];
}

function settings(plot, plan, vertical, read) {
  const [first, last] = [plan.xs[0], plan.xs.at(-1)];
  const margin = last > first ? (last - first) * 0.02 : 0.5;
  return {
    width: plot.clientWidth,
    height: plan.height,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: false, range: [first - margin, last + margin] }, y: vertical.scale },
    axes: [axis(plan.xAxis), axis(verticalAxis(vertical))],
    series: [{}, ...plan.lines.map((line, n) => series(line, n, plan.xs.length))],
    hooks: { setCursor: [(drawing) => read(drawing.cursor.idx ?? null)] },
  };
}

/** uPlot's axis in the page's colours. */
function axis(more) {
  const rule = { stroke: ink("grid"), width: 1 };
  return { stroke: ink("quiet"), grid: rule, ticks: { ...rule, size: 4 }, font: FONT, ...more };
}

function verticalAxis({ label, splits }) {
  const values = (_, shown) => shown.map(label);
  return splits ? { size: 58, values, splits: () => splits, filter: (_, shown) => shown } : { size: 58, values };
}

function series(line, n, length) {
  const look = lookOf(line, n), stroke = ink(look.colour);
  const points = { show: line.dots || length <= FEW_POINTS, size: line.dots ? 8 : 5, stroke };
  points.fill = line.dots ? stroke : ink("ground");
  return { stroke, dash: STROKES[look.stroke], width: line.dots ? 0 : 2, points };
}
