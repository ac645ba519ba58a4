"use strict";
const all = (query, within = document) => [...within.querySelectorAll(query)];

// Copy buttons; where the page may not use the clipboard, the command is selected instead.
document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

// The table: sort by any column, filter by words.
const table = document.getElementById("table");
if (table) {
  const body = table.tBodies[0], heads = all("thead th", table), rows = [...body.rows];
  const value = (row, at) => {
    const text = row.cells[at].textContent.trim(), number = parseFloat(text.replaceAll(",", ""));
    return heads[at].classList.contains("n") ? (text === "" ? null : number) : text.toLowerCase();
  };
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const numbers = head.classList.contains("n"), was = head.getAttribute("aria-sort");
    const down = was === "none" ? numbers : was === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((a, b) => {
      const x = value(a, at), y = value(b, at);
      if (x === null || y === null) return (x === null) - (y === null);  // what was not measured comes last
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    });
    body.append(...rows);
  }));
  const filter = document.getElementById("filter"), count = document.getElementById("count");
  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of rows) {
      const text = (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      left += !row.hidden;
    }
    const number = (n) => n.toLocaleString("en"), row_s = rows.length === 1 ? "row" : "rows";
    count.textContent = left === rows.length ? `${number(left)} ${row_s}` : `${number(left)} of ${number(rows.length)} ${row_s}`;
  };
  filter.addEventListener("input", show);
  show();
}

// The viewer: arrows step, the space bar shows the source in the result's place.
const viewer = document.getElementById("viewer"), shots = all(".shot");
if (shots.length) {
  const stage = viewer.querySelector(".stage"), image = stage.querySelector("img"), text = viewer.querySelector("p");
  const toggle = viewer.querySelector("[data-toggle]");
  let at = 0, alone = null;
  const draw = () => {
    const shot = shots[at].querySelector("img");
    image.src = shot.src;
    image.alt = text.textContent = shots[at].querySelector("span").textContent;
    if (alone === null) {
      image.style.cssText = "";
      stage.style.cssText = "";
    } else {
      // One half, as large as fits: the picture is twice as wide as the stage, and moved by half of itself.
      const half = shot.naturalWidth / 2, scale = Math.min((viewer.clientWidth - 32) / half, (innerHeight * 0.72) / shot.naturalHeight);
      stage.style.cssText = `width:${half * scale}px;margin:0 auto;display:block`;
      image.style.cssText = `width:${2 * half * scale}px;max-width:none;max-height:none;transform:translateX(${alone === "source" ? 0 : -50}%)`;
    }
    toggle.setAttribute("aria-pressed", alone === "source");
  };
  const step = (by) => { at = (at + by + shots.length) % shots.length; draw(); };
  shots.forEach((shot, index) => shot.addEventListener("click", () => { at = index; alone = null; viewer.showModal(); draw(); }));
  all("[data-step]", viewer).forEach((button) => button.addEventListener("click", () => step(Number(button.dataset.step))));
  toggle.addEventListener("click", () => { alone = alone === "source" ? null : "source"; draw(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") { step(event.key === "ArrowLeft" ? -1 : 1); event.preventDefault(); }
    if (event.key === " " && !event.repeat) { alone = "source"; draw(); }
    if (event.key === " ") event.preventDefault();
  });
  viewer.addEventListener("keyup", (event) => {
    if (event.key === " ") { alone = "result"; draw(); event.preventDefault(); }
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
}
