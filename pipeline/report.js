"use strict";
// Sorting of tables and the window browser. The page says all that matters without this script.

(() => {
  const minus = (number) => String(number).replace("-", "\u2212");
  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  // ---- tables: a click or Enter on a head sorts up, then down, then as it was

  const numberIn = (text) => {
    const plain = text.replace(/\u2212/g, "-").replace(/,/g, "").trim();
    const found = plain.match(/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?/i);
    return found ? Number(found[0]) : null;
  };

  const compare = (one, other, sign) => {
    const [a, b] = [numberIn(one), numberIn(other)];
    if (a !== null && b !== null) return sign * (a - b);
    if (a !== null || b !== null) return a !== null ? -1 : 1; // what has no number stays at the end
    return sign * one.localeCompare(other, "en", { numeric: true });
  };

  const makeSortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const original = [...body.rows];
    heads.forEach((head, column) => {
      if (head.hasAttribute("data-fixed")) return;
      const button = element("button", { type: "button", className: "sort" });
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
        for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", next);
        const text = (row) => row.cells[column].textContent.trim();
        const sign = next === "descending" ? -1 : 1;
        const rows = next === "none" ? original : [...original].sort((a, b) => compare(text(a), text(b), sign));
        body.append(...rows);
      });
    });
  };

  document.querySelectorAll("table.sortable").forEach(makeSortable);

  // ---- the window browser

  const root = document.getElementById("browser");
  if (!root || !window.DecompressionStream) return;
  const data = JSON.parse(document.getElementById("window-data").textContent);
  const [rows, columns, leads] = [data.y.length, data.x.length, data.leads.length];
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const colours = { field: bytes(data.colours.field), error: bytes(data.colours.error) };
  const state = { window: 0, lead: leads - 1, variable: 0, shown: new Set(), point: null };
  data.models.forEach((model, index) => model.shown && state.shown.add(index));

  const unpacked = new Map();
  const unpack = (text) => {
    if (!unpacked.has(text)) unpacked.set(text, inflate(text));
    return unpacked.get(text);
  };
  const inflate = async (text) => {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const levels = new Uint8Array(await new Response(stream).arrayBuffer());
    for (let start = 0; start < levels.length; start += columns) {
      for (let cell = start + 1; cell < start + columns; cell++) levels[cell] += levels[cell - 1];
    }
    return levels;
  };

  const values = async (text, low, high, steps) => {
    const levels = (await unpack(text)).subarray(state.lead * rows * columns, (state.lead + 1) * rows * columns);
    return Float64Array.from(levels, (level) => low + (level / steps) * (high - low));
  };

  const paint = (canvas, field, low, high, palette) => {
    canvas.width = columns;
    canvas.height = rows;
    const picture = new ImageData(columns, rows);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const share = (field[(rows - 1 - row) * columns + column] - low) / (high - low); // north is up
        const level = 3 * Math.min(255, Math.max(0, Math.floor(share * 256)));
        const target = 4 * (row * columns + column);
        for (let channel = 0; channel < 3; channel++) picture.data[target + channel] = palette[level + channel];
        picture.data[target + 3] = 255;
      }
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  };

  const short = (value) => minus(Number(value.toPrecision(4)));
  const place = (row, column) => {
    const [y, x] = [data.y[row], data.x[column]];
    if (!data.geographic) return `x ${short(x)}, y ${short(y)}`;
    const east = ((x + 180) % 360 + 360) % 360 - 180;
    return `${Math.abs(y)}\u00b0${y < 0 ? "S" : "N"} ${Math.abs(east)}\u00b0${east < 0 ? "W" : "E"}`;
  };

  const panels = []; // {canvas, cross, title, kind}: made once for each map that is shown
  const panel = (kind, model) => {
    const title = element("span");
    const canvas = element("canvas", { tabIndex: 0 });
    const cross = element("span", { className: "cross", hidden: true });
    const picture = element("div", { className: "picture" }, document.getElementById("map-frame").content.cloneNode(true));
    const { left, top, width, height } = root.dataset;
    Object.assign(canvas.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-describedby", "readout");
    canvas.addEventListener("pointermove", (event) => pointAt(canvas, event));
    canvas.addEventListener("pointerdown", (event) => pointAt(canvas, event));
    canvas.addEventListener("keydown", move);
    picture.append(canvas, cross);
    panels.push({ kind, model, title, canvas, cross });
    return element("figure", { className: "panel" }, element("figcaption", {}, title), picture);
  };

  const bar = (label, low, high, palette, open = ["", ""]) => {
    const stops = Array.from({ length: 17 }, (_, n) => {
      const level = 3 * Math.round((255 * n) / 16);
      return `rgb(${palette[level]}, ${palette[level + 1]}, ${palette[level + 2]})`;
    });
    const ramp = element("div", { className: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const ticks = element("div", { className: "bar-ticks" });
    for (const [share, sign] of [[0, open[0]], [0.5, ""], [1, open[1]]]) {
      const tick = element("span", { textContent: sign + short(low + share * (high - low)) });
      tick.style.left = `${100 * share}%`;
      ticks.append(tick);
    }
    return element("div", { className: "bar" }, element("span", { className: "bar-label", textContent: label }), ramp, ticks);
  };

  const layOut = () => {
    panels.length = 0;
    const chosen = [...state.shown].sort((a, b) => a - b);
    part("fields").replaceChildren(panel("truth", null), ...chosen.map((model) => panel("forecast", model)));
    part("errors").replaceChildren(element("div", { className: "bars" }), ...chosen.map((model) => panel("error", model)));
  };

  let fields = {}; // what is on screen: truth, and the error of each model
  let drawing = 0;
  const draw = async () => {
    const mine = ++drawing;
    const scale = data.variables[state.variable];
    const truth = await values(data.truth[state.window][state.variable], scale.low, scale.high, 255);
    const errors = new Map();
    for (const model of state.shown) {
      const text = data.errors[model][state.window][state.variable];
      errors.set(model, await values(text, -scale.bound, scale.bound, 254));
    }
    if (mine !== drawing) return; // something else was chosen meanwhile
    fields = { truth, errors };
    panels.forEach((one) => drawPanel(one, scale));
    const label = `forecast \u2212 truth, ${scale.units}`;
    part("errors").querySelector(".bars").replaceChildren(
      bar(`${scale.longName}, ${scale.units}`, scale.low, scale.high, colours.field),
      bar(label, -scale.shown, scale.shown, colours.error, ["\u2264 ", "\u2265 "]),
    );
    tell();
    point();
    root.dataset.drawn = `${state.window} ${state.lead} ${state.variable} ${[...state.shown].join(",")}`;
  };

  const drawPanel = ({ kind, model, title, canvas }, scale) => {
    const error = model === null ? null : fields.errors.get(model);
    const field = kind === "truth" ? fields.truth : kind === "error" ? error : fields.truth.map((v, n) => v + error[n]);
    const name = model === null ? "truth" : data.models[model].name;
    if (kind === "error") paint(canvas, field, -scale.shown, scale.shown, colours.error);
    else paint(canvas, field, scale.low, scale.high, colours.field);
    const rmse = kind === "error" ? `RMSE ${data.models[model].rmse[state.window][state.variable][state.lead]} ${scale.units}` : "";
    const what = kind === "error" ? `${name} \u2212 truth` : name;
    title.replaceChildren(element("b", { textContent: what }));
    if (rmse) title.append(element("br"), rmse);
    const range = `from ${short(field.reduce((a, b) => Math.min(a, b)))} to ${short(field.reduce((a, b) => Math.max(a, b)))}`;
    canvas.setAttribute("aria-label", `Map of ${scale.longName}, ${what}: ${range} ${scale.units}. ${rmse && `${rmse}. `}Arrow keys move a point.`);
  };

  const tell = () => {
    const { number, caption } = data.windows[state.window];
    const times = data.times[state.window];
    const lead = data.leads[state.lead];
    part("status").textContent = `Window ${number}: ${lead} after the last input at ${times[0]}, valid at ${times[state.lead + 1]}`;
    part("caption").textContent = caption || "no caption";
    part("lead-text").textContent = lead;
    part("lead").setAttribute("aria-valuetext", lead);
    part("previous").disabled = state.window === 0;
    part("next").disabled = state.window === data.windows.length - 1;
  };

  // ---- a point on the maps, by pointer or arrow keys: its values stand in the line below

  const pointAt = (canvas, event) => {
    const area = canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - area.left) / area.width) * columns);
    const row = rows - 1 - Math.floor(((event.clientY - area.top) / area.height) * rows);
    if (column < 0 || column >= columns || row < 0 || row >= rows) return;
    state.point = { row, column };
    point();
  };

  const move = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
    if (event.key === "Escape") state.point = null;
    else if (!step) return;
    else {
      event.preventDefault();
      const from = state.point || { row: Math.floor(rows / 2), column: Math.floor(columns / 2) };
      const row = Math.min(rows - 1, Math.max(0, from.row + step[0]));
      state.point = { row, column: Math.min(columns - 1, Math.max(0, from.column + step[1])) };
    }
    point();
  };

  const point = () => {
    for (const { canvas, cross } of panels) {
      cross.hidden = !state.point;
      if (!state.point) continue;
      const across = (state.point.column + 0.5) / columns;
      const down = (rows - state.point.row - 0.5) / rows;
      cross.style.left = `${parseFloat(canvas.style.left) + across * parseFloat(canvas.style.width)}%`;
      cross.style.top = `${parseFloat(canvas.style.top) + down * parseFloat(canvas.style.height)}%`;
    }
    const out = part("readout");
    if (!state.point || !fields.truth) {
      out.textContent = "Point at a map, or focus one and use the arrow keys, to read its values.";
      return;
    }
    const cell = state.point.row * columns + state.point.column;
    const { units } = data.variables[state.variable];
    const told = [...fields.errors].map(([model, error]) => {
      const sign = error[cell] < 0 ? "" : "+";
      return `${data.models[model].name} ${short(fields.truth[cell] + error[cell])} (${sign}${short(error[cell])})`;
    });
    out.textContent = `${place(state.point.row, state.point.column)}: truth ${short(fields.truth[cell])}, ${told.join(", ")} ${units}`;
  };

  // ---- controls, and the address: #window=494&lead=3&variable=z500

  const options = (select, texts) => select.replaceChildren(...texts.map((text, value) => element("option", { value, textContent: text })));
  options(part("window"), data.windows.map(({ number }, n) => `${number}, from ${data.times[n][0]}`));
  options(part("variable"), data.variables.map(({ longName }) => longName));
  part("lead").max = leads - 1;
  data.models.forEach(({ name, shown }, model) => {
    const box = element("input", { type: "checkbox", checked: shown });
    box.addEventListener("change", () => {
      if (box.checked) state.shown.add(model);
      else state.shown.delete(model);
      layOut();
      draw();
    });
    part("models").append(element("label", {}, box, name));
  });

  const choose = (changes) => {
    Object.assign(state, changes);
    part("window").value = state.window;
    part("lead").value = state.lead;
    part("variable").value = state.variable;
    return draw();
  };
  const chooseAndTell = (changes) => {
    choose(changes);
    const { number } = data.windows[state.window];
    history.replaceState(null, "", `#window=${number}&lead=${state.lead + 1}&variable=${data.variables[state.variable].name}`);
  };
  const fromAddress = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    const within = (index, count, otherwise) => (index >= 0 && index < count ? index : otherwise);
    const window = data.windows.findIndex(({ number }) => String(number) === asked.get("window"));
    const variable = data.variables.findIndex(({ name }) => name === asked.get("variable"));
    return {
      window: within(window, data.windows.length, state.window),
      lead: within(Number(asked.get("lead") || 0) - 1, leads, state.lead),
      variable: within(variable, data.variables.length, state.variable),
    };
  };
  part("window").addEventListener("change", (event) => chooseAndTell({ window: Number(event.target.value) }));
  part("lead").addEventListener("input", (event) => chooseAndTell({ lead: Number(event.target.value) }));
  part("variable").addEventListener("change", (event) => chooseAndTell({ variable: Number(event.target.value) }));
  part("previous").addEventListener("click", () => chooseAndTell({ window: state.window - 1 }));
  part("next").addEventListener("click", () => chooseAndTell({ window: state.window + 1 }));
  window.addEventListener("hashchange", () => choose(fromAddress()));

  root.hidden = false;
  document.getElementById("no-browser").hidden = true;
  layOut();
  choose(fromAddress());
})();
