// Saving a judgement so that nothing is lost: an answer is kept in this browser until the server has said that it has it,
// shown as unsaved meanwhile, and resent under the same idempotency key. Drafts of unsent answers are kept too.
(() => {
  "use strict";
  const DAYS_KEPT = 14;
  const WAITS = [1, 2, 4, 8, 15];
  const SLOW_AFTER = 600;
  const DRAFT_AFTER = 1500;
  const OURS = ["csrfmiddlewaretoken", "assignment", "fencing_token", "key", "active_ms"]; // what a person does not say
  const saving = (window.judgeSaving = {});
  let retries = 0;
  let timer = 0;
  let slow = 0;

  const section = () => document.getElementById("comparison");
  const form = () => document.getElementById("judgement");
  const storeName = (kind, id) => `rlhf.${kind}.${section().dataset.person}.${id}`;
  const isMain = (event) => event.detail.elt && event.detail.elt.id === "judgement";

  const keep = (name, value) => {
    try { localStorage.setItem(name, JSON.stringify({ ...value, at: Date.now() })); } catch (error) {
      console.warn("This browser keeps nothing for us: answers are safe only once saved.", error);
    }
  };
  const kept = (name) => {
    const text = localStorage.getItem(name);
    return text ? JSON.parse(text) : null;
  };
  const keptNames = (kind) => Object.keys(localStorage).filter((name) => name.startsWith(storeName(kind, "")));

  // --- drafts ---

  saving.keepDraft = (activeMs) => {
    if (!form()) return;
    const said = [...new FormData(form())].filter(([name]) => !OURS.includes(name));
    const name = storeName("draft", section().dataset.assignment);
    keep(name, { said, activeMs, saved: kept(name)?.saved || Number(section().dataset.draftAt) || 0 });
    clearTimeout(drafting);
    // Choices are made again in a moment; words are not, so they go to the server as well.
    if (said.some(([field, value]) => ["comment", "written"].includes(field) && value)) drafting = setTimeout(() => sendDraft(name), DRAFT_AFTER);
  };
  let drafting = 0;
  const sendDraft = async (name) => {
    if (!form() || storeName("draft", section().dataset.assignment) !== name || saving.busy()) return;
    const body = new URLSearchParams(new FormData(form()));
    let response;
    try { response = await fetch(section().dataset.draftUrl, { method: "POST", body, headers: headers() }); } catch { return; } // it is kept in this browser
    const at = response.ok && !response.redirected ? (await response.json()).at : 0;
    if (at && kept(name)) keep(name, { ...kept(name), saved: at });
  };

  // Fill the form with what was typed here before; returns the active time already spent on it.
  saving.restoreDraft = () => {
    const draft = form() && kept(storeName("draft", section().dataset.assignment));
    if (!draft || !draft.said) return 0;
    // Another machine has sent a later draft: the form is filled with that one.
    if (Number(section().dataset.draftAt) > (draft.saved || 0)) return draft.activeMs || 0;
    for (const input of form().elements) {
      if (!input.name || OURS.includes(input.name) || input.type === "submit") continue;
      const values = draft.said.filter(([name]) => name === input.name).map(([, value]) => value);
      if (input.type === "radio" || input.type === "checkbox") input.checked = values.includes(input.value);
      else input.value = values[0] || "";
    }
    return draft.activeMs || 0;
  };

  // Judged: also what was refused under another key must not be sent any more.
  const forget = (assignment) => {
    localStorage.removeItem(storeName("draft", assignment));
    for (const name of keptNames("unsent")) if (kept(name).assignment === assignment) localStorage.removeItem(name);
  };

  const prune = () => {
    for (const name of Object.keys(localStorage)) {
      if (!/^rlhf\.(draft|unsent)\./.test(name)) continue;
      if (Date.now() - kept(name).at > DAYS_KEPT * 24 * 3600 * 1000) localStorage.removeItem(name);
    }
  };

  // --- the line that says how saving goes ---

  const say = (state) => {
    const line = document.querySelector("[data-saving]");
    if (!line) return;
    line.hidden = !state;
    line.dataset.state = state;
    line.firstElementChild.textContent = state ? line.dataset[state] : "";
    const again = line.querySelector("[data-try-now]");
    again.hidden = !["failed", "signedOut"].includes(state);
    // While an answer is under way it must stay the answer that was sent under this key.
    for (const part of document.querySelectorAll("[data-answer]")) part.inert = ["sending", "failed", "signedOut"].includes(state);
  };
  saving.say = say;
  saving.busy = () => {
    const line = document.querySelector("[data-saving]");
    return Boolean(saving.underWay) || (Boolean(line) && ["failed", "signedOut"].includes(line.dataset.state));
  };

  let button = null; // the one pressed for what is not saved yet; null means Confirm
  const send = () => { if (form()) form().requestSubmit(button || document.querySelector("[data-confirm]")); };
  saving.tryNow = () => { if (!saving.underWay) { clearTimeout(timer); send(); } };

  const keepUnsent = () => {
    const said = new URLSearchParams(new FormData(form()));
    said.set("active_ms", saving.activeMs());
    said.delete("csrfmiddlewaretoken");
    keep(storeName("unsent", said.get("key")), { url: form().getAttribute("action"), body: said.toString(), assignment: said.get("assignment") });
    return said;
  };

  // --- refusals: the server has the judgement and will not take it, however often it is sent ---

  const REFUSED = [404, 409, 410];
  const refusal = (status, mark) => (!REFUSED.includes(status) ? "" : mark === "closed" ? "closed" : "refused");
  // It stays kept, is tried once whenever judging is opened, and is told once.
  const told = (name) => localStorage.setItem(name, JSON.stringify({ ...kept(name), told: true }));
  const refuse = (why, key) => {
    say(why);
    saving.keepDraft(saving.activeMs());
    if (key && kept(storeName("unsent", key))) told(storeName("unsent", key));
  };

  // --- requests ---

  const csrf = () => (document.cookie.match(/(?:^|; )(?:csrftoken|__Host-csrf)=([^;]+)/) || [])[1];
  saving.csrf = csrf;

  document.addEventListener("htmx:configRequest", (event) => {
    // Somebody who signed in again in another tab has a new token; the one in this page is stale.
    if (csrf()) {
      event.detail.headers["X-CSRFToken"] = csrf();
      if (event.detail.verb === "post") event.detail.parameters.csrfmiddlewaretoken = csrf();
    }
    if (isMain(event) && event.detail.path === form().getAttribute("action")) {
      event.detail.parameters.active_ms = saving.activeMs();
      const said = keepUnsent();
      saving.underWay = { key: said.get("key"), assignment: said.get("assignment"), button: null };
    } else if (isMain(event)) {
      // A skip: safe to repeat as well, but not worth keeping beyond this page.
      const sent = event.detail.triggeringEvent;
      saving.underWay = { key: "", assignment: event.detail.parameters.assignment, button: sent && sent.submitter };
    }
  });

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (isMain(event)) slow = setTimeout(() => say("sending"), SLOW_AFTER);
  });
  const arrived = () => {
    clearTimeout(slow);
    clearTimeout(timer);
    saving.underWay = null;
    button = null;
    retries = 0;
  };

  // Only answers that carry our mark may replace the comparison: a sign-in page we were sent to may not.
  document.addEventListener("htmx:beforeSwap", (event) => {
    const mark = event.detail.xhr.getResponseHeader("X-Judging");
    const ours = mark === "1";
    if (event.detail.target.id !== "comparison") return;
    // What is typed must stay in sight; a page that only waits can say it as a page.
    if (mark === "closed" && !form()) return location.reload();
    if (mark === "closed" && !saving.underWay) { say("ended"); event.detail.isError = false; } // told here, so not in a toast as well
    event.detail.shouldSwap = ours && [200, 422].includes(event.detail.xhr.status);
    if (event.detail.shouldSwap && saving.underWay) {
      // A refused form comes back as the same comparison: its draft stays.
      if (event.detail.xhr.status === 200) forget(saving.underWay.assignment);
      else localStorage.removeItem(storeName("unsent", saving.underWay.key));
    }
    if (event.detail.shouldSwap) arrived();
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    if (!isMain(event)) return;
    const xhr = event.detail.xhr;
    const underWay = saving.underWay;
    const failures = retries;
    arrived();
    const mark = xhr.getResponseHeader("X-Judging");
    if (mark === "1") return;
    const why = refusal(xhr.status, mark);
    if (why) return refuse(why, underWay?.key);
    const signedOut = xhr.status === 403 || (xhr.status === 200 && xhr.responseURL);
    say(signedOut ? "signedOut" : "failed");
    if (!underWay) return;
    button = underWay.button;
    timer = setTimeout(send, 1000 * WAITS[Math.min(failures, WAITS.length - 1)]);
    retries = failures + 1;
  });
  window.addEventListener("online", () => { if (saving.busy()) saving.tryNow(); });

  const headers = () => ({ "Content-Type": "application/x-www-form-urlencoded", "HX-Request": "true", "X-CSRFToken": csrf() || document.querySelector("[name=csrfmiddlewaretoken]").value });
  const ours = (response) => response.headers.get("X-Judging") === "1";
  const answers = (response) => ours(response) && [200, 422].includes(response.status);
  const refusalOf = (response) => (response ? refusal(response.status, response.headers.get("X-Judging")) : "");
  const sectionIn = (html) => Object.assign(document.createElement("template"), { innerHTML: html }).content.querySelector("#comparison");

  // --- the next comparison, kept ready: it is on the screen while the judgement before it is still being saved ---

  const STALE_AFTER = 15 * 60 * 1000; // its lease lasts a little longer
  let ahead = null;

  saving.fetchAhead = async () => {
    const now = section();
    await saving.going; // till it is saved, the one before is still ours and would be what comes next
    if (section() !== now) return;
    if (ahead && ahead.section.dataset.assignment === now.dataset.assignment) ahead = null;
    if (ahead || !now.dataset.assignment || navigator.connection?.saveData) return;
    const body = new URLSearchParams({ assignment: now.dataset.assignment });
    let response;
    try { response = await fetch(now.dataset.aheadUrl, { method: "POST", body, headers: headers() }); } catch { return; } // then it comes with the answer
    if (response.status !== 200 || !ours(response)) return;
    const found = sectionIn(await response.text());
    if (found && section() === now && found.dataset.assignment !== now.dataset.assignment) ahead = { section: found, at: Date.now() };
  };

  const show = (next) => {
    section().replaceWith(next);
    htmx.process(next);
    saving.shown(next);
  };

  // Send the judgement and show what was kept ready; false when there is nothing ready. Should sending fail, the judged
  // one comes back to the screen, says so, and goes on trying.
  saving.goAhead = () => {
    if (!ahead || Date.now() - ahead.at > STALE_AFTER || saving.going) { ahead = null; return false; }
    const [before, next] = [section(), ahead.section];
    const said = keepUnsent();
    const url = form().getAttribute("action");
    ahead = null;
    saving.going = fetch(url, { method: "POST", body: said, headers: headers(), signal: AbortSignal.timeout(10000) })
      .then((response) => (answers(response) ? response.text().then((html) => [response, html]) : [response, ""]), () => [null, ""])
      .then(([response, html]) => landed(before, next, said, response, html))
      .finally(() => { saving.going = null; document.body.removeAttribute("data-judge-going"); });
    document.body.setAttribute("data-judge-going", "");
    show(next);
    return true;
  };

  const landed = (before, next, said, response, html) => {
    if (!html) {
      show(before);
      const why = refusalOf(response);
      if (why) return refuse(why, said.get("key"));
      const signedOut = response && (response.status === 403 || response.redirected);
      say(signedOut ? "signedOut" : "failed");
      timer = setTimeout(send, 1000 * WAITS[0]);
      retries = 1;
      return;
    }
    if (response.status === 200) forget(said.get("assignment"));
    else localStorage.removeItem(storeName("unsent", said.get("key")));
    const answer = sectionIn(html);
    if (section() !== next) return; // a later answer has come first
    if (answer.dataset.assignment !== next.dataset.assignment) return show(answer);
    // The one on the screen is the one the server means: take over what is new around it.
    for (const part of ["#undo_form", ".head > p", "[data-notices]"]) next.querySelector(part).replaceWith(answer.querySelector(part));
    htmx.process(next.querySelector("#undo_form"));
    saving.around(answer.dataset.announce.trim());
  };

  // --- what an earlier page could not send ---

  saving.sendKept = async () => {
    prune();
    const done = { sent: 0, refused: [] };
    for (const name of keptNames("unsent")) {
      const unsent = kept(name);
      if (!unsent) continue; // another kept answer was of the same comparison
      let response;
      try { response = await fetch(unsent.url, { method: "POST", body: unsent.body, headers: headers() }); } catch { return done; }
      const why = refusalOf(response);
      if (why) {
        if (!unsent.told) done.refused.push({ why, typed: typedIn(unsent) });
        told(name);
      } else if (!answers(response)) return done;
      else if (response.ok) {
        forget(unsent.assignment);
        done.sent += 1;
      } else {
        done.refused.push({ why: "answered", words: sectionIn(await response.text()).dataset.announce.trim(), typed: typedIn(unsent) });
        localStorage.removeItem(name); // never to be taken as it is; what was chosen and typed stays as the draft
      }
    }
    return done;
  };
  const typedIn = (unsent) => {
    const said = new URLSearchParams(unsent.body);
    return ["written", "comment"].map((field) => said.get(field)).filter(Boolean);
  };
})();
