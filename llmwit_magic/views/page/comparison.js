// Comparison --------------------------------------------------------------------

function makeTable(view) {
  const table = view.querySelector("table");
  if (!table) return;
  const first = table.rows[0];
  for (const cell of [...first.cells]) {
    const heading = element("th", "");
    heading.scope = "col";
    heading.style.textAlign = "left";
    const sort = button("", "sort", () => sortRows(heading));
    // A name is in pieces, so that it may break at its underscores. Screen readers get it whole.
    sort.setAttribute("aria-label", cell.textContent.trim());
    sort.append(...cell.childNodes);
    heading.append(sort);
    cell.replaceWith(heading);
  }
  table.createTHead().append(first);
  const sum = table.querySelector(".llmwit-sum");
  if (sum) table.createTFoot().append(sum);
  keepReachable(table.parentElement, "table of runs");
  const base = view.querySelector(".llmwit-base");
  if (base) base.replaceWith(makeBase(table));
}

function sortRows(cell) {
  const body = cell.closest("table").tBodies[0];
  const column = [...cell.parentNode.cells].indexOf(cell);
  const up = cell.getAttribute("aria-sort") !== "ascending";
  for (const other of cell.parentNode.cells) other.removeAttribute("aria-sort");
  cell.setAttribute("aria-sort", up ? "ascending" : "descending");
  // A cell with tokens, such as "5 + 16", is sorted by the generated ones.
  const shown = (cell) => (answerIn(cell) ?? cell).textContent;
  const key = (row) => shown(row.cells[column]).replace(/^\d+ \+ (?=\d+$)/, "");
  const order = new Intl.Collator(undefined, { numeric: true });
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [Number(key(a)), Number(key(b))];
    const difference = Number.isNaN(x) || Number.isNaN(y) ? order.compare(key(a), key(b)) : x - y;
    return up ? difference : -difference;
  });
  body.append(...rows);
}

// The control that chooses the answer with which the others are compared.
function makeBase(table) {
  const select = element("select", "llmwit-base");
  select.setAttribute("aria-label", "compare with");
  const rows = [...table.tBodies[0].rows];
  for (const [index, row] of rows.entries()) {
    const run = row.cells[0].textContent;
    select.add(new Option(run ? `run ${run}` : `answer ${index + 1}`, index));
  }
  select.addEventListener("change", () => {
    const own = rows[select.value];
    const base = answerIn(own).textContent;
    for (const row of rows) {
      markDifferences(answerIn(row), row === own ? null : base);
    }
  });
  return select;
}

const words = (text) => text.match(/\s+|\S+/g) ?? [];
const solid = (word) => /\S/.test(word);

function markDifferences(cell, base) {
  const text = cell.textContent;
  cell.replaceChildren(text);
  if (base === null) return;
  const [a, b] = [words(base).slice(0, 2000), words(text).slice(0, 2000)];
  // The longest common subsequence; `length` is filled from the end.
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const parts = [];
  let same = 0;
  for (let i = 0, j = 0; j < b.length; ) {
    if (i < a.length && a[i] === b[j]) {
      if (solid(b[j])) same++;
      parts.push(b[j++]);
      i++;
    } else if (i < a.length && length[i + 1][j] >= length[i][j + 1]) {
      i++;
    } else {
      const mark = element("b", "llmwit-mark");
      mark.textContent = b[j++];
      parts.push(mark);
    }
  }
  // Where the answers share almost nothing, marks would cover nearly everything.
  if (same < 0.25 * Math.max(a.filter(solid).length, b.filter(solid).length)) return;
  cell.replaceChildren(...parts, words(text).slice(2000).join(""));
}
