// Live view -----------------------------------------------------------------------

// By the model's key, all that each live model has said: a new view of it shows it from the start.
// Each model has its own copy of this module, so the map is kept in the page's global object.
const LIVES = (globalThis[Symbol.for("llmwit.lives")] ??= new Map());
const OWN_STOP = "not stopped yet: use the notebook's own Stop";
const LOST = "lost: its kernel is gone";
const STOP_MS = 2000;
const UNDO_MS = 3000;

function follow(model) {
  const state = {
    model, kernel: model.widget_manager?.kernel, done: false, places: new Map(), lost: 0,
    parts: [], status: "", progress: null, whole: null, views: new Set(),
  };
  const receive = (message) => {
    if (message.clear) state.parts.length = 0;
    if (message.h !== undefined) state.parts.push({ heading: message.h });
    if (message.r !== undefined) state.parts.push({ thought: message.r });
    if (message.t !== undefined) state.parts.push(message.t);
    if (message.s !== undefined) state.status = message.s;
    if (message.p !== undefined) state.progress = message.p;
    if (message.w !== undefined) state.whole = message.w;
    if (message.done) state.done = true;
    announce(message, state.whole);
    for (const view of state.views) view(message);
  };
  const onStatus = (_, status) => {
    if (!state.done && model.get("stoppable") && /restarting|terminating|dead/.test(status)) {
      receive({ done: true, s: LOST, a: LOST, p: null });
    }
  };
  speaker("status");
  speaker("alert");
  LIVES.set(model.get("key"), state);
  model.on("msg:custom", receive);
  state.kernel?.statusChanged?.connect(onStatus);
  showInPlaces(state);
  return () => {
    state.done = true;
    clearTimeout(state.lost);
    for (const place of state.places.keys()) place.dataset.ended = "";
    state.kernel?.statusChanged?.disconnect(onStatus);
    LIVES.delete(model.get("key"));
  };
}

// Tell screen readers what changed. They get rare changes only; single tokens would flood them.
function announce(message, whole) {
  if (message.alert !== undefined) say(message.alert, "alert");
  if (message.w?.[1] && message.w[1] < message.w[2]) say(`${message.w[1]} of ${message.w[2]}`);
  // In a sweep, only the first run announces its stages.
  if (message.a !== undefined && (message.done || !whole?.[1])) say(message.a);
}

function say(text, role = "status") {
  speaker(role).textContent = text;
}

// An element that stays on the page. Screen readers may miss the text of one that comes and goes.
function speaker(role) {
  const known = document.querySelector(`body > .llmwit-speaker[role="${role}"]`);
  if (known) return known;
  const made = document.body.appendChild(element("div", "llmwit-speaker"));
  made.setAttribute("role", role);
  made.style.cssText = "position:fixed;top:0;clip-path:inset(50%);width:1px;height:1px;overflow:hidden";
  return made;
}

// In JupyterLab the output of a run that goes on is a line of HTML (`live.py`). The live view is
// drawn in its place.
const unfinished = document.getElementsByClassName("llmwit-unfinished");

function showInPlaces(state) {
  for (const [place, remove] of state.places) {
    if (place.isConnected) continue;
    state.places.delete(place);
    remove();
  }
  for (const place of unfinished) {
    if (place.dataset.live !== state.model.get("key") || state.places.has(place)) continue;
    place.replaceChildren();
    state.places.set(place, drawLive(state, place));
    state.cell = place.closest(".jp-Cell");
    state.notebook = place.closest(".jp-Notebook");
  }
  if (!state.cell || state.done) return;
  if (state.places.size) {
    clearTimeout(state.lost);
    state.lost = 0;
  } else if (state.cell.isConnected) {
    // The output was cleared. It takes no more updates, so the view is drawn below the cell.
    const place = state.cell.appendChild(element("div", "llmwit-below"));
    state.places.set(place, drawLive(state, place));
  } else if (!state.lost && state.notebook?.isConnected) {
    // The cell was deleted. The run is stopped, unless the deletion is undone in time.
    state.lost = setTimeout(() => interrupt(state.kernel).catch(() => {}), UNDO_MS);
  }
}

function showLives() {
  for (const state of LIVES.values()) showInPlaces(state);
  // A view below its cell is removed when its run has ended and the cell has another output.
  for (const place of document.querySelectorAll(".llmwit-below[data-ended]")) {
    if (place.parentElement.querySelector(".jp-OutputArea-output")) place.remove();
  }
}

function renderLive({ model, el }) {
  const remove = drawLive(LIVES.get(model.get("key")), el);
  return () => {
    remove();
    if (!model.get("stoppable")) model.send({ closed: true });
  };
}

function drawLive(state, el) {
  const root = el.appendChild(element("div", "llmwit"));
  const scroll = root.appendChild(element("div", "llmwit-scroll"));
  const text = scroll.appendChild(element("div", "llmwit-text"));
  keepReachable(scroll, "answer");
  const line = root.appendChild(element("div", "llmwit-status"));
  const status = line.appendChild(element("span", ""));
  const bar = line.appendChild(document.createElement("progress"));
  // A sweep has a line of its own for how many of its runs are done.
  const whole = root.appendChild(element("div", "llmwit-status"));
  const wholeText = whole.appendChild(element("span", ""));
  const wholeBar = whole.appendChild(document.createElement("progress"));
  whole.hidden = true;
  const stop = canStop(state) ? line.appendChild(makeStop(state)) : null;
  let tail = null;
  let thoughts = null; // the reasoning that is being written
  const add = (part) => {
    const thought = part.thought;
    if (thoughts && thought === undefined) {
      endThoughts(thoughts);
      thoughts = tail = null;
    }
    if (part.heading !== undefined) {
      const heading = text.appendChild(element("div", "llmwit-status"));
      heading.textContent = part.heading;
      tail = null;
      return;
    }
    if (thought !== undefined && !thoughts) {
      thoughts = text.appendChild(makeThoughts());
      tail = null;
    }
    const place = thoughts?.lastElementChild ?? text;
    // Each line of the text is a block of its own, so that the browser lays out only the last one again.
    for (const [index, piece] of (thought ?? part).split("\n").entries()) {
      if (index || !tail) tail = place.appendChild(document.createElement("div"));
      if (piece && tail.firstChild?.nodeName === "BR") tail.replaceChildren(piece);
      else if (piece) tail.append(piece);
      else if (!tail.firstChild) tail.appendChild(document.createElement("br"));
    }
  };
  const update = (message) => {
    const following = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
    if (message.clear) {
      text.replaceChildren();
      thoughts = tail = null;
    }
    if (message.h !== undefined) add({ heading: message.h });
    if (message.r !== undefined) add({ thought: message.r });
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
    if (message.done) {
      // The focused element is about to be removed. The cell gets the focus.
      if (root.contains(document.activeElement)) {
        (root.closest(".jp-Cell") ?? root.parentElement.closest("[tabindex]"))?.focus();
      }
      stop?.remove();
      if (el.classList.contains("llmwit-below")) {
        status.textContent = [message.a ?? message.alert, message.kept].filter(Boolean).join(" · ");
      }
    }
    if (following) scroll.scrollTop = scroll.scrollHeight;
  };
  bar.hidden = true;
  state.parts.forEach(add);
  update({ s: state.status, p: state.progress, w: state.whole });
  state.views.add(update);
  return () => state.views.delete(update);
}

// Reasoning is open while it is written, and folds when the answer begins. A person may do otherwise.
function makeThoughts() {
  const made = document.createElement("details");
  const label = made.appendChild(document.createElement("summary"));
  made.append(element("div", "llmwit-thoughts"));
  label.textContent = "thinking …";
  label.addEventListener("click", () => (made.chosen = true));
  made.open = true;
  return made;
}

function endThoughts(thoughts) {
  thoughts.firstElementChild.textContent = "reasoning";
  if (!thoughts.chosen) thoughts.open = false;
}

function canStop({ model, kernel, done }) {
  // VS Code gives the page a kernel without a server. Interrupting it has no effect.
  const nowhere = /BOGUS_PVSC/.test(kernel?.serverSettings?.wsUrl);
  return model.get("stoppable") && !done && kernel?.interrupt && !nowhere;
}

async function interrupt(kernel) {
  await kernel?.interrupt?.();
}

function makeStop(state) {
  const place = element("span", "");
  const stop = place.appendChild(element("button", ""));
  const hint = place.appendChild(element("span", ""));
  stop.type = "button";
  stop.textContent = "■ Stop";
  stop.style.margin = "0 .6em";
  let waiting = 0;
  const failed = () => {
    if (!waiting || state.done) return;
    clearTimeout(waiting);
    waiting = 0;
    stop.removeAttribute("aria-disabled");
    stop.textContent = "■ Stop";
    hint.textContent = OWN_STOP;
    say(OWN_STOP);
  };
  stop.addEventListener("click", () => {
    if (waiting) return;
    waiting = setTimeout(failed, STOP_MS);
    stop.setAttribute("aria-disabled", "true"); // `disabled` would lose the focus
    stop.textContent = "stopping …";
    hint.textContent = "";
    interrupt(state.kernel).catch(failed);
  });
  return place;
}
