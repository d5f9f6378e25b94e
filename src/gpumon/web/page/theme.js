// Set light or dark before anything is drawn; classic and blocking, so that no page flashes in the other one.
"use strict";
document.documentElement.dataset.theme = (() => {
  try {
    return localStorage.getItem("gpumon-theme") ?? "auto";
  } catch {
    return "auto"; // storage is switched off
  }
})();
