/* The pages of the course: search, and light or dark. */

import MiniSearch from "./vendor/minisearch.js";

const box = document.getElementById("search"), list = document.getElementById("found");
let index = null;

/** Made on first use, from the text of all pages. */
async function makeIndex() {
  const documents = await (await fetch("search.json")).json();
  index = new MiniSearch({ fields: ["title", "text", "page"], storeFields: ["title", "page", "text"],
    searchOptions: { boost: { title: 3 }, prefix: true, fuzzy: 0.15 } });
  index.addAll(documents);
}

async function search() {
  if (!index) await makeIndex();
  const results = box.value.trim() ? index.search(box.value).slice(0, 8) : [];
  list.replaceChildren(...results.map(({ id, title, page, text, terms }) => {
    const link = Object.assign(document.createElement("a"), { href: id });
    const at = Math.max(0, text.toLowerCase().indexOf(terms[0]) - 40);
    for (const [tag, content] of [["strong", title], ["small", page], ["span", `… ${text.slice(at, at + 110)} …`]]) {
      link.append(Object.assign(document.createElement(tag), { textContent: content }));
    }
    const item = document.createElement("li");
    item.setAttribute("role", "option");
    item.append(link);
    return item;
  }));
  if (box.value.trim() && !results.length) list.textContent = "Nothing found.";
  list.hidden = !box.value.trim();
  box.setAttribute("aria-expanded", String(!list.hidden));
}

box.addEventListener("input", search);
document.querySelector("search").addEventListener("keydown", (event) => {
  const links = [...list.querySelectorAll("a")], here = links.indexOf(document.activeElement);
  if (event.key === "Escape") { box.value = ""; search(); box.focus(); }
  if (event.key === "ArrowDown") { event.preventDefault(); links[Math.min(here + 1, links.length - 1)]?.focus(); }
  if (event.key === "ArrowUp") { event.preventDefault(); (links[here - 1] ?? box).focus(); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    box.focus();
  }
});
document.getElementById("theme").onclick = () => {
  const { dataset } = document.documentElement;
  dataset.theme = dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", dataset.theme);
};
if (matchMedia("(max-width: 860px)").matches) document.querySelector(".contents").open = false;
