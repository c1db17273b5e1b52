// The live page of a run: fetch new metrics, extend charts and tables, stop when the run has ended.
(() => {
  "use strict";
  const place = document.getElementById("run_charts");
  if (!place) return;
  const { Chart, figure } = window.runCharts;
  const specs = JSON.parse(document.getElementById("chart_spec").textContent);
  const words = { step: place.dataset.stepWord, limit: place.dataset.limitWord, steps: Number(place.dataset.steps) };
  const PAUSE = 2000;
  const LONGEST_PAUSE = 30000;
  const charts = new Map();
  let since = -1;
  let known = new Set(specs.flatMap((spec) => spec.paths));
  let pause = PAUSE;

  for (const spec of specs) {
    const holder = place.querySelector(`[data-chart="${CSS.escape(spec.paths[0])}"]`);
    const rows = place.querySelector(`[data-rows="${CSS.escape(spec.paths[0])}"]`);
    const last = rows && rows.lastElementChild ? Number(rows.lastElementChild.firstElementChild.textContent) : -1;
    charts.set(spec, { chart: new Chart(holder, spec, words), rows, last });
  }

  const extend = (entry, spec, steps, values) => {
    entry.chart.add(steps, values);
    steps.forEach((step, row) => {
      const found = spec.paths.map((path) => values[path]?.[row] ?? null);
      if (step <= entry.last || found.every((value) => value === null)) return;
      const line = document.createElement("tr");
      line.append(Object.assign(document.createElement("td"), { textContent: step }));
      for (const value of found) line.append(Object.assign(document.createElement("td"), { className: "r", textContent: figure(value) }));
      entry.rows.append(line);
      entry.last = step;
    });
  };

  const fetchMore = async () => {
    let answer;
    try {
      const response = await fetch(`${place.dataset.metrics}?since=${since}`, { headers: { Accept: "application/json" } });
      if (response.redirected || [401, 403, 404].includes(response.status)) return; // signed out or gone: asking again helps nobody
      if (!response.ok) throw new Error(response.status);
      answer = await response.json();
      pause = PAUSE;
    } catch {
      pause = Math.min(pause * 2, LONGEST_PAUSE);
      return setTimeout(fetchMore, pause);
    }
    words.steps = answer.total_steps;
    const isNew = (path) => !known.has(path) && !/^(final\/|held_out\/accuracy_)/.test(path);
    if (Object.keys(answer.values).some(isNew)) {
      // A metric without a chart: the server knows which chart it belongs to.
      const page = await fetch(location.href);
      if (page.ok && !page.redirected) return replaceCharts(new DOMParser().parseFromString(await page.text(), "text/html"));
    }
    if (answer.steps.length) {
      since = answer.steps.at(-1);
      for (const [spec, entry] of charts) extend(entry, spec, answer.steps, answer.values);
    }
    if (answer.more) return fetchMore();
    if (!answer.ended) setTimeout(fetchMore, pause);
  };

  const replaceCharts = (page) => {
    const fresh = page.getElementById("run_charts");
    place.replaceChildren(...fresh.childNodes);
    specs.splice(0, specs.length, ...JSON.parse(page.getElementById("chart_spec").textContent));
    charts.clear();
    since = -1;
    for (const spec of specs) {
      spec.paths.forEach((path) => known.add(path));
      const holder = place.querySelector(`[data-chart="${CSS.escape(spec.paths[0])}"]`);
      const rows = place.querySelector(`[data-rows="${CSS.escape(spec.paths[0])}"]`);
      const last = rows && rows.lastElementChild ? Number(rows.lastElementChild.firstElementChild.textContent) : -1;
      charts.set(spec, { chart: new Chart(holder, spec, words), rows, last });
    }
    return fetchMore();
  };

  document.addEventListener("themechange", () => {
    for (const { chart } of charts.values()) chart.redraw();
  });
  document.addEventListener("toggle", (event) => {
    if (event.target.id === "more_charts") for (const { chart } of charts.values()) chart.draw();
  }, true);
  fetchMore();
})();
