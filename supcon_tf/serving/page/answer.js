// Asks the server again whenever the images change, one request after another.

let wanted = 0;
let busy = false;
let aborter = new AbortController();

function changed() {
  wanted += 1;
  if (!busy) answerAll();
}

function replaceSource(next) {
  source = next;
  aborter.abort(); // Answers about the previous images are of no use.
  aborter = new AbortController();
  showSource();
  changed();
}

async function answerAll() {
  busy = true;
  element("main").setAttribute("aria-busy", "true");
  for (let answered = -1; answered !== wanted; ) {
    answered = wanted;
    const late = setTimeout(() => element("results").classList.add("stale"), 200);
    await answerOnce();
    clearTimeout(late);
    element("results").classList.remove("stale");
  }
  busy = false;
  element("main").setAttribute("aria-busy", "false");
}

async function answerOnce() {
  if (!source || !model) return showNothing();
  const { signal } = aborter;
  for (const item of source === DRAWING ? [DRAWING] : items) {
    await answer(item, signal);
    if (signal.aborted) return;
  }
  speakOfAll();
}

async function answer(item, signal) {
  try {
    const { encoded, ...sent } = await (item === DRAWING ? drawnImage() : pictureImage(item));
    item.sent = sent;
    if (item === source && !signal.aborted) showSent(item);
    Object.assign(item, { answer: await classify(encoded, signal), fault: "" });
  } catch (error) {
    Object.assign(item, { answer: null, fault: inWords(error, item.title) });
  }
  if (signal.aborted) return;
  showRow(item);
  if (item === source) showItem(item);
}
