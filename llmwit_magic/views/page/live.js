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
  keepReachable(scroll, "answer");
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
