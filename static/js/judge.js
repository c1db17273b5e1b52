// The judging screen by keyboard: keys, focus, announcements, active time, heartbeat, guidelines beside the work.
(() => {
  "use strict";
  const IDLE_AFTER = 120 * 1000; // a person who has not moved for two minutes is not reading
  const AWAY_AFTER = 10 * 60 * 1000; // nor does their page hold on to the comparison
  const saving = window.judgeSaving;
  const find = (selector) => document.querySelector(selector);
  const section = () => document.getElementById("comparison");

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
    const said = new FormData(find("#judgement"));
    const body = new URLSearchParams({ assignment: said.get("assignment"), fencing_token: said.get("fencing_token") });
    const headers = { "X-CSRFToken": saving.csrf() || said.get("csrfmiddlewaretoken") };
    let response;
    try { response = await fetch(section().dataset.renewUrl, { method: "POST", body, headers }); } catch { return; } // the next beat tries again
    if (response.status === 409) saving.say("lost");
  };

  // --- a new comparison on the screen ---

  const shown = () => {
    clearInterval(heart);
    activeMs = 0;
    lastTick = Date.now();
    find("[data-keys]").hidden = false;
    if (!section().dataset.assignment) return;
    activeMs = saving.restoreDraft();
    heart = setInterval(beat, 1000 * Number(section().dataset.renewSeconds));
    const prompt = find(".judge-prompt");
    prompt.scrollTop = prompt.scrollHeight;
    marks();
  };

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "comparison" && !(event.detail.elt && event.detail.elt.id === "comparison")) return;
    const polling = !event.detail.requestConfig || event.detail.requestConfig.verb === "get";
    shown();
    if (polling && !section().dataset.assignment) return; // the empty page looking again: nothing new to say
    find("#comparison_title").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    announce(section().dataset.assignment ? find("#judge_announcer").dataset.next : find(".empty").innerText);
  });

  const announce = (text) => {
    find("#judge_announcer").textContent = `${section().dataset.announce.trim()} ${text}`.trim();
  };

  // --- choosing ---

  const radio = (name, value) => find(`input[name="${name}"][value="${value}"]`);
  const chosen = (name) => find(`input[name="${name}"]:checked`);
  const changed = () => { marks(); saving.keepDraft(saving.activeMs()); };

  // A tie has no better one, so that answer is closed while it stands.
  const marks = () => {
    const tie = chosen("strength") && chosen("strength").value === "0";
    const better = radio("acceptability", "one");
    better.disabled = Boolean(tie);
    if (tie) better.checked = false;
    const note = find("[data-note]");
    note.toggleAttribute("data-filled", Boolean(find("textarea[name=comment]").value.trim() || chosen("flags")));
  };

  const choose = (input, again) => {
    if (!input || input.disabled) return;
    input.checked = !(again && input.checked);
    input.focus({ preventScroll: true });
    changed();
  };

  const step = (direction) => {
    const now = chosen("strength") ? Number(chosen("strength").value) : 0;
    choose(radio("strength", chosen("strength") ? Math.max(-3, Math.min(3, now + direction)) : direction));
  };

  const confirm = () => {
    if (saving.busy()) return saving.tryNow();
    closeAll();
    if (!chosen("strength")) return halted();
    find("#judgement").requestSubmit(find("[data-confirm]"));
  };
  const halted = () => {
    const said = find("#judgement").dataset.chooseFirst;
    find("#judge_announcer").textContent = said;
    const scale = find(".scale");
    scale.querySelector("legend").textContent = said;
    scale.classList.add("missing");
    radio("strength", "0").focus({ preventScroll: true });
  };
  document.addEventListener("htmx:validation:halted", halted);

  // --- menus, dialog, guidelines ---

  const open = (details, inside) => {
    for (const other of document.querySelectorAll("details.menu[open]")) if (other !== details) other.open = false;
    details.open = !details.open;
    if (details.open) details.querySelector(inside).focus();
  };
  const closeAll = () => {
    for (const details of document.querySelectorAll("details.menu[open]")) {
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
    if (on("[data-keys]")) return find("#judge_keys").showModal();
    if (on("[data-try-now]")) return saving.tryNow();
    if (!on("details.menu")) for (const details of document.querySelectorAll("details.menu[open]")) details.open = false;
  });
  document.addEventListener("change", (event) => { if (event.target.closest("#judgement")) changed(); });
  document.addEventListener("input", (event) => { if (event.target.name === "comment") changed(); });

  // --- keys ---

  const keysOn = document.getElementById("judge_keys_on");
  keysOn.checked = localStorage.getItem("rlhf.keys") !== "off";
  keysOn.addEventListener("change", () => localStorage.setItem("rlhf.keys", keysOn.checked ? "on" : "off"));

  // The letter on the key cap, or on layouts without Latin letters or bare digits the key's place.
  const letter = (event) => {
    if (/^[a-z0-9?]$/i.test(event.key)) return event.key.toLowerCase();
    const place = event.code.match(/^(?:Key|Digit|Numpad)([A-Z0-9])$/);
    return place && event.key.length === 1 ? place[1].toLowerCase() : event.key;
  };

  const single = {
    g: () => choose(radio("acceptability", "both"), true),
    o: () => choose(radio("acceptability", "one"), true),
    n: () => choose(radio("acceptability", "neither"), true),
    c: () => open(find("[data-note]"), "textarea"),
    s: () => open(find("[data-skip]"), "button"),
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
  };

  const press = (event) => {
    const key = letter(event);
    if (key === "?") return find("#judge_keys").showModal();
    if (key === "u" && !saving.busy()) return find("#undo_form").requestSubmit();
    if (key === "h") return guidelines();
    if (!section().dataset.assignment) return false;
    if (key === "Enter") return confirm();
    if (saving.busy()) return false;
    const skipping = find("[data-skip]").open;
    const number = skipping ? find(`[data-skip-key="${key}"]`) : /^[1-7]$/.test(key) && radio("strength", Number(key) - 4);
    if (number) return skipping ? number.click() : choose(number);
    if (single[key]) return single[key]();
    return false;
  };

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || find("#judge_keys").open) return;
    const typing = event.target.closest("textarea, input[type=text], [contenteditable]");
    if (event.key === "Escape") return closeAll();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && typing) { event.preventDefault(); return confirm(); }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && (event.repeat || event.target.closest("a, button, summary, input[type=checkbox]"))) return;
    if (event.key.startsWith("Arrow") && event.target.matches("input[name=acceptability]")) return;
    if (event.key.length === 1 && !keysOn.checked) return;
    if (press(event) !== false) event.preventDefault();
  });

  // --- start ---

  shown();
  saving.sendKept().then((sent) => {
    if (!sent) return;
    htmx.ajax("GET", location.pathname, { target: "#comparison", swap: "outerHTML" }).then(() => {
      find("#judge_announcer").textContent = find("#judge_announcer").dataset.sent;
    });
  });
})();
