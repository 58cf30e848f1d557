// Finished views ----------------------------------------------------------------
//
// A finished view is plain HTML in an output of the page, now or later. Its data attributes say
// what can be done with it; JupyterLab keeps them where it trusts the output. This file makes the
// buttons.

const PAGES = Symbol.for("llmwit.pages");
const made = new WeakSet();

function openPage(model) {
  const pages = (globalThis[PAGES] ??= new Map());
  if (!pages.listening) {
    pages.listening = true;
    watchViews();
    document.addEventListener("click", closeMenus);
    document.addEventListener("focusin", onPoint);
    document.addEventListener("mouseover", onPoint);
    // Capturing: JupyterLab would otherwise get the arrow keys first, and go to another cell.
    window.addEventListener("keydown", onKey, true);
  }
  pages.set(model.get("log"), model);
  document.documentElement.dataset.llmwit = "";
  model.send({ hello: true }); // tells the kernel that this client has widgets and updates displays
  model.on("msg:custom", ({ rated, value, refused }) => {
    for (const view of document.querySelectorAll(`.llmwit[data-run="${Number(rated)}"]`)) {
      if (view.dataset.log === model.get("log")) showRating(view, value, refused);
    }
  });
  return () => {
    if (pages.get(model.get("log")) === model) pages.delete(model.get("log"));
  };
}

function watchViews() {
  const answers = document.getElementsByClassName("llmwit-answer");
  const tables = document.getElementsByClassName("llmwit-wide");
  const lines = document.getElementsByClassName("llmwit-line");
  const prompts = document.getElementsByClassName("llmwit-prompt");
  const sliders = document.getElementsByClassName("llmwit-slider");
  const kinds = [
    [answers, makeAnswer], [tables, makeTable], [lines, makeLine],
    [prompts, namePrompt], [sliders, makeSlider],
  ];
  const makeAll = () => {
    for (const [found, make] of kinds) {
      for (const view of found) {
        if (made.has(view)) continue;
        made.add(view);
        make(view);
      }
    }
    showLives();
  };
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      makeAll();
    });
  }).observe(document.body, { childList: true, subtree: true });
  makeAll();
}

function makeAnswer(view) {
  const text = answerIn(view);
  const of = view.dataset.run ? ` of run ${view.dataset.run}` : "";
  if (text) keepReachable(text, `answer${of}`);
  const markdown = view.querySelector(".llmwit-markdown");
  if (markdown) keepReachable(markdown, `answer as Markdown${of}`);
  const thoughts = view.querySelector(".llmwit-thoughts");
  if (thoughts) keepReachable(thoughts, `reasoning${of}`);
  const value = view.querySelector(".llmwit-value");
  if (value) makeValue(value, `value${of}`);
  const forms = {};
  if (text) forms.text = () => (view.dataset.raw ? JSON.parse(view.dataset.raw) : text.textContent);
  for (const [name, form] of Object.entries(JSON.parse(view.dataset.forms ?? "{}"))) {
    forms[name] = () => form;
  }
  const tools = element("span", "llmwit-tools");
  if (view.querySelector(".llmwit-more")) tools.append(details(view));
  if (Object.keys(forms).length) tools.append(copyMenu(forms));
  const shaded = [...view.querySelectorAll(".llmwit-shaded")];
  const tokens = shaded.length ? makeTokens(view, shaded) : null;
  if (markdown) tools.append(makeMarkdown(markdown, tokens));
  if (tokens) tools.append(tokens);
  if (view.dataset.run && view.dataset.log) {
    const note = element("span", "llmwit-note");
    note.setAttribute("role", "status");
    tools.append(thumb(view, 1, "👍", "good answer"), thumb(view, -1, "👎", "bad answer"), note);
  }
  if (tools.childElementCount) view.append(tools);
}

// The value of an answer: its keys, or the names over its records, become headings.
function makeValue(box, name) {
  const rows = [...box.querySelector("table").rows];
  const records = box.classList.contains("llmwit-records");
  const cells = records ? [...rows[0].cells] : rows.map((row) => row.cells[0]);
  makeHeadings(cells, records ? "col" : "row");
  keepReachable(box, name);
}

// Headings in the place of cells. Without this module they are cells: some pages style headings.
function makeHeadings(cells, scope) {
  for (const cell of cells) {
    const heading = element("th", "");
    heading.scope = scope;
    heading.style.cssText = cell.style.cssText;
    heading.append(...cell.childNodes);
    cell.replaceWith(heading);
  }
}

// Give the parts of an answer in Markdown what a page without scripts lacks. The returned button shows
// the text in the place of the Markdown.
function makeMarkdown(markdown, tokens) {
  const fold = markdown.nextElementSibling; // the text, which is folded where there is no button
  const text = element("div", "llmwit-as-text");
  text.append(...[...fold.childNodes].slice(1));
  fold.replaceWith(text);
  // JupyterLab has written over what `markdown.py` has said.
  for (const link of markdown.querySelectorAll("a")) link.rel = "noopener noreferrer";
  for (const [index, code] of markdown.querySelectorAll(".llmwit-code > pre").entries()) {
    keepReachable(code, `code ${index + 1}`);
    const tool = button("Copy", "copy this code", (self) => copy(self, code.textContent));
    tool.setAttribute("aria-label", `copy code ${index + 1}`);
    code.after(tool);
  }
  for (const box of markdown.querySelectorAll(".llmwit-formula")) keepReachable(box, "formula");
  for (const [index, box] of markdown.querySelectorAll(".llmwit-scrolling").entries()) {
    keepReachable(box, `table ${index + 1}`);
    makeHeadings([...box.firstElementChild.rows[0].cells], "col");
  }
  const show = (asText) => {
    markdown.hidden = asText;
    text.hidden = !asText;
    if (tokens) tokens.hidden = !asText;
    toggle.setAttribute("aria-pressed", String(asText));
  };
  const toggle = button("Text", "show the text as the model wrote it", () => show(!markdown.hidden));
  show(false);
  return toggle;
}

// The text of the answer, and not that of the reasoning.
function answerIn(view) {
  return view.querySelector(".llmwit-text:not(.llmwit-thoughts)");
}

// A box that scrolls has a name and can be reached with Tab. A box that does not is skipped by Tab.
function keepReachable(box, name) {
  const sizes = new ResizeObserver(() => {
    const scrolls =
      box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1;
    if (scrolls === (box.getAttribute("role") === "region")) return;
    for (const [key, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", name]]) {
      if (scrolls) box.setAttribute(key, value);
      else box.removeAttribute(key);
    }
  });
  sizes.observe(box);
  if (box.firstElementChild) sizes.observe(box.firstElementChild); // the text of a live view grows
}

function details(view) {
  const made = button("Details", "model, device, seed, number of the run", () => {
    made.setAttribute("aria-expanded", String(view.classList.toggle("llmwit-open")));
  });
  made.setAttribute("aria-expanded", "false");
  return made;
}

function makeLine(view) {
  view.append(" ", copyMenu({ cell: () => view.dataset.cell }, "Copy cell"));
}

// ipywidgets gives screen readers no name for a text box without a label, nor for a slider's handle.
function namePrompt(prompt) {
  const box = prompt.querySelector("textarea");
  if (!box) return made.delete(prompt); // it is not drawn yet
  box.setAttribute("aria-label", "prompt");
}

// Name the parts of a slider, and mark its default, if it has one.
function makeSlider(slider) {
  const track = slider.querySelector(".noUi-base");
  if (!track) return made.delete(slider); // it is not drawn yet
  const name = slider.querySelector(".widget-label").textContent;
  slider.querySelector(".noUi-handle").setAttribute("aria-label", name);
  const readout = slider.querySelector(".widget-readout");
  readout?.setAttribute("role", "textbox");
  readout?.setAttribute("aria-label", `${name}, as a number`);
  const at = [...slider.classList].find((name) => name.startsWith("llmwit-at-"));
  if (!at) return;
  const mark = track.appendChild(element("span", "llmwit-default"));
  mark.style.left = `${Number(at.slice("llmwit-at-".length)) / 10}%`;
}

function button(label, title, act) {
  const made = element("button", "");
  made.type = "button";
  made.textContent = label;
  if (title) made.title = title;
  made.addEventListener("click", () => act(made));
  return made;
}

// A button that copies a run. If the run has several forms, the button opens a menu of them.
function copyMenu(forms, label = "Copy") {
  const names = Object.keys(forms);
  if (names.length === 1) {
    return button(label, `copy the ${names[0]}`, (self) => copy(self, forms[names[0]]()));
  }
  const opener = button(`${label} ▾`, "copy the text, or the run in another form", () => {
    if (opener.getAttribute("aria-expanded") === "true") return closeMenus();
    closeMenus();
    const menu = document.body.appendChild(element("div", "llmwit llmwit-box llmwit-menu"));
    menu.setAttribute("role", "menu");
    for (const name of names) {
      const item = button(name, "", () => {
        closeMenus();
        opener.focus();
        copy(opener, forms[name]());
      });
      item.setAttribute("role", "menuitem");
      menu.append(item);
    }
    placeBeside(menu, opener);
    menu.opener = opener;
    opener.setAttribute("aria-expanded", "true");
    menu.firstElementChild.focus();
  });
  opener.setAttribute("aria-haspopup", "menu");
  opener.setAttribute("aria-expanded", "false");
  opener.addEventListener("click", (event) => event.stopPropagation());
  return opener;
}

function closeMenus() {
  for (const menu of document.querySelectorAll(".llmwit-menu")) {
    menu.opener.setAttribute("aria-expanded", "false");
    menu.remove();
  }
}

async function copy(button, text) {
  const name = (button.dataset.name ??= button.textContent);
  button.textContent = (await reachesClipboard(text, button)) ? "copied" : "copy failed";
  setTimeout(() => (button.textContent = name), 1200);
}

// Write the text to the clipboard; whether that worked.
async function reachesClipboard(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // A page that is not served securely has no clipboard object. A browser may also refuse it.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    return done;
  }
}

const ANSWER_SECONDS = 4;

function thumb(view, value, sign, label) {
  const made = button(sign, label, () => {
    const page = globalThis[PAGES].get(view.dataset.log);
    const pressed = made.getAttribute("aria-pressed") === "true";
    noteOn(view, "");
    if (!page) return noteOn(view, GONE);
    page.send({ rate: Number(view.dataset.run), value: pressed ? null : value });
    view.waiting = setTimeout(() => {
      // A kernel reads the page's messages only between two cells.
      const busy = page.widget_manager?.kernel?.status === "busy";
      noteOn(view, busy ? "not kept yet: the kernel is busy" : GONE);
    }, 1000 * ANSWER_SECONDS);
  });
  made.dataset.rate = value;
  made.setAttribute("aria-label", label);
  made.setAttribute("aria-pressed", "false");
  return made;
}

const GONE = "not kept: the kernel that made this run has gone";

// Say beside the thumbs what became of a rating, also to screen readers; "" removes the note.
function noteOn(view, text) {
  clearTimeout(view.waiting);
  view.querySelector(".llmwit-note").textContent = text;
}

function showRating(view, value, refused) {
  if (!view.querySelector(".llmwit-note")) return; // its buttons are not made yet
  noteOn(view, refused ? `not kept: ${refused}` : "");
  if (refused) return;
  for (const button of view.querySelectorAll("[data-rate]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.rate) === value));
  }
}

// Place a floating box under an element, or over it where there is no room under it.
function placeBeside(box, place) {
  const { left, top, bottom } = place.getBoundingClientRect();
  const root = document.documentElement;
  const room = root.clientWidth - box.offsetWidth - 8;
  box.style.left = `${Math.max(4, Math.min(left, room)) + scrollX}px`;
  const below = bottom + 4 + box.offsetHeight < root.clientHeight;
  box.style.top = `${(below ? bottom + 4 : top - 4 - box.offsetHeight) + scrollY}px`;
}

function element(name, className) {
  const made = document.createElement(name);
  if (className) made.className = className;
  return made;
}
