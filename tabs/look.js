/* The page's own script: stage mode, ?tab=, light and dark, keyboard, clipboard. Asks no host for anything. */
(() => {
  const root = document.documentElement;
  const query = new URLSearchParams(location.search);
  const wantsStage = query.has("stage") ? query.get("stage") === "1" : limelight.stage;
  root.classList.toggle("stage", wantsStage);

  /* Only widgets of the open tab are on screen, so the first visible one is the one meant. */
  const visible = (selector) => [...document.querySelectorAll(selector)].find((node) => node.offsetParent !== null);

  limelight.copy = async (code) => {
    const text = typeof code === "string" ? code : (code && code.value) || "";
    const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    limelight.say(done ? "Copied to the clipboard." : "Select the code below and copy it: this browser keeps the clipboard closed.");
  };

  limelight.say = (sentence) => {
    let box = document.getElementById("limelight-say");
    if (!box) {
      box = Object.assign(document.createElement("div"), { id: "limelight-say" });
      box.setAttribute("role", "status");
      document.body.append(box);
    }
    box.textContent = sentence;
    box.classList.add("shown");
    clearTimeout(box.timer);
    box.timer = setTimeout(() => box.classList.remove("shown"), 3500);
  };

  limelight.toggleTheme = () => {
    const isDark = document.body.classList.toggle("dark");
    try { localStorage.setItem("limelight-theme", isDark ? "dark" : "light"); } catch { /* private mode: lasts for this page */ }
  };

  limelight.begin = () => {
    root.classList.add("running");
    const box = visible(".stage-box");
    if (!box) return;
    const top = box.getBoundingClientRect().top;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (top > innerHeight * 0.6 || top < -200) box.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  };
  limelight.end = () => root.classList.remove("running");
  /* A busy browser still has updates of a stopped run before it; what the stop says comes after them. */
  limelight.rest = async () => {
    const read = () => [...document.querySelectorAll(".status")].map((line) => line.textContent).join("\n");
    let last = read(), calm = 0;
    for (let turn = 0; turn < 100 && calm < 3; turn++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      const now = read();
      calm = now === last ? calm + 1 : 0;
      last = now;
    }
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      /* A number field tells gradio its value when it is left; the click must not overtake that. */
      const field = document.activeElement;
      if (field?.matches("input")) field.blur();
      setTimeout(() => { visible("button.run")?.click(); field?.focus?.(); }, 120);
    }
    if (event.key === "Escape" && root.classList.contains("running")) visible("button.stop")?.click();
  }, true);

  /* One of several frames that lie beside each other, see show_round in preview_result.py. */
  document.addEventListener("input", (event) => {
    event.target.closest?.(".round")?.style.setProperty("--frame", event.target.value);
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    if (!button) return;
    if (button.matches(".run, .compare, .learn, .instant, .example")) limelight.begin();
    if (button.matches(".stop")) limelight.end();
    if (button.matches('[role="tab"][data-tab-id]')) limelight.rememberTab(button);
  }, true);

  limelight.rememberTab = (button = document.querySelector('[role="tab"][aria-selected="true"]')) => {
    if (!button) return;
    const address = new URL(location.href);
    address.searchParams.set("tab", button.dataset.tabId);
    history.replaceState(history.state, "", address);
  };

  /* The comparison's divider knows only the mouse: name both pictures, and let the arrow keys drag it. */
  const dressPair = (pair) => {
    const label = pair.querySelector("label")?.textContent.trim() || "Comparison";
    const names = pair.closest(".drag-tab, .light-tab") ? ["Before", "After"] : pair.closest(".enlarge-tab") ? ["Bicubic", "Enlarged"] : ["Off", "On"];
    pair.querySelectorAll("img").forEach((image, side) => { image.alt = `${names[side]}: ${label}`; });
    const divider = pair.querySelector('[data-testid="slider"]');
    if (!divider || divider.tabIndex === 0) return;
    divider.tabIndex = 0;
    divider.setAttribute("role", "slider");
    divider.setAttribute("aria-label", `Divider: left of it ${names[0].toLowerCase()}, right of it ${names[1].toLowerCase()}`);
    divider.setAttribute("aria-valuenow", "50");
    divider.addEventListener("keydown", (event) => {
      const stage = divider.parentElement.getBoundingClientRect();
      const now = divider.getBoundingClientRect();
      const from = now.left + now.width / 2, y = now.top + now.height / 2, step = stage.width / 20;
      const goal = { ArrowLeft: from - step, ArrowRight: from + step, Home: stage.left, End: stage.right }[event.key];
      if (goal === undefined) return;
      event.preventDefault();
      const to = Math.min(stage.right, Math.max(stage.left, goal));
      const drag = (kind, target, x) =>
        target.dispatchEvent(new MouseEvent(kind, { bubbles: true, cancelable: true, view: window, clientX: x, clientY: y }));
      drag("mousedown", divider, from);
      drag("mousemove", window, to);
      drag("mouseup", window, to);
      divider.setAttribute("aria-valuenow", String(Math.round(100 * (to - stage.left) / stage.width)));
    });
  };

  /* Gradio draws the page after this script ran; names for screen readers go on as soon as parts appear. */
  const dress = () => {
    for (const box of document.querySelectorAll(".status-box:not([aria-live]), .stopped-box:not([aria-live]), .unknown-box:not([aria-live]), .choice-notes:not([aria-live])")) {
      box.setAttribute("aria-live", "polite");
    }
    for (const button of document.querySelectorAll("button.dice:not([title])")) button.title = "New seed";
    /* gradio calls every small picture "Thumbnail 3 of 8"; its own words say what is on it. */
    for (const image of document.querySelectorAll("button.thumbnail-item > img[alt]:not([alt=''])")) {
      if (image.parentElement.title !== image.alt) Object.assign(image.parentElement, { title: image.alt, ariaLabel: image.alt });
    }
    document.querySelectorAll(".block.pair").forEach(dressPair);
  };

  const open = () => {
    root.lang = "en";
    let theme = null;
    try { theme = localStorage.getItem("limelight-theme"); } catch { /* private mode: follow the system */ }
    if (theme && !query.has("__theme")) {
      const apply = () => document.body.classList.toggle("dark", theme === "dark");
      apply();
      setTimeout(apply, 800);
    }
    new MutationObserver(dress).observe(document.body, { childList: true, subtree: true });
    dress();
  };
  /* gradio puts this script into the head itself, early or late. */
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", open);
  else open();
})();
