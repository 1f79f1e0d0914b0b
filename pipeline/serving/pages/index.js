// Picks a window and a lead time and draws the forecast. Whatever comes from the model or the data is set as text.
"use strict";

const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const byId = (name) => document.getElementById(name);
let metadata, windows, asked = 0;

function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[low].map((value, i) => Math.round(value + (place - low) * (VIRIDIS[low + 1][i] - value)));
}

function paint(canvas, rows, low, high) {
  canvas.height = rows.length;
  canvas.width = rows[0].length;
  const image = new ImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, i) => image.data.set([...colour((value - low) / (high - low || 1)), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function show(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

function duration(seconds) {
  const [unit, each] = [["days", 86400], ["hours", 3600], ["minutes", 60]].find(([, each]) => seconds >= 2 * each) || ["seconds", 1];
  return `${Math.round(1000 * seconds / each) / 1000} ${unit}`;
}

function figure(title, rows, low, high, units) {
  const made = document.createElement("figure"), canvas = document.createElement("canvas");
  const caption = document.createElement("h3");
  caption.textContent = title;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Map of the ${title}, from ${low} to ${high} ${units}`);
  paint(canvas, rows, low, high);
  made.append(caption, canvas);
  return made;
}

function draw(answer, variable) {
  const shown = Object.entries(answer.maps).filter(([, rows]) => rows);
  const values = shown.flatMap(([, rows]) => rows.flat());
  const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  const upwards = metadata.grid.dims[0] === "latitude";  // rows ascend: the north comes last
  byId("maps").replaceChildren(...shown.map(([title, rows]) => figure(title, upwards ? [...rows].reverse() : rows, low, high, variable.units)));
  paint(byId("bar"), [Array.from({ length: 256 }, (_, i) => i)], 0, 255);
  byId("low").textContent = `${low}`;
  byId("high").textContent = `${high} ${variable.units}`;
  byId("scale").hidden = false;
  byId("error").textContent = answer.rmse === null ? "The file does not reach this far: there is no truth to compare with." : `Root mean squared error of this map: ${answer.rmse} ${variable.units}`;
}

async function answerOf(address) {
  const response = await fetch(address);
  const answer = await response.json();
  if (!response.ok) throw new Error(typeof answer.detail === "string" ? answer.detail : JSON.stringify(answer.detail));
  return answer;
}

async function update() {
  const number = ++asked, variable = metadata.variables[byId("variable").value], lead = Number(byId("lead").value);
  byId("init").textContent = windows.init_times[byId("window").value].replace("T", " ");
  byId("lead-words").textContent = duration((lead + 1) * metadata.step_seconds);
  const query = new URLSearchParams({ variable: variable.name, lead });
  try {
    const answer = await answerOf(`/windows/${byId("window").value}?${query}`);
    if (number !== asked) return;  // another choice was made meanwhile
    show("");
    draw(answer, variable);
  } catch (error) {
    show(error.message);
  }
}

async function start() {
  metadata = await answerOf("/metadata");
  byId("model").textContent = `${metadata.description} A ${metadata.student} distilled by ${metadata.method}: ${metadata.t_in} frames in, ${metadata.t_out} out, ${duration(metadata.step_seconds)} apart.`;
  if (!metadata.data) return show("No file to pick a window from: start the server with --data FILE, or send fields to /predict.");
  windows = await answerOf("/windows");
  metadata.variables.forEach((variable, i) => byId("variable").append(new Option(`${variable.long_name} (${variable.name})`, i)));
  byId("window").max = windows.init_times.length - 1;
  byId("lead").max = metadata.t_out - 1;
  byId("choice").addEventListener("input", update);
  byId("choice").addEventListener("submit", (event) => event.preventDefault());
  byId("choice").hidden = false;
  await update();
}

start().catch((error) => show(error.message));
