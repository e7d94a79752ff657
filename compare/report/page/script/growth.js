// How the error grows: along the graph, and along the positions; each cause by what it adds, any tap by what came through.

const always = () => {}; // what stays as long as the page does
const FEW_TAPS = 40; // whose names fit beside one another
const MOST_LINES = 6;
const RELATIVE = "|B − A| / |A|";

/** The horizontal axis of the taps: each stage's name where there is room, else where each block begins. */
function tapAxis(taps) {
  return taps.length <= FEW_TAPS ? namedAxis(taps) : blockAxis(taps);
}

function namedAxis(taps) {
  const names = taps.map((tap) => (tap.block === null ? tap.tap : tap.stage));
  return {
    rotate: -90,
    gap: 2,
    font: "11px system-ui, sans-serif",
    size: Math.min(180, 12 + 6.5 * Math.max(...names.map((name) => name.length))),
    splits: () => taps.map((_, n) => n),
    filter: (_, splits) => splits,
    values: () => names,
  };
}

function blockAxis(taps) {
  const begins = (tap, n) => tap.block !== null && tap.block !== taps[n - 1]?.block;
  const starts = taps.flatMap((tap, n) => (begins(tap, n) ? [n] : []));
  const every = (plot) => Math.ceil(starts.length / Math.max(1, plot.width / 45));
  return {
    ...titled("block"),
    splits: (plot) => starts.filter((_, n) => n % every(plot) === 0),
    filter: (_, splits) => splits,
    values: (_, splits) => splits.map((n) => String(taps[n].block)),
  };
}

function titled(label) {
  return { label, labelFont: "12px system-ui, sans-serif", labelSize: 18, size: 24 };
}

function alongGraph(taps) {
  const values = taps.map((tap) => tap.relative);
  const faults = taps.map((tap) => (tap.fault ? tap.relative : null));
  const lines = [{ name: `what came through, ${RELATIVE}`, values }];
  if (faults.some(isNumber)) lines.push({ name: "at fault: error is added", values: faults, dots: true, colour: "fault" });
  const [first, last] = [taps[0], taps.at(-1)].map((tap) => `${number(tap.relative)} at ${tap.tap}`);
  return {
    title: "Along the graph",
    note: "every tap in the order of the graph, all faults together; a click opens the tap",
    summary: `Error along the graph, from ${first} to ${last}`,
    xs: taps.map((_, n) => n),
    lines,
    isLog: true,
    height: taps.length <= FEW_TAPS ? 330 : 280,
    xAxis: tapAxis(taps),
    at: (n) => taps[n].tap,
    opens: openTap,
  };
}

/** A chart of lines over positions; each has a value for every one of them, or for so many in a row. */
function alongPositions(more, lines) {
  const n = Math.max(...lines.map((line) => line.values.length));
  const each = Math.max(1, Math.ceil(report.tokens.length / n));
  const xs = Array.from({ length: n }, (_, place) => place * each);
  const told = lines.map((line) => `${line.name} from ${number(line.values[0])} to ${number(line.values.at(-1))}`);
  return {
    xs,
    lines,
    height: 200,
    summary: `${more.title}, along the positions: ${told.join("; ")}`,
    xAxis: { ...titled("position"), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
    at: (place) => tokenAt(xs[place]),
    ...more,
  };
}

function overFloor(tap) {
  return isNumber(tap.error) && tap.floor ? tap.error / tap.floor : Infinity;
}

/** Of each of a cause's stages the block where it is farthest off. */
function worstOfStages(cause) {
  const worst = new Map();
  for (const tap of cause.taps.map((place) => report.taps[place])) {
    if (!tap.fault?.by_position.length) continue;
    if (!worst.has(tap.stage) || overFloor(tap) > overFloor(worst.get(tap.stage))) worst.set(tap.stage, tap);
  }
  return [...worst.values()].slice(0, MOST_LINES);
}

function ofCause(cause, n) {
  const lines = worstOfStages(cause).map((tap) => ({ name: tap.tap, values: tap.fault.by_position }));
  if (!lines.length) return [];
  const note = `along the positions: what these regions add, ${RELATIVE} on A's values`;
  return [chart(alongPositions({ title: `${n + 1}. ${cause.what}`, note }, lines), always)];
}

/** The chart of taps that the reader chooses: at first where the two part, and what it comes to. */
class Chosen {
  constructor(able) {
    this.able = able;
    this.taps = [...new Set([able.find((tap) => tap.fault) ?? able.at(-1), able.at(-1)])];
    const options = able.map((tap, n) => make("option", { value: n }, tap.tap));
    this.choice = make("select", { "aria-label": "Another tap" }, options);
    this.adding = make("p", this.choice, " ", button("Add", () => this.add()));
    this.place = make("div");
    this.forget = always;
    this.show();
  }

  add() {
    this.taps = [...new Set([...this.taps, this.able[this.choice.value]])];
    this.show();
  }

  drop(tap) {
    this.taps = this.taps.filter((one) => one !== tap);
    this.show();
    this.choice.focus();
  }

  lineOf(tap) {
    const out = button("×", () => this.drop(tap), `Leave out ${tap.tap}`);
    return { name: tap.tap, values: tap.by_position, more: this.taps.length > 1 ? out : null };
  }

  show() {
    this.forget();
    const note = `along the positions: what came through, ${RELATIVE}, all faults together`;
    const lines = this.taps.map((tap) => this.lineOf(tap));
    const figure = chart(alongPositions({ title: "Any tap", note }, lines), (forget) => (this.forget = forget));
    figure.append(this.adding);
    this.place.replaceChildren(figure);
  }
}

function showGrowth() {
  const { taps, causes } = report, able = taps.filter((tap) => tap.by_position.length);
  const place = document.getElementById("charts");
  if (taps.length) place.append(chart(alongGraph(taps), always));
  place.append(make("div.small", causes.flatMap(ofCause)));
  if (able.length) place.append(new Chosen(able).place);
}
