// The explorer: what is chosen stands in the address, is drawn by two Vega charts, and is told below.
document.addEventListener("DOMContentLoaded", async () => {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  data.published = data.published.flatMap(({ points, ...curve }) =>
    points.map(([sparsity, test_accuracy]) => ({ ...curve, sparsity, test_accuracy })));
  const place = document.getElementById("explorer-place");
  const setting = (cell) => `${cell.protocol}, ${cell.epochs} epochs`;
  const key = (row) => (row.variant ? `${row.method}/${row.variant}` : row.method);
  const percent = (sparsity) => `${+(100 * sparsity).toPrecision(6)}%`;
  const distinct = (values) => [...new Set(values)];
  const mine = (rows) => rows.filter((r) => r.dataset === state.dataset && r.model === state.model);
  const byRuns = (cells) => cells.flatMap((cell) => Array(cell.n).fill(cell));
  const most = (values) => {
    const counts = new Map();
    values.forEach((value) => counts.set(value, (counts.get(value) || 0) + 1));
    return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0];
  };

  // The state: from the address, else what there is most of.
  const state = { methods: [], ablations: ["none"], published: "", closeup: true, cell: "" };
  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of given)
      state[name] = Array.isArray(state[name])
        ? value.split(",").filter(Boolean)
        : name === "closeup" ? value === "true" : value;
    const networks = distinct([...data.cells, ...data.published].map((c) => `${c.dataset} ${c.model}`));
    if (!networks.includes(`${state.dataset} ${state.model}`)) {
      const [dataset, model] = most(byRuns(data.cells).map((c) => `${c.dataset} ${c.model}`)).split(" ");
      const models = networks.filter((n) => n.startsWith(`${state.dataset} `));
      if (models.length) state.model = models[0].split(" ")[1];
      else Object.assign(state, { dataset, model });
    }
    const cells = mine(data.cells), settings = distinct(cells.map(setting));
    if (!settings.includes(state.schedule)) state.schedule = most(byRuns(cells).map(setting)) ?? "";
    const sources = distinct(mine(data.published).map((r) => r.source));
    if (!sources.includes(state.published)) state.published = state.schedule ? "" : sources[0];
    const there = distinct([...shownCells(), ...shownPublished()].map(key));
    if (!given.has("methods") || !state.methods.some((m) => there.includes(m)))
      state.methods = there.filter((m) => !m.includes("/"));
    const levels = sparsities();
    if (!levels.includes(+state.sparsity))
      state.sparsity = levels.sort((a, b) => Math.abs(a - 0.9) - Math.abs(b - 0.9))[0];
  }
  function write() {
    const kept = { ...state, methods: state.methods.join(","), ablations: state.ablations.join(",") };
    const text = Object.entries(kept).filter(([, v]) => v !== "" && v !== undefined);
    history.replaceState(null, "", `#${new URLSearchParams(text)}`);
  }
  const shownCells = () => mine(data.cells).filter((c) => setting(c) === state.schedule);
  const shownPublished = () => mine(data.published).filter((r) => r.source === state.published);
  const pruned = () => shownCells().filter((c) => c.method !== "dense");
  const sparsities = () => distinct(pruned().map((c) => c.sparsity)).sort((a, b) => a - b);
  const chosen = (row) =>
    state.methods.includes(key(row)) && state.ablations.includes(row.ablation) && row.sparsity > 0;

  // Controls.
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  function swatch(look) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "-3 -1.5 6 3");
    svg.innerHTML =
      `<path d="M-3,0H3" stroke="${look.colour}" stroke-width=".5" ` +
      `stroke-dasharray="${(look.dash || []).map((d) => d / 5)}"/>` +
      (look.shape ? `<path d="${look.shape}" fill="${look.variant ? "white" : look.colour}" stroke="${look.colour}" stroke-width=".4"/>` : "");
    return svg;
  }
  function select(name, label, options) {
    const box = element("select", { name });
    options.forEach(([value, text]) =>
      box.append(element("option", { value, textContent: text, selected: String(state[name] ?? "") === String(value) })));
    box.onchange = () => change(name, box.value);
    return element("label", {}, label, box);
  }
  function boxes(name, label, options) {
    const set = element("fieldset", {}, element("legend", { textContent: label }));
    options.forEach(([value, text, look]) => {
      const box = element("input", { type: "checkbox", name, value, checked: state[name].includes(value) });
      box.onchange = () =>
        change(name, options.map(([v]) => v).filter((v) => (v === value ? box.checked : state[name].includes(v))));
      set.append(element("label", {}, box, swatch(look), text));
    });
    return set;
  }
  const form = element("form", { onsubmit: () => false });
  function controls() {
    const titled = (names, titles) => distinct(names).map((name) => [name, titles[name] ?? name]);
    const every = [...data.cells, ...data.published];
    const inside = [...shownCells(), ...shownPublished()];
    const known = data.methods.filter((m) => inside.some((row) => key(row) === m.key));
    const ablations = data.ablations.filter((a) => inside.some((row) => row.ablation === a.key));
    const models = every.filter((row) => row.dataset === state.dataset).map((row) => row.model);
    const sources = distinct(mine(data.published).map((row) => row.source));
    const focus = document.activeElement?.form === form ? [document.activeElement.name, document.activeElement.value] : null;
    const closeup = element("input", { type: "checkbox", name: "closeup", checked: state.closeup });
    closeup.onchange = () => change("closeup", closeup.checked);
    form.replaceChildren(
      select("dataset", "Data set", titled(every.map((row) => row.dataset), data.datasets)),
      select("model", "Network", titled(models, data.models)),
      select("schedule", "Schedule", state.schedule ? titled(mine(data.cells).map(setting), {}) : [["", "none run here yet"]]),
      select("published", "Published beside it", [["", "none"], ...sources.map((s) => [s, data.sources[s].name])]),
      boxes("methods", "Methods", known.map((m) => [m.key, m.label, { ...m, colour: m.colours.none }])),
      boxes("ablations", "Ablations", ablations.map((a) => [a.key, a.label, { colour: "#404040", dash: a.dash }])),
      element("label", { className: "inline" }, closeup, " close-up"));
    if (focus) [...form.elements].find((e) => e.name === focus[0] && e.value === focus[1])?.focus();
  }
  function change(name, value) {
    state[name] = value;
    if (name !== "sparsity") { write(); read(); controls(); }
    write();
    draw();
  }

  // What is drawn.
  const looks = Object.fromEntries(data.methods.map((m) => [m.key, m]));
  const dashes = Object.fromEntries(data.ablations.map((a) => [a.key, a.dash]));
  function points() {
    const cells = shownCells().filter(chosen), theirs = shownPublished().filter(chosen);
    const series = distinct(cells.map((c) => `${key(c)} ${c.ablation}`));
    const several = cells.some((c) => c.n > 1), step = several ? Math.min(0.03, 0.13 / series.length) : 0;
    const stays = [...cells, ...theirs].map((c) => 1 - c.sparsity);
    const decades = Math.log10(Math.max(...stays) / Math.min(...stays)) + 0.24;
    const row = (c, more) => ({
      ...c, ...more, dash: dashes[c.ablation], shape: looks[key(c)].shape, stay: 100 * (1 - c.sparsity) * (more.shift ?? 1),
    });
    const ours = cells.map((c) => {
      const name = `${key(c)} ${c.ablation}`, look = looks[key(c)];
      const shift = 10 ** (step * decades * ((series.length - 1) / 2 - series.indexOf(name)));
      return row(c, { shift, series: name, accuracy: c.mean, colour: look.colours[c.ablation], fill: look.variant ? "white" : look.colours[c.ablation] });
    });
    return ours.concat(theirs.map((c) =>
      row(c, { series: `${c.source} ${key(c)} ${c.ablation}`, accuracy: c.test_accuracy, colour: "#8c8c8c", fill: "white" })));
  }
  function ticks(rows) {
    const values = distinct(rows.map((r) => +(100 * (1 - r.sparsity)).toPrecision(6))).sort((a, b) => a - b);
    if (values.length <= 6) return values;
    const wide = values.at(-1) / values[0] >= 200;
    return [-3, -2, -1, 0, 1, 2].flatMap((e) => (wide ? [1] : [1, 2, 5]).map((s) => s * 10 ** e));
  }
  const views = {};
  function draw() {
    const rows = points(), dense = shownCells().find((c) => c.method === "dense");
    const chance = data.chance[state.dataset], stays = rows.map((r) => r.stay);
    const levels = [{ accuracy: chance, dash: data.levels.chance }];
    if (dense) levels.push({ accuracy: dense.mean, dash: data.levels.dense });
    const own = rows.filter((r) => !r.source).map((r) => r.accuracy).concat(dense ? dense.mean : []);
    const theirs = rows.filter((r) => r.source).map((r) => r.accuracy);
    const best = Math.max(...(own.length ? own : theirs));
    const near = [...own, ...theirs].filter((a) => a > best - data.closeUp && a < best + data.closeUp / 4);
    set(views.accuracy, {
      least: stays.length ? Math.min(...stays) / 1.3 : 1, most: stays.length ? Math.max(...stays) * 1.3 : 100,
      low: state.closeup ? Math.min(...near) - 1 : 0, high: state.closeup ? Math.max(...near) + 1 : 102,
      ticks: ticks(rows),
    }, {
      levels, points: rows,
      bars: rows.filter((r) => r.n > 1).map((r) => ({ ...r, accuracy: r.low, upper: r.high })),
      dots: rows.filter((r) => r.n > 1).flatMap((r) => r.runs.map((run) => ({ ...r, accuracy: run.test_accuracy }))),
    });
    drawDensities(rows);
    tell(rows.find((r) => name(r) === state.cell));
    place.dataset.drawn = rows.length;
  }
  function drawDensities(rows) {
    const at = rows.filter((r) => r.density && r.sparsity === +state.sparsity);
    const layers = at.flatMap((r) => r.density.map((d, i) => ({
      series: r.series, colour: r.colour, dash: r.dash, shape: r.shape,
      layer: data.layers[r.layers][i].replace(/\.weight$/, ""), kept: 100 * d })));
    const least = Math.min(...layers.filter((l) => l.kept > 0).map((l) => l.kept));
    set(views.densities, {}, {
      kept: layers.filter((l) => l.kept > 0),
      gone: layers.filter((l) => l.kept === 0).map((l) => ({ ...l, kept: least / 3 })),
    });
    const options = sparsities().map((s) => [s, `${percent(s)} removed`]);
    heading.replaceChildren("Densities at ", options.length ? select("sparsity", "", options) : "");
  }
  function set(view, signals, tables) {
    Object.entries(signals).forEach(([signal, value]) => view.signal(signal, value));
    Object.entries(tables).forEach(([table, rows]) => view.data(table, rows));
    view.resize().runAsync();
  }

  // A mark's runs.
  const name = (row) => `${row.source ?? ""} ${key(row)} ${row.ablation} ${row.sparsity}`.trim();
  function tell(row) {
    if (!row) return details.replaceChildren("Point at a mark, or tap it.");
    const ablation = data.ablations.find((a) => a.key === row.ablation).label;
    const title = element("strong", { textContent: `${looks[key(row)].label}, ${ablation}, ${percent(row.sparsity)} removed` });
    if (row.source) {
      const { name, caution } = data.sources[row.source];
      return details.replaceChildren(title, element("p", { textContent: `${row.test_accuracy} percent: ${name}; ${caution}.` }));
    }
    const half = row.n > 1 ? ` ± ${((row.high - row.low) / 2).toFixed(2)}` : "";
    const told = `${row.mean.toFixed(2)}${half} percent, ${row.n} run${row.n > 1 ? "s" : ""}; ${setting(row)}`;
    const cut = (run) => (run.layers_collapsed ? `, ${run.layers_collapsed} layers without a weight` : "");
    const runs = row.runs.map((run) => element("li", {
      textContent: `seed ${run.seed}: ${run.test_accuracy.toFixed(2)} percent${cut(run)}; scored and masked in ` +
        `${+run.prune_seconds.toPrecision(2)} s; ${run.device}; code ${run.code_version}` }));
    const page = looks[key(row)].page;
    const link = page ? element("a", { href: page, textContent: `${looks[row.method]?.label ?? row.method}'s notebook, executed` }) : "";
    details.replaceChildren(title, element("p", { textContent: told }), element("ul", {}, ...runs), link);
  }

  const heading = element("div", { className: "heading" }), details = element("div", { id: "run" });
  details.setAttribute("aria-live", "polite");
  const charts = { accuracy: element("div", { id: "accuracy" }), densities: element("div", { id: "densities" }) };
  place.replaceChildren(form, element("div", { className: "charts" },
    element("div", {}, charts.accuracy, details), element("div", {}, heading, charts.densities)));
  read();
  controls();
  for (const [chart, spec] of Object.entries(data.charts))
    views[chart] = (await vegaEmbed(charts[chart], spec, { actions: false, renderer: "svg", tooltip: false, logLevel: 1 })).view;
  const reach = (event, item) => {
    const row = item?.datum;
    if (!row?.series || !row.method || name(row) === state.cell) return;
    state.cell = name(row);
    tell(row);
    if (row.density && row.sparsity !== +state.sparsity) {
      state.sparsity = row.sparsity;
      drawDensities(points());
    }
    write();
  };
  views.accuracy.addEventListener("mouseover", reach);
  views.accuracy.addEventListener("click", reach);
  addEventListener("hashchange", () => { read(); controls(); draw(); });
  draw();
});
