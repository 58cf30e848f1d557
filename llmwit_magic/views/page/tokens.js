// Tokens ------------------------------------------------------------------------

// Let a person point at tokens, or go through them with the arrow keys. The returned button switches
// their shades off and on.
function makeTokens(view, texts) {
  for (const token of view.querySelectorAll(".llmwit-token")) {
    token.tabIndex = -1;
    if (token.dataset.top) token.removeAttribute("title"); // the box with the alternatives shows it
  }
  const firsts = texts.map((text) => text.querySelector(".llmwit-token")).filter(Boolean);
  for (const first of firsts) first.tabIndex = 0;
  let on = true;
  const toggle = button("Tokens", "shade the tokens that were improbable", () => {
    on = !on;
    for (const text of texts) text.classList.toggle("llmwit-shaded", on);
    toggle.setAttribute("aria-pressed", String(on));
    const legend = view.querySelector(".llmwit-legend");
    if (legend) legend.hidden = !on;
    for (const first of firsts) first.tabIndex = on ? 0 : -1;
    if (!on) hideAlternatives();
  });
  toggle.setAttribute("aria-pressed", "true");
  return toggle;
}

function hideAlternatives() {
  document.querySelector("[aria-describedby=llmwit-alternatives]")
    ?.removeAttribute("aria-describedby");
  document.querySelector(".llmwit-alternatives")?.remove();
}

function onPoint(event) {
  const token = event.target.closest?.(".llmwit-shaded .llmwit-token[data-top]");
  hideAlternatives();
  if (token) showAlternatives(token);
}

function showAlternatives(token) {
  const box = element("div", "llmwit llmwit-box llmwit-alternatives");
  box.setAttribute("role", "tooltip");
  box.id = "llmwit-alternatives";
  token.setAttribute("aria-describedby", box.id);
  const table = box.appendChild(document.createElement("table"));
  for (const [text, probability, chosen] of JSON.parse(token.dataset.top)) {
    const row = table.insertRow();
    row.insertCell().textContent = chosen ? "▸" : "";
    row.insertCell().textContent = text;
    row.insertCell().textContent = `${(100 * probability).toFixed(1)}%`;
  }
  document.body.append(box);
  placeBeside(box, token);
}

function onKey(event) {
  const item = event.target.closest?.(".llmwit-menu [role=menuitem]");
  const token = event.target.closest?.(".llmwit-shaded .llmwit-token");
  if (event.key === "Escape") {
    hideAlternatives(); // also a box that the pointer has opened
    closeMenus();
    item?.parentElement.opener.focus();
  }
  if (!item && !token) return;
  if (item && event.key === "Tab") closeMenus();
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step && event.key !== "Home" && event.key !== "End") return;
  event.preventDefault();
  event.stopPropagation();
  const all = item
    ? [...item.parentElement.children]
    : [...token.closest(".llmwit-text").querySelectorAll(".llmwit-token")];
  const next = step ? all[all.indexOf(item ?? token) + step] : all.at(event.key === "End" ? -1 : 0);
  if (!next) return;
  if (token) {
    token.tabIndex = -1;
    next.tabIndex = 0;
  }
  next.focus();
}
