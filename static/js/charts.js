// Small line charts of a run's metrics, drawn by uPlot in the colours of the page. The table beside each is the accessible form.
(() => {
  "use strict";
  const colour = (name) => {
    const probe = document.createElement("span"); // resolves light-dark() to a colour that a canvas knows
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const LINES = ["--accent", "--side-b", "--side-a", "--good"];
  const HEIGHT = 168;
  const figure = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    const text = value === 0 ? "0" : size >= 1000 ? Math.round(value).toLocaleString("en") : size >= 0.001 ? Number(value.toPrecision(3)).toString() : value.toPrecision(2);
    return text.replace("-", "\u2212");
  };

  // A dashed line where the run stops.
  const limitLine = (limit, word) => ({
    hooks: {
      draw: [(plot) => {
        if (limit === null) return;
        const { ctx, bbox } = plot;
        const y = plot.valToPos(limit, "y", true);
        if (y < bbox.top || y > bbox.top + bbox.height) return;
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = colour("--bad");
        ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
        ctx.lineWidth = devicePixelRatio;
        ctx.beginPath();
        ctx.moveTo(bbox.left, y);
        ctx.lineTo(bbox.left + bbox.width, y);
        ctx.stroke();
        ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
        ctx.textAlign = "right";
        ctx.fillText(`${word} ${figure(limit)}`, bbox.left + bbox.width, y - 5 * devicePixelRatio);
        ctx.restore();
      }],
    },
  });

  const options = (spec, width, words) => {
    const axis = (side) => ({
      stroke: colour("--ink-2"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      ...(side === "y" ? { size: 48, space: 34, values: (_plot, ticks) => ticks.map(figure) } : { size: 26, space: 60, values: (_plot, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? String(tick) : "")) }),
    });
    return {
      width,
      height: HEIGHT,
      cursor: { points: { size: 7 }, drag: { x: false, y: false } },
      scales: {
        x: { time: false, range: (_plot, low, high) => [Math.min(low ?? 0, 0), Math.max(high ?? 1, words.steps || 0, 1)] },
        y: { range: (_plot, low, high) => span(low, high, spec.limit) },
      },
      legend: { live: true },
      series: [
        { label: words.step, value: (_plot, value) => figure(value) },
        ...spec.paths.map((_path, index) => ({
          label: spec.names[index],
          stroke: colour(LINES[index % LINES.length]),
          width: 1.8,
          dash: index >= 2 ? [6, 3] : undefined, // told apart by more than colour
          spanGaps: true,
          points: { show: (plot) => plot.data[0].length < 2 || plot.data[index + 1].filter((value) => value !== null).length < 12, size: 5 },
          value: (_plot, value) => figure(value),
        })),
      ],
      axes: [axis("x"), axis("y")],
      plugins: [limitLine(spec.limit ?? null, words.limit), { hooks: { ready: [showLast], setData: [showLast], setCursor: [showLast] } }],
    };
  };

  // While nobody points at the chart its legend reads the newest values.
  const showLast = (plot) => {
    if (plot.cursor.idx === null || plot.cursor.idx === undefined || plot.cursor.left < 0) {
      plot.setLegend({ idxs: plot.data.map((line) => line.findLastIndex((value) => value !== null)) }, false);
    }
  };

  // Room above and below; the limit is in sight once the line is a quarter of the way there.
  const span = (low, high, limit) => {
    if (low === null || low === undefined) return [0, 1];
    if (limit !== null && limit !== undefined && high > limit / 4) high = Math.max(high, limit * 1.08);
    const room = (high - low || Math.abs(high) || 1) * 0.08;
    return [low >= 0 && low < (high - low) ? 0 : low - room, high + room];
  };

  class Chart {
    constructor(holder, spec, words) {
      Object.assign(this, { holder, spec, words, plot: null, data: [[], ...spec.paths.map(() => [])] });
      new ResizeObserver(() => this.resize()).observe(holder);
    }
    add(steps, values) {
      steps.forEach((step, row) => {
        const found = this.spec.paths.map((path) => values[path]?.[row] ?? null);
        if (found.every((value) => value === null)) return;
        this.data[0].push(step);
        found.forEach((value, line) => this.data[line + 1].push(value));
      });
      this.draw();
    }
    draw() {
      if (!this.holder.clientWidth) return; // folded away; drawn when it opens
      if (!this.plot) this.plot = new uPlot(options(this.spec, this.holder.clientWidth, this.words), this.data, this.holder);
      else this.plot.setData(this.data);
    }
    resize() {
      if (!this.plot) return this.draw();
      if (this.holder.clientWidth && this.plot.width !== this.holder.clientWidth) this.plot.setSize({ width: this.holder.clientWidth, height: HEIGHT });
    }
    redraw() {
      this.plot?.destroy();
      this.plot = null;
      this.draw();
    }
  }

  window.runCharts = { Chart, figure };
})();
