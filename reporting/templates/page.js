"use strict";
// What a table's cell counts as when rows are sorted: its number, where it has one.
function worth(cell) {
  const said = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(said.replaceAll(",", ""));
  return said === "" || said === "-" ? null : Number.isNaN(number) ? said : number;
}
function compare(one, other) {
  if (one === null || other === null) return (one === null) - (other === null); // what was not measured comes last
  return typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
}
function sortBy(heading) {
  const table = heading.closest("table"), place = heading.cellIndex, body = table.tBodies[0];
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const each of table.tHead.querySelectorAll("th")) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => [worth(row.cells[place]), row]);
  rows.sort(([a], [b]) => (down && a !== null && b !== null ? -compare(a, b) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}
for (const heading of document.querySelectorAll("table.sortable thead th")) {
  heading.tabIndex = 0;
  heading.addEventListener("click", () => sortBy(heading));
  heading.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sortBy(heading); }
  });
}
// The words of a mark, beside the mouse.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
function show(mark, x, y) {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  tip.style.left = Math.max(4, Math.min(x + 14, document.documentElement.clientWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(4, y - tip.offsetHeight - 12) + "px";
}
for (const kind of ["mouseover", "mousemove"]) {
  document.addEventListener(kind, (event) => {
    const mark = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (mark) show(mark, event.clientX, event.clientY); else tip.hidden = true;
  });
}
// A picture that is shown smaller than it is: a click brings its own size, another takes it back.
for (const image of document.querySelectorAll(".shot img")) {
  image.addEventListener("click", () => {
    const shot = image.closest(".shot"), drawing = shot.querySelector("svg"), whole = shot.classList.toggle("whole");
    const factor = whole ? Math.max(1, image.naturalWidth / Number(image.dataset.width)) : 1;
    image.style.width = Number(image.dataset.width) * factor + "px";
    drawing.style.width = Number(drawing.dataset.width) * factor + "px";
    drawing.style.maxWidth = "none";
  });
}
