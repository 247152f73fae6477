"use strict";
(() => {
  const missing = (text) => text === "" || text === "n/a";

  function compare(a, b, sign) {
    const [left, right] = [a, b].map((cell) => cell.textContent);
    if (missing(left) || missing(right)) return missing(left) - missing(right);  // what has no value comes last
    if (!a.classList.contains("number")) return sign * left.localeCompare(right, "en", { numeric: true });
    const [x, y] = [left, right].map((text) => (/inf|nan/.test(text) ? Infinity : Number(text)));
    return x === y ? 0 : sign * (x - y);
  }

  function addSorting(table, rows) {
    const headers = Array.from(table.tHead.rows[0].cells);

    function sort(header) {
      const column = header.cellIndex;
      const descending = header.getAttribute("aria-sort") === "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      rows.sort((a, b) => compare(a.cells[column], b.cells[column], descending ? -1 : 1));
      table.tBodies[0].append(...rows);
    }

    for (const header of headers) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(header));
      header.append(button);
    }
    const inOrder = rows.every((row, i) => i === 0 || compare(rows[i - 1].cells[0], row.cells[0], 1) <= 0);
    if (inOrder) headers[0].setAttribute("aria-sort", "ascending");
  }

  function addFilter(controls, rows) {
    const filter = controls.querySelector(".filter");
    const onlyFailures = controls.querySelector(".only-failures");
    const count = controls.querySelector(".count");
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

    function show() {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const wanted = (!onlyFailures?.checked || row.querySelector(".bad"))
          && words.every((word) => texts.get(row).includes(word));
        row.hidden = !wanted;
        if (wanted) shown += 1;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    }

    filter.addEventListener("input", show);
    onlyFailures?.addEventListener("change", show);
    controls.hidden = false;
    show();
  }

  function markWiderTables() {
    for (const box of document.querySelectorAll(".scroll")) {
      const isWider = box.scrollWidth > box.clientWidth + 1;  // rounded
      const before = box.previousElementSibling;
      const hint = before?.classList.contains("wider") ? before : null;
      if (isWider && !hint) {
        const added = document.createElement("p");
        added.className = "wider";
        added.textContent = "Wider than this page: scroll it sideways to see the rest.";
        box.before(added);
      } else if (!isWider) {
        hint?.remove();
      }
    }
  }

  // Once now, and when sizes change: with the window, with filters, and when what holds a table is opened.
  markWiderTables();
  const sizes = new ResizeObserver(markWiderTables);
  for (const box of document.querySelectorAll(".scroll")) {
    sizes.observe(box);
    for (const content of box.children) sizes.observe(content);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const rows = Array.from(table.tBodies[0].rows);
    addSorting(table, rows);
    addFilter(table.closest("section").querySelector(".controls"), rows);
  }
})();
