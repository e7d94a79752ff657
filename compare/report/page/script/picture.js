// Values as small pictures: a row for each position, blue below zero and orange above it.

const MASKED = -127, NOT_FINITE = -128;
const WIDE = 8, HIGH = 12; // pixels of a cell
const STEPS = 64; // of the scale beneath

/** The int8 cells of a picture. */
function cellsOf(picture) {
  return Int8Array.from(atob(picture.cells), (character) => character.charCodeAt(0));
}

function channels(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

/** The colour of a share of the largest, from -1 to 1. */
function shade(share) {
  const zero = channels(ink("zero")), end = channels(ink(share < 0 ? "minus" : "plus"));
  const part = Math.min(1, Math.abs(share));
  return `rgb(${zero.map((from, n) => Math.round(from + (end[n] - from) * part)).join()})`;
}

function crossed(context, x, y, strokes) {
  context.beginPath();
  for (const [x1, y1, x2, y2] of strokes) {
    context.moveTo(x + x1 * WIDE, y + y1 * HIGH);
    context.lineTo(x + x2 * WIDE, y + y2 * HIGH);
  }
  context.stroke();
}

function hatch(context, x, y) {
  context.fillStyle = ink("masked-ground");
  context.fillRect(x, y, WIDE, HIGH);
  context.strokeStyle = ink("masked");
  crossed(context, x, y, [[0, 1, 1, 0], [0, 0.5, 0.5, 0], [0.5, 1, 1, 0.5]]);
}

function cross(context, x, y) {
  context.fillStyle = ink("broken");
  context.fillRect(x, y, WIDE, HIGH);
  context.strokeStyle = ink("ground");
  crossed(context, x, y, [[0, 1, 1, 0], [0, 0, 1, 1]]);
}

/** Draw a picture; `largest` is what the full colour stands for. */
function draw(canvas, picture, largest) {
  const context = canvas.getContext("2d");
  const part = largest ? picture.largest / largest : 0;
  const shades = Array.from({ length: 255 }, (_, n) => shade(((n - 127) / 127) * part));
  cellsOf(picture).forEach((cell, n) => {
    const x = (n % picture.columns) * WIDE, y = Math.floor(n / picture.columns) * HIGH;
    if (cell === MASKED) return hatch(context, x, y);
    if (cell === NOT_FINITE) return cross(context, x, y);
    context.fillStyle = shades[cell + 127];
    context.fillRect(x, y, WIDE, HIGH);
  });
}

/** A figure of one picture with its scale. */
function pictured(title, picture, largest, keep) {
  const [width, height] = [picture.columns * WIDE, picture.rows * HIGH];
  const label = `${title}, from ${number(-largest)} to ${number(largest)}`;
  const canvas = make("canvas", { width, height, role: "img", "aria-label": label });
  canvas.style.height = `${height}px`;
  const scale = make("canvas", { width: STEPS, height: 1, "aria-hidden": "true" });
  keep(drawn(() => [draw(canvas, picture, largest), drawScale(scale)]));
  const shades = make("div.shades", number(-largest), scale, number(largest));
  return make("figure", make("figcaption", title), canvas, shades);
}

function drawScale(canvas) {
  const context = canvas.getContext("2d");
  for (let n = 0; n < STEPS; n++) {
    context.fillStyle = shade((2 * n) / (STEPS - 1) - 1);
    context.fillRect(n, 0, 1, 1);
  }
}
