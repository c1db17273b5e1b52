// Saving on the page of a reviewer's decision, in place of judge_saving.js: a plain form, sent once. Nothing is leased, kept or fetched ahead.
(() => {
  "use strict";
  let sent = false;
  document.addEventListener("submit", (event) => {
    if (event.target.id !== "judgement") return;
    if (sent) event.preventDefault();
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; }); // come back to
  window.judgeSaving = {
    busy: () => sent,
    keepDraft() {},
    restoreDraft: () => 0,
    goAhead: () => false,
    fetchAhead() {},
    tryNow() {},
    say() {},
    sendKept: async () => ({ sent: 0, refused: [] }),
  };
})();
