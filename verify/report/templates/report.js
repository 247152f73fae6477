"use strict";
(() => {
  const table = document.getElementById("layers");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = document.getElementById("filter");
  const onlyFailures = document.getElementById("only-failures");
  const count = document.getElementById("count");

  function show() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const wanted = (!onlyFailures.checked || row.querySelector(".bad"))
        && words.every((word) => texts.get(row).includes(word));
      row.hidden = !wanted;
      if (wanted) shown += 1;
    }
    count.textContent = `${shown} of ${rows.length} layers`;
  }

  function compare(a, b, sign) {
    const [left, right] = [a, b].map((cell) => cell.textContent);
    if (left === "" || right === "") return (left === "") - (right === "");  // what was not compared comes last
    if (!a.classList.contains("number")) return sign * left.localeCompare(right, "en", { numeric: true });
    const [x, y] = [left, right].map((text) => (/inf|nan/.test(text) ? Infinity : Number(text)));
    return x === y ? 0 : sign * (x - y);
  }

  function sort(header) {
    const column = header.cellIndex;
    const descending = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    rows.sort((a, b) => compare(a.cells[column], b.cells[column], descending ? -1 : 1));
    body.append(...rows);
  }

  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }
  table.tHead.rows[0].cells[0].setAttribute("aria-sort", "ascending");
  filter.addEventListener("input", show);
  onlyFailures.addEventListener("change", show);
  document.querySelector(".controls").hidden = false;
  show();
})();
