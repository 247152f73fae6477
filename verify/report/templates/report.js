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
      const wanted = (!onlyFailures.checked || row.hasAttribute("data-failed"))
        && words.every((word) => texts.get(row).includes(word));
      row.hidden = !wanted;
      shown += wanted;
    }
    count.textContent = `${shown} of ${rows.length} layers`;
  }

  function compare(a, b, sign) {
    const [left, right] = [a, b].map((cell) => cell.dataset.value);
    if (left === "" || right === "") return (left === "") - (right === "");  // what was not compared comes last
    if (left !== undefined) return left === right ? 0 : sign * (Number(left) - Number(right));
    return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
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
    header.querySelector("button").addEventListener("click", () => sort(header));
  }
  filter.addEventListener("input", show);
  onlyFailures.addEventListener("change", show);
  document.querySelector(".controls").hidden = false;
  show();
})();
