{% include "theme.js" %}
{
  const SVG = "http://www.w3.org/2000/svg";
  const LEFT = 150, RIGHT = 12, TOP = 30, PITCH = 38, HEIGHT = 27, LETTER = 6.3, DOT = 3, THIN = 8;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const plan = read("data"), colors = read("colors");
  const view = document.getElementById("view"), card = document.getElementById("card");
  const color = (stream) => colors[stream % colors.length];
  const us = (value) => (value >= 1 || value === 0 ? value.toFixed(1) : value.toFixed(2));
  const range = { from: 0, to: plan.end_us || 1 };
  let width = 1000, kept = null;

  function make(name, attributes, parent, text) {
    const element = document.createElementNS(SVG, name);
    for (const key of Object.keys(attributes)) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.appendChild(element);
    return element;
  }

  function html(name, parent, text, className) {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    if (parent) parent.appendChild(element);
    return element;
  }

  // What is drawn once: zooming only moves it.
  const height = TOP + PITCH * plan.lanes.length + 8;
  const svg = make("svg", { height: height }, view);
  const axis = make("g", {}, svg), boxes = make("g", {}, svg), arrows = make("g", {}, svg), labels = make("g", {}, svg);
  const top = (lane) => TOP + PITCH * lane;
  const drawn = [];
  const waits = [];

  plan.lanes.forEach((lane, number) => {
    lane.boxes.forEach((box) => {
      const name = plan.cards[box.kernel].name;
      const fixed = { y: top(number), height: HEIGHT, fill: color(box.stream) };
      const item = {
        box: box,
        name: name,
        own: make("rect", fixed, boxes),
        pale: box.end_us - box.start_us > box.alone_us ? make("rect", Object.assign({ class: "pale" }, fixed), boxes) : null,
        frame: make("rect", { y: top(number), height: HEIGHT, class: "frame", tabindex: 0 }, boxes),
        shown: true,
        text: make("text", { y: top(number) + 18, class: "name" }, boxes),
      };
      item.frame.classList.toggle("critical", box.critical);
      make("title", {}, item.frame, name + ": " + us(box.end_us - box.start_us) + " us, alone " + us(box.alone_us) + " us");
      item.frame.addEventListener("mouseenter", () => { if (kept === null) show(box.kernel); });
      item.frame.addEventListener("click", () => { if (!moved) keep(box.kernel); });
      item.frame.addEventListener("keydown", (event) => { if (event.key === "Enter") keep(box.kernel); });
      drawn.push(item);
    });
  });

  plan.arrows.forEach((arrow) => {
    const down = arrow.source_lane < arrow.target_lane;
    const y1 = top(arrow.source_lane) + (down || arrow.source_lane === arrow.target_lane ? HEIGHT : 0);
    const y2 = top(arrow.target_lane) + (down ? 0 : HEIGHT);
    waits.push({
      arrow: arrow,
      line: make("line", { y1: y1, y2: y2, class: "arrow" }, arrows),
      head: make("circle", { cy: y2, r: DOT, class: "arrow" }, arrows),
    });
  });

  make("rect", { x: 0, y: TOP - 6, width: LEFT - 3, height: height, class: "labels" }, labels);
  plan.lanes.forEach((lane, number) => {
    const end = lane.boxes.reduce((latest, box) => Math.max(latest, box.end_us), 0);
    make("text", { x: 6, y: top(number) + 18 }, labels, lane.kind === "serial" ? lane.name + " " + us(end) + " us" : lane.name);
  });

  function step(span) {
    let size = Math.pow(10, Math.floor(Math.log10(span / 10)));
    for (const factor of [2, 2.5, 2]) if (span / size > 10) size *= factor;
    return size;
  }

  function place() {
    const scale = (width - LEFT - RIGHT) / (range.to - range.from);
    // Far outside of what is shown, numbers would be too large for some browsers to draw.
    const x = (time) => LEFT + Math.min(Math.max((time - range.from) * scale, -20000), 20000);
    svg.setAttribute("viewBox", "0 0 " + width + " " + height);
    axis.textContent = "";
    const size = step(range.to - range.from);
    for (let time = Math.ceil(range.from / size) * size; time <= range.to; time += size) {
      make("line", { x1: x(time), x2: x(time), y1: TOP - 8, y2: height, class: "tick" }, axis);
      make("text", { x: x(time), y: TOP - 12, class: "tick" }, axis, String(Number(time.toPrecision(8))) + " us");
    }
    drawn.forEach((item) => {
      const start = x(item.box.start_us), end = x(item.box.end_us);
      const shown = item.box.end_us >= range.from && item.box.start_us <= range.to;
      if (shown !== item.shown) {
        item.shown = shown;
        [item.own, item.pale, item.frame, item.text].forEach((part) => { if (part) part.style.display = shown ? "" : "none"; });
      }
      if (!shown) return;
      const own = Math.min(end, x(item.box.start_us + item.box.alone_us));
      item.own.setAttribute("x", start);
      item.own.setAttribute("width", Math.max(0, own - start));
      if (item.pale) {
        item.pale.setAttribute("x", own);
        item.pale.setAttribute("width", Math.max(0, end - own));
      }
      item.frame.setAttribute("x", start);
      item.frame.setAttribute("width", Math.max(0, end - start));
      item.frame.style.strokeWidth = end - start < THIN ? "0.5" : "";  // else frames hide the boxes of a long plan
      const from = Math.max(start, LEFT), letters = Math.floor((end - from - 6) / LETTER);
      item.text.setAttribute("x", from + 3);
      item.text.textContent = letters >= 3 ? item.name.slice(0, letters) : "";
    });
    waits.forEach((wait) => {
      wait.line.setAttribute("x1", x(wait.arrow.start_us));
      wait.line.setAttribute("x2", x(wait.arrow.end_us));
      wait.head.setAttribute("cx", x(wait.arrow.end_us));
    });
  }

  function zoom(factor, at) {
    const span = Math.min((range.to - range.from) * factor, plan.end_us || 1);
    if (span < (plan.end_us || 1) * 1e-4) return;
    const share = (at - range.from) / (range.to - range.from);
    move(at - share * span, span);
  }

  function move(from, span) {
    range.from = Math.max(0, Math.min(from, (plan.end_us || 1) - span));
    range.to = range.from + span;
    later();
  }

  // A wheel turns faster than a screen is drawn.
  let waiting = false;
  function later() {
    if (waiting) return;
    waiting = true;
    window.requestAnimationFrame(() => { waiting = false; place(); });
  }

  function fact(list, name, value, className) {
    if (!value || !value.length) return;
    html("dt", list, name);
    html("dd", list, value, className);
  }

  function bytes(value) {
    if (value === null) return "unknown";
    const units = ["B", "KiB", "MiB", "GiB"];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
    return (unit ? value.toFixed(1) : String(value)) + " " + units[unit];
  }

  function show(number) {
    const kernel = plan.cards[number];
    card.textContent = "";
    html("h2", card, kernel.name + ", stream " + kernel.stream + (kernel.critical ? ", on the critical path" : ""));
    const list = html("dl", card);
    fact(list, "time", us(kernel.end_us - kernel.start_us) + " us in the plan (" + us(kernel.start_us) + " to " +
      us(kernel.end_us) + "), " + us(kernel.alone_us) + " us alone");
    fact(list, "why here", kernel.why_here, "why");
    fact(list, "why not beside others", kernel.why_not_beside, "why");
    fact(list, "one unit", kernel.why_one_unit);
    fact(list, "beside it", kernel.beside.map((each) => each[0] + " (" + us(each[1]) + " us)").join(", "));
    fact(list, "waits for", kernel.waits.join(", "));
    fact(list, "needs", kernel.needs.join(", "));
    fact(list, "modules", kernel.modules.join(", "));
    fact(list, "kind", kernel.kind);
    fact(list, "launches", kernel.launches.join(", "));
    fact(list, "operations", kernel.ops.join(", "));
    fact(list, "parameters", kernel.parameters.join(", "));
    fact(list, "bytes", bytes(kernel.bytes_read) + " read, " + bytes(kernel.bytes_written) + " written");
    if (kernel.wrapper) { html("b", card, "wrapper.py"); html("pre", card, kernel.wrapper); }
    if (kernel.code) { html("b", card, "FX code of its region"); html("pre", card, kernel.code); }
    drawn.forEach((item) => item.frame.classList.toggle("chosen", item.box.kernel === number));
    waits.forEach((wait) => {
      const near = kept === null || wait.arrow.source === number || wait.arrow.target === number;
      [wait.line, wait.head].forEach((part) => part.classList.toggle("far", !near));
    });
    rows.forEach((row, index) => row.classList.toggle("chosen", index === number));
  }

  function keep(number) {
    kept = kept === number ? null : number;
    show(number);
  }

  const body = document.getElementById("table").getElementsByTagName("tbody")[0];
  const rows = [];
  const order = plan.cards.slice().sort((one, other) => one.start_us - other.start_us || one.kernel - other.kernel);
  order.forEach((kernel) => {
    const row = html("tr", body);
    html("td", row, kernel.name, kernel.critical ? "critical" : "");
    [String(kernel.stream), us(kernel.start_us), us(kernel.end_us), us(kernel.end_us - kernel.start_us), us(kernel.alone_us)]
      .forEach((text) => html("td", row, text, "number"));
    html("td", row, kernel.waits.join(", "));
    html("td", row, kernel.beside.map((each) => each[0]).join(", "));
    row.addEventListener("click", () => keep(kernel.kernel));
    rows[kernel.kernel] = row;
  });

  let held = null, moved = false;
  const time = (event) => {
    const shown = svg.getBoundingClientRect();
    const share = ((event.clientX - shown.left) / (shown.width || 1) * width - LEFT) / (width - LEFT - RIGHT);
    return range.from + Math.min(Math.max(share, 0), 1) * (range.to - range.from);
  };
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY)) / 400), time(event));
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, from: range.from };
    moved = false;
  });
  window.addEventListener("pointermove", (event) => {
    if (held === null) return;
    const by = event.clientX - held.x;
    if (Math.abs(by) > 3) moved = true;
    const span = range.to - range.from, shown = svg.getBoundingClientRect();
    if (moved) move(held.from - by / (shown.width || 1) * width / (width - LEFT - RIGHT) * span, span);
  });
  window.addEventListener("pointerup", () => { held = null; });
  window.addEventListener("keydown", (event) => { if (event.key === "Escape" && kept !== null) keep(kept); });
  document.getElementById("whole").addEventListener("click", () => move(0, plan.end_us || 1));
  window.addEventListener("resize", fit);

  function fit() {
    width = Math.max(600, view.clientWidth || 1000);
    place();
  }
  fit();
}
