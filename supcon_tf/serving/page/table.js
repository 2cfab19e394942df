// The table of several images.

const MOST_IMAGES = 100; // At once; the browser decodes each of them too.
let dropped = 0; // How many more were chosen, and are left out.

// Shows a table if there are several images; each row has a button that opens its image.
function showTable() {
  element("table-card").hidden = items.length < 2;
  element("rows").replaceChildren(...(items.length < 2 ? [] : items.map(rowOf)));
  showProgress();
}

function rowOf(item) {
  const [row, head, button] = ["tr", "th", "button"].map((tag) => document.createElement(tag));
  head.scope = "row";
  Object.assign(button, { type: "button", className: "row" });
  button.append(document.createElement("canvas"), make("bdi", "", item.title));
  head.append(button);
  row.append(head, make("td", "", "…"), make("td", "share number"));
  row.addEventListener("click", () => select(item));
  item.row = row;
  return row;
}

function showRow(item) {
  if (!item.row) return;
  const [head, name, share] = item.row.children;
  name.classList.toggle("fault", !item.answer);
  name.replaceChildren(item.answer ? nameTag(inText(item.answer.classes.class_name)) : "no answer");
  name.title = item.fault;
  share.textContent = item.answer ? sureness(item.answer.classes.probabilities) : "";
  if (item.sent?.seen) copyTo(head.querySelector("canvas"), item.sent.seen);
  showProgress();
}

function showProgress() {
  const done = items.filter(({ answer }) => answer !== undefined).length;
  const more = dropped ? `, the first of ${items.length + dropped}` : "";
  element("progress").textContent = `${done} of ${items.length} answered${more}`;
}

function select(item) {
  source = item;
  showSource();
  if (item.sent) showSent(item);
  if (item.answer !== undefined) showItem(item);
}

function speakOfAll() {
  if (items.length < 2) return;
  const faults = items.filter(({ fault }) => fault).length;
  element("spoken").textContent =
    `${items.length} images` + (faults ? `, ${faults} of them without an answer` : "");
}
