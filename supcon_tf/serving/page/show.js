// Shows the image on view and its results.

const SHOWN_CLASSES = 10;
const SHOWN_FROM = 0.5; // Probability of a class from which an image with several shows it.
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const time = (milliseconds) => `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;

function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function nameTag(name) {
  const tag = make("bdi", "name", name);
  tag.title = name;
  return tag;
}

function showModel() {
  document.title = `${model.name} – image classifier`;
  element("name").textContent = model.name;
  const facts = [`version ${model.version}`, `${model.classNames.length} classes`];
  facts.push(`sees ${model.imageSize} × ${model.imageSize} pixels`);
  element("chips").replaceChildren(...facts.map((fact) => make("span", "chip", fact)));
  element("hint").textContent = model.draws
    ? "Draw here, or drop or paste images"
    : matchMedia("(pointer: coarse)").matches
      ? "Tap here to choose images"
      : "Drop images here, or paste them";
  element("ways").textContent = `${model.draws ? "Draw, drop" : "Drop"}, paste or choose images.`;
  if (source === DRAWING && !model.draws) clear();
  else showSource();
}

function showError(message) {
  element("error").textContent = message;
  element("error").hidden = !message;
}

function showNothing() {
  element("results").hidden = true;
  element("empty").hidden = false;
  element("sent").hidden = element("sent").hidden || !source;
  element("spoken").textContent = element("short").textContent = "";
}

function showItem({ answer, fault }) {
  showError(fault);
  if (!answer) {
    showNothing();
    element("empty").hidden = items.length > 1;
    return;
  }
  showClasses(answer.classes);
  showNeighbors(answer.nearest, answer.classes);
  element("empty").hidden = true;
  element("results").hidden = false;
}

function showSource() {
  const chosen = source !== null && source !== DRAWING;
  const draws = Boolean(model?.draws);
  drawing.hidden = chosen || !draws;
  element("settings").hidden = !draws;
  element("stage").classList.toggle("waiting", !draws && !chosen);
  element("stage").classList.toggle("inverted", inverts());
  element("hint").hidden = source !== null;
  element("pen").hidden = source !== DRAWING;
  for (const name of ["width", "fit"]) {
    element(`${name}-label`).classList.toggle("off", chosen);
    element(name).disabled = chosen;
  }
  for (const item of items) item.row?.toggleAttribute("aria-current", item === source);
  showPicture(chosen ? source : null);
}

function showPicture(item) {
  const picture = element("picture");
  const size = item?.sent?.size;
  URL.revokeObjectURL(picture.src);
  picture.hidden = !size;
  element("unshown").hidden = !item?.sent || Boolean(size);
  element("seen-square").hidden = !size || size[0] === size[1];
  if (!size) return picture.removeAttribute("src");
  picture.src = URL.createObjectURL(item.file);
  picture.alt = `The image to classify: ${item.title}`;
  const side = `${(100 * Math.min(...size)) / Math.max(...size)}%`;
  Object.assign(element("seen-square").style, { width: side, height: side });
  picture.classList.toggle("pixelated", Math.max(...size) < 100);
}

function showSent(item) {
  const { seen, note } = item.sent;
  const target = element("seen");
  element("sent").hidden = false;
  element("source").textContent = item.title;
  element("note").textContent = note;
  if (item !== DRAWING) showPicture(item);
  target.hidden = !seen;
  if (!seen) return;
  copyTo(target, seen);
  target.title = `Approximately what the model sees: the centre square, at ${seen.width} × ${seen.width} pixels`;
  target.setAttribute("aria-label", target.title);
}

function copyTo(target, seen) {
  [target.width, target.height] = [seen.width, seen.height];
  target.getContext("2d").drawImage(seen, 0, 0);
  target.classList.toggle("pixelated", seen.width < 64);
}

// The classes of an answer in words: several are joined with | by the server.
const inText = (name) => (model.isMultiLabel ? name.replaceAll("|", ", ") || "none" : name);

// Whether a class, of a rank from 0 on, is in the answer: the best, and of several those probable.
const isAnswered = (share, rank) => !rank || (model.isMultiLabel && share >= SHOWN_FROM);

function showClasses({ probabilities, milliseconds }) {
  const ranked = probabilities.map((share, index) => ({ share, name: model.classNames[index] }));
  ranked.sort((left, right) => right.share - left.share); // Stable: on ties the first class wins.
  const answered = ranked.filter(({ share }, rank) => isAnswered(share, rank));
  const [text, share] = [answered.map(({ name }) => name).join(", "), sureness(probabilities)];
  element("class-title").textContent = model.isMultiLabel ? "Classes" : "Class";
  element("answer").textContent = text;
  element("answer").classList.toggle("long", text.length > 18);
  element("answer-share").textContent = share;
  element("short").textContent = `${text}, ${share}`;
  element("class-time").textContent = `answered in ${time(milliseconds)}`;
  showBars(ranked.slice(0, SHOWN_CLASSES));
  element("rest").textContent = restOf(ranked.slice(SHOWN_CLASSES).map(({ share }) => share));
  if (!strokes.size) element("spoken").textContent = `${text}, ${share}`;
}

// The probability of the best class; of several classes, the range of those in the answer.
function sureness(probabilities) {
  const shown = probabilities.filter((share) => share >= SHOWN_FROM);
  const best = percent(Math.max(...probabilities));
  const least = percent(Math.min(...shown));
  // A narrow table breaks the line there.
  return model.isMultiLabel && shown.length > 1 && least !== best ? `${least} to\n${best}` : best;
}

function restOf(shares) {
  if (!shares.length) return "";
  const sum = shares.reduce((total, share) => total + share, 0);
  const said = model.isMultiLabel ? `at most ${percent(shares[0])} each` : `together ${percent(sum)}`;
  return `${shares.length} more classes: ${said}`;
}

function showBars(ranked) {
  const bars = element("bars");
  while (bars.children.length > ranked.length) bars.lastChild.remove();
  while (bars.children.length < ranked.length) {
    const [row, track] = [make("li", ""), make("span", "track")];
    track.append(make("span", "fill"));
    row.append(nameTag(""), track, make("span", "share number"));
    bars.append(row);
  }
  ranked.forEach(({ name, share }, index) => {
    const [tag, track, text] = bars.children[index].children;
    tag.textContent = tag.title = name;
    track.firstChild.style.width = `${100 * share}%`;
    text.textContent = percent(share);
    bars.children[index].classList.toggle("answered", isAnswered(share, index));
  });
}

function showNeighbors(nearest, classes) {
  element("score-card").hidden = !nearest;
  element("neighbors").hidden = !nearest;
  element("no-neighbors").hidden = Boolean(nearest);
  element("neighbors-time").textContent = nearest ? `answered in ${time(nearest.milliseconds)}` : "";
  if (!nearest) {
    element("no-neighbors").textContent =
      "This model was exported without an index of its training images, so there are no nearest images and no score.";
    return;
  }
  const found = nearest.neighbor_ids.map((row, rank) => ({
    row,
    name: inText(nearest.neighbor_class_names[rank]),
    similarity: nearest.similarities[rank],
    other: nearest.neighbor_class_names[rank] !== classes.class_name,
  }));
  const list = element("neighbors");
  list.classList.toggle("wide", found.some(({ name }) => name.length > 8));
  found.forEach((neighbor, rank) => showNeighbor(list, rank, neighbor));
  while (list.children.length > found.length) list.lastChild.remove();
  showScore(nearest.out_of_distribution);
}

function showNeighbor(list, rank, { row, name, similarity, other }) {
  const key = `${model.name} ${model.version} ${row}`;
  let item = list.children[rank];
  if (item?.dataset.key !== key) {
    const made = make("li", "");
    made.dataset.key = key;
    made.append(thumbnail(row, name), nameTag(name), make("span", "similarity number"));
    if (item) item.replaceWith(made);
    else list.append(made);
    item = made;
  }
  item.classList.toggle("other", other);
  item.lastChild.textContent = similarity.toFixed(3);
  item.title = `Training image ${row}: class ${name}, cosine similarity ${similarity.toFixed(4)}`;
}

function thumbnail(row, name) {
  const picture = make("img", "");
  picture.alt = `Training image ${row}, class ${name}`;
  picture.onload = () => picture.classList.toggle("pixelated", picture.naturalWidth < 40);
  picture.onerror = () => picture.replaceWith(make("span", "none", "no picture"));
  picture.src = `${address(model.name)}/thumbnails/${row}?version=${model.version}`;
  return picture;
}

function showScore(score) {
  const [word, text] =
    score <= 0.9
      ? ["familiar", "Familiar: it lies where the training images lie."]
      : score <= 0.99
        ? ["unusual", "Unusual: few training images lie this far out."]
        : ["unfamiliar", "Unfamiliar: unlike the training images, so the class may mean nothing."];
  element("verdict").className = `verdict ${word}`;
  element("verdict").textContent = text;
  element("score").textContent = score.toFixed(3);
  element("marker").style.left = `${100 * score}%`;
  element("meaning").textContent =
    `Of the images of the model's own data, ${percent(score)} lie nearer to the training images than this one.`;
}

