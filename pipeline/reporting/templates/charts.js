// Charts: one specification per figure, drawn when the <details> around it, if any, is open.
const { config, datasets, charts } = JSON.parse(document.getElementById("chart-data").textContent);
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
  await vegaEmbed(figure, { ...spec, datasets }, options);
  figure.querySelector("svg").setAttribute("aria-hidden", "true"); // the figure itself has a name
}

function drawAll(root) {
  for (const figure of root.querySelectorAll(".chart")) draw(figure);
}

drawAll(document);
for (const part of document.querySelectorAll("details")) {
  part.addEventListener("toggle", () => part.open && drawAll(part));
}
