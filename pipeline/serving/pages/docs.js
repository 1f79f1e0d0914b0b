// Lists /openapi.json's operations without anything from outside this server. All of it is set as text.
"use strict";

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

function table(head, rows) {
  const made = element("table"), first = element("tr");
  head.forEach((text) => first.append(element("th", text)));
  made.append(first);
  rows.forEach((row) => {
    const line = element("tr");
    row.forEach((text) => line.append(element("td", text)));
    made.append(line);
  });
  return made;
}

function operation(path, method, described) {
  const made = element("section");
  made.append(element("h2", `${method.toUpperCase()} ${path}`), element("p", described.description || described.summary));
  const parameters = (described.parameters || []).map((each) => [each.name, each.in, each.required ? "required" : "optional", each.description || ""]);
  if (parameters.length) made.append(element("h3", "Parameters"), table(["name", "in", "", ""], parameters));
  const bodies = Object.entries((described.requestBody || {}).content || {});
  if (bodies.length) made.append(element("h3", "Body"), table(["content type", ""], bodies.map(([type, each]) => [type, (each.schema || {}).description || ""])));
  const responses = Object.entries(described.responses).map(([status, each]) => [status, each.description]);
  made.append(element("h3", "Answers"), table(["status", ""], responses));
  return made;
}

fetch("/openapi.json").then((response) => response.json()).then((described) => {
  for (const [path, methods] of Object.entries(described.paths))
    for (const [method, each] of Object.entries(methods)) document.getElementById("operations").append(operation(path, method, each));
});
