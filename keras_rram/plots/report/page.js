"use strict";
document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const section = table.closest("section");
  const rows = Array.from(body.rows);
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((one, other) => {
        const a = value(one, column), b = value(other, column);
        return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
      });
      body.append(...rows);
    });
  });
  const filters = section.querySelector(".filters");
  const count = section.querySelector(".count");
  const [rate, below, text] = filters.querySelectorAll("select, input");
  const filter = () => {
    let shown = 0;
    rows.forEach((row) => {
      const keep = (!rate.value || row.dataset.rate === rate.value) &&
        (below.value === "" || Number(row.dataset.value) < Number(below.value)) &&
        row.cells[0].textContent.toLowerCase().includes(text.value.toLowerCase());
      row.hidden = !keep;
      shown += keep ? 1 : 0;
    });
    count.textContent = `${shown} of ${rows.length} chips`;
  };
  [rate, below, text].forEach((input) => input.addEventListener("input", filter));
  filters.classList.remove("hidden");
  filter();
});
const open = () => {
  const chip = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (chip && chip.tagName === "DETAILS") {
    chip.open = true;
    chip.querySelector("summary").focus({ preventScroll: true });
    chip.scrollIntoView();
  }
};
addEventListener("hashchange", open);
document.addEventListener("click", (event) => {
  const link = event.target.closest("td a[href^='#']");
  if (link && link.hash === location.hash) open();
});
open();
