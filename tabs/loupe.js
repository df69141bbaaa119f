/* The loupe: `props.value` is {key, width, height, x, y, left, right}, the place in px of the compared pictures and their names.
   Both pictures come from the slider of the same tab. A pointer over the slider moves the loupe, a click pins it there,
   and the next click lets it go; arrow keys move it when it has the focus. */
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const box = () => element.querySelector(".loupe");
const tab = () => element.closest(".shelf");
const images = () => [...tab().querySelectorAll(".pair img")].slice(0, 2);
let place = { x: 0, y: 0 }, shown = "", zoom = 1, isPinned = false;
const known = () => props.value || {};

/* Where the picture itself lies on the screen: inside its <img>, which may be wider or higher. */
const findPicture = () => {
  const image = images()[1];
  if (!image || !known().width) return null;
  const area = image.getBoundingClientRect();
  const fit = Math.min(area.width / known().width, area.height / known().height);
  if (!fit) return null;
  const [wide, tall] = [known().width * fit, known().height * fit];
  return { left: area.left + (area.width - wide) / 2, top: area.top + (area.height - tall) / 2, fit };
};
const size = (view) => [view.clientWidth / zoom, view.clientHeight / zoom];
/* A view never looks past the border, unless the picture is smaller than itself. */
const corner = (middle, room, side) => (room >= side ? (side - room) / 2 : clamp(middle - room / 2, 0, side - room));

const frame = () => {
  const pair = tab().querySelector(".pair");
  let mark = pair.querySelector(".loupe-frame");
  if (!mark) {
    mark = Object.assign(document.createElement("div"), { className: "loupe-frame" });
    pair.append(mark);
  }
  return mark;
};
const draw = () => {
  const { width, height, left, right } = known();
  const found = images(), views = [...element.querySelectorAll(".loupe-view")];
  box().hidden = !width || found.length < 2 || Boolean(known().is_small);
  if (box().hidden) {
    tab().querySelector(".loupe-frame")?.setAttribute("hidden", "");
    return;
  }
  const [wide, tall] = size(views[0]);
  const x = corner(place.x, wide, width), y = corner(place.y, tall, height);
  views.forEach((view, side) => {
    const source = found[side].currentSrc || found[side].src;
    const wanted = `url("${source}")`;
    if (view.dataset.source !== source) Object.assign(view.style, { backgroundImage: wanted }), (view.dataset.source = source);
    view.style.backgroundSize = `${width * zoom}px ${height * zoom}px`;
    view.style.backgroundPosition = `${Math.round(-x * zoom)}px ${Math.round(-y * zoom)}px`;
    view.nextElementSibling.textContent = side ? right : left;
  });
  const at = `${Math.round(place.x)}, ${Math.round(place.y)} px`;
  element.querySelector(".loupe-hint").textContent = isPinned
    ? `Pinned at ${at}. Click the picture again to let go.`
    : `At ${at}. Point at the picture, click or tap it to pin, or use the arrow keys here.`;
  const picture = findPicture(), mark = frame();
  const stage = mark.parentElement.getBoundingClientRect();
  mark.hidden = !picture;
  if (!picture) return;
  const px = (value) => `${value}px`;
  Object.assign(mark.style, {
    left: px(picture.left - stage.left + Math.max(0, x) * picture.fit), top: px(picture.top - stage.top + Math.max(0, y) * picture.fit),
    width: px(Math.min(wide, width) * picture.fit), height: px(Math.min(tall, height) * picture.fit),
  });
};
const look = (x, y) => {
  place = { x: clamp(x, 0, known().width - 1), y: clamp(y, 0, known().height - 1) };
  draw();
};
const follow = (event) => {
  const picture = findPicture();
  if (picture) look((event.clientX - picture.left) / picture.fit, (event.clientY - picture.top) / picture.fit);
};
const setZoom = (value) => {
  zoom = value;
  for (const button of element.querySelectorAll("[data-zoom]")) button.setAttribute("aria-pressed", String(Number(button.dataset.zoom) === zoom));
  draw();
};

/* The slider is drawn anew by gradio, so its tab listens instead of it. */
const isOnPair = (event) => event.target.closest?.(".pair") && !event.target.closest("button, .icon-button-wrapper");
tab().addEventListener("pointermove", (event) => { if (!isPinned && isOnPair(event)) follow(event); });
let press = null;
tab().addEventListener("pointerdown", (event) => { press = isOnPair(event) ? [event.clientX, event.clientY] : null; }, true);
tab().addEventListener("pointerup", (event) => {
  /* Pulling the divider is no click. */
  const isClick = press && Math.hypot(event.clientX - press[0], event.clientY - press[1]) < 6;
  press = null;
  if (!isClick || event.target.closest('[role="slider"]') || !findPicture()) return;
  if (event.pointerType === "mouse") isPinned = !isPinned;
  follow(event);
}, true);
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-zoom]");
  if (button) setZoom(Number(button.dataset.zoom));
});
element.addEventListener("keydown", (event) => {
  if (!event.target.closest(".loupe-views")) return;
  const [wide, tall] = size(element.querySelector(".loupe-view"));
  const step = { ArrowLeft: [-wide / 4, 0], ArrowRight: [wide / 4, 0], ArrowUp: [0, -tall / 4], ArrowDown: [0, tall / 4] }[event.key];
  const turn = { "+": 2, "=": 2, "-": 0.5 }[event.key];
  if (!step && !turn) return;
  event.preventDefault();
  if (turn) setZoom(clamp(zoom * turn, 1, 4));
  else look(place.x + step[0], place.y + step[1]);
});

const update = () => {
  const value = known();
  /* What the slider shows has the shape of its picture, so that nothing of its stage is empty. */
  if (value.width) {
    tab().style.setProperty("--ratio", value.width / value.height);
    tab().style.setProperty("--mode", JSON.stringify(value.right));
    tab().style.setProperty("--left", JSON.stringify(value.left));
  }
  if (value.key === shown) return;
  shown = value.key;
  isPinned = false;
  look(value.x, value.y);
};
watch("value", update);
new MutationObserver((changes) => {
  if (changes.every((change) => change.target.closest?.(".loupe-frame, .loupe-box"))) return;
  draw();
}).observe(tab(), { childList: true, subtree: true, attributes: true, attributeFilter: ["src"] });
new ResizeObserver(() => draw()).observe(tab());
tab().addEventListener("load", () => draw(), true);
update();
