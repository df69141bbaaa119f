/* The paint canvas: a picture, and strokes over it that are kept as a PNG of the picture's size.
   `props.value` is {picture, key, width, height, alt, hint, paint, touched}: paint is a PNG as data address or null, a mask (white is meant) or, with a
   box for colours, the strokes on nothing; touched says that the visitor painted. */
const MAX_UNDO = 20;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const find = (selector) => element.querySelector(selector);
const EMPTY = { picture: "", key: "", width: 0, height: 0, alt: "", hint: "", paint: null, touched: false };
const isMask = !find(".paint-colour");
let scene = { ...EMPTY }, past = [], mode = "paint", hand = null;

const paper = () => find(".paint-sheet").getContext("2d", { willReadFrequently: true });
const keep = () => { props.value = { ...scene }; };
const spot = (event) => {
  const area = find(".paint-field").getBoundingClientRect();
  const read = (at, from, room, side) => clamp(((at - from) / room) * side, 0, side);
  return [read(event.clientX, area.left, area.width, scene.width), read(event.clientY, area.top, area.height, scene.height)];
};
const show = () => {
  element.querySelectorAll(".paint-mode").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.mode === mode)));
  find(".paint-undo").disabled = !past.length;
  find(".paint").dataset.empty = String(!scene.key);
  find(".paint-hint").textContent = scene.hint;
};

/* A mask is seen as light over the picture; as a file it is white on black. */
const toFile = () => {
  const pixels = paper().getImageData(0, 0, scene.width, scene.height);
  const isEmpty = !pixels.data.some((value, index) => index % 4 === 3 && value > 127);
  if (isEmpty && !isMask) return null;
  const sheet = Object.assign(document.createElement("canvas"), { width: scene.width, height: scene.height });
  if (isMask) {
    for (let index = 0; index < pixels.data.length; index += 4) {
      pixels.data.fill(pixels.data[index + 3] > 127 ? 255 : 0, index, index + 3);
      pixels.data[index + 3] = 255;
    }
  }
  sheet.getContext("2d").putImageData(pixels, 0, 0);
  return sheet.toDataURL("image/png");
};
const showPaint = async () => {
  const wanted = scene.paint, pen = paper();
  pen.clearRect(0, 0, scene.width, scene.height);
  if (!wanted) return;
  const picture = new Image();
  picture.src = wanted;
  await picture.decode();
  if (wanted !== scene.paint) return;
  pen.drawImage(picture, 0, 0, scene.width, scene.height);
  if (!isMask) return;
  const sheet = pen.getImageData(0, 0, scene.width, scene.height);
  for (let index = 0; index < sheet.data.length; index += 4) sheet.data.set([213, 240, 106, sheet.data[index] > 127 ? 255 : 0], index);
  pen.putImageData(sheet, 0, 0);
};
const stroke = (from, to) => {
  const pen = paper();
  const ink = isMask ? "#d5f06a" : find(".paint-colour").value;
  Object.assign(pen, { lineCap: "round", lineWidth: (Number(find(".paint-brush").value) / 100) * scene.width, strokeStyle: ink });
  pen.globalCompositeOperation = mode === "erase" ? "destination-out" : "source-over";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(to[0], to[1] + 0.001);
  pen.stroke();
  pen.globalCompositeOperation = "source-over";
};

element.addEventListener("pointerdown", (event) => {
  const field = event.target.closest(".paint-field");
  if (!field || !scene.key || event.button || hand) return;
  event.preventDefault();
  hand = { at: spot(event), pointer: event.pointerId };
  stroke(hand.at, hand.at);
  field.setPointerCapture(event.pointerId);
});
element.addEventListener("pointermove", (event) => {
  if (!hand || event.pointerId !== hand.pointer) return;
  const at = spot(event);
  stroke(hand.at, at);
  hand.at = at;
});
const release = (event) => {
  if (!hand || event.pointerId !== hand.pointer) return;
  hand = null;
  past.push({ paint: scene.paint, touched: scene.touched });
  if (past.length > MAX_UNDO) past.shift();
  Object.assign(scene, { paint: toFile(), touched: true });
  keep();
  show();
};
element.addEventListener("pointerup", release);
element.addEventListener("pointercancel", release);
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.matches(".paint-mode")) { mode = button.dataset.mode; show(); }
  if (button?.matches(".paint-undo") && past.length) {
    Object.assign(scene, past.pop());
    keep();
    show();
    showPaint();
  }
});

const take = () => {
  const given = { ...EMPTY, ...(props.value ?? {}) };
  if (JSON.stringify(given) === JSON.stringify(scene)) return;
  if (given.key !== scene.key) past = [];
  scene = Object.fromEntries(Object.keys(EMPTY).map((name) => [name, given[name]]));
  const picture = find(".paint-picture"), sheet = find(".paint-sheet");
  picture.hidden = !scene.picture;
  if (scene.picture && picture.getAttribute("src") !== scene.picture) picture.src = scene.picture;
  picture.alt = scene.alt;
  find(".paint-field").style.aspectRatio = `${scene.width || 1} / ${scene.height || 1}`;
  if (sheet.width !== scene.width || sheet.height !== scene.height) Object.assign(sheet, { width: scene.width || 1, height: scene.height || 1 });
  show();
  if (scene.key) showPaint();
};
watch("value", take);
take();
show();
