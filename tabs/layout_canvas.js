/* The layout canvas: draw boxes with the mouse or a finger, move and resize them, give each a phrase.
   `props.value` is the list of boxes, [{phrase, x0, y0, x1, y1}] in fractions 0..1; the same list as number fields below. */
const INKS = ["#d5f06a", "#6ad0f0", "#f0a06a", "#d78af0", "#f06a8a", "#8af0b4"];
const SMALLEST = 0.08;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const round = (value) => Math.round(value * 1000) / 1000;
let boxes = [];

const make = (name, attributes, parent) => {
  const node = Object.assign(document.createElement(name), attributes);
  parent.append(node);
  return node;
};

const keep = () => {
  props.value = boxes.map((box) => ({ ...box, x0: round(box.x0), y0: round(box.y0), x1: round(box.x1), y1: round(box.y1) }));
};

const place = () => {
  element.querySelectorAll(".layout-box").forEach((node, index) => {
    const box = boxes[index];
    Object.assign(node.style, {
      left: `${box.x0 * 100}%`, top: `${box.y0 * 100}%`,
      width: `${(box.x1 - box.x0) * 100}%`, height: `${(box.y1 - box.y0) * 100}%`,
    });
    node.firstChild.textContent = box.phrase || "name it below";
  });
  element.querySelectorAll(".layout-row").forEach((row, index) => {
    row.querySelectorAll("input[type=number]").forEach((field) => {
      if (document.activeElement !== field) field.value = Math.round(boxes[index][field.name] * 100);
    });
  });
};

const draw = () => {
  const field = element.querySelector(".layout-field");
  const rows = element.querySelector(".layout-rows");
  if (!field || !rows) return;
  field.replaceChildren();
  rows.replaceChildren();
  boxes.forEach((box, index) => {
    const ink = INKS[index % INKS.length];
    const node = make("div", { className: "layout-box" }, field);
    node.style.setProperty("--ink", ink);
    node.dataset.index = index;
    make("span", {}, node);
    make("i", { className: "layout-corner" }, node);
    const row = make("div", { className: "layout-row" }, rows);
    row.style.setProperty("--ink", ink);
    row.dataset.index = index;
    const phrase = make("input", { type: "text", value: box.phrase, placeholder: "a red boat", maxLength: 200 }, row);
    phrase.setAttribute("aria-label", `Phrase of box ${index + 1}`);
    for (const [side, label] of [["x0", "left"], ["y0", "top"], ["x1", "right"], ["y1", "bottom"]]) {
      const number = make("input", { type: "number", name: side, min: 0, max: 100, step: 1 }, row);
      number.setAttribute("aria-label", `${label} of box ${index + 1}, in percent of the picture`);
      number.title = `${label}, percent`;
    }
    const remove = make("button", { type: "button", textContent: "\u00d7", className: "layout-remove" }, row);
    remove.setAttribute("aria-label", `Remove box ${index + 1}`);
  });
  element.querySelector(".layout-hint").hidden = boxes.length > 0;
  place();
};

const spot = (event) => {
  const area = element.querySelector(".layout-field").getBoundingClientRect();
  return [clamp((event.clientX - area.left) / area.width, 0, 1), clamp((event.clientY - area.top) / area.height, 0, 1)];
};

let drag = null;
element.addEventListener("pointerdown", (event) => {
  const field = event.target.closest(".layout-field");
  if (!field) return;
  event.preventDefault();
  const [x, y] = spot(event);
  const node = event.target.closest(".layout-box");
  if (node) {
    const index = Number(node.dataset.index);
    drag = { index, x, y, from: { ...boxes[index] }, kind: event.target.matches(".layout-corner") ? "size" : "move" };
  } else {
    boxes.push({ phrase: "", x0: x, y0: y, x1: x, y1: y });
    draw();
    drag = { index: boxes.length - 1, x, y, from: { ...boxes.at(-1) }, kind: "size" };
  }
  field.setPointerCapture(event.pointerId);
});
element.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [x, y] = spot(event);
  const box = boxes[drag.index], { from } = drag;
  if (drag.kind === "move") {
    const dx = clamp(x - drag.x, -from.x0, 1 - from.x1), dy = clamp(y - drag.y, -from.y0, 1 - from.y1);
    Object.assign(box, { x0: from.x0 + dx, x1: from.x1 + dx, y0: from.y0 + dy, y1: from.y1 + dy });
  } else {
    Object.assign(box, { x0: Math.min(from.x0, x), x1: Math.max(from.x0, x), y0: Math.min(from.y0, y), y1: Math.max(from.y0, y) });
  }
  place();
});
const drop = () => {
  if (!drag) return;
  const box = boxes[drag.index];
  const isNew = !box.phrase;
  /* A click, or a box too thin to draw in, is no box. */
  if (box.x1 - box.x0 < SMALLEST || box.y1 - box.y0 < SMALLEST) boxes.splice(drag.index, 1);
  const index = drag.index;
  drag = null;
  keep();
  draw();
  if (isNew) element.querySelectorAll(".layout-row input[type=text]")[index]?.focus();
};
element.addEventListener("pointerup", drop);
element.addEventListener("pointercancel", drop);

element.addEventListener("input", (event) => {
  const row = event.target.closest(".layout-row");
  if (!row) return;
  const box = boxes[Number(row.dataset.index)];
  if (event.target.type === "text") box.phrase = event.target.value;
  else if (event.target.value !== "") box[event.target.name] = Number(event.target.value) / 100;
  keep();
  place();
});
element.addEventListener("click", (event) => {
  if (event.target.matches(".layout-remove")) {
    boxes.splice(Number(event.target.closest(".layout-row").dataset.index), 1);
    keep();
    draw();
  }
  if (event.target.matches(".layout-add")) {
    const step = 0.06 * (boxes.length % 6);
    boxes.push({ phrase: "", x0: 0.1 + step, y0: 0.3 + step, x1: 0.5 + step, y1: 0.7 + step });
    keep();
    draw();
    element.querySelectorAll(".layout-row input[type=text]")[boxes.length - 1]?.focus();
  }
  if (event.target.matches(".layout-clear")) {
    boxes = [];
    keep();
    draw();
  }
  if (event.target.matches(".layout-fill")) trigger("submit");
});

const take = () => {
  const given = Array.isArray(props.value) ? props.value : [];
  if (JSON.stringify(given) === JSON.stringify(boxes.map((box) => ({ ...box })))) return;
  boxes = given.map((box) => ({ ...box }));
  draw();
};
watch("value", take);
boxes = (Array.isArray(props.value) ? props.value : []).map((box) => ({ ...box }));
draw();
