// What every page shares: light and dark, menus, dialogs, notices that can be dismissed, failed requests, keys.
(() => {
  "use strict";
  const root = document.documentElement;
  const words = document.getElementById("words").dataset;
  const remembered = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const remember = (name, value) => { try { localStorage.setItem(name, value); } catch { /* holds for this page only */ } };

  // --- light and dark ---

  const showTheme = () => {
    for (const button of document.querySelectorAll("[data-set-theme]")) {
      button.setAttribute("aria-pressed", String(button.dataset.setTheme === root.dataset.theme));
    }
  };
  const setTheme = (theme) => {
    root.dataset.theme = theme;
    remember("theme", theme);
    showTheme();
    document.dispatchEvent(new CustomEvent("themechange")); // charts draw themselves again
  };
  for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;
  showTheme();
  window.addEventListener("storage", (event) => {
    if (event.key === "theme") setTheme(event.newValue || "auto");
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("themechange")));

  // --- menus and dialogs ---

  const closeDrops = (but) => {
    for (const drop of document.querySelectorAll("details.drop[open]")) if (drop !== but) drop.open = false;
  };
  const openDialog = (id) => {
    const dialog = document.getElementById(id);
    closeDrops();
    dialog.showModal(); // the browser returns the focus when it closes
  };

  document.addEventListener("click", (event) => {
    const on = (selector) => event.target.closest(selector);
    closeDrops(on("details.drop"));
    if (on("[data-set-theme]")) return setTheme(on("[data-set-theme]").dataset.setTheme);
    if (on("[data-dismiss]")) return dismiss(on(".notice"));
    if (on("[data-open]")) { event.preventDefault(); return openDialog(on("[data-open]").dataset.open); }
    if (on("[data-close]")) return on("dialog").close();
    // A click on the backdrop closes what holds nothing typed.
    if (event.target.matches("dialog") && !event.target.querySelector("input:not([type=checkbox], [type=hidden]), textarea, select")) event.target.close();
  });

  const dismiss = (notice) => {
    const next = notice.nextElementSibling || document.getElementById("main");
    notice.remove();
    (next.querySelector("[data-dismiss]") || document.getElementById("main")).focus({ preventScroll: true });
  };

  // --- a request of htmx that failed: what, where, how to mend; what was typed stays ---

  const toasts = document.getElementById("toasts");
  const keyOf = (detail) => `${detail.requestConfig.verb} ${detail.requestConfig.path}`;
  const toastOf = (key) => [...toasts.children].find((toast) => toast.dataset.of === key);

  const toast = (key, title, text) => {
    let notice = toastOf(key);
    if (notice && notice.dataset.title === title) return; // a page that polls says it once
    if (!notice) {
      notice = document.getElementById("toast").content.firstElementChild.cloneNode(true);
      notice.dataset.of = key;
      toasts.append(notice);
    }
    notice.dataset.title = title;
    notice.querySelector("b").textContent = title;
    notice.querySelector("small").textContent = text;
  };

  const failed = (event, status) => {
    const detail = event.detail;
    if (detail.elt.closest("[data-saves-itself]")) return; // judging keeps and resends its answers
    const polled = detail.requestConfig.verb === "get" && !detail.requestConfig.triggeringEvent;
    const kind = status === 0 ? "unreachable" : status === 403 ? "refused" : status === 404 ? "gone" : status === 429 ? "busy" : "broken";
    const how = words[kind] + (polled || detail.requestConfig.verb === "get" ? "" : ` ${words.kept}`);
    toast(keyOf(detail), words.failed.replace("%s", label(detail.elt) || detail.requestConfig.path), status ? `${how} (${status})` : how);
  };
  const label = (element) => {
    const named = element.matches("form") ? element.querySelector("button:not([type=button])") || element : element;
    return named.getAttribute("aria-label") || (named.matches("button, a") ? textOf(named) : "");
  };
  document.addEventListener("htmx:responseError", (event) => failed(event, event.detail.xhr.status));
  document.addEventListener("htmx:sendError", (event) => failed(event, 0));
  document.addEventListener("htmx:timeout", (event) => failed(event, 0));
  document.addEventListener("htmx:afterRequest", (event) => {
    const old = event.detail.successful && toastOf(keyOf(event.detail));
    if (old) old.remove();
  });

  // --- keys: whatever carries data-key is pressed by it; ? shows them all ---

  const textOf = (element) => {
    const copy = element.cloneNode(true);
    for (const kbd of copy.querySelectorAll("kbd")) kbd.remove();
    return copy.textContent.replace(/\s+/g, " ").trim();
  };
  const keyed = () => [...document.querySelectorAll(":is(a, button)[data-key]")].filter((element) => element.checkVisibility());
  const sheet = document.getElementById("keys");
  const switchedOn = document.getElementById("keys_on");
  switchedOn.checked = remembered("rlhf.keys") !== "off";
  switchedOn.addEventListener("change", () => remember("rlhf.keys", switchedOn.checked ? "on" : "off"));

  const showKeys = () => {
    const list = sheet.querySelector("dl");
    for (const row of list.querySelectorAll("[data-of-page]")) row.remove();
    for (const element of keyed().reverse()) {
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      term.append(Object.assign(document.createElement("kbd"), { textContent: element.dataset.key.toUpperCase() }));
      description.textContent = element.getAttribute("aria-label") || textOf(element);
      for (const row of [description, term]) { row.dataset.ofPage = ""; list.prepend(row); }
    }
    openDialog("keys");
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      const drop = document.querySelector("details.drop[open]");
      if (drop) { drop.open = false; drop.querySelector("summary").focus(); }
      return;
    }
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]")) return; // focus may rest in a closed dialog
    if (document.querySelector("[data-keys]") || document.querySelector("dialog[open]")) return; // the judging screen has keys of its own
    if (event.key === "?") { event.preventDefault(); return showKeys(); }
    if (!switchedOn.checked || event.repeat) return;
    const element = keyed().find((one) => one.dataset.key.toLowerCase() === event.key.toLowerCase());
    if (element) { event.preventDefault(); element.click(); }
  });
})();
