// Run the script of a report's page on a document that does little, act as a user would, and print what the page then shows.
"use strict";
const fs = require("fs");
const page = fs.readFileSync(process.argv[2], "utf8");

class Element {
  constructor(name) {
    this.name = name;
    this.children = [];
    this.attributes = {};
    this.listeners = {};
    this.dataset = {};
    this.style = {};
    this.own = "";
    this.className = "";
    this.clientWidth = 1162; // so that the axis of the picture is 1000 px long
    const classes = new Set();
    this.classList = { toggle: (each, on) => { if (on) classes.add(each); else classes.delete(each); }, classes };
  }
  get textContent() { return this.own + this.children.map((each) => each.textContent).join(""); }
  set textContent(text) { this.children = []; this.own = text; }
  setAttribute(key, value) { this.attributes[key] = String(value); }
  appendChild(child) { this.children.push(child); return child; }
  addEventListener(kind, listener) { (this.listeners[kind] = this.listeners[kind] || []).push(listener); }
  send(kind, event) { (this.listeners[kind] || []).forEach((each) => each(Object.assign({ preventDefault() {} }, event))); }
  getElementsByTagName(name) {
    return this.children.flatMap((each) => [...(each.name === name ? [each] : []), ...each.getElementsByTagName(name)]);
  }
  getBoundingClientRect() { return { left: 0, top: 0, width: this.clientWidth, height: 400 }; }
}

const ids = {};
for (const [, name, id] of page.matchAll(/<(\w+)[^>]*\bid="(\w+)"/g)) ids[id] = new Element(name);
for (const [, id, text] of page.matchAll(/<script type="application\/json" id="(\w+)">([\s\S]*?)<\/script>/g)) ids[id].own = text;
ids.table.appendChild(new Element("tbody"));
global.window = new Element("window");
window.matchMedia = () => ({ matches: true });
window.requestAnimationFrame = (draw) => draw();
global.document = {
  documentElement: new Element("html"),
  getElementById: (id) => ids[id],
  createElement: (name) => new Element(name),
  createElementNS: (space, name) => new Element(name),
};
const script = [...page.matchAll(/<script>\n([\s\S]*?)<\/script>/g)].map((each) => each[1]);
if (script.length !== 1) throw new Error(script.length + " scripts");
new Function(script[0])();

const svg = ids.view.children[0];
const frames = svg.getElementsByTagName("rect").filter((each) => each.attributes.class === "frame");
const at = (frame) => [Number(frame.attributes.x), Number(frame.attributes.width)];
const named = (name) => frames.filter((each) => each.textContent.startsWith(name + ":"));
const rows = ids.table.getElementsByTagName("tr");
const said = { theme: [document.documentElement.dataset.theme], frames: frames.map((each) => [each.textContent, ...at(each)]) };
said.rows = rows.map((row) => row.children.map((each) => each.textContent));
said.circles = svg.getElementsByTagName("circle").map((each) => Number(each.attributes.cx));
named("short")[1].send("mouseenter");
said.hovered = ids.card.textContent;
named("long")[1].send("click");
named("short")[1].send("mouseenter");
said.kept = ids.card.textContent;
said.chosen = rows.filter((row) => row.classList.classes.has("chosen")).map((row) => row.children[0].textContent);
window.send("keydown", { key: "Escape" });
rows[rows.length - 1].send("click");
said.row = ids.card.textContent;
svg.send("wheel", { deltaY: -120, clientX: 150 });
said.zoomed = at(named("load")[1]);
svg.send("pointerdown", { clientX: 500 });
window.send("pointermove", { clientX: 400 });
window.send("pointerup", {});
said.dragged = at(named("long")[1]);
ids.whole.send("click");
said.whole = at(named("load")[1]);
ids.theme.send("click");
said.theme.push(document.documentElement.dataset.theme);
process.stdout.write(JSON.stringify(said));
