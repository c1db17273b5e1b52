// Runs before the page is painted: the remembered choice of light or dark. Key and values are those of Django's admin.
(() => {
  "use strict";
  let theme = "auto";
  try { theme = localStorage.getItem("theme") || "auto"; } catch { /* no storage: the system's preference holds */ }
  document.documentElement.dataset.theme = theme;
})();
