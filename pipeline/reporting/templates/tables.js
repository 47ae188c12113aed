// Tables: where one is wider than its place, each row becomes a card whose cells have their columns' titles.
const boxes = [...document.querySelectorAll(".scroll")];
const ROLES = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };

// What a card needs: a title for each cell, and roles, because without them it would be no table for a screen reader.
function prepare(table) {
  const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, th, td")]) {
    part.setAttribute("role", ROLES[part.tagName] ?? (part.scope === "col" ? "columnheader" : "rowheader"));
    if (part.cellIndex !== undefined) part.dataset.title = titles[part.cellIndex];
  }
}

function fit(box) {
  const table = box.querySelector("table");
  if (!box.clientWidth) return; // folded away
  table.classList.remove("cards");
  if (table.scrollWidth <= box.clientWidth) return;
  if (!table.hasAttribute("role")) prepare(table);
  table.classList.add("cards");
}

boxes.forEach(fit);
const watch = new ResizeObserver((entries) => {
  requestAnimationFrame(() => entries.forEach((entry) => fit(entry.target)));
});
boxes.forEach((box) => watch.observe(box));

// On paper everything is unfolded, and tables are as wide as a sheet.
const root = document.documentElement;
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details.part:not([open])")];
  for (const part of unfolded) part.open = true;
  root.classList.add("paper");
  boxes.forEach(fit);
});
addEventListener("afterprint", () => {
  root.classList.remove("paper");
  for (const part of unfolded) part.open = false;
  boxes.forEach(fit);
});
