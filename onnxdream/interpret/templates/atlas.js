"use strict";
const items = [...document.querySelectorAll(".item")];
const search = document.getElementById("search");
const count = document.getElementById("count");
const sort = document.getElementById("sort");
const large = document.getElementById("large"); // only on the page of a layer

const includesAll = (text, words) => words.every(word => text.toLowerCase().includes(word));

// What the search means on the list of layers, best first: [how good, layer's item, channel or undefined].
function layersFor(query) {
  const [, before, number] = query.match(/^(.*?)[\s:]+(\d+)$/) || [null, query];
  const found = [];
  for (const item of items) {
    const name = item.dataset.name.toLowerCase();
    const label = labelled(item, query);
    if (name === query) found.push([0, item]);
    else if (name === before) found.push([1, item, number]);
    else if (includesAll(item.dataset.text, before.split(/[\s:]+/))) found.push([2, item, number]);
    else if (label) found.push([3, item, label[0]]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}

// The channel [number, label] of a class: of that name, else the first that has it as a word, else as a part.
function labelled(item, query) {
  const labels = JSON.parse(item.dataset.labels).map(([number, label]) => [number, label.toLowerCase()]);
  return labels.find(([, label]) => label === query)
    || labels.find(([, label]) => label.split(/\W+/).includes(query)) || labels.find(([, label]) => label.includes(query));
}

// A number alone is a channel's number, not a part of one.
function isChannel(item, words) {
  return words.every(word => /^\d+$/.test(word) ? item.dataset.number === word : includesAll(item.dataset.text, [word]));
}

function filter() {
  const query = search.value.toLowerCase().trim();
  const shown = !query ? new Set(items) : large
    ? new Set(items.filter(item => isChannel(item, query.split(/[\s:]+/))))
    : new Set(layersFor(query).map(([, item]) => item));
  for (const item of items) item.hidden = !shown.has(item);
  count.textContent = query ? `${shown.size} of ${items.length}` : "";
}

function go(query) {
  const found = layersFor(query);
  if (!found.length) return;
  const [, item, number] = found.find(([good, item, number]) => good === found[0][0] && has(item, number)) || found[0];
  if (has(item, number)) location.href = item.href + (number === undefined ? "" : `#c${Number(number)}`);
  else count.textContent = `${item.dataset.name} has no channel ${number} here`;
}

const has = (item, number) => number === undefined || JSON.parse(item.dataset.channels).includes(Number(number));

search.addEventListener("input", filter);
search.addEventListener("keydown", event => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // or the same key would press the button that gets the focus
  const query = search.value.toLowerCase().trim(), shown = items.filter(item => !item.hidden);
  if (!large) { if (query) go(query); } else if (shown.length) {
    open(shown.find(item => item.dataset.label.toLowerCase() === query) || shown[0]);
  }
});

if (sort) sort.addEventListener("change", () => {
  const key = sort.value, up = key === "number" ? 1 : -1;
  items.sort((a, b) => up * (Number(a.dataset[key]) - Number(b.dataset[key])));
  items[0].parentNode.append(...items);
});

let current = null;
function open(item) {
  current = item;
  large.querySelector("div").innerHTML = item.innerHTML;
  if (!large.open) large.showModal();
}

if (large) {
  for (const item of items) {
    item.addEventListener("click", () => open(item));
    item.addEventListener("keydown", event => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      open(item);
    });
  }
  document.getElementById("close").addEventListener("click", () => large.close());
  large.addEventListener("click", event => { if (event.target === large) large.close(); });
  large.addEventListener("keydown", event => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const shown = items.filter(item => !item.hidden);
    open(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
  });
}
filter();
