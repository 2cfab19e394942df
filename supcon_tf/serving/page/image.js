// Turns a chosen, pasted or drawn image into the bytes that are sent.

const DRAWING = { title: "Drawing" };
const LARGEST_SIDE = 2048; // Of an image that the page converts.
let items = []; // The images that were chosen together: { file, title } and the results for each.
let source = null; // The image on view: null, DRAWING, or one of the items.

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

async function servedType(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const starts = (...bytes) => bytes.every((byte, index) => head[index] === byte);
  if (starts(0xff, 0xd8)) return "JPEG";
  if (starts(0x89, 0x50, 0x4e, 0x47)) return "PNG";
  if (starts(0x47, 0x49, 0x46)) return "GIF";
  return starts(0x42, 0x4d) ? "BMP" : null;
}

async function decoded(file) {
  const picture = new Image();
  picture.src = URL.createObjectURL(file);
  const shown = await picture.decode().then(() => true, () => false);
  URL.revokeObjectURL(picture.src);
  return shown ? picture : null;
}

function sizeOf(picture) {
  return [picture.naturalWidth || picture.width || 512, picture.naturalHeight || picture.height || 512];
}

const inverts = () => Boolean(model?.draws) && element("invert").checked;

function canvasOf(picture, [left, top, width, height], scale, ground) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = ground;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, left, top, width, height, 0, 0, canvas.width, canvas.height);
  if (inverts()) {
    context.globalCompositeOperation = "difference"; // To white: the inverse.
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  return canvas;
}

// The centre square of a picture, on a canvas of the model's size.
function seenOf(picture) {
  const seen = document.createElement("canvas");
  seen.width = seen.height = model.imageSize;
  const [width, height] = sizeOf(picture);
  const side = Math.min(width, height);
  const context = seen.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (width - side) / 2, (height - side) / 2, side, side, 0, 0, seen.width, seen.height);
  return seen;
}

const png = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

async function drawnImage() {
  const fit = element("fit").checked;
  const [left, top, right, bottom] = fit ? ink : [0, 0, drawing.width, drawing.height];
  const side = Math.max(right - left, bottom - top);
  const square = [(left + right - side) / 2, (top + bottom - side) / 2, side, side];
  const canvas = canvasOf(drawing, square, drawing.width / side, "#000");
  const note = fit ? "enlarged, sent as PNG" : "sent as PNG";
  return { encoded: await png(canvas), seen: seenOf(canvas), note };
}

function typeName(file) {
  return file.type.replace(/^image\/|\+xml$/g, "").toUpperCase() || "another type";
}

// The image as it is sent; `size` is null where the browser cannot show it.
async function pictureImage({ file, title }) {
  const [type, picture] = [await servedType(file), await decoded(file)];
  if (!type && !picture) throw new Error(`${title} is not an image that the browser can read.`);
  if (!picture) return { encoded: file, seen: null, size: null, note: `${type}, sent as it is` };
  const size = sizeOf(picture);
  const [width, height] = size;
  const pixels = `${width} × ${height} pixels`;
  if (type && !inverts()) {
    return { encoded: file, seen: seenOf(picture), size, note: `${pixels}, ${type}, sent as it is` };
  }
  const scale = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  const canvas = canvasOf(picture, [0, 0, width, height], scale, "#fff"); // Where it is transparent.
  const from = type ? "inverted" : `converted from ${typeName(file)}`;
  const scaled = scale < 1 ? ` and scaled to ${canvas.width} × ${canvas.height}` : "";
  const note = `${pixels}, ${from}${scaled}, sent as PNG`;
  return { encoded: await png(canvas), seen: seenOf(canvas), size, note };
}
