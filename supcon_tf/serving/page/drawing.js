// The drawing area, for a mouse, a finger, a pen and the keyboard.

const drawing = element("drawing");
const pen = drawing.getContext("2d", { willReadFrequently: true });
const strokes = new Map(); // Pointers that are down, and where each was last.
const KEY_STEP = 8;
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let ink = null; // Left, top, right and bottom of the drawing.
let cursor = [160, 160]; // Where the keyboard draws.
let keyboardDraws = false;

function clear() {
  ink = [Infinity, Infinity, -Infinity, -Infinity];
  pen.clearRect(0, 0, drawing.width, drawing.height);
  pen.fillRect(0, 0, drawing.width, drawing.height); // Black, so that the PNG has no transparent parts.
  items = [];
  showError("");
  showTable();
  replaceSource(null);
  element("sent").hidden = true;
}

function line(from, to) {
  const width = Number(element("width").value);
  for (const [x, y] of [from, to]) {
    const box = [x - width / 2, y - width / 2, x + width / 2, y + width / 2];
    ink = ink.map((edge, index) => (index < 2 ? Math.min : Math.max)(edge, box[index]));
  }
  pen.lineWidth = width;
  pen.lineCap = "round";
  pen.strokeStyle = "#fff";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
  if (source === null) replaceSource(DRAWING);
  else changed();
}

function place(event) {
  const box = drawing.getBoundingClientRect();
  const scale = drawing.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function showPen([x, y], visible) {
  const [mark, box] = [element("pen"), drawing.getBoundingClientRect()];
  const width = `${(element("width").value * box.width) / drawing.width}px`;
  const [left, top] = [`${(100 * x) / drawing.width}%`, `${(100 * y) / drawing.height}%`];
  Object.assign(mark.style, { left, top, width, height: width });
  mark.hidden = !visible;
}

drawing.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  drawing.setPointerCapture(event.pointerId);
  strokes.set(event.pointerId, place(event));
  line(place(event), place(event));
});

drawing.addEventListener("pointermove", (event) => {
  showPen(place(event), event.pointerType === "mouse");
  if (!strokes.has(event.pointerId)) return;
  for (const part of event.getCoalescedEvents?.() ?? [event]) {
    line(strokes.get(event.pointerId), place(part));
    strokes.set(event.pointerId, place(part));
  }
});

for (const ending of ["pointerup", "pointercancel"]) {
  drawing.addEventListener(ending, (event) => {
    if (strokes.delete(event.pointerId)) changed();
  });
}
drawing.addEventListener("pointerleave", () => showPen(cursor, false));
drawing.addEventListener("blur", () => showPen(cursor, (keyboardDraws = false)));

drawing.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey || !(step || event.key === " ")) return;
  event.preventDefault();
  keyboardDraws ||= event.key === " ";
  const from = cursor;
  if (step) cursor = cursor.map((at, axis) => Math.max(0, Math.min(320, at + KEY_STEP * step[axis])));
  if (keyboardDraws) line(from, cursor);
  showPen(cursor, true);
});

drawing.addEventListener("keyup", (event) => {
  if (event.key === " ") keyboardDraws = false;
});

