"use strict";

// Charts: one specification per figure, drawn when the <details> around it, if any, is open.
const { config, charts } = JSON.parse(document.getElementById("chart-data").textContent);
const options = {
  actions: false,
  ast: true, // Vega's interpreter instead of generated code, so that the page's policy can forbid eval
  config,
  defaultStyle: false,
  renderer: "svg",
  tooltip: { disableDefaultStyle: true },
};

async function draw(figure) {
  const spec = charts[figure.id];
  if (!spec || figure.dataset.drawn || figure.closest("details:not([open])")) return;
  figure.dataset.drawn = "yes";
  await vegaEmbed(figure, spec, options);
}

function drawAll(root) {
  for (const figure of root.querySelectorAll(".chart")) draw(figure);
}

drawAll(document);
for (const part of document.querySelectorAll("details")) {
  part.addEventListener("toggle", () => part.open && drawAll(part));
}

// The table of the confidently wrong: a row matches when it holds every word and every choice. Of those that match,
// the first PAGE are shown, and PAGE more at each "Show more".
const PAGE = 25;
const form = document.getElementById("filter");
if (form) {
  const rows = [...document.querySelectorAll("#wrong-table tbody tr")];
  const texts = rows.map((row) => row.querySelector(".text").textContent.toLowerCase());
  const more = document.getElementById("more");
  let limit = PAGE;

  const matches = (row, i) => {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const choices = [...form.querySelectorAll("select")].filter((select) => select.value);
    return (
      words.every((word) => texts[i].includes(word)) &&
      choices.every((select) => row.dataset[select.name] === select.value)
    );
  };
  const show = () => {
    const found = rows.filter(matches);
    const shown = new Set(found.slice(0, limit));
    for (const row of rows) row.hidden = !shown.has(row);
    more.hidden = found.length <= limit;
    document.getElementById("filter-count").textContent =
      `${found.length} of ${rows.length} items match` + (more.hidden ? "" : `, the first ${limit} are shown`);
  };
  const restart = () => {
    limit = PAGE;
    show();
  };
  form.addEventListener("input", restart);
  form.addEventListener("reset", () => setTimeout(restart)); // after the fields have been emptied
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const next = rows.filter(matches)[limit];
    limit += PAGE;
    show();
    next.tabIndex = -1;
    next.focus(); // the keyboard goes on where the reader was
  });
  form.hidden = false;
  show();
}
