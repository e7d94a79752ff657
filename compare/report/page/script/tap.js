// One tap in a dialog: figures, pictures, curves, nodes, and what explains it.

const VERDICTS = { semantic: "at fault", rounding: "rounding", same: "same" };
const NAMES = [`A, ${report.a}`, `B, ${report.b}`];
const dialog = document.getElementById("tap");
let leave = []; // what the open tap has to let go of

function forgetTap() {
  leave.forEach((forget) => forget());
  leave = [];
}
dialog.addEventListener("close", forgetTap);

function whileOpen(forget) {
  leave.push(forget);
}

function openTap(n) {
  forgetTap();
  const tap = report.taps[n];
  const parts = [explanation, figures, pictures, curve, nodes].map((part) => part(tap));
  dialog.replaceChildren(head(tap, n), make("div.body", parts));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function head(tap, n) {
  const before = button("←", () => openTap(n - 1), "The tap before");
  const after = button("→", () => openTap(n + 1), "The tap after");
  before.disabled = n === 0;
  after.disabled = n === report.taps.length - 1;
  const verdict = make(tap.fault ? "span.badge.bad" : "span.badge.good", VERDICTS[tap.verdict] ?? tap.verdict);
  const close = button("Close", () => dialog.close());
  return make("div.head", make("h2", { id: "tap-name" }, tap.tap), verdict, before, after, close);
}

/** Why it is at fault, with the evidence; or why it is none. */
function explanation(tap) {
  const { fault } = tap;
  if (fault) return make("section", { "aria-label": "Explanation" }, explained(fault));
  if (tap.verdict === "semantic") return make("p", `Its own region differs, but it is no cause: ${tap.reason}.`);
  return make("p", `No fault: ${tap.reason}.`);
}

function explained(fault) {
  const cause = fault.cause === null ? null : report.causes[fault.cause - 1];
  return [
    cause ? make("h3", linkTo(fault.cause), `: ${cause.what}`) : make("h3", "At fault"),
    fault.difference ? make("p", "Here: ", make("code", fault.difference)) : null,
    fault.relations.length ? make("ul", fault.relations.map((one) => make("li", one))) : null,
    ...evidence(fault, cause),
    fault.effect ? make("p", `Effect on the logits: ${fault.effect}.`) : null,
  ];
}

function linkTo(cause) {
  return make("a", { href: `#cause-${cause}`, click: () => dialog.close() }, `Root cause ${cause}`);
}

/** What is left of the difference when A does as the explanation says, beside A as it is. */
function evidence(fault, cause) {
  if (fault.residual === null) return [make("p", "Nothing that was tried explains it.")];
  const isShort = cause?.kind === "convention" || cause?.kind === "edit";
  const beside = isShort ? "" : "; this change takes too many steps to explain much";
  return [
    make("p.quiet", `How far from B's output, relative to the difference (log scale)${beside}:`),
    make("div.evidence", bar("A as it is", 1), bar("A with the explanation", fault.residual)),
  ];
}

const LEAST = -17; // a power of ten under double precision's rounding, where a bar has no length

function bar(name, share) {
  const fill = make("i");
  fill.style.width = `${share > 0 ? 100 * Math.max(0, 1 - Math.log10(share) / LEAST) : 0}%`;
  const told = share === 0 ? "0, exactly" : number(share);
  return [make("span", name), make("span.bar", { "aria-hidden": "true" }, fill), make("span.figure", told)];
}

function row(name, ...values) {
  const cells = values.map((value) => make("td.figure", value));
  return make("tr", make("th", { scope: "row" }, name), cells);
}

function figures(tap) {
  return make("section.two", { "aria-label": "Figures" }, ofEachSide(tap.looks), ofBoth(tap));
}

function ofEachSide(looks) {
  const of = (name, shown = number) => looks.map((look) => (look ? shown(look[name]) : "–"));
  const names = NAMES.map((name) => make("th.figure", { scope: "col" }, name));
  const rows = ["least", "largest", "mean", "std"].map((name) => row(name, ...of(name)));
  const shape = row("shape", ...of("shape", (shape) => shape.join(" × ")));
  const table = make("table", make("thead", make("tr", make("td"), names)));
  table.append(make("tbody", shape, rows, row("not finite", ...of("n_nonfinite"))));
  return make("div", make("h3", "Each side"), table);
}

function ofBoth(tap) {
  const { status, worst_index, max_abs, cosine } = tap.propagated;
  const where = (worst_index ?? []).map((index, n) => `${tap.axes[n] ?? "axis"} ${index}`).join(", ");
  const rows = [
    row("axes", tap.axes.join(", ")),
    status === "compared" ? null : row("compared", status),
    row("came through, |B − A| / |A|", number(tap.relative)),
    row("most apart", where ? `${number(max_abs)} at ${where}` : number(max_abs)),
    row("cosine", isNumber(cosine) ? cosine.toFixed(6) : number(cosine)),
    row("added here, |B − A|", number(tap.error)),
    row("float32's rounding", number(tap.floor)),
    row("a fault from", number(tap.threshold)),
  ];
  return make("div", make("h3", "B against A"), make("table", make("tbody", rows)));
}

const KEY =
  "a cell is the entry farthest from 0 of those it stands for. A and B share a scale. Hatched: masked. Crossed: not finite.";

function pictures(tap) {
  const [a, b] = tap.looks.map((look) => look?.picture);
  if (!a || !b || !tap.difference)
    return make("p.quiet", "The two have other shapes: there are no pictures to hold side by side.");
  if (!a.rows || !a.columns) return null;
  const largest = Math.max(a.largest, b.largest);
  const drawn = [pictured(NAMES[0], a, largest, whileOpen), pictured(NAMES[1], b, largest, whileOpen)];
  drawn.push(pictured("B − A", tap.difference, tap.difference.largest, whileOpen));
  const down = tap.axes.find((word) => word === "token" || word === "slot") ?? tap.axes[0] ?? "value";
  const key = make("p.quiet", `Downwards ${down}, across all else; ${KEY}`);
  return make("section", { "aria-label": "Pictures" }, make("h3", "Values"), make("div.pictures", drawn), key);
}

function curve(tap) {
  if (!tap.by_position.length) return null;
  const lines = [{ name: "came through", values: tap.by_position }];
  const added = tap.fault?.by_position ?? [];
  if (added.length) lines.push({ name: "added here", values: added, colour: "fault", look: 6 });
  const figure = chart(alongPositions({ title: "|B − A| / |A|" }, lines), whileOpen);
  return make("section", { "aria-label": "Along the positions" }, make("h3", "Along the positions"), figure);
}

function nodes(tap) {
  return make("section.two", { "aria-label": "Nodes" }, [0, 1].map((side) => nodesOf(tap, side)));
}

function nodesOf(tap, side) {
  const own = tap.nodes[side], culprit = tap.fault?.nodes[side];
  const list = make("ul.nodes", own.map((node) => nodeItem(node, culprit)));
  const none = make("p.quiet", "None: a trace has values only.");
  return make("div", make("h3", `Nodes of ${NAMES[side]}`), own.length ? list : none);
}

function nodeItem([name, operator, attributes, source, scope], culprit) {
  const isCulprit = culprit && name === culprit;
  const item = make(isCulprit ? "li.culprit" : "li", make("b", operator), " ", make("code", name));
  if (isCulprit) item.append(make("b", " ← differs here"));
  if (attributes) item.append(` ${attributes}`);
  const from = [source, scope].filter(Boolean).flatMap((one, n) => [n ? " in " : null, make("code", one)]);
  if (from.length) item.append(make("span.source", from));
  return item;
}
