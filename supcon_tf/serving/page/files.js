// Takes files that are chosen, dropped, pasted or photographed; then starts the page.

function take(files) {
  const images = [...files];
  if (!images.length) return showError("There is no file in that. Drop or paste images.");
  dropped = Math.max(0, images.length - MOST_IMAGES);
  items = images
    .slice(0, MOST_IMAGES)
    .map((file) => ({ file, title: file.name || "Pasted image" }));
  showError("");
  showTable();
  replaceSource(items[0]);
}

for (const [button, input] of [["choose", "file"], ["photo", "camera"]]) {
  element(button).addEventListener("click", () => element(input).click());
  element(input).addEventListener("change", () => {
    if (element(input).files.length) take(element(input).files);
    element(input).value = ""; // So that the same file can be chosen again.
  });
}
element("stage").addEventListener("click", () => {
  if (element("stage").classList.contains("waiting")) element("file").click();
});
element("clear").addEventListener("click", clear);
element("invert").addEventListener("change", () => {
  element("stage").classList.toggle("inverted", inverts());
  changed();
});
element("fit").addEventListener("change", changed);
element("models").addEventListener("change", (event) =>
  loadModel(event.target.value).then(changed, (error) => showError(error.message)));

document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragenter" || name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
}

clear();
start();
