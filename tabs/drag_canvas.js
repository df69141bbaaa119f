/* The drag canvas: on a picture, click handles and targets, move and delete them, and paint what may move.
   `props.value` is {picture, key, width, height, alt, pairs, mask}: a picture without key is unfinished; pairs [{handle_x, handle_y, target_x, target_y}] in whole
   px of the picture, the last one perhaps without a target yet; mask a PNG as data address, white may move, or null. */
const INKS = ["#d5f06a", "#6ad0f0", "#f0a06a", "#d78af0", "#f06a8a", "#8af0b4"];
const MAX_PAIRS = 16, MAX_UNDO = 50, PRESS_PX = 6;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const find = (selector) => element.querySelector(selector);
const isOpen = (pair) => pair !== undefined && pair.target_x === undefined;
const EMPTY = { picture: "", key: "", width: 0, height: 0, alt: "" };
let scene = EMPTY, pairs = [], mask = null, past = [], mode = "points";

const make = (name, attributes, parent) => {
  const node = Object.assign(document.createElement(name), attributes);
  parent.append(node);
  return node;
};
const snapshot = () => ({ pairs: pairs.map((pair) => ({ ...pair })), mask });
const remember = (before = snapshot()) => {
  past.push(before);
  if (past.length > MAX_UNDO) past.shift();
};
const keep = () => { props.value = { ...scene, ...snapshot() }; };
const length = (pair) => Math.hypot(pair.target_x - pair.handle_x, pair.target_y - pair.handle_y);

/* Where things stand: the middle of a picture's pixel, in per cent of the field, whatever its size on screen. */
const percent = (value, side) => `${((value + 0.5) / side) * 100}%`;
const spot = (event) => {
  const area = find(".drag-field").getBoundingClientRect();
  const read = (at, from, room, side) => clamp(Math.floor(((at - from) / room) * side), 0, side - 1);
  return [read(event.clientX, area.left, area.width, scene.width), read(event.clientY, area.top, area.height, scene.height)];
};

const tell = () => {
  const open = pairs.findIndex(isOpen), done = pairs.filter((pair) => !isOpen(pair));
  const mean = done.reduce((sum, pair) => sum + length(pair), 0) / (done.length || 1);
  const counted = `${done.length} pair${done.length === 1 ? "" : "s"}, ${mean.toFixed(0)} px to go`;
  let words = `${counted}. Press Run, or click the next handle.`;
  if (!scene.key) words = pairs.length ? "The points wait for their picture." : "First draw or upload a picture.";
  else if (mode !== "points") words = mode === "paint" ? "Paint over what may move; the rest is held." : "Rub out what should not move.";
  else if (open >= 0) words = `Now click where point ${open + 1} should go.`;
  else if (!pairs.length) words = "Click what should move, then where it should go.";
  else if (pairs.length >= MAX_PAIRS) words = `${counted}: as many as there can be. Press Run.`;
  const free = mask === null || !scene.key ? "" : ` Mask: ${share()} % of the picture may move.`;
  const hint = find(".drag-hint");
  if (hint.textContent !== words + free) hint.textContent = words + free;
};

/* Points and arrows. Lines are drawn in px of the picture, as thick as the screen wants them; a head ends at its ring. */
const RING_PX = 15, HEAD_PX = 11;
const placeHead = (head, pair, px) => {
  const far = length(pair), [dx, dy] = [(pair.target_x - pair.handle_x) / far, (pair.target_y - pair.handle_y) / far];
  const at = (back, aside) => `${pair.target_x + 0.5 - (dx * back - dy * aside) * px},${pair.target_y + 0.5 - (dy * back + dx * aside) * px}`;
  const isRoom = far / px > RING_PX + HEAD_PX + 13;
  head.setAttribute("points", isRoom ? [at(RING_PX, 0), at(RING_PX + HEAD_PX, HEAD_PX * 0.7), at(RING_PX + HEAD_PX, -HEAD_PX * 0.7)].join(" ") : "");
};
const place = () => {
  const { width, height } = scene;
  for (const node of element.querySelectorAll(".drag-point")) {
    const pair = pairs[node.dataset.pair], end = node.dataset.end;
    Object.assign(node.style, { left: percent(pair[`${end}_x`], width), top: percent(pair[`${end}_y`], height) });
    const label = `${end === "handle" ? "Handle" : "Target"} ${Number(node.dataset.pair) + 1} at ${pair[`${end}_x`]}, ${pair[`${end}_y`]} px`;
    node.setAttribute("aria-label", `${label}; arrow keys move it, Delete removes the pair`);
  }
  find(".drag-arrows").setAttribute("viewBox", `0 0 ${width || 1} ${height || 1}`);
  const px = width / (find(".drag-field").clientWidth || width || 1);
  for (const mark of element.querySelectorAll(".drag-arrows > *")) {
    const pair = pairs[mark.dataset.pair];
    if (mark.matches("polygon")) { placeHead(mark, pair, px); continue; }
    for (const [name, end] of [["1", "handle"], ["2", "target"]]) {
      for (const axis of ["x", "y"]) mark.setAttribute(`${axis}${name}`, pair[`${end}_${axis}`] + 0.5);
    }
  }
  for (const chip of element.querySelectorAll(".drag-chip")) {
    const pair = pairs[chip.dataset.pair];
    chip.querySelector(".drag-length").textContent = isOpen(pair) ? "no target yet" : `${length(pair).toFixed(0)} px`;
    for (const field of chip.querySelectorAll("input")) {
      if (document.activeElement !== field) field.value = pair[field.name] ?? "";
    }
  }
  tell();
};
const drawArrow = (arrows, index, ink) => {
  for (const [name, kind] of [["line", "drag-line casing"], ["line", "drag-line"], ["polygon", "drag-head"]]) {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", name);
    mark.setAttribute("class", kind);
    mark.dataset.pair = index;
    mark.style.setProperty("--ink", ink);
    arrows.append(mark);
  }
};
const drawChip = (rows, index, ink) => {
  const chip = make("div", { className: "drag-chip" }, rows);
  chip.dataset.pair = index;
  chip.style.setProperty("--ink", ink);
  make("b", { textContent: index + 1 }, chip);
  make("span", { className: "drag-length" }, chip);
  const numbers = make("span", { className: "drag-numbers" }, chip);
  for (const [end, arrow] of [["handle", ""], ["target", "\u2192"]]) {
    if (arrow) make("i", { textContent: arrow, ariaHidden: "true" }, numbers);
    for (const [axis, side] of [["x", scene.width], ["y", scene.height]]) {
      const field = make("input", { type: "number", name: `${end}_${axis}`, min: 0, max: side - 1, step: 1 }, numbers);
      field.setAttribute("aria-label", `${axis} of ${end} ${index + 1}, px`);
    }
  }
  const remove = make("button", { type: "button", textContent: "\u00d7", className: "drag-remove" }, chip);
  remove.setAttribute("aria-label", `Delete pair ${index + 1}`);
};
const draw = () => {
  const field = find(".drag-field"), arrows = find(".drag-arrows"), rows = find(".drag-rows");
  const held = document.activeElement?.closest?.(".drag-point")?.dataset;
  field.querySelectorAll(".drag-point").forEach((node) => node.remove());
  arrows.replaceChildren();
  rows.replaceChildren();
  if (scene.key) pairs.forEach((pair, index) => {
    const ink = INKS[index % INKS.length];
    if (!isOpen(pair)) drawArrow(arrows, index, ink);
    for (const end of isOpen(pair) ? ["handle"] : ["handle", "target"]) {
      const node = make("button", { type: "button", className: `drag-point ${end}`, textContent: index + 1 }, field);
      Object.assign(node.dataset, { pair: index, end });
      node.style.setProperty("--ink", ink);
    }
    drawChip(rows, index, ink);
  });
  element.querySelectorAll(".drag-mode").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.mode === mode)));
  find(".drag").dataset.mode = scene.key ? mode : "none";
  find(".drag-undo").disabled = !past.length;
  find(".drag-clear").disabled = !pairs.length;
  find(".drag-unmask").hidden = mask === null;
  find(".drag-exact").disabled = !pairs.length;
  find(".drag-add").disabled = !scene.key || pairs.length >= MAX_PAIRS;
  place();
  if (held) focusPoint(held.pair, held.end);
};
const focusPoint = (index, end) => find(`.drag-point[data-pair="${index}"][data-end="${end}"]`)?.focus({ preventScroll: true });
const change = (edit) => {
  remember();
  edit();
  keep();
  draw();
};
const addPoint = (x, y) => {
  const last = pairs.at(-1);
  if (!isOpen(last) && pairs.length >= MAX_PAIRS) return;
  change(() => {
    if (isOpen(last)) Object.assign(last, { target_x: x, target_y: y });
    else pairs.push({ handle_x: x, handle_y: y });
  });
};
const removePair = (index) => change(() => pairs.splice(index, 1));

/* The mask: painted at the picture's own size, so that a stroke is the same px on every screen. */
const paper = () => find(".drag-mask").getContext("2d", { willReadFrequently: true });
const readMask = () => {
  const pixels = paper().getImageData(0, 0, scene.width, scene.height).data;
  let count = 0;
  for (let index = 3; index < pixels.length; index += 4) count += pixels[index] > 127;
  return [pixels, count];
};
const share = () => Math.max(1, Math.round((100 * readMask()[1]) / (scene.width * scene.height)));
const takeMask = () => {
  const [pixels, count] = readMask();
  if (!count) return null;
  const sheet = Object.assign(document.createElement("canvas"), { width: scene.width, height: scene.height });
  const picture = sheet.getContext("2d").createImageData(scene.width, scene.height);
  for (let index = 0; index < pixels.length; index += 4) {
    picture.data.fill(pixels[index + 3] > 127 ? 255 : 0, index, index + 3);
    picture.data[index + 3] = 255;
  }
  sheet.getContext("2d").putImageData(picture, 0, 0);
  return sheet.toDataURL("image/png");
};
const showMask = async () => {
  const wanted = mask, pen = paper();
  pen.clearRect(0, 0, scene.width, scene.height);
  if (wanted === null) return tell();
  const picture = new Image();
  picture.src = wanted;
  await picture.decode();
  if (wanted !== mask) return;
  pen.drawImage(picture, 0, 0, scene.width, scene.height);
  const sheet = pen.getImageData(0, 0, scene.width, scene.height);
  for (let index = 0; index < sheet.data.length; index += 4) {
    sheet.data.set([213, 240, 106, sheet.data[index] > 127 ? 255 : 0], index);
  }
  pen.putImageData(sheet, 0, 0);
  tell();
};
const stroke = (from, to) => {
  const pen = paper();
  Object.assign(pen, { lineCap: "round", lineWidth: Number(find(".drag-brush").value), strokeStyle: "#d5f06a" });
  pen.globalCompositeOperation = mode === "erase" ? "destination-out" : "source-over";
  pen.beginPath();
  pen.moveTo(from[0] + 0.5, from[1] + 0.5);
  pen.lineTo(to[0] + 0.5, to[1] + 0.501);
  pen.stroke();
  pen.globalCompositeOperation = "source-over";
};

/* The pointer: a click sets a point, dragging with the mouse sets both, a point or a stroke follows the finger. */
let hand = null;
element.addEventListener("pointerdown", (event) => {
  const field = event.target.closest(".drag-field");
  if (!field || !scene.key || event.button || hand) return;
  const at = spot(event);
  if (mode !== "points") {
    hand = { kind: "stroke", at, before: snapshot() };
    stroke(at, at);
  } else {
    const node = event.target.closest(".drag-point");
    hand = { kind: "press", at, x: event.clientX, y: event.clientY, before: snapshot(), isTouch: event.pointerType === "touch" };
    if (node) Object.assign(hand, { kind: "grab", pair: Number(node.dataset.pair), end: node.dataset.end });
  }
  hand.pointer = event.pointerId;
  if (hand.kind !== "press" || !hand.isTouch) event.preventDefault();
  if (hand.kind === "grab") focusPoint(hand.pair, hand.end);
  field.setPointerCapture(event.pointerId);
});
element.addEventListener("pointermove", (event) => {
  if (!hand || event.pointerId !== hand.pointer) return;
  const at = spot(event);
  if (hand.kind === "stroke") {
    stroke(hand.at, at);
    hand.at = at;
    return;
  }
  if (!hand.hasMoved && Math.hypot(event.clientX - hand.x, event.clientY - hand.y) < PRESS_PX) return;
  if (hand.kind === "press") {
    const last = pairs.at(-1);
    /* A finger that moves is scrolling. */
    if (hand.isTouch || (!isOpen(last) && pairs.length >= MAX_PAIRS)) return;
    if (!isOpen(last)) pairs.push({ handle_x: hand.at[0], handle_y: hand.at[1] });
    Object.assign(pairs.at(-1), { target_x: at[0], target_y: at[1] });
    Object.assign(hand, { kind: "grab", pair: pairs.length - 1, end: "target" });
    draw();
  }
  hand.hasMoved = true;
  Object.assign(pairs[hand.pair], { [`${hand.end}_x`]: at[0], [`${hand.end}_y`]: at[1] });
  place();
});
const release = (event) => {
  if (!hand || event.pointerId !== hand.pointer) return;
  const { kind, before, at, isTouch, hasMoved, x, y } = hand;
  hand = null;
  if (kind === "stroke") {
    mask = takeMask();
    remember(before);
    keep();
    draw();
  } else if (kind === "grab" && hasMoved) {
    remember(before);
    keep();
    draw();
  } else if (kind === "press" && event.type === "pointerup") {
    if (!isTouch || Math.hypot(event.clientX - x, event.clientY - y) < 2 * PRESS_PX) addPoint(...at);
  }
};
element.addEventListener("pointerup", release);
element.addEventListener("pointercancel", release);

element.addEventListener("keydown", (event) => {
  const node = event.target.closest(".drag-point");
  if (!node) return;
  const index = Number(node.dataset.pair), { end } = node.dataset, step = event.shiftKey ? 10 : 1;
  const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (way) {
    event.preventDefault();
    remember();
    const pair = pairs[index];
    pair[`${end}_x`] = clamp(pair[`${end}_x`] + way[0], 0, scene.width - 1);
    pair[`${end}_y`] = clamp(pair[`${end}_y`] + way[1], 0, scene.height - 1);
    keep();
    draw();
  } else if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    removePair(index);
    find(".drag-add").focus();
  }
});
element.addEventListener("change", (event) => {
  const chip = event.target.closest(".drag-chip");
  if (!chip || event.target.value === "") return;
  const side = event.target.name.endsWith("x") ? scene.width : scene.height;
  const value = clamp(Math.round(Number(event.target.value)), 0, side - 1);
  const { name } = event.target, pair = pairs[chip.dataset.pair];
  remember();
  pair[name] = value;
  event.target.value = value;
  /* A target typed by hand begins with one field; the other one starts beside it. */
  if (name.startsWith("target")) for (const axis of ["x", "y"]) pair[`target_${axis}`] ??= pair[`handle_${axis}`];
  keep();
  setTimeout(draw);
});
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.matches(".drag-mode")) { mode = button.dataset.mode; draw(); }
  if (button.matches(".drag-remove")) removePair(Number(button.closest(".drag-chip").dataset.pair));
  if (button.matches(".drag-clear")) change(() => { pairs = []; });
  if (button.matches(".drag-unmask")) { if (mode === "erase") mode = "paint"; change(() => { mask = null; }); showMask(); }
  if (button.matches(".drag-exact")) find(".drag").classList.toggle("exact", button.getAttribute("aria-pressed") !== "true");
  if (button.matches(".drag-exact")) button.setAttribute("aria-pressed", String(find(".drag").classList.contains("exact")));
  if (button.matches(".drag-undo") && past.length) {
    ({ pairs, mask } = past.pop());
    keep();
    draw();
    showMask();
  }
  if (button.matches(".drag-add")) {
    mode = "points";
    if (isOpen(pairs.at(-1))) addPoint(Math.round(scene.width * 0.6), Math.round(scene.height / 2));
    else {
      const y = Math.round(scene.height * (0.3 + 0.1 * (pairs.length % 5)));
      change(() => pairs.push({ handle_x: Math.round(scene.width * 0.4), handle_y: y, target_x: Math.round(scene.width * 0.6), target_y: y }));
    }
    focusPoint(pairs.length - 1, "handle");
  }
});

const take = () => {
  const given = props.value ?? {};
  const now = { ...scene, ...snapshot() };
  if (JSON.stringify(given) === JSON.stringify(now)) return;
  if (given.key !== scene.key) past = [];
  scene = Object.fromEntries(Object.entries(EMPTY).map(([name, empty]) => [name, given[name] ?? empty]));
  pairs = (given.pairs ?? []).map((pair) => ({ ...pair }));
  mask = given.mask ?? null;
  const picture = find(".drag-picture"), sheet = find(".drag-mask");
  picture.hidden = !scene.picture;
  if (scene.picture && picture.getAttribute("src") !== scene.picture) picture.src = scene.picture;
  picture.alt = scene.alt;
  find(".drag-field").style.aspectRatio = `${scene.width || 1} / ${scene.height || 1}`;
  if (sheet.width !== scene.width || sheet.height !== scene.height) Object.assign(sheet, { width: scene.width, height: scene.height });
  draw();
  if (scene.key) showMask();
};
watch("value", take);
take();
draw();
new ResizeObserver(place).observe(find(".drag-field"));
