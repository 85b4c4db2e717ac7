"use strict";

// The page is whole without this: tables stand in their order, and films show every frame.

// A button in every header sorts the rows of each part of a table; means stay below theirs.
function valueOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  return text === "–" ? null : text;
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

function sort(table, column) {
  const headers = [...table.tHead.rows[0].cells];
  const order = headers[column].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const header of headers) header.removeAttribute("aria-sort");
  headers[column].setAttribute("aria-sort", order);
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("mean"));
    const keyed = rows.map((row) => ({ row, value: valueOf(row, column) }));
    keyed.sort((a, b) => {
      const missing = a.value === null || b.value === null;
      return order === "descending" && !missing ? compare(b.value, a.value) : compare(a.value, b.value);
    });
    body.prepend(...keyed.map(({ row }) => row));
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, column));
  });
}

// A slider shows one frame of a film at a time.
for (const film of document.querySelectorAll(".film")) {
  const [slider, shown, gate, picture] = ["input", "output", ".gate", "img"].map((part) => film.querySelector(part));
  const frames = film.querySelectorAll("li").length;
  const show = () => {
    const frame = Math.round((slider.value - slider.min) / slider.step);
    picture.style.transform = `translateY(${(-100 * frame) / frames}%)`;
    shown.textContent = slider.value;
  };
  const height = picture.getAttribute("height") / frames - 2; // without the gap below
  gate.style.aspectRatio = `${picture.getAttribute("width")} / ${height}`;
  film.classList.add("moving");
  film.querySelector(".control").hidden = false;
  slider.addEventListener("input", show);
  show();
}
