"use strict";
// A click on the time line: whose row, and where on it. A keyframe says its own time.
window.studioClick = (event, emit) => {
  const key = event.target.closest(".key"), lane = event.target.closest(".lane"), track = event.target.closest(".track");
  if (!lane) return;
  const found = { track: Number(lane.dataset.track), share: null };
  if (key) {
    found.share = Number(key.dataset.at);
  } else if (track) {
    const box = track.getBoundingClientRect();
    found.share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  }
  emit(found);
};
// Arrow keys that move a slider do not also move through time.
addEventListener("DOMContentLoaded", () => document.body.addEventListener("keydown", (event) => {
  if (event.target.closest(".q-slider, input, textarea")) event.stopPropagation();
}));
// Pictures in turn; they are fetched before the first is shown, so that none is late.
window.studioPlay = async (identity, addresses, pace) => {
  const image = document.getElementById(identity);
  await Promise.all(addresses.map((address) => new Promise((done) => {
    const one = new Image();
    one.onload = one.onerror = done;
    one.src = address;
  })));
  for (let round = 0; round < 2; round++)
    for (const address of addresses) {
      image.src = address;
      await new Promise((done) => setTimeout(done, pace));
    }
  return true;
};
