"use strict";
const items = [...document.querySelectorAll(".item")];
const search = document.getElementById("search");
const count = document.getElementById("count");
const sort = document.getElementById("sort");
const large = document.getElementById("large");

// A number alone is a channel's number, not a part of one.
function matches(item, words) {
  const text = item.dataset.text.toLowerCase();
  return words.every(word => "number" in item.dataset && /^\d+$/.test(word)
    ? item.dataset.number === word : text.includes(word));
}

function filter() {
  const words = search.value.toLowerCase().split(/[\s:]+/).filter(Boolean);
  // On the list of layers, numbers behind a name are channels.
  const wanted = large ? words : words.filter((word, i) => i === 0 || !/^\d+$/.test(word));
  let shown = 0;
  for (const item of items) {
    item.hidden = !matches(item, wanted);
    shown += !item.hidden;
  }
  count.textContent = words.length ? `${shown} of ${items.length}` : "";
}

search.addEventListener("input", filter);
search.addEventListener("keydown", event => {
  if (event.key !== "Enter") return;
  const first = items.find(item => !item.hidden);
  if (!first) return;
  const channel = search.value.match(/[\s:](\d+)\s*$/);
  if (first.href) location.href = first.href + (channel ? `#c${channel[1]}` : "");
  else open(first);
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
    item.addEventListener("keydown", event => { if (event.key === "Enter") open(item); });
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
