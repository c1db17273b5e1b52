// The kinds of judgement beside pairs: rankings, ratings, demonstrations. Each works on the form's own fields,
// so that what it does by keys and dragging can be done without them, and a draft restores it.
(() => {
  "use strict";
  const kinds = (window.judgeKinds = window.judgeKinds || {});
  const { find, all } = { find: (selector) => document.querySelector(selector), all: (selector) => [...document.querySelectorAll(selector)] };
  const changed = () => window.judging.changed();

  // --- ranking: groups of places, best first, kept in one select for each completion ---

  const selects = () => all(".judge-rank select");
  const letterOf = (place) => find(`[data-place="${place}"] header b`).textContent;
  const groups = () => {
    const found = new Map();
    selects().forEach((select, place) => {
      if (select.value) found.set(Number(select.value), [...(found.get(Number(select.value)) || []), place]);
    });
    return [...found.keys()].sort((a, b) => a - b).map((rank) => found.get(rank));
  };
  const without = (place, from = groups()) => from.map((group) => group.filter((one) => one !== place)).filter((group) => group.length);
  const apply = (wanted, place) => {
    const rank = new Map(wanted.flatMap((group, index) => group.map((one) => [one, index + 1])));
    selects().forEach((select, one) => { select.value = rank.get(one) || ""; });
    changed();
    if (place !== undefined) window.judging.tell(words(place));
  };
  const words = (place) => {
    const ranks = find("[data-ranks]").dataset;
    const index = groups().findIndex((group) => group.includes(place));
    const said = index < 0 ? ranks.openWords : groups()[index].length > 1 ? ranks.tieWords : ranks.rankWords;
    return said.replace("%l", letterOf(place)).replace("%r", index + 1);
  };

  let tieNext = false;
  const append = (place) => {
    const rest = without(place);
    if (tieNext && rest.length) rest.at(-1).push(place); else rest.push([place]);
    tieNext = false;
    apply(rest, place);
  };
  const tie = () => { tieNext = !tieNext && groups().length > 0; draw(); };
  const takeBack = () => {
    const rest = groups();
    if (!rest.length) return;
    const place = rest.at(-1).at(-1);
    apply(without(place), place);
  };
  // One step: out of a tie, or into the neighbour's group.
  const move = (place, direction) => {
    const now = groups();
    const index = now.findIndex((group) => group.includes(place));
    if (index < 0) return append(place);
    if (now[index].length > 1) {
      now[index] = now[index].filter((one) => one !== place);
      now.splice(direction < 0 ? index : index + 1, 0, [place]);
    } else {
      if (!now[index + direction]) return;
      now[index + direction].push(place);
      now.splice(index, 1);
    }
    apply(now, place);
    chip(place).focus();
  };

  const chip = (place) => find(`[data-chip="${place}"]`);
  const makeChip = (place) => {
    const button = Object.assign(document.createElement("button"), { type: "button", className: `chip ${letterOf(place).toLowerCase()}` });
    button.dataset.chip = place;
    const key = Object.assign(document.createElement("kbd"), { textContent: place + 1 });
    key.setAttribute("aria-hidden", "true");
    const said = Object.assign(document.createElement("span"), { className: "visually-hidden", textContent: words(place).slice(letterOf(place).length) });
    button.append(letterOf(place), said, " ", key);
    return button;
  };
  const item = (name, value, ...inside) => {
    const made = Object.assign(document.createElement("li"), { className: name });
    made.dataset[name] = value;
    made.append(...inside);
    return made;
  };
  const draw = () => {
    const focused = document.activeElement?.dataset?.chip;
    const now = groups();
    const open = selects().map((_select, place) => place).filter((place) => !now.flat().includes(place));
    const list = find("[data-ranks] ol");
    list.replaceChildren(item("gap", 0));
    now.forEach((group, index) => {
      const number = Object.assign(document.createElement("span"), { className: "num small quiet", textContent: index + 1 });
      list.append(item("group", index, number, ...group.map(makeChip)), item("gap", index + 1));
    });
    find("[data-tray] .chips").replaceChildren(...open.map(makeChip));
    find("[data-tray]").classList.toggle("used", !open.length);
    find("[data-tie]").setAttribute("aria-pressed", tieNext);
    if (focused !== undefined) chip(focused)?.focus({ preventScroll: true });
  };

  // Dragging: a chip follows the pointer and falls into the group, gap or tray under it.
  let drag = null;
  const target = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-group], [data-gap], [data-tray]");
  document.addEventListener("pointerdown", (event) => {
    const button = event.target.closest("[data-chip]");
    if (button && event.isPrimary && event.button === 0) drag = { button, x: event.clientX, y: event.clientY, going: false };
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag || !event.isPrimary) return;
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.going && Math.hypot(x, y) < 6) return;
    drag.going = true;
    drag.button.classList.add("dragged");
    find("[data-ranks]").classList.add("dragging");
    drag.button.style.transform = `translate(${x}px, ${y}px)`;
    for (const old of all("[data-ranks] .over")) old.classList.remove("over");
    target(event)?.classList.add("over");
  });
  const swallow = (click) => click.stopPropagation();
  const drop = (event) => {
    if (!drag) return;
    const { button, going } = drag;
    drag = null;
    if (!going) return;
    const onto = event.type === "pointerup" ? target(event) : null;
    find("[data-ranks]").classList.remove("dragging");
    const place = Number(button.dataset.chip);
    const before = groups();
    document.addEventListener("click", swallow, true); // the drag's own click, if one comes
    setTimeout(() => document.removeEventListener("click", swallow, true));
    if (!onto) return draw();
    if (onto.dataset.tray !== undefined) return apply(without(place), place);
    // A mark keeps the place while the chip leaves its old group.
    const marked = before.map((group) => group.filter((one) => one !== place));
    if (onto.dataset.group !== undefined) marked[onto.dataset.group].push(place); else marked.splice(onto.dataset.gap, 0, [place]);
    apply(marked.filter((group) => group.length), place);
  };
  document.addEventListener("pointerup", drop);
  document.addEventListener("pointercancel", drop);
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-chip]");
    if (button) append(Number(button.dataset.chip));
    if (event.target.closest?.("[data-clear-ranks]")) apply([]);
    if (event.target.closest?.("[data-tie]")) tie();
  });

  kinds.ranking = {
    missing: () => selects().some((select) => !select.value),
    legend: () => find(".judge-hint"),
    focus: () => find("[data-tray] button, .judge-rank select").focus({ preventScroll: true }),
    marks: draw,
    improves: () => groups()[0]?.[0] ?? 0,
    press: (key, event) => {
      if (key === "=") return tie();
      if (key === "Backspace") return takeBack();
      const focused = event.target.dataset.chip;
      if (focused !== undefined && (key === "ArrowLeft" || key === "ArrowRight")) return move(Number(focused), key === "ArrowLeft" ? -1 : 1);
      if (/^[1-8]$/.test(key) && selects()[Number(key) - 1]) return append(Number(key) - 1);
      return false;
    },
  };

  // --- rating: one row of radio buttons for each criterion; a digit rates and goes on ---

  const rows = () => all("[data-rating]");
  const rated = (row) => row.querySelector("input:checked");
  const current = () => {
    const focused = document.activeElement?.closest?.("[data-rating]");
    return focused || rows().find((row) => !rated(row)) || rows()[0];
  };
  const go = (row) => {
    if (!row) return;
    (rated(row) || row.querySelector("input")).focus({ preventScroll: true });
    row.scrollIntoView({ block: "nearest" });
    for (const one of rows()) one.classList.toggle("current", one === row);
  };
  kinds.rating = {
    missing: () => rows().some((row) => !rated(row)),
    legend: () => find(".judge-hint"),
    focus: () => go(rows().find((row) => !rated(row))),
    marks: () => { for (const row of rows()) row.classList.toggle("current", row === current()); },
    improves: () => Number(current()?.closest("[data-place]").dataset.place ?? 0),
    press: (key) => {
      const row = current();
      const index = rows().indexOf(row);
      if (key === "ArrowUp" || key === "ArrowDown") return go(rows()[index + (key === "ArrowUp" ? -1 : 1)]);
      if (!/^[1-5]$/.test(key)) return false;
      row.querySelector(`input[value="${key}"]`).checked = true;
      changed();
      return go(rows()[index + 1] || row);
    },
  };

  // --- demonstration: there is only the text ---

  kinds.demonstration = {
    missing: () => !find(".judge-write textarea").value.trim(),
    focus: () => find(".judge-write textarea").focus(),
    press: () => false,
  };
})();
