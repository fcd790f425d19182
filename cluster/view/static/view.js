// Charts, tokens on demand, and pages that follow a running run. Texts of a run only ever become text nodes.
"use strict";
(() => {
  const POLL_MS = 3000;
  const charts = [];
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const color = (i) => css("--s" + (i % 8));
  const faint = (value, alpha) => {
    const n = parseInt(value.slice(1), 16);
    return `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${alpha})`;
  };
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const show = (value) => {
    if (value === null || value === undefined) return "";
    const size = Math.abs(value);
    if (size >= 10000) return Math.round(value).toLocaleString("en");
    if (size !== 0 && size < 0.001) return value.toExponential(1);
    return String(+value.toPrecision(4));
  };

  // One chart: a title, a legend whose values follow the cursor, the plot, a line of help.
  function draw(place, spec, range, onZoom) {
    place.replaceChildren();
    place.classList.add("card", "chart");
    const title = make("h3", "", spec.title);
    if (range && onZoom) {
      const reset = make("button", "reset", "all steps");
      reset.type = "button";
      reset.onclick = () => onZoom(null);
      title.append(reset);
    }
    const legend = make("div", "legend-row");
    const plot = make("div", "plot");
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", spec.title + ": " + spec.lines.map((line) => line.label).join(", "));
    place.append(title, legend, plot, make("p", "", spec.help));
    if (!spec.lines.length) return;
    const tables = [];
    const series = [{}];
    const bands = [];
    const shownAt = [];
    for (const line of spec.lines) {
      const hasBand = line.low && line.high && !spec.log;
      const y = spec.log ? line.y.map((v) => (v > 0 ? v : null)) : line.y;
      tables.push(hasBand ? [line.x, y, line.high, line.low] : [line.x, y]);
      line.hasBand = hasBand;
      const stroke = () => color(line.color);
      const few = line.x.length < 40;
      shownAt.push(series.length);
      series.push({ label: line.label, stroke, width: 1.6, dash: [[], [7, 4], [2, 3]][line.dash % 3], points: { show: few, size: 5 }, spanGaps: false });
      if (hasBand) {
        bands.push({ series: [series.length, series.length + 1], fill: () => faint(color(line.color), 0.16) });
        series.push({ stroke: null, points: { show: false } }, { stroke: null, points: { show: false } });
      }
    }
    const data = tables.length > 1 ? uPlot.join(tables) : tables[0];
    const axis = () => ({
      stroke: () => css("--quiet"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1, size: 4 },
      font: "12px system-ui, sans-serif",
    });
    const values = spec.lines.map((line, i) => {
      const toggle = make("button");
      toggle.type = "button";
      toggle.setAttribute("aria-pressed", "true");
      const value = make("b");
      toggle.append(make("span", `swatch c-${line.color % 8} dash${line.dash % 3}`), make("span", "quiet", line.label), value);
      toggle.onclick = () => {
        const on = toggle.getAttribute("aria-pressed") !== "true";
        toggle.setAttribute("aria-pressed", String(on));
        u.setSeries(shownAt[i], { show: on });
        if (line.hasBand) for (const j of [1, 2]) u.setSeries(shownAt[i] + j, { show: on });
      };
      legend.append(toggle);
      return value;
    });
    const last = (column) => { let i = column.length - 1; while (i > 0 && column[i] == null) i--; return i; };
    const at = make("span", "quiet");
    legend.append(at);
    const follow = (self) => {
      const i = self.cursor.idx;
      at.textContent = i == null ? "" : `${spec.xlabel} ${self.data[0][i]}`;
      shownAt.forEach((j, n) => {
        const k = i == null ? last(self.data[j]) : i;
        const band = i != null && spec.lines[n].hasBand && self.data[j + 2] && self.data[j + 2][k] != null;
        values[n].textContent = show(self.data[j][k]) + (band ? ` [${show(self.data[j + 2][k])}, ${show(self.data[j + 1][k])}]` : "");
      });
    };
    const marks = (self) => {
      const context = self.ctx;
      context.save();
      context.strokeStyle = faint(color(6), 0.55);
      context.setLineDash([3, 4]);
      for (const event of spec.events || []) {
        const x = Math.round(self.valToPos(event.step, "x", true));
        if (x < self.bbox.left || x > self.bbox.left + self.bbox.width) continue;
        context.beginPath();
        context.moveTo(x, self.bbox.top);
        context.lineTo(x, self.bbox.top + self.bbox.height);
        context.stroke();
      }
      context.restore();
    };
    const options = {
      width: Math.max(200, plot.clientWidth), height: 190, series, bands, legend: { show: false },
      cursor: { y: false, sync: spec.sync ? { key: spec.sync } : undefined, drag: { x: !!onZoom, y: false, setScale: false }, points: { size: 7 } },
      scales: {
        x: spec.ks ? { time: false, distr: 3, log: 2 } : { time: false },
        y: spec.log ? { distr: 3 } : { range: (self, low, high) => {
          if (low === null) return [0, 1];
          const from = spec.zero && low >= 0 ? 0 : low;
          const room = (high - from || Math.abs(high) || 1) * 0.06;
          return [from === 0 && spec.zero ? 0 : from - room, high + room];
        } },
      },
      axes: [
        { ...axis(), size: 28, gap: 4, ...(spec.ks ? { splits: () => spec.ks, values: (self, all) => all.map(String), filter: (self, all) => all } : { incrs: [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10000, 20000, 50000, 100000] }) },
        { ...axis(), size: 58, values: (self, all) => all.map((v) => (v === null ? "" : show(v))) },
      ],
      hooks: {
        setCursor: [follow], ready: [follow], draw: [marks],
        setSelect: [(self) => {
          if (!onZoom || self.select.width < 8) return;
          const ends = [self.posToVal(self.select.left, "x"), self.posToVal(self.select.left + self.select.width, "x")];
          self.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          onZoom([Math.floor(ends[0]), Math.ceil(ends[1])]);
        }],
      },
    };
    const u = new uPlot(options, data, plot);
    charts.push({ u, plot });
  }

  // The charts of one or several runs, side by side in the same axes.
  function specs(payload, only) {
    const runs = payload.runs.filter((run) => run.x.length);
    const several = payload.runs.length > 1;
    const found = [];
    for (const chart of payload.charts) {
      if (only && !only.includes(chart.title)) continue;
      const lines = [];
      for (const run of runs) {
        const n = payload.runs.indexOf(run);
        (several ? chart.series.slice(0, 1) : chart.series).forEach(([key, label], i) => {
          if (!run.mean[key]) return;
          const name = label.replace("Best-of-N", `Best-of-${run.num_select}`).replace("@N", `@${run.num_select}`);
          lines.push({ label: several ? run.name : name, x: run.x, y: run.mean[key], low: run.low[key], high: run.high[key], color: several ? n : i, dash: 0 });
        });
      }
      if (!lines.length) continue;
      const thinned = runs.filter((run) => run.steps_per_point > 1);
      const most = Math.max(...runs.map((run) => run.steps_per_point));
      const band = !lines.some((line) => line.low) ? "" : thinned.length ? ` ${thinned.length < runs.length ? "Of a long run a" : "A"} point is the mean of ${most} steps, the band their smallest and largest value; drag to look closer.` : " Bands: 95 % intervals over the step's problems.";
      found.push({
        title: chart.title, help: chart.help + (several && chart.series.length > 1 ? ` Shown: ${chart.series[0][1]}.` : "") + band, lines, log: chart.log, zero: chart.zero, sync: "steps", xlabel: "step",
        events: chart.events ? runs.flatMap((run) => run.events) : [],
      });
    }
    return found;
  }

  function heldOut(payload) {
    const several = payload.runs.length > 1;
    const found = new Map();
    payload.runs.forEach((run, n) => {
      for (const metric of (run.held_out && run.held_out.metrics) || []) {
        const spec = found.get(metric.name) || { title: `Held out: ${metric.title}`, help: "Means over held-out problems with 95 % intervals.", lines: [], ks: [], xlabel: "k =", zero: true };
        metric.cells.forEach((cell) => {
          spec.lines.push({ label: several ? `${run.name}: ${cell.label}` : cell.label, x: run.held_out.ks, y: cell.mean, low: cell.low, high: cell.high, color: several ? n : cell.place, dash: several ? cell.place : 0 });
        });
        spec.ks = [...new Set([...spec.ks, ...run.held_out.ks])].sort((a, b) => a - b);
        found.set(metric.name, spec);
      }
    });
    return [...found.values()];
  }

  // Evaluations while it trains: of several runs side by side the first estimate alone.
  function during(payload) {
    const several = payload.runs.length > 1;
    const found = new Map();
    payload.runs.forEach((run, n) => {
      for (const chart of run.during || []) {
        const spec = found.get(chart.title) || { title: chart.title, help: chart.help + (several ? ` Shown: ${chart.lines[chart.lines.length > 1 ? 1 : 0].label}.` : "") + " Bands: 95 % intervals over the problems.", lines: [], zero: chart.title === "Held out", sync: "steps", xlabel: "step" };
        (several ? chart.lines.slice(0, 2).slice(-1) : chart.lines).forEach((line, i) => {
          spec.lines.push({ label: several ? run.name : line.label, x: chart.x, y: line.mean, low: line.low, high: line.high, color: several ? n : i, dash: 0 });
        });
        found.set(chart.title, spec);
      }
    });
    return [...found.values()];
  }

  function fill(section, payload, range, onZoom) {
    const only = section.dataset.only && section.dataset.only.split("|");
    const all = only ? specs(payload, only) : specs(payload);
    const held = only ? [] : heldOut(payload);
    const meanwhile = only ? [] : during(payload);
    const wanted = [...all.slice(0, 1).map((s) => [s, true]), ...meanwhile.map((s) => [s, true]), ...held.map((s) => [s, false]), ...all.slice(1).map((s) => [s, true])];
    while (section.children.length > wanted.length) section.lastChild.remove();
    while (section.children.length < wanted.length) section.append(make("figure"));
    wanted.forEach(([spec, zooms], i) => draw(section.children[i], spec, zooms && range, zooms ? onZoom : null));
    if (!wanted.length) section.append(make("p", "note", "No step is finished yet."));
  }

  const refreshers = [];
  function live(section) {
    let range = null;
    const load = async () => {
      const query = new URLSearchParams();
      if (section.dataset.evaluation !== undefined) query.set("evaluation", section.dataset.evaluation);
      else for (const name of JSON.parse(section.dataset.charts)) query.append("run", name);
      if (range) { query.set("from", range[0]); query.set("to", range[1]); }
      const answer = await fetch("/api/curves?" + query);
      if (!answer.ok) return;
      charts.length = 0;
      fill(section, await answer.json(), range, (to) => { range = to; load(); });
    };
    refreshers.push(load);
    return load();
  }

  // What changed on the page of a running run: the same page is asked for again and its live parts taken over.
  async function watch() {
    const names = document.querySelector("main[data-watch]") ? [document.querySelector("main").dataset.watch] : [];
    const section = document.querySelector("[data-charts]");
    if (section && !names.length) names.push(...JSON.parse(section.dataset.charts));
    const overview = document.querySelector("[data-live=runs]") || location.pathname === "/";
    if (!names.length && !overview) return;
    let seen = null;
    for (;;) {
      await new Promise((done) => setTimeout(done, POLL_MS));
      if (document.hidden) continue;
      try {
        const query = new URLSearchParams(names.map((name) => ["run", name]));
        const text = await (await fetch("/api/state?" + query)).text();
        if (seen !== null && text !== seen) {
          const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
          for (const part of document.querySelectorAll("[data-live]")) {
            const fresh = page.querySelector(`[data-live="${part.dataset.live}"]`);
            if (!fresh || part.contains(document.activeElement)) continue;
            const ticked = new Map([...part.querySelectorAll("input[type=checkbox]")].map((box) => [box.value, box.checked]));
            for (const box of fresh.querySelectorAll("input[type=checkbox]")) if (ticked.has(box.value)) box.checked = ticked.get(box.value);
            part.replaceWith(document.adoptNode(fresh));
          }
          for (const load of refreshers) await load();
        }
        seen = text;
      } catch { /* the server has ended, or will answer the next time */ }
    }
  }

  document.addEventListener("click", async (click) => {
    const button = click.target.closest("[data-tokens]");
    if (!button) return;
    const sample = button.closest(".sample");
    const open = sample.querySelector(".tokens");
    const text = sample.querySelector("pre");
    if (open) { open.remove(); text.hidden = false; return; }
    const answer = await fetch(button.dataset.tokens);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = document.adoptNode(page.querySelector(".tokens"));
    const name = "color" + Math.random().toString(36).slice(2);
    for (const radio of part.querySelectorAll("input")) {
      radio.name = name;
      radio.onchange = () => { part.className = "tokens " + radio.value; };
    }
    text.hidden = true;
    text.after(part);
  });
  document.addEventListener("keydown", (key) => {
    if (key.target.closest("input, select, textarea") || key.ctrlKey || key.metaKey || key.altKey) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[key.key];
    const link = rel && document.querySelector(`.pager a[rel=${rel}]`);
    if (link) link.click();
  });

  let redrawing = 0;
  addEventListener("resize", () => {
    clearTimeout(redrawing);
    redrawing = setTimeout(() => { for (const { u, plot } of charts) if (plot.isConnected) u.setSize({ width: Math.max(200, plot.clientWidth), height: 190 }); }, 80);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const { u } of charts) u.redraw(false); });

  function problem(place) {
    const data = JSON.parse(place.querySelector("script").textContent);
    draw(place, {
      title: "pass@k over the steps", help: "", zero: true, xlabel: "step",
      lines: data.ks.map((one, i) => ({ label: `pass@${one.k}`, x: data.x, y: one.mean, low: one.low, high: one.high, color: i, dash: 0 })),
    }, null, null);
  }

  const inline = document.getElementById("payload");
  if (inline) fill(document.querySelector("[data-inline]"), JSON.parse(inline.textContent), null, null);
  for (const place of document.querySelectorAll("[data-problem]")) problem(place);
  for (const section of document.querySelectorAll("[data-charts], [data-evaluation]")) live(section);
  if (!inline) watch();
})();
