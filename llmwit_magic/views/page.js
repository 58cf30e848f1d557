// Two kinds of model share this module. A `page` is made once for a kernel and never shown: it
// gives the finished views of this page, which are plain HTML, their buttons. A `live` view shows
// a run while it goes on. Model output only ever becomes text nodes.

const PAGES = Symbol.for("llmwit.pages");

// Finished views --------------------------------------------------------------

function openPage(model) {
  const pages = (globalThis[PAGES] ??= new Map());
  if (pages.size === 0 && !globalThis[PAGES].listening) {
    globalThis[PAGES].listening = true;
    document.addEventListener("click", onClick);
    document.addEventListener("focusin", onPoint);
    document.addEventListener("mouseover", onPoint);
    // Before JupyterLab, which would take the arrow keys to go to another cell.
    window.addEventListener("keydown", onKey, true);
  }
  pages.set(model.get("log"), model);
  document.documentElement.dataset.llmwit = "";
  model.send({ hello: true }); // whoever runs cells from here has widgets, and updates displays
  model.on("msg:custom", ({ rated, value }) => {
    for (const tools of document.querySelectorAll(`.llmwit[data-run="${Number(rated)}"]`)) {
      if (tools.dataset.log === model.get("log")) showRating(tools, value);
    }
  });
  return () => {
    if (pages.get(model.get("log")) === model) pages.delete(model.get("log"));
  };
}

function showRating(view, value) {
  for (const button of view.querySelectorAll("[data-rate]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.rate) === value));
  }
}

function onClick(event) {
  const button = event.target.closest?.(".llmwit button");
  if (!button) return;
  const view = button.closest(".llmwit");
  if (button.dataset.copy !== undefined) copy(button, button.dataset.copy);
  else if (button.dataset.copyText !== undefined) copyText(button, view);
  else if (button.dataset.rate !== undefined) rate(button, view);
  else if (button.dataset.tokens !== undefined) toggleTokens(button, view);
  else if (button.dataset.sort !== undefined) sortRows(button);
  else if (button.dataset.base !== undefined) compareWith(button);
}

function copyText(button, view) {
  const text = view.querySelector(".llmwit-text");
  copy(button, text.dataset.raw ? JSON.parse(text.dataset.raw) : text.textContent);
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that are not served securely have no clipboard object.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const name = (button.dataset.name ??= button.textContent);
  button.textContent = "copied";
  setTimeout(() => (button.textContent = name), 1200);
}

function rate(button, view) {
  const page = globalThis[PAGES].get(view.dataset.log);
  if (!page) return;
  const pressed = button.getAttribute("aria-pressed") === "true";
  page.send({ rate: Number(view.dataset.run), value: pressed ? null : Number(button.dataset.rate) });
}

// Tokens ----------------------------------------------------------------------

function toggleTokens(button, view) {
  const on = view.querySelector(".llmwit-text").classList.toggle("llmwit-shaded");
  button.setAttribute("aria-pressed", String(on));
  const first = view.querySelector(".llmwit-token");
  if (first) first.tabIndex = on ? 0 : -1;
  if (!on) hideAlternatives();
}

function hideAlternatives() {
  for (const box of document.querySelectorAll(".llmwit-alternatives")) box.remove();
}

function onPoint(event) {
  const token = event.target.closest?.(".llmwit-shaded .llmwit-token");
  hideAlternatives();
  if (token) showAlternatives(token);
}

function showAlternatives(token) {
  const box = document.createElement("div");
  box.className = "llmwit llmwit-alternatives";
  box.setAttribute("role", "tooltip");
  const table = box.appendChild(document.createElement("table"));
  for (const [text, probability, chosen] of JSON.parse(token.dataset.top)) {
    const row = table.insertRow();
    row.insertCell().textContent = chosen ? "▸" : "";
    row.insertCell().textContent = text;
    row.insertCell().textContent = `${(100 * probability).toFixed(1)}%`;
  }
  document.body.append(box);
  const place = token.getBoundingClientRect();
  const room = document.documentElement.clientWidth - box.offsetWidth - 8;
  box.style.left = `${Math.max(4, Math.min(place.left, room)) + scrollX}px`;
  const below = place.bottom + 4 + box.offsetHeight < document.documentElement.clientHeight;
  box.style.top = `${(below ? place.bottom + 4 : place.top - 4 - box.offsetHeight) + scrollY}px`;
}

function onKey(event) {
  const token = event.target.closest?.(".llmwit-shaded .llmwit-token");
  if (!token) return;
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") hideAlternatives();
  if (!step) return;
  const all = [...token.closest(".llmwit-text").querySelectorAll(".llmwit-token")];
  const next = all[all.indexOf(token) + step];
  event.preventDefault();
  event.stopPropagation();
  if (!next) return;
  token.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// Comparison --------------------------------------------------------------------

function sortRows(button) {
  const cell = button.closest("th");
  const body = cell.closest("table").tBodies[0];
  const column = [...cell.parentNode.cells].indexOf(cell);
  const up = cell.getAttribute("aria-sort") !== "ascending";
  for (const other of cell.parentNode.cells) other.removeAttribute("aria-sort");
  cell.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = new Intl.Collator(undefined, { numeric: true });
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [Number(key(a)), Number(key(b))];
    const difference = Number.isNaN(x) || Number.isNaN(y) ? order.compare(key(a), key(b)) : x - y;
    return up ? difference : -difference;
  });
  body.append(...rows);
}

function compareWith(button) {
  const body = button.closest("tbody");
  const base = button.closest("tr").querySelector(".llmwit-text").textContent;
  for (const row of body.rows) {
    const own = row.contains(button);
    row.querySelector("[data-base]").setAttribute("aria-pressed", String(own));
    markDifferences(row.querySelector(".llmwit-text"), own ? null : base);
  }
}

const words = (text) => text.match(/\s+|\S+/g) ?? [];

function markDifferences(cell, base) {
  const text = cell.textContent;
  cell.replaceChildren();
  if (base === null) return cell.append(text);
  const [a, b] = [words(base).slice(0, 2000), words(text).slice(0, 2000)];
  // Longest common subsequence, from the end.
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  let i = 0;
  for (let j = 0; j < b.length; ) {
    if (i < a.length && a[i] === b[j]) {
      cell.append(b[j++]);
      i++;
    } else if (i < a.length && length[i + 1][j] >= length[i][j + 1]) {
      i++;
    } else {
      const mark = document.createElement("mark");
      mark.textContent = b[j++];
      cell.append(mark);
    }
  }
}

// Live view -----------------------------------------------------------------------

// What a live model has said, so that every view of it can show the whole. By the model's key:
// `initialize` and `render` get different objects for one model.
const STATES = new Map();

function follow(model) {
  const state = { parts: [], status: "", progress: null, whole: null, views: new Set() };
  STATES.set(model.get("key"), state);
  model.on("msg:custom", (message) => {
    if (message.clear) state.parts.length = 0;
    if (message.h !== undefined) state.parts.push({ heading: message.h });
    if (message.t !== undefined) state.parts.push(message.t);
    if (message.s !== undefined) state.status = message.s;
    if (message.p !== undefined) state.progress = message.p;
    if (message.w !== undefined) state.whole = message.w;
    for (const view of state.views) view(message);
  });
  return () => STATES.delete(model.get("key"));
}

function renderLive({ model, el }) {
  const state = STATES.get(model.get("key"));
  const root = el.appendChild(element("div", "llmwit"));
  const scroll = root.appendChild(element("div", "llmwit-scroll"));
  const text = scroll.appendChild(element("div", "llmwit-text"));
  const line = root.appendChild(element("div", "llmwit-status"));
  const status = line.appendChild(element("span", ""));
  const bar = line.appendChild(document.createElement("progress"));
  // A sweep has a line of its own for how many of its runs are done.
  const whole = root.appendChild(element("div", "llmwit-status"));
  const wholeText = whole.appendChild(element("span", ""));
  const wholeBar = whole.appendChild(document.createElement("progress"));
  whole.hidden = true;
  // Only the rare changes of stage are announced; a token at a time would flood a reader.
  const announcer = line.appendChild(element("span", ""));
  announcer.setAttribute("aria-live", "polite");
  announcer.style.cssText = "position:absolute;clip-path:inset(50%);width:1px;height:1px";
  const kernel = model.widget_manager?.kernel;
  if (kernel?.interrupt && model.get("stoppable")) {
    const stop = line.appendChild(element("button", ""));
    stop.type = "button";
    stop.textContent = "■ Stop";
    stop.style.marginLeft = ".6em";
    stop.addEventListener("click", () => {
      stop.disabled = true;
      stop.textContent = "stopping …";
      kernel.interrupt();
    });
  }
  let tail = null;
  const add = (part) => {
    if (part.heading !== undefined) {
      const heading = text.appendChild(element("div", "llmwit-status"));
      heading.textContent = part.heading;
      tail = null;
      return;
    }
    // A block for each paragraph: the browser lays out the last one again, not all of them.
    for (const [index, piece] of part.split("\n").entries()) {
      if (index || !tail) tail = text.appendChild(document.createElement("div"));
      if (piece && tail.firstChild?.nodeName === "BR") tail.replaceChildren(piece);
      else if (piece) tail.append(piece);
      else if (!tail.firstChild) tail.appendChild(document.createElement("br"));
    }
  };
  const update = (message) => {
    const following = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
    if (message.clear) {
      text.replaceChildren();
      tail = null;
    }
    if (message.h !== undefined) add({ heading: message.h });
    if (message.t !== undefined) add(message.t);
    if (message.s !== undefined) status.textContent = message.s;
    if (message.p !== undefined) {
      bar.hidden = !message.p;
      if (message.p) [bar.value, bar.max] = message.p;
    }
    if (message.w) {
      whole.hidden = false;
      [wholeText.textContent, wholeBar.value, wholeBar.max] = message.w;
    }
    if (message.a !== undefined) announcer.textContent = message.a;
    if (following) scroll.scrollTop = scroll.scrollHeight;
  };
  bar.hidden = true;
  state.parts.forEach(add);
  update({ s: state.status, p: state.progress, w: state.whole });
  state.views.add(update);
  return () => {
    state.views.delete(update);
    if (!model.get("stoppable")) model.send({ closed: true });
  };
}

function element(name, className) {
  const made = document.createElement(name);
  if (className) made.className = className;
  return made;
}

export default {
  initialize({ model }) {
    if (model.get("role") === "page") return openPage(model);
    return follow(model);
  },
  render: renderLive,
};
