// The items: unpacked once, chosen and sorted in memory, and drawn PAGE rows at a time. What is chosen stands in the
// address, so that a link opens the same view.
const PAGE = 25;
const ADDRESS = "#items?";
const form = document.getElementById("item-filter");
if (form) start().catch((problem) => say(`This browser cannot show the items: ${problem.message}`));

async function start() {
  const items = await unpack(JSON.parse(document.getElementById("item-data").textContent));
  const view = { items, found: [], drawn: 0, typing: false };
  const fields = [...form.elements].filter((field) => field.name);
  for (const field of fields) field.dataset.default = field.value = firstValue(field);
  const more = document.getElementById("item-more");

  const show = () => {
    view.found = choose(items, new Map(fields.map((field) => [field.name, field.value])));
    view.drawn = 0;
    document.querySelector("#item-table tbody").replaceChildren();
    drawMore(view);
  };
  const remember = (typing) => {
    show();
    const keep = typing && view.typing; // a word is one step back, not each of its letters
    view.typing = typing;
    try {
      history[keep ? "replaceState" : "pushState"](null, "", writeAddress(fields));
    } catch {
      // a frame of somebody else's page has no address to change
    }
  };
  form.elements.words.addEventListener("input", () => remember(true));
  form.addEventListener("change", (event) => event.target.options && remember(false));
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const field of fields) field.value = field.dataset.default;
    remember(false);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const next = view.drawn;
    drawMore(view);
    const row = document.querySelectorAll("#item-table tbody tr")[next];
    row.tabIndex = -1;
    row.focus(); // the keyboard goes on where the reader was
  });
  addEventListener("popstate", () => {
    view.typing = false;
    if (readAddress(fields)) show();
  });

  form.hidden = document.getElementById("item-table").hidden = false;
  readAddress(fields);
  show();
  if (location.hash.startsWith(ADDRESS)) document.getElementById("items").scrollIntoView();
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const data = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  data.sought = data.texts.map((text, i) => `${text} ${data.kind} ${data.ids[i]}`.toLowerCase());
  return data;
}

// The address

const firstValue = (field) => (field.options ? field.options[0].value : "");

function writeAddress(fields) {
  const chosen = fields.filter((field) => field.value !== field.dataset.default || field.name === "sort");
  return ADDRESS + new URLSearchParams(chosen.map((field) => [field.name, field.value]));
}

// Set the fields as the address says; an address of another part of the page leaves them as they are.
function readAddress(fields) {
  if (location.hash && !location.hash.startsWith(ADDRESS)) return false;
  const told = new URLSearchParams(location.hash.slice(ADDRESS.length));
  for (const field of fields) {
    field.value = told.get(field.name) ?? field.dataset.default;
    if (field.selectedIndex === -1) field.value = field.dataset.default; // a name that this page has not
  }
  return true;
}

// Choosing

function choose(items, chosen) {
  const words = chosen.get("words").toLowerCase().split(/\s+/).filter(Boolean);
  const number = (name) => (chosen.get(name) ? items.vocabulary.indexOf(chosen.get(name)) : null);
  const [gold, predicted, group] = ["gold", "predicted", "group"].map(number);
  const places = items.names.map((_, place) => place);
  const under = chosen.get("under") ? places.filter((place) => items.names[place] === chosen.get("under")) : places;
  const right = { wrong: 0, right: 1 }[chosen.get("show")];
  const disagree = chosen.get("show") === "disagree";

  const found = [];
  for (let i = 0; i < items.ids.length; i++) {
    const fits = under.filter(
      (place) =>
        (right === undefined || items.correct[i][place] === right) &&
        (predicted === null || items.predicted[i][place] === predicted),
    );
    const matches =
      fits.length > 0 &&
      (gold === null || items.golds[i]?.includes(gold)) &&
      (group === null || items.groups[i] === group) &&
      (!disagree || new Set(items.predicted[i]).size > 1) &&
      words.every((word) => items.sought[i].includes(word));
    if (matches) found.push({ i, fits });
  }
  return sort(items, found, chosen.get("sort"));
}

// Which column comes first, which tells apart what is equal there, and 1 for the highest first.
const ORDERS = {
  surest: ["confidence", "margins", 1],
  unsure: ["confidence", "margins", -1],
  widest: ["margins", "confidence", 1],
  narrowest: ["margins", "confidence", -1],
};

function sort(items, found, by) {
  const byItem = (a, b) => items.ids[a.i] - items.ids[b.i];
  if (!(by in ORDERS)) return found.sort(byItem);
  const [first, second, sign] = ORDERS[by];
  const best = (column, { i, fits }) => Math.max(...fits.map((place) => sign * (items[column][i][place] ?? 0)));
  for (const row of found) row.keys = [best(first, row), best(second, row)];
  return found.sort((a, b) => b.keys[0] - a.keys[0] || b.keys[1] - a.keys[1] || byItem(a, b));
}

// Drawing

function say(sentence) {
  document.getElementById("item-count").textContent = sentence;
}

function drawMore(view) {
  const next = view.found.slice(view.drawn, view.drawn + PAGE);
  document.querySelector("#item-table tbody").append(...next.map(({ i }) => drawItem(view.items, i)));
  view.drawn += next.length;
  const [found, total] = [view.found.length, view.items.ids.length].map((n) => n.toLocaleString("en"));
  const rest = view.drawn < view.found.length;
  document.getElementById("item-more").hidden = !rest;
  document.getElementById("item-table").hidden = !view.found.length;
  say(`${found} of ${total} match` + (rest ? `, the first ${view.drawn} are shown` : ""));
}

const copy = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const named = (items, number) => (number === null ? "–" : items.vocabulary[number]);
const decimals = (number, digits) => (number === null ? "–" : number.toFixed(digits).replace("-", "−"));

function drawItem(items, i) {
  const row = copy("item-row");
  const [text, gold, predictions] = row.cells;
  text.querySelector("bdi").textContent = items.texts[i];
  const group = items.groups[i] === null ? "" : ` · ${named(items, items.groups[i])}`;
  text.querySelector("small").textContent = `${items.kind} ${items.ids[i]}${group}`;
  gold.querySelector("bdi").textContent = items.golds[i]?.map((number) => named(items, number)).join(" or ") ?? "–";
  const list = predictions.querySelector("ul");
  list.append(...items.names.map((_, place) => drawPrediction(items, i, place)));
  const button = predictions.querySelector("button");
  if (items.scored[i].every((labels) => labels === null)) button.remove();
  else button.addEventListener("click", () => toggleScores(items, i, button, list));
  return row;
}

function drawPrediction(items, i, place) {
  const part = copy("item-prediction");
  const [name, said, sure] = part.children;
  const right = items.correct[i][place];
  const word = right === null ? "" : right ? "right" : "wrong";
  name.querySelector("bdi").textContent = items.names[place];
  said.querySelector(".mark").textContent = { right: "✓", wrong: "✗" }[word] ?? "";
  said.querySelector("bdi").textContent = named(items, items.predicted[i][place]);
  const confidence = items.confidence[i][place];
  const share = confidence === null ? "–" : `${decimals(confidence / 10, 1)}\u202f%`;
  sure.textContent = word ? `${share} · ${word}` : share;
  if (word) part.classList.add(word);
  return part;
}

function toggleScores(items, i, button, list) {
  const open = button.getAttribute("aria-expanded") === "false";
  button.setAttribute("aria-expanded", String(open));
  for (const old of list.querySelectorAll(".scores")) old.remove();
  if (open) [...list.children].forEach((part, place) => part.append(drawScores(items, i, place)));
}

function drawScores(items, i, place) {
  const list = document.createElement("ul");
  list.className = "scores";
  const labels = items.labels[items.scored[i][place]] ?? [];
  const pairs = labels.map((number, k) => [number, items.scores[i][place][k]]).sort(([, a], [, b]) => b - a);
  for (const [number, score] of pairs) {
    const line = list.appendChild(document.createElement("li"));
    const [label, value] = ["bdi", "span"].map((tag) => line.appendChild(document.createElement(tag)));
    label.textContent = named(items, number);
    value.textContent = decimals(score === null ? null : score / 100, 2);
    if (items.golds[i]?.includes(number)) line.className = "gold";
    if (items.predicted[i][place] === number) line.className += " predicted";
  }
  return list;
}
