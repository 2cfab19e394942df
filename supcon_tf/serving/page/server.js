"use strict";
// Requests to the server, and its refusals in words.

const element = (id) => document.getElementById(id);
let model = null; // { name, version, classNames, isMultiLabel, imageSize, hasNeighbors, draws }

async function ask(path, body, signal) {
  const options = { signal };
  if (body) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    options.headers = { "Content-Type": "application/json" };
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached.");
  }
  const content = await answer.json().catch(() => null);
  if (answer.ok && content) return { ...content, answeredBy: answer.headers.get("X-Model-Version") };
  const reason = content?.error ?? "no reason given";
  const refusal = new Error(`The server answered ${answer.status}: ${reason}`);
  throw Object.assign(refusal, { status: answer.status, reason });
}

// Tells people why an image has no answer; the server's own words number images and name settings.
function inWords(error, title) {
  const reason = (error.reason ?? "").replace(/^instance 0:? */, "").replace(/ \(max_\w+\)/, "");
  if (error.status === 400 && /not a whole|^is not a /.test(reason)) {
    return `${title} cannot be read. It is damaged, cut off, or an image of another kind.`;
  }
  if (error.status === 400) return `${title}: ${reason}`;
  if (error.status === 413) return `${title} is too large for this server.`;
  if (error.status === 500) return `The model has no answer for ${title}.`;
  if (error.status === 503) return "The server is busy. Try again in a moment.";
  return error.message;
}

const address = (name) => `v1/models/${encodeURIComponent(name)}`;

async function loadModel(name) {
  const { model_spec: spec, metadata } = await ask(`${address(name)}/metadata`);
  model = {
    name: spec.name,
    version: spec.version,
    classNames: metadata.class_names,
    isMultiLabel: metadata.multi_label === true,
    imageSize: metadata.image_size_px,
    hasNeighbors: metadata.neighbors > 0,
    draws: metadata.symbols === true,
  };
  showModel();
}

async function start() {
  try {
    const { models } = await ask("v1/models");
    element("models").replaceChildren(...models.map((name) => new Option(name, name)));
    element("models").hidden = models.length < 2;
    await loadModel(models[0]);
    showError("");
    changed();
  } catch (error) {
    showError(`${error.message} Trying again.`);
    setTimeout(start, 2000);
  }
}

async function timed(path, body, signal) {
  const begun = performance.now();
  const { predictions, answeredBy } = await ask(path, body, signal);
  return { ...predictions[0], answeredBy, milliseconds: performance.now() - begun };
}

async function classify(encoded, signal) {
  const instances = [{ b64: await base64(encoded) }];
  for (let tries = 0; tries < 5; tries += 1) {
    const [name, version] = [model.name, model.version];
    const answers = await bothAnswers(instances, signal).catch((error) => {
      if (error.status !== 404) throw error;
      return error; // Another version may have no index.
    });
    const same = Array.isArray(answers) && answers.every((one) => !one || one.answeredBy === version);
    if (same) return { classes: answers[0], nearest: answers[1] };
    await loadModel(name); // All that is shown is of one version: in another, a row is another picture.
    if (answers instanceof Error && model.version === version) throw answers;
  }
  throw new Error("The model is changing versions. Try again in a moment.");
}

function bothAnswers(instances, signal) {
  const path = `${address(model.name)}:predict`;
  const found = model.hasNeighbors && timed(path, { instances, signature_name: "neighbors" }, signal);
  // Both are under way; a failure of one must not leave the other's unhandled.
  return Promise.all([timed(path, { instances }, signal), found]);
}

