// The judging screen, and the page of a reviewer's decision, by keyboard: keys, focus, announcements, active time, heartbeat, guidelines beside the work.
// What is asked differs by kind: `judgeKinds[KIND]` holds {missing, focus, press, marks, improves}; other kinds are in judge_kinds.js.
(() => {
  "use strict";
  const IDLE_AFTER = 120 * 1000; // a person who has not moved for two minutes is not reading
  const AWAY_AFTER = 10 * 60 * 1000; // nor does their page hold on to the comparison
  const saving = window.judgeSaving;
  const kinds = (window.judgeKinds = window.judgeKinds || {});
  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const section = () => document.getElementById("comparison");
  const form = () => document.getElementById("judgement");
  const kind = () => kinds[form().dataset.kind];

  // --- active time: visible, focused, and not idle ---

  let activeMs = 0;
  let lastTick = Date.now();
  let lastSign = Date.now();
  const tick = () => {
    const now = Date.now();
    const attentive = document.visibilityState === "visible" && document.hasFocus() && now - lastSign < IDLE_AFTER;
    if (attentive) activeMs += Math.min(now - lastTick, 1500);
    lastTick = now;
  };
  setInterval(tick, 1000);
  for (const sign of ["keydown", "pointermove", "pointerdown", "scroll", "touchstart"]) {
    document.addEventListener(sign, () => { lastSign = Date.now(); }, { passive: true, capture: true });
  }
  saving.activeMs = () => { tick(); return Math.round(activeMs); };

  // --- heartbeat ---

  let heart = 0;
  const beat = async () => {
    if (!section().dataset.assignment || saving.busy()) return;
    if (document.visibilityState !== "visible" || Date.now() - lastSign > AWAY_AFTER) return;
    const said = new FormData(form());
    const body = new URLSearchParams({ assignment: said.get("assignment"), fencing_token: said.get("fencing_token") });
    const headers = { "X-CSRFToken": saving.csrf() || said.get("csrfmiddlewaretoken") };
    let response;
    try { response = await fetch(section().dataset.renewUrl, { method: "POST", body, headers }); } catch { return; } // the next beat tries again
    if (response.status === 409) saving.say(response.headers.get("X-Judging") === "closed" ? "ended" : "lost");
  };

  // --- a new comparison on the screen ---

  const READY_AFTER = 250; // let the screen settle before the next one is asked for
  let readying = 0;
  let looking = false; // the same comparison in another view: nothing new to say

  const shown = () => {
    clearInterval(heart);
    activeMs = 0;
    lastTick = Date.now();
    find("[data-keys]").hidden = false;
    fitKeys();
    showKeys();
    if (!section().dataset.assignment) return;
    if (!kind()) return location.reload(); // of a kind that this page has no script for
    for (const element of all("[data-needs-judging]")) element.hidden = false;
    activeMs = saving.restoreDraft();
    if (section().dataset.renewUrl) heart = setInterval(beat, 1000 * Number(section().dataset.renewSeconds));
    const prompt = find(".judge-prompt");
    prompt.scrollTop = prompt.scrollHeight;
    showEdit();
    marks();
    clearTimeout(readying);
    readying = setTimeout(saving.fetchAhead, READY_AFTER);
  };
  saving.shown = () => { shown(); arrive(); };
  saving.around = (words) => { showKeys(); if (words) tell(words); };

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "comparison" && !(event.detail.elt && event.detail.elt.id === "comparison")) return;
    const polling = !event.detail.requestConfig || event.detail.requestConfig.verb === "get";
    shown();
    if (looking || (polling && !section().dataset.assignment)) { looking = false; return; }
    arrive();
  });
  const arrive = () => {
    find("#comparison_title").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    announce(section().dataset.assignment ? find("#judge_announcer").dataset.next : find(".empty").innerText);
  };

  const announce = (text) => {
    find("#judge_announcer").textContent = `${section().dataset.announce.trim()} ${text}`.trim();
  };
  const tell = (text) => { find("#judge_announcer").textContent = text; };

  // --- choosing ---

  const radio = (name, value) => find(`input[name="${name}"][value="${value}"]`);
  const chosen = (name) => find(`input[name="${name}"]:checked`);
  const changed = () => { marks(); saving.keepDraft(saving.activeMs()); };
  const marks = () => {
    kind().marks?.();
    find("[data-note]")?.toggleAttribute("data-filled", Boolean(find("textarea[name=comment]").value.trim() || chosen("flags")));
  };
  const choose = (input, again) => {
    if (!input || input.disabled) return;
    input.checked = !(again && input.checked);
    input.focus({ preventScroll: true });
    changed();
  };
  window.judging = { find, all, form, radio, chosen, choose, changed, tell };

  const step = (direction) => {
    const now = chosen("strength") ? Number(chosen("strength").value) : 0;
    choose(radio("strength", chosen("strength") ? Math.max(-3, Math.min(3, now + direction)) : direction));
  };
  kinds.pairwise = {
    missing: () => !chosen("strength"),
    focus: () => { find(".scale").classList.add("missing"); radio("strength", "0").focus({ preventScroll: true }); },
    legend: () => find(".scale legend"),
    // A tie has no better one, so that answer is closed while it stands.
    marks: () => {
      const better = radio("acceptability", "one");
      better.disabled = Boolean(chosen("strength")) && chosen("strength").value === "0";
      if (better.disabled) better.checked = false;
    },
    improves: () => (chosen("strength") && Number(chosen("strength").value) > 0 ? 1 : 0),
    press: (key) => {
      if (/^[1-7]$/.test(key)) return choose(radio("strength", Number(key) - 4));
      if (key === "ArrowLeft" || key === "ArrowRight") return step(key === "ArrowLeft" ? -1 : 1);
      return false;
    },
  };

  const confirm = () => {
    if (saving.busy()) return saving.tryNow();
    closeAll();
    if (kind().missing()) return halted();
    if (saving.going) return saving.going.then(confirm); // one at a time: the one before is still on its way
    if (form().checkValidity() && saving.goAhead()) return;
    form().requestSubmit(find("[data-confirm]"));
  };
  const halted = () => {
    const said = form().dataset.chooseFirst;
    tell(said);
    const legend = kind().legend?.();
    if (legend) { legend.textContent = said; legend.classList.add("missing"); }
    kind().focus();
  };
  document.addEventListener("htmx:validation:halted", halted);
  // A click on Confirm goes the way of the key, so that what is ready is shown at once.
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-confirm]") || event.detail === 0) return; // 0: a click by script or by Enter, sent on purpose
    event.preventDefault();
    if (event.detail === 1) confirm(); // a double click is one judgement
  });

  // --- improving a completion ---

  const edit = () => find("[data-edit]");
  const letterOf = (place) => find(`[data-place="${place}"] header b`).textContent;
  const showEdit = () => {
    if (!edit()) return;
    const place = edit().querySelector("[name=corrects]").value;
    const text = edit().querySelector("[name=written]").value;
    edit().hidden = place === "" || !text;
    if (!edit().hidden) edit().querySelector("[data-edit-letter]").textContent = letterOf(place);
  };
  const improve = async (place) => {
    const panel = edit();
    const [text, corrects] = [panel.querySelector("[name=written]"), panel.querySelector("[name=corrects]")];
    const begun = !panel.hidden && corrects.value !== String(place) && text.value !== panel.dataset.original;
    if (begun) { tell(find("#judge_announcer").dataset.editFirst); return text.focus(); }
    if (panel.hidden || corrects.value !== String(place)) {
      const query = new URLSearchParams({ assignment: section().dataset.assignment, place });
      let response;
      try { response = await fetch(`${form().dataset.textUrl}?${query}`); } catch { response = null; }
      if (!response || !response.ok || edit() !== panel) return tell(find("#judge_announcer").dataset.noText);
      text.value = panel.dataset.original = (await response.json()).text;
      corrects.value = place;
      showEdit();
      panel.hidden = false;
      panel.querySelector("[data-edit-letter]").textContent = letterOf(place);
    }
    text.focus();
    panel.scrollIntoView({ block: "nearest" });
  };
  const dropEdit = () => {
    edit().querySelector("[name=written]").value = "";
    edit().querySelector("[name=corrects]").value = "";
    showEdit();
    changed();
    find("#comparison_title").focus({ preventScroll: true });
  };
  const startEdit = () => (edit() ? improve(kind().improves()) : find(".judge-write textarea").focus());

  // --- how texts are shown ---

  const toggleView = (letter) => {
    const button = find(`[data-view="${letter}"]`);
    if (!button || saving.busy()) return;
    const now = (document.cookie.match(/(?:^|; )judge_view=(\w*)/) || [])[1] || "";
    const then = now.includes(letter) ? now.replace(letter, "") : now + letter;
    document.cookie = `judge_view=${then}; path=/; max-age=31536000; SameSite=Lax`;
    saving.keepDraft(saving.activeMs());
    looking = true;
    // Whoever pressed the key goes on to confirm: Enter must not press the switch again.
    const back = document.activeElement === button ? `[data-view="${letter}"]` : "#comparison_title";
    htmx.ajax("GET", location.pathname, { target: "#comparison", swap: "outerHTML settle:0ms show:none" }).then(() => find(back)?.focus({ preventScroll: true }));
  };
  const unfold = (buttons) => {
    const open = !buttons.every((button) => button.getAttribute("aria-expanded") === "true");
    for (const button of buttons) {
      if (button.getAttribute("aria-expanded") === String(open)) continue;
      button.previousElementSibling.classList.toggle("open", open);
      button.setAttribute("aria-expanded", open);
      [button.textContent, button.dataset.less] = [button.dataset.less, button.textContent];
    }
  };

  // --- menus, dialog, guidelines ---

  const open = (details, inside) => {
    for (const other of all("details.menu[open]")) if (other !== details) other.open = false;
    details.open = !details.open;
    if (details.open) details.querySelector(inside).focus();
  };
  const closeAll = () => {
    for (const details of all("details.menu[open]")) {
      details.open = false;
      details.querySelector("summary").focus({ preventScroll: true });
    }
  };
  const guidelines = (event) => {
    const aside = find("#judge_guidelines");
    if (!aside) return;
    if (event) event.preventDefault();
    aside.hidden = !aside.hidden;
    document.body.classList.toggle("with-guidelines", !aside.hidden);
    if (!aside.hidden) aside.querySelector("[data-close-guidelines]").focus({ preventScroll: true });
  };

  document.addEventListener("click", (event) => {
    const on = (selector) => event.target.closest(selector);
    if (on("[data-guidelines]") || on("[data-close-guidelines]")) return guidelines(event);
    if (on("[data-close-refused]")) { find("#judge_refused").hidden = true; return find("#comparison_title").focus({ preventScroll: true }); }
    if (on("[data-keys]")) return find("#judge_keys").showModal();
    if (on("[data-try-now]")) return saving.tryNow();
    if (on("[data-improve]")) closeAll();
    if (on("[data-improve]")) return improve(Number(on("[data-improve]").dataset.improve));
    if (on("[data-drop-edit]")) return dropEdit();
    if (on("[data-view]")) return toggleView(on("[data-view]").dataset.view);
    if (on("[data-unfold]")) return unfold([on("[data-unfold]")]);
    if (on("[data-remap]")) return remap(on("[data-remap]"));
    if (on("[data-reset-keys]")) return resetKeys();
    if (!on("details.menu")) for (const details of all("details.menu[open]")) details.open = false;
  });
  document.addEventListener("change", (event) => { if (event.target.closest("#judgement")) changed(); });
  document.addEventListener("input", (event) => { if (event.target.matches("#judgement textarea")) changed(); });

  // --- keys, each person's own ---

  const keysOn = document.getElementById("judge_keys_on");
  keysOn.checked = localStorage.getItem("rlhf.keys") !== "off";
  keysOn.addEventListener("change", () => localStorage.setItem("rlhf.keys", keysOn.checked ? "on" : "off"));

  const usual = Object.fromEntries(all("#judge_keys [data-default]").map((key) => [key.dataset.kbd, key.dataset.default]));
  const keymapName = `rlhf.keymap.${section().dataset.person}`;
  const keymap = { ...usual, ...JSON.parse(localStorage.getItem(keymapName) || "{}") };
  const showKeys = () => {
    for (const key of all("[data-kbd]")) if (keymap[key.dataset.kbd]) key.textContent = keymap[key.dataset.kbd].toUpperCase();
  };
  // The sheet has the keys of every kind and page; those that mean nothing here are out of sight, and do nothing.
  const fitKeys = () => {
    const now = form()?.dataset.kind || find("#judge_keys").dataset.kind;
    for (const row of all("#judge_keys [data-kinds]")) row.hidden = !row.dataset.kinds.split(" ").includes(now);
  };
  const offered = (action) => all(`#judge_keys [data-action="${action}"]`).some((row) => !row.hidden);
  let remapping = null;
  const remap = (button) => {
    remapping = { button, words: button.innerHTML };
    button.textContent = button.dataset.press;
  };
  const remapTo = (key) => {
    const { button, words } = remapping;
    remapping = null;
    button.innerHTML = words;
    // Digits, arrows, Enter, Escape and ? keep their meaning.
    if (key.length !== 1 || /[0-9?\s]/.test(key)) return;
    const action = button.dataset.remap;
    const other = Object.keys(keymap).find((name) => keymap[name] === key);
    if (other) keymap[other] = keymap[action]; // whose key it was gets ours
    keymap[action] = key;
    localStorage.setItem(keymapName, JSON.stringify(keymap));
    showKeys();
  };
  const resetKeys = () => {
    Object.assign(keymap, usual);
    localStorage.removeItem(keymapName);
    showKeys();
  };

  // The letter on the key cap, or on layouts without Latin letters or bare digits the key's place.
  const letter = (event) => {
    if (/^[a-z0-9?]$/i.test(event.key)) return event.key.toLowerCase();
    const place = event.code.match(/^(?:Key|Digit|Numpad)([A-Z0-9])$/);
    return place && event.key.length === 1 && event.key !== "=" ? place[1].toLowerCase() : event.key;
  };

  const actions = {
    both: () => choose(radio("acceptability", "both"), true),
    one: () => choose(radio("acceptability", "one"), true),
    neither: () => choose(radio("acceptability", "neither"), true),
    comment: () => (find("[data-note]") ? open(find("[data-note]"), "textarea") : find("textarea[name=comment]").focus()),
    skip: () => (find("[data-skip]").matches("a") ? find("[data-skip]").click() : open(find("[data-skip]"), "button")),
    edit: startEdit,
    formatted: () => toggleView("m"),
    differences: () => toggleView("d"),
    unfold: () => unfold(all("[data-unfold]")),
  };

  const undo = () => find("#undo_form")?.requestSubmit();
  const press = (event) => {
    const key = letter(event);
    const action = Object.keys(keymap).find((name) => keymap[name] === key && offered(name));
    if (key === "?") return find("#judge_keys").showModal();
    if (action === "undo" && !saving.busy()) return saving.going ? saving.going.then(undo) : undo();
    if (action === "guidelines") return guidelines();
    if (!section().dataset.assignment) return false;
    if (key === "Enter") return confirm();
    if (saving.busy()) return false;
    const number = find("[data-skip]").open && find(`[data-skip-key="${key}"]`);
    if (number) return number.click();
    if (kind().press(action === "tie" ? "=" : key, event) !== false) return true;
    return actions[action] ? actions[action]() : false;
  };

  document.addEventListener("keydown", (event) => {
    if (remapping && event.key !== "Shift") { event.preventDefault(); return remapTo(letter(event)); }
    if (event.isComposing || find("#judge_keys").open) return;
    const typing = event.target.closest("textarea, input[type=text], [contenteditable]");
    if (event.key === "Escape") { if (typing) find("#comparison_title").focus({ preventScroll: true }); return closeAll(); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && typing) { event.preventDefault(); return confirm(); }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    if (event.key === "Enter" && (event.repeat || event.target.closest("a, button, summary, input[type=checkbox]"))) return;
    if (event.key.startsWith("Arrow") && event.target.matches("input[name=acceptability]")) return;
    if (event.key.length === 1 && !keysOn.checked) return;
    if (press(event) !== false) event.preventDefault();
  });

  // --- start ---

  // What an earlier page kept and the server will not take: why, and what was typed, to copy.
  const tellRefused = (refused) => {
    const notice = find("#judge_refused");
    const words = refused.map(({ why, words }) => words || notice.dataset[why]);
    notice.querySelector("ul").replaceChildren(...[...new Set(words)].map((said) => Object.assign(document.createElement("li"), { textContent: said })));
    const texts = refused.flatMap(({ typed }) => typed);
    const typed = notice.querySelector("details");
    typed.hidden = !texts.length;
    typed.querySelector("div").replaceChildren(...texts.map((text) => Object.assign(document.createElement("p"), { className: "read text", dir: "auto", textContent: text })));
    notice.hidden = false;
  };

  const start = () => {
    shown();
    saving.sendKept().then(({ sent, refused }) => {
      if (refused.length) tellRefused(refused);
      if (!sent) return;
      htmx.ajax("GET", location.pathname, { target: "#comparison", swap: "outerHTML" }).then(() => tell(find("#judge_announcer").dataset.sent));
    });
  };
  start();
})();
